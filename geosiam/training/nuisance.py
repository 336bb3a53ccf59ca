"""What differs between two dates and still is normal: light, camera, haze, shadow, season and misregistration.

Everything works on whole batches: images are float32 (n, 3, h, w) in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, pad

from geosiam.training.anomalies import chance, smooth_noise, uniform


@dataclass(frozen=True)
class NuisanceConfig:
    """How strong the nuisance is; every image draws its own.

    Parameters
    ----------
    untouched
        Probability that a pair gets none at all.
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
    blur
        Probability of a 3x3 or 5x5 blur.
    noise
        Largest standard deviation of the sensor noise, in units of the full range.
    shadow
        Probability that a soft-edged shadow falls on one of the two dates.
    """

    untouched: float = 0.15
    gain: float = 0.3
    cast: float = 0.08
    offset: float = 0.08
    gamma: float = 0.3
    saturation: float = 0.3
    haze: float = 0.15
    shift_px: float = 2.0
    blur: float = 0.3
    noise: float = 0.03
    shadow: float = 0.35


def misregister(images: Tensor, masks: Tensor, config: NuisanceConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Move images (n, 3, h, w), and masks (n, 1, h, w) with them, by up to ``shift_px`` along each axis."""
    n, _, height, width = images.shape
    shift = uniform((n, 2), -config.shift_px, config.shift_px, generator)
    whole = uniform((n, 1), 0, 1, generator) < 0.4  # noqa: PLR2004 - resampling also blurs; an even shift does not
    shift = torch.where(whole, shift.round(), shift)
    shift = shift * (uniform((n, 1), 0, 1, generator) > config.untouched)
    theta = torch.eye(2, 3, device=images.device).repeat(n, 1, 1)
    theta[:, 0, 2] = 2 * shift[:, 0] / width
    theta[:, 1, 2] = 2 * shift[:, 1] / height
    grid = affine_grid(theta, [n, 1, height, width], align_corners=False)
    sample = partial(grid_sample, grid=grid, padding_mode="reflection", align_corners=False)
    return sample(images, mode="bilinear"), sample(masks, mode="nearest")


def photometric(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Change light and camera of each image: gain, cast, offset, gamma, saturation, haze, blur and noise."""
    n = len(images)
    column = (n, 1, 1, 1)
    changed = images.clamp(1e-4, 1) ** uniform(column, -config.gamma, config.gamma, generator).exp()
    grey = changed.mean(dim=1, keepdim=True)
    changed = grey + (changed - grey) * (1 + uniform(column, -config.saturation, config.saturation, generator))
    gain = 1 + uniform(column, -config.gain, config.gain, generator)
    cast = 1 + uniform((n, 3, 1, 1), -config.cast, config.cast, generator)
    changed = changed * gain * cast + uniform(column, -config.offset, config.offset, generator)
    veil = uniform(column, 0, config.haze, generator) * chance(n, 0.3, generator)
    changed = changed * (1 - veil) + uniform(column, 0.6, 0.95, generator) * veil
    changed = _blurred(changed, chance(n, config.blur, generator), generator)
    grain = torch.randn(images.shape, generator=generator, device=images.device)
    changed = changed + grain * uniform(column, 0, config.noise, generator)
    return torch.where(chance(n, config.untouched, generator), images, changed.clamp(0, 1))


def shade(images: Tensor, config: NuisanceConfig, generator: Generator) -> Tensor:
    """Let a shadow of random outline fall on some images: darker, a little bluer, with a soft or hard edge."""
    n = len(images)
    column = (n, 1, 1, 1)
    field = smooth_noise(
        images.shape, int(torch.randint(3, 9, (), generator=generator, device=generator.device)), generator
    )
    edge = uniform(column, 0.02, 0.4, generator)
    depth = ((field - uniform(column, 0.0, 0.6, generator)) / edge).clamp(0, 1)
    depth = depth * uniform(column, 0.15, 0.65, generator) * chance(n, config.shadow, generator)
    sky = torch.tensor([1.06, 1.0, 0.9], device=images.device).view(1, 3, 1, 1)  # a shadow is lit by the sky alone
    return images * (1 - (depth * sky).clamp(0, 1))


def _blurred(images: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Blur the chosen images with a box of 3 px, mixed with the sharp image by a random share."""
    soft = avg_pool2d(pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    share = uniform((len(images), 1, 1, 1), 0.3, 1.0, generator) * chosen
    return images + (soft - images) * share
