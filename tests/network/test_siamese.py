import numpy as np
import pytest
import torch

from geosiam.network.architecture import Convolution, NetworkConfig
from geosiam.network.cpu_layers import SignBitReLU
from geosiam.network.siamese import Discriminator, SiameseNetwork, can_initialize, initial_weights

SMALL = {"width": 4, "features": 6, "hidden": 5}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def trained_look(config: NetworkConfig) -> SiameseNetwork:
    """Return a network whose batch norms have seen something, as after training."""
    torch.manual_seed(1)
    network = SiameseNetwork(config)
    network(images(4, config.channels, 64, 64, seed=1), images(4, config.channels, 64, 64, seed=2))
    return network.eval()


@pytest.mark.parametrize("stride", [8, 4])
def test_a_chip_gives_exactly_one_logit(stride: int) -> None:
    config = NetworkConfig.of_stride(stride, **SMALL)
    chip = images(2, 3, 32, 32)
    assert (config.receptive_field.size, config.receptive_field.stride) == (32, stride)
    assert SiameseNetwork(config)(chip, chip).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("stride", [8, 4])
def test_a_cell_depends_on_its_receptive_field_and_nothing_else(stride: int) -> None:
    config = NetworkConfig.of_stride(stride, **SMALL)
    network = trained_look(config).double()
    size = 32 + 4 * stride
    before, after = images(1, 3, size, size).double().requires_grad_(), images(1, 3, size, size, seed=3).double()
    network(before, after)[0, 0, 2, 3].backward()
    rows, cols = before.grad.abs().sum(dim=(0, 1)).nonzero().T
    assert (rows.min(), rows.max()) == (2 * stride, 2 * stride + 31)
    assert (cols.min(), cols.max()) == (3 * stride, 3 * stride + 31)


def test_a_larger_image_gives_what_its_chips_give() -> None:
    network = trained_look(NetworkConfig.of_stride(8, **SMALL))
    before, after = images(1, 3, 64, 72), images(1, 3, 64, 72, seed=5)
    whole = network(before, after)[0, 0]
    assert whole.shape == (5, 6)
    for i in range(5):
        for j in range(6):
            cut = (..., slice(8 * i, 8 * i + 32), slice(8 * j, 8 * j + 32))
            torch.testing.assert_close(network(before[cut], after[cut])[0, 0, 0, 0], whole[i, j], atol=1e-5, rtol=0)


@pytest.mark.parametrize("distance", ["elementwise", "euclidean"])
@pytest.mark.parametrize("head", ["concat", "distance"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_folding_batch_norm_changes_nothing(distance: str, head: str, *, batch_norm: bool) -> None:
    network = trained_look(NetworkConfig.of_stride(8, distance=distance, head=head, batch_norm=batch_norm, **SMALL))
    folded = network.for_inference()
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    before, after = images(1, 3, 50, 50), images(1, 3, 50, 50, seed=4)
    torch.testing.assert_close(folded(before, after), network(before, after), atol=1e-5, rtol=0)


def test_the_distance_head_cannot_see_the_order_of_the_scenes() -> None:
    network = trained_look(NetworkConfig.of_stride(8, head="distance", **SMALL))
    before, after = images(1, 3, 40, 40), images(1, 3, 40, 40, seed=4)
    torch.testing.assert_close(network(before, after), network(after, before))


def test_euclidean_distance_is_the_norm_and_its_gradient_is_finite_at_zero() -> None:
    head = Discriminator(NetworkConfig.of_stride(8, distance="euclidean", head="distance", **SMALL))
    seen = []
    head.layers[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    before, after = images(1, 6, 2, 2), images(1, 6, 2, 2, seed=1)
    head(before, after)
    torch.testing.assert_close(seen[0], torch.linalg.vector_norm(before - after, dim=1, keepdim=True))
    same = before.clone().requires_grad_()
    head(same, before).sum().backward()
    assert same.grad.isfinite().all()


def test_config_survives_json_and_refuses_nonsense() -> None:
    config = NetworkConfig.of_stride(4, distance="euclidean", **SMALL)
    assert NetworkConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="stride 8 and one of stride 4"):
        NetworkConfig.of_stride(5)
    with pytest.raises(ValueError, match="at least one convolution"):
        NetworkConfig(())
    with pytest.raises(ValueError, match="distance is"):
        NetworkConfig.of_stride(8, distance="cosine")
    with pytest.raises(ValueError, match="head is"):
        NetworkConfig.of_stride(8, head="sum")
    with pytest.raises(ValueError, match="at least 1"):
        NetworkConfig.of_stride(8, hidden=0)
    with pytest.raises(ValueError, match="at least 1"):
        Convolution(0, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_relu_by_the_sign_bit_is_relu(dtype):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(2, 5, 7, 9)) * 10.0 ** rng.integers(-9, 4, (2, 5, 7, 9))).to(dtype)
    values[0, 0, 0] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1, -1, 65504, -65504, 1e-7], dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        expected = torch.relu(values)
        assert torch.equal(SignBitReLU()(values.clone(memory_format=layout)), expected)


@pytest.mark.parametrize(("stride", "parts"), [(4, 2), (8, 2), (8, 4), (4, 4)])
def test_subcells_answer_for_parts_of_a_stride_and_see_their_features_window(stride: int, parts: int) -> None:
    config = NetworkConfig.of_stride(stride, subcells=parts, **SMALL)
    network = trained_look(config).double()
    field = config.receptive_field
    assert field.stride * parts == stride
    size = field.size + (4 * parts - 1) * field.stride
    before, after = images(1, 3, size, size).double().requires_grad_(), images(1, 3, size, size, seed=3).double()
    logits = network(before, after)
    assert logits.shape == (1, 1, 4 * parts, 4 * parts)
    for row in (2 * parts, 3 * parts - 1):  # first and last part of the same feature
        before.grad = None
        logits[0, 0, row, 0].backward(retain_graph=True)
        rows = before.grad.abs().sum(dim=(0, 1, 3)).nonzero()
        first = field.offset - config.window.offset + 2 * stride
        assert (rows.min(), rows.max()) == (first, first + 31)
        own = row * field.stride + field.offset
        assert own - field.offset <= rows.min() <= rows.max() <= own + field.stride + field.overhang - 1


@pytest.mark.parametrize("size", [47, 48, 50, 53])
def test_a_cut_that_begins_with_a_feature_gives_what_the_whole_gives(size: int) -> None:
    network = trained_look(NetworkConfig.of_stride(4, subcells=2, **SMALL))
    before, after = images(1, 3, 80, 80), images(1, 3, 80, 80, seed=5)
    cut = (..., slice(8, 8 + size), slice(16, 16 + size))
    part = network(before[cut], after[cut])
    rows, cols = part.shape[-2:]
    assert rows == network.config.receptive_field.cells(size)
    whole = network(before, after)[..., 4 : 4 + rows, 8 : 8 + cols]
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=0)


def test_weights_grow_into_subcells_that_say_what_the_whole_cell_said() -> None:
    small, large = (NetworkConfig.of_stride(4, subcells=parts, **SMALL) for parts in (1, 2))
    assert can_initialize(small, large)
    assert not can_initialize(large, small)
    assert not can_initialize(NetworkConfig.of_stride(8, **SMALL), large)
    network = trained_look(small)
    finer = SiameseNetwork(large).eval()
    finer.load_state_dict(initial_weights(network.state_dict(), small, large))
    before, after = images(1, 3, 50, 50), images(1, 3, 50, 50, seed=5)
    coarse = network(before[..., 2:, 2:], after[..., 2:, 2:])
    fine = finer(before, after)
    rows = min(fine.shape[-2] // 2, coarse.shape[-2])
    repeated = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., : 2 * rows, : 2 * rows]
    torch.testing.assert_close(fine[..., : 2 * rows, : 2 * rows], repeated, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="do not fit"):
        initial_weights(network.state_dict(), large, small)


def test_subcells_that_do_not_divide_the_stride_are_refused() -> None:
    with pytest.raises(ValueError, match="3 subcells do not divide a stride of 4 px"):
        NetworkConfig.of_stride(4, subcells=3)
