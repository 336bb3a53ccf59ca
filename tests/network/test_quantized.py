"""Convolutions of bytes against whole numbers, and an encoder of them against the one in floating point."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate
from torch import nn

from geosiam.network.architecture import Convolution, NetworkConfig
from geosiam.network.cpu_layers import LEVELS, QuantizedConvolution, can_be_quantized, multiplies_exactly, quantized
from geosiam.network.siamese import Encoder, normalized
from geosiam.network.weights import load_model
from geosiam.synthesis.pairs import SyntheticConfig, make_pair

pytestmark = pytest.mark.skipif(
    not multiplies_exactly(), reason="this processor has no instructions for 8-bit integers"
)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    channels=st.sampled_from([3, 16, 33]),
    width=st.sampled_from([1, 16, 40]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 2),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
)
def test_sums_are_those_of_whole_numbers(
    *, seed: int, channels: int, width: int, kernel: int, stride: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, channels, *size), np.uint8)
    weight = rng.integers(-127, 128, (width, channels, kernel, kernel), np.int8)
    steps = rng.uniform(1e-4, 1e-3, width).astype(np.float32)
    bias = rng.normal(0, 1, width).astype(np.float32)
    sums = np.stack(
        [
            [correlate(image.astype(np.int64), k.astype(np.int64), "valid", "direct")[0] for k in weight]
            for image in images
        ]
    )[..., ::stride, ::stride]
    exact = sums * (steps.astype(np.float64) / LEVELS)[:, None, None] + bias[:, None, None]

    def convolved(answers: torch.dtype) -> np.ndarray:
        parts = (torch.from_numpy(part) for part in (weight, steps, bias))
        layer = QuantizedConvolution(*parts, stride, answers)
        given_images = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        return layer(given_images).float().numpy()

    np.testing.assert_allclose(convolved(torch.float32), exact, rtol=1e-5, atol=1e-4)
    found = convolved(torch.uint8)
    np.testing.assert_allclose(found, np.clip(exact * LEVELS, 0, LEVELS), atol=0.501)
    assert set(np.unique(found)) <= set(range(LEVELS + 1))


def encoders(name: str) -> tuple[nn.Sequential, nn.Sequential]:
    network = load_model(name).network
    return network.for_inference().encoder, quantized(network.encoder, torch.float32)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    pair = make_pair(SyntheticConfig(height=256, width=256, seed=3))
    return torch.from_numpy(np.stack([pair.before, pair.after]))


@pytest.mark.parametrize("name", ["survey", "survey-fast", "tarp", "paper"])
def test_features_stay_near_those_of_floating_point(name: str, images: torch.Tensor) -> None:
    exact, whole = encoders(name)
    with torch.inference_mode():
        expected = exact(normalized(images / 255))
        found = whole(images.contiguous(memory_format=torch.channels_last))
    assert found.shape == expected.shape
    apart = (found - expected).square().mean().sqrt() / expected.std()
    assert 0 < apart < 0.05
    assert abs((found - expected).mean() / expected.std()) < 0.005


def test_the_same_bits_come_out_of_a_pickle_and_of_a_copy(images: torch.Tensor) -> None:
    _, whole = encoders("survey-fast")
    small = images[..., :70, :90].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        first = whole(small)
        for other in (pickle.loads(pickle.dumps(whole)), copy.deepcopy(whole), encoders("survey-fast")[1]):
            assert torch.equal(other(small), first)
        parts = [whole(image[None].contiguous(memory_format=torch.channels_last)) for image in small]
    assert torch.equal(torch.cat(parts), first)


def test_a_channel_that_is_always_off_disturbs_nothing(images: torch.Tensor) -> None:
    encoder = copy.deepcopy(load_model("survey-fast").network.encoder).eval()
    norm = encoder[1]
    norm.weight.data[:4] = 0
    norm.bias.data[:4] = -1
    with torch.inference_mode():
        exact = encoder(normalized(images / 255))
        found = quantized(encoder, torch.float32)(images.contiguous(memory_format=torch.channels_last))
    assert (found - exact).square().mean().sqrt() / exact.std() < 0.1


def test_only_batch_norm_tells_how_channels_are_spread() -> None:
    layers = Convolution(4, 2, 8), Convolution(3, 1, 8)
    assert can_be_quantized(Encoder(NetworkConfig(layers)))
    assert not can_be_quantized(Encoder(NetworkConfig(layers, batch_norm=False)))
    assert can_be_quantized(Encoder(NetworkConfig(layers[:1], batch_norm=False)))  # its answers are not rounded
