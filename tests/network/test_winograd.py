import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geosiam.network.cpu_layers import RowWinograd, is_suitable, with_winograd


def convolution(channels: int = 64, width: int = 64, *, bias: bool = True, seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(channels, width, 3, bias=bias).to(memory_format=torch.channels_last)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(3, 80),
    width=st.integers(3, 20),
    count=st.integers(1, 3),
    channels=st.sampled_from([64, 72]),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_it_is_the_convolution_that_it_replaces(
    *, height: int, width: int, count: int, channels: int, bias: bool, channels_last: bool
) -> None:
    plain = convolution(channels, 65, bias=bias)
    images = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(height))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = RowWinograd(plain)(images)
        expected = plain.double()(images.double())
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)


def test_in_double_precision_nothing_but_rounding_is_between_them() -> None:
    plain = convolution().double()
    images = torch.randn(2, 64, 43, 9, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(RowWinograd(plain)(images), plain(images), atol=1e-13, rtol=0)


def test_the_images_are_left_as_they_are() -> None:
    images = torch.randn(1, 64, 20, 20)
    kept = images.clone()
    with torch.inference_mode():
        RowWinograd(convolution())(images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, dilation=2),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 5),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(32, 128, 3),
        nn.ReLU(),
    ],
)
def test_other_layers_stay_what_they_are(layer: nn.Module) -> None:
    assert not is_suitable(layer)
    assert with_winograd(nn.Sequential(layer))[0] is layer


def test_layers_keep_their_order_and_what_they_compute() -> None:
    wide = convolution(64, 128, seed=1)
    layers = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(128, 4, 1))
    quick = with_winograd(layers)
    assert [type(layer) for layer in quick] == [nn.Conv2d, nn.ReLU, RowWinograd, nn.ReLU, nn.Conv2d]
    images = torch.rand(2, 3, 60, 60)
    with torch.inference_mode():
        torch.testing.assert_close(quick(images), layers(images), atol=1e-5, rtol=0)
