"""Nuisance, the normal differences between two dates: light, camera, haze, shadow, season and misregistration.

Everything works on whole batches: images are float32 (n, 3, h, w) in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from geosiam.training.anomalies import chance, smooth_noise, uniform

if TYPE_CHECKING:
    from collections.abc import Callable

JPEG_BLOCK_PX = 8
"""Side of a block of JPEG in pixels: chips are a multiple of it."""

_STEP = (1.0, 2.0)  # relative quantization step of the lowest frequency, and its increase with each higher one
_WAVES = 4
_FREQUENCY = 1.2  # standard deviation, in half periods over the range of a channel


@dataclass(frozen=True)
class NuisanceConfig:
    """Strength of the nuisance; every image draws its own values within these limits.

    Parameters
    ----------
    still
        Probability that a pair has no nuisance at all.
    untouched
        Probability that the light of an image is not changed, and that an image is not moved.
    years
        Probability that seasons or years lie between the dates; else only light, camera and position differ.
    gain
        Half range of the common gain (0.3: 0.7 to 1.3).
    cast
        Half range of each channel's own gain.
    offset
        Half range of the common offset, in units of the full range.
    gamma
        Half range of the logarithm of gamma.
    saturation
        Half range of the change of saturation.
    haze
        Largest share of a uniform haze.
    shift_px
        Largest misregistration along each axis, in pixels.
    warp_px
        Largest misregistration that varies within the image, in pixels.
    warp
        Probability of such misregistration, if the image is moved at all.
    blur
        Probability of a 3x3 blur.
    coarse, coarse_px
        Probability of a coarser resolution, and the largest width of its pixels.
    jpeg
        Probability of JPEG compression.
    noise
        Largest standard deviation of the sensor noise, in units of the full range.
    shadow
        Probability that a soft-edged shadow falls on one of the two dates.
    tint, tint_depth
        With years in between: probability that the colors of a date change, and by how much in [0, 1].
    mottle, mottle_depth
        With years in between: probability of broad blotches, and the largest relative change of brightness.
    grain, grain_depth
        With years in between: probability of other fine grain, and its largest depth.
    """

    still: float = 0.35
    untouched: float = 0.15
    years: float = 0.6
    gain: float = 0.3
    cast: float = 0.08
    offset: float = 0.08
    gamma: float = 0.3
    saturation: float = 0.3
    haze: float = 0.15
    shift_px: float = 2.0
    warp_px: float = 1.5
    warp: float = 0.3
    blur: float = 0.3
    coarse: float = 0.2
    coarse_px: float = 2.0
    jpeg: float = 0.2
    noise: float = 0.03
    shadow: float = 0.35
    tint: float = 0.5
    tint_depth: float = 0.08
    mottle: float = 0.5
    mottle_depth: float = 0.3
    grain: float = 0.3
    grain_depth: float = 0.05


def apply_nuisance(
    first: Tensor, second: Tensor, masks: Tensor, config: NuisanceConfig, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply nuisance to both dates of pairs that so far differ in their anomalies only.

    Parameters
    ----------
    first, second
        Images of the two dates, float32 (n, 3, h, w) in [0, 1].
    masks
        float32 (n, channels, h, w), masks of the second date, which are moved with it.
    config
        Strength of the nuisance.
    generator
        Generator of all random numbers.

    Returns
    -------
    first, second, masks
        The changed images and masks, in the shapes of the arguments.
    """
    years = chance(len(first), config.years, generator).flatten()
    still = chance(len(first), config.still, generator)
    before, after = first, second
    if years.any():
        before, after = before.clone(), after.clone()
        before[years] = weather(before[years], config, generator)
        after[years] = weather(after[years], config, generator)
    before, after = shade(before, config, generator), shade(after, config, generator)
    after, moved = misregister(after, masks, config, generator)
    before, after = photometric(before, config, generator), photometric(after, config, generator)
    return torch.where(still, first, before), torch.where(still, second, after), torch.where(still, masks, moved)


def photometric(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Change light and camera of most images: gain, cast, offset, gamma, saturation, haze, blur, noise, compression."""
    return sometimes(images, 1 - config.untouched, generator, lambda subset: _photographed(subset, config, generator))


def _photographed(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    n = len(images)
    column = (n, 1, 1, 1)
    changed = images.clamp(1e-4, 1) ** uniform(column, -config.gamma, config.gamma, generator).exp()
    gray = changed.mean(dim=1, keepdim=True)
    saturation = 1 + uniform(column, -config.saturation, config.saturation, generator)
    gain = 1 + uniform(column, -config.gain, config.gain, generator)
    cast = 1 + uniform((n, 3, 1, 1), -config.cast, config.cast, generator)
    veil = uniform(column, 0, config.haze, generator) * chance(n, 0.3, generator)
    # Saturation, gain, offset and haze at once: each pass over the images costs as much as a convolution.
    factor = gain * cast * (1 - veil)
    offset = uniform(column, -config.offset, config.offset, generator) * (1 - veil)
    offset = offset + uniform(column, 0.6, 0.95, generator) * veil
    changed = changed * (factor * saturation) + gray * (factor * (1 - saturation)) + offset
    changed = sometimes(changed, config.blur, generator, lambda subset: blur(subset, generator))
    changed = sometimes(changed, config.coarse, generator, lambda subset: coarsen(subset, config.coarse_px, generator))
    grain = torch.randn(images.shape, generator=generator, device=images.device)
    changed = changed.addcmul_(grain, uniform(column, 0, config.noise, generator)).clamp_(0, 1)
    return sometimes(changed, config.jpeg, generator, lambda subset: compress(subset, generator))


def blur(images: Tensor, generator: Generator) -> Tensor:
    """Blur with a box of 3 px, mixed with the sharp image by a random share."""
    across = pad(images, (1, 1, 0, 0), mode="reflect")
    soft = across[..., :-2] + across[..., 1:-1] + across[..., 2:]
    down = pad(soft, (0, 0, 1, 1), mode="reflect")
    soft = (down[..., :-2, :] + down[..., 1:-1, :] + down[..., 2:, :]) / 9
    return images + (soft - images) * uniform((len(images), 1, 1, 1), 0.3, 1.0, generator)


def coarsen(images: Tensor, max_factor: float, generator: Generator) -> Tensor:
    """Resample to pixels up to ``max_factor`` times as wide, and back to the original size."""
    factor = float(uniform((1,), 1.0, max_factor, generator))
    size = [max(2, round(side / factor)) for side in images.shape[-2:]]
    small = interpolate(images, size=size, mode="bilinear", antialias=True)
    return interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)


def compress(images: Tensor, generator: Generator) -> Tensor:
    """Quantize the cosine transform of blocks of 8 x 8 px as JPEG does, at a random quality and block origin.

    Sides must be multiples of 8. Each channel is treated as JPEG treats brightness.
    """
    n, channels, height, width = images.shape
    offset = torch.randint(JPEG_BLOCK_PX, (2,), generator=generator, device=generator.device).tolist()
    basis, weight = (table.to(images.device) for table in _tables())
    step = weight * uniform((n, 1, 1, 1, 1, 1), 0.004, 0.05, generator)
    rolled = images.roll(offset, dims=(2, 3))
    side = JPEG_BLOCK_PX
    blocks = rolled.view(n, channels, height // side, side, width // side, side).transpose(3, 4)
    spectrum = ((basis @ blocks @ basis.T) / step).round_() * step
    restored = (basis.T @ spectrum @ basis).transpose(3, 4).reshape(images.shape)
    return restored.roll([-shift for shift in offset], dims=(2, 3)).clamp_(0, 1)


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Return the orthonormal cosine transform of 8 values, and the relative quantization step of each frequency."""
    k, x = torch.arange(JPEG_BLOCK_PX).view(-1, 1), torch.arange(JPEG_BLOCK_PX).view(1, -1)
    basis = torch.cos((2 * x + 1) * k * torch.pi / (2 * JPEG_BLOCK_PX)) * 0.5
    basis[0] /= 2**0.5
    weight = _STEP[0] + _STEP[1] * (k + x).float() / 2
    return basis, weight


def shade(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Cast a shadow of random outline on some images: darker, a little bluer, with a soft or hard edge."""
    return sometimes(images, config.shadow, generator, lambda subset: _shaded(subset, generator))


def _shaded(images: Tensor, generator: Generator) -> Tensor:
    column = (len(images), 1, 1, 1)
    knots = int(torch.randint(3, 9, (), generator=generator, device=generator.device))
    noise = smooth_noise(images.shape, knots, generator)
    edge = uniform(column, 0.02, 0.4, generator)
    depth = ((noise - uniform(column, 0.0, 0.6, generator)) / edge).clamp(0, 1)
    depth = depth * uniform(column, 0.15, 0.65, generator)
    sky = torch.tensor([1.06, 1.0, 0.9], device=images.device).view(1, 3, 1, 1)  # a shadow is lit by the sky alone
    return images * (1 - (depth * sky).clamp(0, 1))


def weather(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Change the ground as a season or years do: its colors, blotches and grain."""
    changes: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
        (config.tint, lambda subset: retint(subset, config.tint_depth, generator)),
        (config.mottle, lambda subset: mottle(subset, config.mottle_depth, generator)),
        (config.grain, lambda subset: regrain(subset, config.grain_depth, generator)),
    )
    for probability, change in changes:
        images = sometimes(images, probability, generator, change)
    return images


def retint(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Change colors: each image by a smooth random function of the color.

    Green fields become yellow, another green becomes darker, and roads stay as they are: equal colors stay equal, and
    edges stay in place.

    Parameters
    ----------
    images
        float32 (n, 3, h, w) in [0, 1].
    strength
        Standard deviation of the change in units of the full range; each image draws its own up to twice that.
    generator
        Generator of all random numbers.
    """
    n, channels, height, width = images.shape
    frequency = torch.randn((n, _WAVES, channels), generator=generator, device=images.device) * _FREQUENCY
    phase = uniform((n, _WAVES, 1), 0, 2 * torch.pi, generator)
    amount = torch.randn((n, channels, _WAVES), generator=generator, device=images.device)
    amount = 0.4 * amount + 0.6 * amount.mean(dim=1, keepdim=True)  # brightness changes more than hue
    amount = amount * uniform((n, 1, 1), 0, 2 * strength * (2 / _WAVES) ** 0.5, generator)
    wave = torch.baddbmm(phase, frequency * torch.pi, images.flatten(2)).sin_()
    return (images + torch.bmm(amount, wave).view(n, channels, height, width)).clamp_(0, 1)


def mottle(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Add broad blotches, as of moisture, vigor or mist, that change at most ``strength`` of the brightness."""
    knots = int(torch.randint(2, 8, (), generator=generator, device=generator.device))
    noise = smooth_noise(images.shape, knots, generator)
    hue = uniform((len(images), 3, 1, 1), 0.4, 1.0, generator)
    depth = uniform((len(images), 1, 1, 1), 0, strength, generator)
    return (images * (1 + noise * hue * depth)).clamp_(0, 1)


def regrain(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Add fine grain, as of other leaves and soil, in clumps of 1 to 4 px and at most ``strength`` deep."""
    n, _, height, width = images.shape
    clump = float(uniform((1,), 1, 4, generator))
    size = (max(2, int(height / clump)), max(2, int(width / clump)))
    grain = torch.randn((n, 1, *size), generator=generator, device=images.device)
    grain = interpolate(grain, size=(height, width), mode="bilinear", align_corners=False)
    return (images + grain * uniform((n, 1, 1, 1), 0, strength, generator)).clamp_(0, 1)


def misregister(images: Tensor, masks: Tensor, config: NuisanceConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Move images, and masks (n, channels, h, w) with them, by up to ``shift_px`` along each axis.

    Some are warped as well: by up to ``warp_px``, varying smoothly within the image, as relief and mosaicking do.
    """
    n, _, height, width = images.shape
    column = (n, 1)
    shift = uniform((n, 2), -config.shift_px, config.shift_px, generator)
    is_whole = uniform(column, 0, 1, generator) < 0.4  # noqa: PLR2004 - whole pixels: resampling also blurs
    shift = torch.where(is_whole, shift.round(), shift)
    moved = uniform(column, 0, 1, generator) > config.untouched
    theta = torch.eye(2, 3, device=images.device).repeat(n, 1, 1)
    theta[:, :, 2] = shift * moved * torch.tensor([2 / width, 2 / height], device=images.device)
    grid = affine_grid(theta, [n, 1, height, width], align_corners=False)
    warped = (moved & (uniform(column, 0, 1, generator) < config.warp)).flatten()
    if warped.any():
        grid[warped] += _smooth_displacements(grid[warped].shape, config.warp_px, generator)
    sample = partial(grid_sample, grid=grid, padding_mode="reflection", align_corners=False)
    return sample(images, mode="bilinear"), sample(masks, mode="nearest")


def _smooth_displacements(shape: torch.Size, max_px: float, generator: Generator) -> Tensor:
    """Return smooth displacements (n, h, w, 2) in units of :func:`grid_sample`."""
    n, height, width, _ = shape
    knots = int(torch.randint(3, 6, (), generator=generator, device=generator.device))
    noise = smooth_noise((2 * n, 1, height, width), knots, generator).view(n, 2, height, width)
    depth = uniform((n, 1, 1, 1), 0, max_px, generator)
    scale = torch.tensor([2 / width, 2 / height], device=noise.device).view(1, 2, 1, 1)
    return (noise * depth * scale).permute(0, 2, 3, 1)


def sometimes(images: Tensor, probability: float, generator: Generator, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``change`` to each image with some probability; the others cost nothing."""
    selected = chance(len(images), probability, generator).flatten()
    if not selected.any():
        return images
    result = images.clone()
    result[selected] = change(images[selected])
    return result
