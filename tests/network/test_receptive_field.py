import torch
from hypothesis import given
from hypothesis import strategies as st

from geosiam.network.architecture import ReceptiveField, receptive_field

layers = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4)


@given(layers)
def test_computed_field_is_the_one_that_gradients_show(convolutions: list[tuple[int, int]]) -> None:
    field = receptive_field(convolutions)
    size = field.size + 2 * field.stride
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    output = image
    for kernel, stride in convolutions:
        output = torch.nn.functional.conv2d(
            output, torch.ones(1, 1, kernel, kernel, dtype=torch.float64), stride=stride
        )
    assert output.shape[-1] == field.cells(size) == 3
    output[0, 0, 1, 1].backward()
    touched = image.grad[0, 0].nonzero()
    # A stride larger than its kernel leaves gaps in the field, but never reaches beyond it.
    assert touched.min() == field.stride
    assert touched.max() == field.stride + field.size - 1


def test_an_image_smaller_than_the_field_has_no_cells() -> None:
    field = ReceptiveField(32, 8)
    assert field.cells(31) == 0
    assert field.cells(32) == 1
    assert (field.offset, field.overhang) == (12, 12)
