"""A network at several scales of the image, against its parts, its gradients and the whole image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, interpolate, pad
from torch.nn.utils import parameters_to_vector

from geosiam.network.architecture import Convolution, NetworkConfig, Pyramid, ReceptiveField, interpolated_from
from geosiam.network.cpu_layers import multiplies_exactly, quantized
from geosiam.network.siamese import (
    COARSE_EVIDENCE,
    SiameseNetwork,
    averaged,
    can_initialize,
    initial_weights,
    interpolated,
    normalized,
)
from geosiam.network.weights import ModelCard, load_model, save_model
from geosiam.training.calibration import apply_temperature

SMALL = {"width": 4, "features": 6, "hidden": 5}
SCALES = [(1, 2), (1, 4), (1, 2, 4)]
INTEGERS = pytest.mark.skipif(not multiplies_exactly(), reason="this processor has no instructions for 8-bit integers")


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pyramid(scales: tuple[int, ...], stride: int = 4, subcells: int = 2, **options: object) -> SiameseNetwork:
    """Return a symmetric network whose batch norms have seen something, as after training."""
    torch.manual_seed(1)
    network = SiameseNetwork(
        NetworkConfig.of_stride(stride, subcells=subcells, scales=scales, symmetric=True, **SMALL, **options)
    )
    side = 2 * network.config.receptive_field.size
    network(images(2, 3, side, side, seed=1), images(2, 3, side, side, seed=2))
    return network.eval()


def with_evidence_everywhere(network: SiameseNetwork) -> SiameseNetwork:
    """Return the network with coarser scales that speak for a change everywhere, so that none is cut off."""
    with torch.no_grad():
        for discriminator in network.discriminators[1:]:
            discriminator.layers[2].bias -= 5
    return network


@settings(deadline=None)
@given(start=st.integers(-40, 40), length=st.integers(1, 20), octave=st.integers(0, 3))
def test_cells_are_interpolated_from_the_cells_that_their_gradient_reaches(start: int, length: int, octave: int):
    factor, margin = 2**octave, 70
    coarse = torch.arange(2.0 * margin, requires_grad=True)
    fine = interpolate(coarse[None, None, None], scale_factor=(1, factor), mode="bilinear", align_corners=False)[
        0, 0, 0
    ]
    first = start + factor * margin
    fine[first : first + length].sum().backward()
    reached = coarse.grad.nonzero().flatten() - margin
    span = interpolated_from(range(start, start + length), factor)
    assert (span.start, span.stop - 1) == (reached.min(), reached.max())


def test_one_scale_has_the_field_of_its_window() -> None:
    assert Pyramid(ReceptiveField(32, 4), 1, (1,)).receptive_field == ReceptiveField(32, 4)
    assert Pyramid(ReceptiveField(32, 4), 2, (1,)).receptive_field == ReceptiveField(34, 2)
    assert Pyramid(ReceptiveField(32, 4), 2, (1, 2, 4)).receptive_field == ReceptiveField(162, 2)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize(("stride", "subcells"), [(4, 2), (8, 1), (8, 4)])
def test_a_cell_depends_on_its_receptive_field_and_nothing_else(scales: tuple, stride: int, subcells: int) -> None:
    network = with_evidence_everywhere(pyramid(scales, stride, subcells)).double()
    config = network.config
    field, period = config.receptive_field, config.alignment // config.receptive_field.stride
    size = field.size + (3 * period - 1) * field.stride
    before, after = images(1, 3, size, size).double().requires_grad_(), images(1, 3, size, size, seed=3).double()
    logits = network(before, after)
    assert logits.shape == (1, 1, 3 * period, 3 * period)
    leading, trailing = [], []
    for row in range(period, 2 * period):  # all cells of a coarsest feature
        (gradient,) = torch.autograd.grad(logits[0, 0, row].sum(), before, retain_graph=True)
        rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
        own = row * field.stride + field.offset
        leading.append(int(own - rows.min()))
        trailing.append(int(rows.max() + 1 - own - field.stride))
    assert (max(leading), max(trailing)) == (config.halo.leading, config.halo.trailing)


@pytest.mark.parametrize("scales", SCALES)
@settings(deadline=None, max_examples=10)
@given(
    more=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    start=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    subcells=st.sampled_from([1, 2]),
)
def test_a_cut_gives_what_the_whole_gives(scales: tuple, more: tuple, start: tuple, subcells: int) -> None:
    (rows, cols), (down, right) = more, start
    network = pyramid(scales, subcells=subcells)
    field, alignment = network.config.receptive_field, network.config.alignment
    height, width = field.size + rows, field.size + cols
    before, after = (images(1, 3, height + 2 * alignment, width + 2 * alignment, seed=seed) for seed in (1, 2))
    top, left = down * alignment, right * alignment
    cut = (..., slice(top, top + height), slice(left, left + width))
    with torch.inference_mode():
        part, whole = network(before[cut], after[cut])[0, 0], network(before, after)[0, 0]
    assert part.shape == (field.cells(height), field.cells(width))
    row, col = top // field.stride, left // field.stride
    torch.testing.assert_close(part, whole[row : row + len(part), col : col + part.shape[1]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scales", [(1,), *SCALES])
@pytest.mark.parametrize("head", ["concat", "distance"])
@pytest.mark.parametrize("distance", ["elementwise", "euclidean"])
def test_the_order_of_the_scenes_is_irrelevant(scales: tuple, head: str, distance: str) -> None:
    network = pyramid(scales, head=head, distance=distance)
    side = network.config.receptive_field.size + 21
    before, after = images(2, 3, side, side), images(2, 3, side, side, seed=4)
    torch.testing.assert_close(network(before, after), network(after, before), atol=1e-6, rtol=0)
    with torch.inference_mode():
        folded = network.for_inference()
        torch.testing.assert_close(folded(before, after), folded(after, before), atol=1e-6, rtol=0)
        torch.testing.assert_close(folded(before, after), network(before, after), atol=1e-5, rtol=0)


@pytest.mark.parametrize("distance", ["elementwise", "euclidean"])
def test_a_symmetric_network_is_the_mean_of_both_orders(distance: str) -> None:
    symmetric = pyramid((1,), distance=distance)
    plain = SiameseNetwork.of_weights(replace(symmetric.config, symmetric=False), symmetric.state_dict()).eval()
    before, after = images(2, 3, 50, 50), images(2, 3, 50, 50, seed=4)
    before_first, after_first = (
        plain.discriminator.layers[:2](plain_inputs(plain, *pair)) for pair in ((before, after), (after, before))
    )
    mean = torch.nn.functional.pixel_shuffle(plain.discriminator.layers[2]((before_first + after_first) / 2), 2)
    whole = symmetric(pad(before, (2, 2, 2, 2)), pad(after, (2, 2, 2, 2)))
    torch.testing.assert_close(whole[..., : mean.shape[-2], : mean.shape[-1]], mean, atol=1e-5, rtol=0)


def plain_inputs(network: SiameseNetwork, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    first, second = network.encode(before), network.encode(after)
    distance = (first - second).abs()
    if network.config.distance == "euclidean":
        distance = torch.linalg.vector_norm(first - second, dim=1, keepdim=True)
    return torch.cat([first, second, distance], 1)


@pytest.mark.parametrize("scales", SCALES)
def test_weights_of_one_scale_add_evidence_of_the_coarser_ones_to_the_finest(scales: tuple) -> None:
    single = load_model("survey")
    large = replace(single.card.network, scales=scales, symmetric=True)
    assert can_initialize(single.card.network, large)
    assert not can_initialize(large, single.card.network)
    weights = initial_weights(single.network.state_dict(), single.card.network, large)
    network = SiameseNetwork.of_weights(large, weights).eval()
    field = large.receptive_field
    side = field.size + 30 * field.stride
    pair = images(1, 3, side, side), images(1, 3, side, side, seed=5)
    with torch.inference_mode():
        logits = network(*pair)
        parts = [at_scale(single.network, *pair, scale, field)[..., :31, :31] for scale in scales]
    torch.testing.assert_close(logits, torch.stack(parts).mean(0), atol=1e-4, rtol=0)


def at_scale(network: SiameseNetwork, before: torch.Tensor, after: torch.Tensor, scale: int, field: ReceptiveField):
    """Return the mean of both orders' logits at one scale, those of coarser ones cut off, interpolated to the cells."""
    window, single = network.config.window, network.config.receptive_field
    margin = 2 * scale * window.stride  # whole features, whose logits are cut off again
    start = field.offset - scale * single.offset - margin
    small = [
        avg_pool2d(pad(image, (40, 40, 40, 40))[..., start + 40 :, start + 40 :], scale) for image in (before, after)
    ]
    logits = (network(*small) + network(*reversed(small))) / 2
    logits = logits if scale == 1 else (logits + COARSE_EVIDENCE).clamp(max=0)
    fine = interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False) if scale > 1 else logits
    first = margin // field.stride
    return fine[..., first:, first:]


def test_all_scales_and_coarser_surroundings_take_part_in_the_logit() -> None:
    network = with_evidence_everywhere(pyramid((1, 2, 4)))
    side = network.config.receptive_field.size + 30
    network(images(1, 3, side, side), images(1, 3, side, side, seed=4)).sum().backward()
    for level, discriminator in enumerate(network.discriminators):
        hidden = network.config.hidden
        parts = discriminator.layers[0].weight.grad.split(hidden)
        assert len(parts) == level + 1
        assert all(part.abs().sum() > 0 for part in parts)


def test_the_temperature_divides_all_logits() -> None:
    network = pyramid((1, 2))
    side = network.config.receptive_field.size
    before, after = images(1, 3, side, side), images(1, 3, side, side, seed=4)
    with torch.inference_mode():
        logits = network(before, after)
        apply_temperature(network, 2.0)
        torch.testing.assert_close(network(before, after), logits / 2)


def test_a_coarser_scale_speaks_for_a_change_or_not_at_all() -> None:
    network = pyramid((1, 2))
    with torch.no_grad():  # the finest scale does not see the coarser one
        for parameter in network.coarser[0].layers[0].parameters():
            parameter[network.config.hidden :] = 0
    finest = SiameseNetwork.of_weights(
        replace(network.config, scales=(1,)),
        {key: value for key, value in network.state_dict().items() if not key.startswith("coarser")},
    ).eval()
    side = network.config.receptive_field.size + 30
    before, after = images(1, 3, side, side), images(1, 3, side, side, seed=4)
    margin = network.config.receptive_field.offset - finest.config.receptive_field.offset
    inner = (..., slice(margin, None), slice(margin, None))
    with torch.inference_mode():
        logits = network(before, after)
        alone = finest(before[inner], after[inner])[..., : logits.shape[-2], : logits.shape[-1]]
        assert (logits <= alone + 1e-6).all()
        network.coarser[0].layers[2].bias += 5
        torch.testing.assert_close(network(before, after), alone, atol=1e-6, rtol=0)
        network.coarser[0].layers[2].bias -= 10
        assert (network(before, after) < alone - 1).all()


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_averages_of_bytes_are_rounded_averages(side: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4 * side, 6 * side), np.uint8)
    blocks = values.reshape(2, 3, 4, side, 6, side).astype(float)
    expected = np.floor(blocks.mean((3, 5)) + 0.5)
    of_bytes = averaged(torch.from_numpy(values), side)
    assert of_bytes.dtype == torch.uint8
    np.testing.assert_array_equal(of_bytes.numpy(), expected)
    of_floats = averaged(torch.from_numpy(values).float(), side)
    np.testing.assert_allclose(of_floats.numpy(), blocks.mean((3, 5)), rtol=1e-6)


def test_interpolation_is_linear_between_centers() -> None:
    def ramp(span: range, cell: int) -> torch.Tensor:
        return torch.tensor([(index + 0.5) * cell for index in span])

    source, target = (range(-3, 7), range(-2, 9)), (range(-7, 20), range(30))
    values = (ramp(source[0], 4)[:, None] + 10 * ramp(source[1], 4))[None, None]
    expected = ramp(target[0], 1)[:, None] + 10 * ramp(target[1], 1)
    torch.testing.assert_close(interpolated(values, 4, source, target)[0, 0], expected)


def test_weights_files_keep_scales_and_symmetry(tmp_path: Path) -> None:
    network = pyramid((1, 2, 4))
    card = save_model(network, ModelCard("p", "survey", "", network.config, "", 0, 0), tmp_path / "p.safetensors")
    model = load_model(tmp_path / "p.safetensors")
    assert model.card == card
    assert model.card.network == network.config
    assert model.card.to_dict()["receptive_field"] == network.config.receptive_field.size
    assert torch.equal(parameters_to_vector(model.network.parameters()), parameters_to_vector(network.parameters()))


@pytest.mark.parametrize("name", ["survey", "survey-fast", "tarp", "paper"])
def test_weights_of_one_scale_are_as_they_were(name: str) -> None:
    config = load_model(name).card.network
    assert (config.scales, config.symmetric) == ((1,), False)
    field, window = config.receptive_field, config.window
    assert (field.size, config.alignment) == (32 + window.stride - field.stride, window.stride)


def test_scales_that_do_not_fit_together_are_refused() -> None:
    for scales in ((), (2,), (1, 3), (1, 4, 2), (1, 2, 2), (1, 2, 6)):
        with pytest.raises(ValueError, match="increasing powers of two"):
            NetworkConfig.of_stride(4, scales=scales)
    with pytest.raises(ValueError, match="both even or both odd"):
        NetworkConfig((Convolution(4, 1, 8),), scales=(1, 2))


@INTEGERS
def test_bytes_give_about_what_numbers_give_at_every_scale() -> None:
    single = load_model("survey")
    large = replace(single.card.network, scales=(1, 2, 4), symmetric=True)
    network = SiameseNetwork.of_weights(
        large, initial_weights(single.network.state_dict(), single.card.network, large)
    ).eval()
    integers = network.for_inference()
    integers.encoder = quantized(network.encoder, torch.float32)
    side = large.receptive_field.size + 100
    coarse = images(2, 3, side // 8, side // 8)
    values = (interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255).round()
    with torch.inference_mode():
        exact = torch.sigmoid(network.compare(normalized(values / 255)))
        rounded = torch.sigmoid(integers.compare(values.to(torch.uint8).contiguous(memory_format=torch.channels_last)))
    assert (exact - rounded).abs().max() < 0.2
    assert (exact - rounded).abs().mean() < 0.02
