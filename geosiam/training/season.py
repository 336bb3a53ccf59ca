"""What grows, dries and weathers between two dates: colours that turn, blotches that come and go, grain drawn anew.

All of it keeps the outlines of what is there, which is how it can be told from an object that was not. Everything works
on whole batches: images are float32 (n, 3, h, w) in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from geosiam.training.anomalies import smooth_noise, uniform

_WAVES = 4
_HIGHEST = 1.2  # periods along the whole range of a channel


def retint(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Turn colours: each image by a smooth random function of the colour, the same wherever that colour is.

    A field that was green becomes yellow, another green a darker one, and roads stay: what had one colour keeps one,
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
