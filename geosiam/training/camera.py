"""What cameras and files do to a picture: blur, a coarser resolution, sensor noise, JPEG compression.

Everything works on whole batches: images are float32 (n, 3, h, w) in [0, 1].
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate, pad

from geosiam.training.anomalies import uniform

_BLOCK = 8
_STEP = (1.0, 2.0)  # quantisation step of the lowest frequencies, and what each higher one adds, at quality 50


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
    """Quantise the cosine transform of blocks of 8 x 8 px as JPEG does, at a random quality and block origin.

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
    """Return the orthonormal cosine transform of 8 values, and the relative quantisation step of each frequency."""
    k, x = torch.arange(_BLOCK).view(-1, 1), torch.arange(_BLOCK).view(1, -1)
    basis = torch.cos((2 * x + 1) * k * torch.pi / (2 * _BLOCK)) * 0.5
    basis[0] /= 2**0.5
    weight = _STEP[0] + _STEP[1] * (k + x).float() / 2
    return basis, weight
