"""Anomalies inserted into chips: the paper's blue rectangle, and the varied shapes and fills of the survey recipe.

Everything works on whole batches: images are float32 (n, 3, h, w) in [0, 1], masks float32 (n, 1, h, w) in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence

BLUE = (0.0, 0.0, 1.0)
_VISIBLE = 0.04  # mean absolute difference in [0, 1] under which an insertion cannot be told from its background


def uniform(shape: Sequence[int], low: float, high: float, generator: Generator) -> Tensor:
    """Return float32 values uniform in [low, high)."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device) * (high - low) + low


def chance(count: int, probability: float, generator: Generator) -> Tensor:
    """Return a boolean per image, shape (count, 1, 1, 1), true with the given probability."""
    return uniform((count, 1, 1, 1), 0, 1, generator) < probability


def paper_rectangles(images: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Draw the paper's anomaly into the chosen images: one blue rectangle of 1-99 % area and aspect 0.5-1.5.

    Parameters
    ----------
    images
        float32 (n, 3, h, w) in [0, 1].
    chosen
        bool (n, 1, 1, 1); the other images come back unchanged.
    """
    n, _, height, width = images.shape
    area = uniform((n, 1, 1, 1), 0.01, 0.99, generator) * height * width
    aspect = uniform((n, 1, 1, 1), 0.5, 1.5, generator)
    rows = (area / aspect).sqrt().round().clamp(1, height)
    cols = (area * aspect).sqrt().round().clamp(1, width)
    top = (uniform((n, 1, 1, 1), 0, 1, generator) * (height - rows + 1)).floor()
    left = (uniform((n, 1, 1, 1), 0, 1, generator) * (width - cols + 1)).floor()
    y = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    x = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + cols)
    blue = torch.tensor(BLUE, device=images.device).view(1, 3, 1, 1)
    return torch.where(inside & chosen, blue, images)


@dataclass(frozen=True)
class AnomalyConfig:
    """How the survey recipe's anomalies look.

    Parameters
    ----------
    most
        Largest number of objects in a chip.
    size_px
        Smallest and largest diameter in pixels; the logarithm is uniform.
    rate
        Probability that a possible object is there.
    flat, texture, same
        Relative frequency of the fills: one colour; another image's texture; the same image's texture from elsewhere
        (which is also what a removed object leaves behind).
    shadow
        Probability that an object casts a shadow, which itself is no anomaly.
    """

    most: int = 4
    size_px: tuple[float, float] = (4.0, 72.0)
    rate: float = 0.3
    flat: float = 0.45
    texture: float = 0.35
    same: float = 0.2
    shadow: float = 0.3


def insert(images: Tensor, config: AnomalyConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Insert objects of random shape, size, fill and edge into every image.

    Returns
    -------
    images
        float32 (n, 3, h, w) with the objects.
    cover
        float32 (n, 1, h, w): 1 where an object visibly differs from what was there, 0.5 where one lies but cannot be
        seen or only at its feathered edge, 0 where there is none.
    """
    result = images.clone()
    cover = torch.zeros_like(images[:, :1])
    wobble = smooth_noise(images.shape, 9, generator)
    foreign = images.roll(1, 0).flip(-1)
    for _ in range(config.most):
        there = chance(len(images), config.rate, generator).flatten()
        if not there.any():
            continue
        ground = result[there]
        shape = _Shape.random(ground, config.size_px, generator)
        alpha = shape.alpha(wobble[there], generator)
        ground = _with_shadow(ground, shape, wobble[there], config.shadow, generator)
        fill = _fill(images[there], foreign[there], config, generator)
        result[there] = ground + (fill - ground) * alpha
        cover[there] = torch.maximum(cover[there], alpha)
    result = result.clamp(0, 1)
    seen = (result - images).abs().mean(dim=1, keepdim=True) > _VISIBLE
    solid = cover > 0.5  # noqa: PLR2004
    cover = torch.where(solid & seen, 1.0, torch.where(cover > 0.05, 0.5, 0.0))  # noqa: PLR2004
    return result, cover


@dataclass(frozen=True)
class _Shape:
    """One shape per image as a signed distance in pixels, negative inside; every field has shape (n, 1, 1, 1)."""

    u: Tensor  # coordinate along the long axis, (n, 1, h, w)
    v: Tensor
    a: Tensor  # half axes in pixels
    b: Tensor
    kind: Tensor
    corners: Tensor  # (n, corners, 1, 1) directions of a polygon's sides

    @classmethod
    def random(cls, images: Tensor, size_px: tuple[float, float], generator: Generator) -> _Shape:
        n, _, height, width = images.shape
        low, high = torch.tensor(size_px).log().tolist()
        a = uniform((n, 1, 1, 1), low, high, generator).exp() / 2
        kind = torch.randint(4, (n, 1, 1, 1), generator=generator, device=generator.device)
        slender = uniform((n, 1, 1, 1), 0.4, 1.0, generator)
        thin = uniform((n, 1, 1, 1), 0.1, 0.4, generator)
        b = (a * torch.where(chance(n, 0.15, generator), thin, slender)).clamp(min=1.0)
        angle = uniform((n, 1, 1, 1), 0, torch.pi, generator)
        angle = torch.where(chance(n, 0.4, generator), 0.0, angle)
        y = torch.arange(height, device=images.device).view(1, 1, -1, 1) + 0.5
        x = torch.arange(width, device=images.device).view(1, 1, 1, -1) + 0.5
        dy = y - uniform((n, 1, 1, 1), 0, height, generator)
        dx = x - uniform((n, 1, 1, 1), 0, width, generator)
        return cls(
            dx * angle.cos() + dy * angle.sin(),
            dy * angle.cos() - dx * angle.sin(),
            a,
            b,
            kind,
            uniform((n, 5, 1, 1), 0, 2 * torch.pi, generator),
        )

    def distance(self, wobble: Tensor) -> Tensor:
        u, v = self.u, self.v
        rectangle = torch.maximum(u.abs() - self.a, v.abs() - self.b)
        ellipse = ((u / self.a).square() + (v / self.b).square()).sqrt().sub(1) * self.b
        sides = u * self.corners.cos() + v * self.corners.sin() - self.b
        polygon = torch.maximum(sides.amax(dim=1, keepdim=True), u.abs() - self.a)
        blob = ellipse + wobble * self.b * 0.7
        chosen = torch.where(self.kind == 0, rectangle, torch.where(self.kind == 1, ellipse, blob))
        return torch.where(self.kind == 2, polygon, chosen)  # noqa: PLR2004

    def alpha(self, wobble: Tensor, generator: Generator) -> Tensor:
        n = len(self.a)
        soft = uniform((n, 1, 1, 1), 1.5, 5.0, generator).minimum(self.b)
        feather = torch.where(chance(n, 0.2, generator), soft, 0.7)
        opacity = torch.where(chance(n, 0.15, generator), uniform((n, 1, 1, 1), 0.55, 1.0, generator), 1.0)
        return (0.5 - self.distance(wobble) / feather).clamp(0, 1) * opacity

    def moved(self, du: Tensor, dv: Tensor) -> _Shape:
        return _Shape(self.u - du, self.v - dv, self.a, self.b, self.kind, self.corners)


def _with_shadow(images: Tensor, shape: _Shape, wobble: Tensor, probability: float, generator: Generator) -> Tensor:
    """Darken the ground beside some objects as a cast shadow does."""
    n = len(images)
    length = uniform((n, 1, 1, 1), 0.2, 0.9, generator) * shape.b
    direction = uniform((n, 1, 1, 1), 0, 2 * torch.pi, generator)
    beside = shape.moved(length * direction.cos(), length * direction.sin()).distance(wobble)
    depth = (0.5 - beside).clamp(0, 1) * uniform((n, 1, 1, 1), 0.25, 0.7, generator)
    return images * (1 - depth * chance(n, probability, generator))


def _fill(images: Tensor, foreign: Tensor, config: AnomalyConfig, generator: Generator) -> Tensor:
    """Return one image per image, full of what an object is made of."""
    n, _, height, width = images.shape
    colour = uniform((n, 3, 1, 1), 0, 1, generator)
    near = images.mean(dim=(2, 3), keepdim=True) + uniform((n, 3, 1, 1), -0.3, 0.3, generator)
    grey = colour[:, :1].expand(-1, 3, -1, -1)
    flat = torch.where(chance(n, 0.25, generator), near, torch.where(chance(n, 0.3, generator), grey, colour))
    grain = torch.randn(images.shape, generator=generator, device=images.device)
    rough = torch.where(chance(n, 0.5, generator), uniform((n, 1, 1, 1), 0, 0.12, generator), 0.0)
    shade = 1 + 0.3 * smooth_noise(images.shape, 3, generator) * chance(n, 0.5, generator)
    flat = flat * shade + grain * rough
    shift = [
        int(torch.randint(side // 4, 3 * side // 4, (), generator=generator, device=generator.device))
        for side in (height, width)
    ]
    same = images.roll(shift, dims=(2, 3))
    tone = uniform((n, 3, 1, 1), 0.75, 1.25, generator)
    pick = uniform((n, 1, 1, 1), 0, config.flat + config.texture + config.same, generator)
    textured = torch.where(pick < config.flat + config.texture, foreign * tone, same)
    return torch.where(pick < config.flat, flat, textured).clamp(0, 1)


def smooth_noise(shape: Sequence[int], knots: int, generator: Generator) -> Tensor:
    """Return smooth random fields (n, 1, h, w) in about [-1, 1] with ``knots`` random values along each side."""
    coarse = uniform((shape[0], 1, knots, knots), -1, 1, generator)
    return interpolate(coarse, size=tuple(shape[-2:]), mode="bicubic", align_corners=True)
