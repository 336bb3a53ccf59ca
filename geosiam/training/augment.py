"""What differs between two dates and still is normal: light, camera, haze, shadow, season and misregistration.

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


@dataclass(frozen=True)
class NuisanceConfig:
    """How strong the nuisance is; every image draws its own.

    Parameters
    ----------
    still
        Probability that a pair gets none at all.
    untouched
        Probability that an image keeps its light, and one its place.
    years
        Probability that seasons or years lie between the dates; else only light, camera and place differ.
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
        Largest share of a uniform veil.
    shift_px
        Largest misregistration along each axis, in pixels.
    warp_px
        Largest misregistration that varies from place to place, in pixels, and
    warp
        the probability of any.
    blur
        Probability of a 3x3 blur.
    coarse, coarse_px
        Probability of a coarser resolution, and the width of its pixels at most.
    jpeg
        Probability of JPEG compression.
    noise
        Largest standard deviation of the sensor noise, in units of the full range.
    shadow
        Probability that a soft-edged shadow falls on one of the two dates.
    tint, tint_depth
        With years between: probability that the colors of a date turn, and how far, in units of the full range.
    mottle, mottle_depth
        Likewise: probability of broad blotches, and how much of the brightness they take or give at most.
    grain, grain_depth
        Likewise: probability that fine grain is drawn anew, and its depth at most.
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


def differing(
    first: Tensor, second: Tensor, cover: Tensor, config: NuisanceConfig, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Make two dates of pairs that differ by nothing but their anomalies: light, camera, season and place.

    Parameters
    ----------
    first, second
        float32 (n, 3, h, w) in [0, 1].
    cover
        float32 (n, 1, h, w), what is anomalous in the second date; it moves with that.
    config
        How strong.
    generator
        Of everything random.
    """
    years = chance(len(first), config.years, generator).flatten()
    still = chance(len(first), config.still, generator)
    before, after = first, second
    if years.any():
        before, after = before.clone(), after.clone()
        before[years] = weather(before[years], config, generator)
        after[years] = weather(after[years], config, generator)
    before, after = shade(before, config, generator), shade(after, config, generator)
    after, moved = misregister(after, cover, config, generator)
    before, after = photometric(before, config, generator), photometric(after, config, generator)
    return torch.where(still, first, before), torch.where(still, second, after), torch.where(still, cover, moved)


def sometimes(images: Tensor, probability: float, generator: Generator, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the images with ``change`` made to each with some probability; only these cost anything."""
    chosen = chance(len(images), probability, generator).flatten()
    if not chosen.any():
        return images
    result = images.clone()
    result[chosen] = change(images[chosen])
    return result


def weather(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Let a season pass, on the ground and before the camera: colors, blotches and grain."""
    changes: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
        (config.tint, lambda some: retint(some, config.tint_depth, generator)),
        (config.mottle, lambda some: mottle(some, config.mottle_depth, generator)),
        (config.grain, lambda some: regrain(some, config.grain_depth, generator)),
    )
    for probability, change in changes:
        images = sometimes(images, probability, generator, change)
    return images


def misregister(images: Tensor, masks: Tensor, config: NuisanceConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Move images (n, 3, h, w), and masks (n, 1, h, w) with them, by up to ``shift_px`` along each axis.

    Some are bent as well, by up to ``warp_px`` that change smoothly from place to place, as relief and mosaicking do.
    """
    n, _, height, width = images.shape
    column = (n, 1)
    shift = uniform((n, 2), -config.shift_px, config.shift_px, generator)
    whole = uniform(column, 0, 1, generator) < 0.4  # noqa: PLR2004 - resampling also blurs; an even shift does not
    shift = torch.where(whole, shift.round(), shift)
    moved = uniform(column, 0, 1, generator) > config.untouched
    theta = torch.eye(2, 3, device=images.device).repeat(n, 1, 1)
    theta[:, :, 2] = shift * moved * torch.tensor([2 / width, 2 / height], device=images.device)
    grid = affine_grid(theta, [n, 1, height, width], align_corners=False)
    bent = (moved & (uniform(column, 0, 1, generator) < config.warp)).flatten()
    if bent.any():
        grid[bent] += _bend(grid[bent].shape, config.warp_px, generator)
    sample = partial(grid_sample, grid=grid, padding_mode="reflection", align_corners=False)
    return sample(images, mode="bilinear"), sample(masks, mode="nearest")


def _bend(shape: torch.Size, most_px: float, generator: Generator) -> Tensor:
    """Return smooth displacements (n, h, w, 2) in units of :func:`grid_sample`."""
    n, height, width, _ = shape
    knots = int(torch.randint(3, 6, (), generator=generator, device=generator.device))
    fields = smooth_noise((2 * n, 1, height, width), knots, generator).view(n, 2, height, width)
    depth = uniform((n, 1, 1, 1), 0, most_px, generator)
    scale = torch.tensor([2 / width, 2 / height], device=fields.device).view(1, 2, 1, 1)
    return (fields * depth * scale).permute(0, 2, 3, 1)


def photometric(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Change light and camera of most images: gain, cast, offset, gamma, saturation, haze, blur, noise, compression."""
    return sometimes(images, 1 - config.untouched, generator, lambda some: _exposed(some, config, generator))


def _exposed(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    n = len(images)
    column = (n, 1, 1, 1)
    changed = images.clamp(1e-4, 1) ** uniform(column, -config.gamma, config.gamma, generator).exp()
    gray = changed.mean(dim=1, keepdim=True)
    saturation = 1 + uniform(column, -config.saturation, config.saturation, generator)
    gain = 1 + uniform(column, -config.gain, config.gain, generator)
    cast = 1 + uniform((n, 3, 1, 1), -config.cast, config.cast, generator)
    veil = uniform(column, 0, config.haze, generator) * chance(n, 0.3, generator)
    # Saturation, gain, offset and haze in one go: each pass over the images costs as much as a convolution.
    factor = gain * cast * (1 - veil)
    offset = uniform(column, -config.offset, config.offset, generator) * (1 - veil)
    offset = offset + uniform(column, 0.6, 0.95, generator) * veil
    changed = changed * (factor * saturation) + gray * (factor * (1 - saturation)) + offset
    changed = sometimes(changed, config.blur, generator, lambda some: blur(some, generator))
    changed = sometimes(changed, config.coarse, generator, lambda some: coarsen(some, config.coarse_px, generator))
    grain = torch.randn(images.shape, generator=generator, device=images.device)
    changed = changed.addcmul_(grain, uniform(column, 0, config.noise, generator)).clamp_(0, 1)
    return sometimes(changed, config.jpeg, generator, lambda some: compress(some, generator))


def shade(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Let a shadow of random outline fall on some images: darker, a little bluer, with a soft or hard edge."""
    return sometimes(images, config.shadow, generator, lambda some: _shaded(some, generator))


def _shaded(images: Tensor, generator: Generator) -> Tensor:
    column = (len(images), 1, 1, 1)
    field = smooth_noise(
        images.shape, int(torch.randint(3, 9, (), generator=generator, device=generator.device)), generator
    )
    edge = uniform(column, 0.02, 0.4, generator)
    depth = ((field - uniform(column, 0.0, 0.6, generator)) / edge).clamp(0, 1)
    depth = depth * uniform(column, 0.15, 0.65, generator)
    sky = torch.tensor([1.06, 1.0, 0.9], device=images.device).view(1, 3, 1, 1)  # a shadow is lit by the sky alone
    return images * (1 - (depth * sky).clamp(0, 1))


_BLOCK = 8
_STEP = (1.0, 2.0)  # quantization step of the lowest frequencies, and what each higher one adds, at quality 50


def blur(images: Tensor, generator: Generator) -> Tensor:
    """Blur with a box of 3 px, mixed with the sharp image by a random share."""
    across = pad(images, (1, 1, 0, 0), mode="reflect")
    soft = across[..., :-2] + across[..., 1:-1] + across[..., 2:]
    down = pad(soft, (0, 0, 1, 1), mode="reflect")
    soft = (down[..., :-2, :] + down[..., 1:-1, :] + down[..., 2:, :]) / 9
    return images + (soft - images) * uniform((len(images), 1, 1, 1), 0.3, 1.0, generator)


def coarsen(images: Tensor, most: float, generator: Generator) -> Tensor:
    """Photograph with pixels up to ``most`` times as wide and resample to the size there was."""
    factor = float(uniform((1,), 1.0, most, generator))
    size = [max(2, round(side / factor)) for side in images.shape[-2:]]
    small = interpolate(images, size=size, mode="bilinear", antialias=True)
    return interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)


def compress(images: Tensor, generator: Generator) -> Tensor:
    """Quantize the cosine transform of blocks of 8 x 8 px as JPEG does, at a random quality and block origin.

    Sides must be multiples of 8. Each channel is treated as JPEG treats brightness.
    """
    n, channels, height, width = images.shape
    offset = torch.randint(_BLOCK, (2,), generator=generator, device=generator.device).tolist()
    basis, weight = (table.to(images.device) for table in _tables())
    step = weight * uniform((n, 1, 1, 1, 1, 1), 0.004, 0.05, generator)
    rolled = images.roll(offset, dims=(2, 3))
    blocks = rolled.view(n, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(3, 4)
    spectrum = ((basis @ blocks @ basis.T) / step).round_() * step
    restored = (basis.T @ spectrum @ basis).transpose(3, 4).reshape(images.shape)
    return restored.roll([-shift for shift in offset], dims=(2, 3)).clamp_(0, 1)


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Return the orthonormal cosine transform of 8 values, and the relative quantization step of each frequency."""
    k, x = torch.arange(_BLOCK).view(-1, 1), torch.arange(_BLOCK).view(1, -1)
    basis = torch.cos((2 * x + 1) * k * torch.pi / (2 * _BLOCK)) * 0.5
    basis[0] /= 2**0.5
    weight = _STEP[0] + _STEP[1] * (k + x).float() / 2
    return basis, weight


_WAVES = 4
_HIGHEST = 1.2  # periods along the whole range of a channel


def retint(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Turn colors: each image by a smooth random function of the color, the same wherever that color is.

    A field that was green becomes yellow, another green a darker one, and roads stay: what had one color keeps one,
    and edges stay where they are.

    Parameters
    ----------
    images
        float32 (n, 3, h, w) in [0, 1].
    strength
        Standard deviation of the change in units of the full range; each image draws its own up to twice that.
    generator
        Of everything random.
    """
    n, channels, height, width = images.shape
    frequency = torch.randn((n, _WAVES, channels), generator=generator, device=images.device) * _HIGHEST
    phase = uniform((n, _WAVES, 1), 0, 2 * torch.pi, generator)
    amount = torch.randn((n, channels, _WAVES), generator=generator, device=images.device)
    amount = 0.4 * amount + 0.6 * amount.mean(dim=1, keepdim=True)  # brightness turns more than hue
    amount = amount * uniform((n, 1, 1), 0, 2 * strength * (2 / _WAVES) ** 0.5, generator)
    wave = torch.baddbmm(phase, frequency * torch.pi, images.flatten(2)).sin_()
    return (images + torch.bmm(amount, wave).view(n, channels, height, width)).clamp_(0, 1)


def mottle(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Let broad blotches come or go: moisture, vigour, mist. At most ``strength`` of the brightness changes."""
    knots = int(torch.randint(2, 8, (), generator=generator, device=generator.device))
    field = smooth_noise(images.shape, knots, generator)
    hue = uniform((len(images), 3, 1, 1), 0.4, 1.0, generator)
    depth = uniform((len(images), 1, 1, 1), 0, strength, generator)
    return (images * (1 + field * hue * depth)).clamp_(0, 1)


def regrain(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Draw the fine grain of leaves and soil anew, in clumps of 1 to 4 px, at most ``strength`` deep."""
    n, _, height, width = images.shape
    clump = float(uniform((1,), 1, 4, generator))
    size = (max(2, int(height / clump)), max(2, int(width / clump)))
    grain = torch.randn((n, 1, *size), generator=generator, device=images.device)
    grain = interpolate(grain, size=(height, width), mode="bilinear", align_corners=False)
    return (images + grain * uniform((n, 1, 1, 1), 0, strength, generator)).clamp_(0, 1)
