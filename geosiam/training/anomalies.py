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
_KINDS = ("rectangle", "ellipse", "polygon", "blob")
_VISIBLE = 0.04  # difference in [0, 1] of its most different channel under which nobody can see an insertion
_LINE_PX = (0.7, 2.0)  # half width of a line


def uniform(shape: Sequence[int], low: float, high: float, generator: Generator) -> Tensor:
    """Return float32 values uniform in [low, high)."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device) * (high - low) + low


def chance(count: int, probability: float, generator: Generator) -> Tensor:
    """Return a boolean per image, shape (count, 1, 1, 1), true with the given probability."""
    return uniform((count, 1, 1, 1), 0, 1, generator) < probability


def happens(probability: float, generator: Generator) -> bool:
    """Return true with the given probability."""
    return float(uniform((1,), 0, 1, generator)) < probability


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
        Relative frequency of the fills: one color; another image's texture; the same image's texture from elsewhere
        (which is also what a removed object leaves behind).
    line
        Probability that an object is a thin line.
    shadow
        Probability that an object casts a shadow, which itself is no anomaly.
    """

    most: int = 7
    size_px: tuple[float, float] = (3.5, 80.0)
    rate: float = 0.3
    flat: float = 0.42
    texture: float = 0.33
    same: float = 0.25
    line: float = 0.06
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
        shape = Shape.random(ground, config, generator)
        alpha = shape.alpha(wobble[there], generator)
        if happens(config.shadow, generator):
            ground = _with_shadow(ground, shape, wobble[there], generator)
        fill = _fill(images[there], foreign[there], config, generator)
        result[there] = torch.lerp(ground, fill, alpha)
        cover[there] = torch.maximum(cover[there], alpha)
    result = result.clamp(0, 1)
    seen = (result - images).abs().amax(dim=1, keepdim=True) > _VISIBLE
    solid = cover > 0.5  # noqa: PLR2004
    cover = torch.where(solid & seen, 1.0, torch.where(cover > 0.05, 0.5, 0.0))  # noqa: PLR2004
    return result, cover


@dataclass(frozen=True)
class Shape:
    """One shape per image as a signed distance in pixels, negative inside; all are of one kind.

    Several hundred batches show every kind with every fill; drawing the kind for each image apart would cost as much
    as the network's own step.
    """

    kind: str
    u: Tensor  # coordinate along the long axis, (n, 1, h, w)
    v: Tensor
    a: Tensor  # half axes in pixels, (n, 1, 1, 1)
    b: Tensor
    corners: Tensor  # (n, corners, 1, 1) directions of a polygon's sides

    @classmethod
    def random(cls, images: Tensor, config: AnomalyConfig, generator: Generator) -> Shape:
        """Draw one shape for each image of a batch; only the images' size and device matter."""
        n, _, height, width = images.shape
        column = (n, 1, 1, 1)
        low, high = torch.tensor(config.size_px).log().tolist()
        a = uniform(column, low, high, generator).exp() / 2
        slender = torch.where(
            chance(n, 0.15, generator), uniform(column, 0.1, 0.4, generator), uniform(column, 0.4, 1.0, generator)
        )
        b = (a * slender).clamp(min=1.0)
        line = chance(n, config.line, generator)
        b = torch.where(line, uniform(column, *_LINE_PX, generator), b)
        a = torch.where(line, (4 * a).clamp(max=config.size_px[1] / 2), a)
        angle = uniform(column, 0, torch.pi, generator) * chance(n, 0.6, generator)
        y = torch.arange(height, device=images.device).view(1, 1, -1, 1) + 0.5
        x = torch.arange(width, device=images.device).view(1, 1, 1, -1) + 0.5
        dy = y - uniform(column, 0, height, generator)
        dx = x - uniform(column, 0, width, generator)
        return cls(
            _KINDS[int(torch.randint(len(_KINDS), (), generator=generator, device=generator.device))],
            dx * angle.cos() + dy * angle.sin(),
            dy * angle.cos() - dx * angle.sin(),
            a,
            b,
            uniform((n, 5, 1, 1), 0, 2 * torch.pi, generator),
        )

    def distance(self, wobble: Tensor) -> Tensor:
        """Return the signed distance from the outline in pixels; ``wobble`` makes the outline of blobs uneven."""
        u, v = self.u, self.v
        if self.kind == "rectangle":
            return torch.maximum(u.abs() - self.a, v.abs() - self.b)
        if self.kind == "polygon":
            sides = u * self.corners.cos() + v * self.corners.sin() - self.b
            return torch.maximum(sides.amax(dim=1, keepdim=True), u.abs() - self.a)
        ellipse = ((u / self.a).square() + (v / self.b).square()).sqrt().sub(1) * self.b
        return ellipse + wobble * self.b * 0.7 if self.kind == "blob" else ellipse

    def alpha(self, wobble: Tensor, generator: Generator) -> Tensor:
        """Return how much of each pixel the shape covers, its edge hard or feathered, all of it now and then thin."""
        n = len(self.a)
        soft = uniform((n, 1, 1, 1), 1.5, 5.0, generator).minimum(self.b)
        feather = torch.where(chance(n, 0.2, generator), soft, 0.7)
        opacity = torch.where(chance(n, 0.15, generator), uniform((n, 1, 1, 1), 0.55, 1.0, generator), 1.0)
        return (0.5 - self.distance(wobble) / feather).clamp(0, 1) * opacity

    def moved(self, du: Tensor, dv: Tensor) -> Shape:
        """Return the same elsewhere, by pixels along both of its axes."""
        return Shape(self.kind, self.u - du, self.v - dv, self.a, self.b, self.corners)


def _with_shadow(images: Tensor, shape: Shape, wobble: Tensor, generator: Generator) -> Tensor:
    """Darken the ground beside objects as a cast shadow does."""
    column = (len(images), 1, 1, 1)
    length = uniform(column, 0.2, 0.9, generator) * shape.b
    direction = uniform(column, 0, 2 * torch.pi, generator)
    beside = shape.moved(length * direction.cos(), length * direction.sin()).distance(wobble)
    depth = (0.5 - beside).clamp(0, 1) * uniform(column, 0.25, 0.7, generator)
    return images * (1 - depth)


def _fill(images: Tensor, foreign: Tensor, config: AnomalyConfig, generator: Generator) -> Tensor:
    """Return one image per image, full of what an object is made of; all are of one kind."""
    n, _, height, width = images.shape
    pick = float(uniform((1,), 0, config.flat + config.texture + config.same, generator))
    if pick < config.flat:
        return _flat(images, generator)
    if pick < config.flat + config.texture:
        return (foreign * uniform((n, 3, 1, 1), 0.75, 1.25, generator)).clamp(0, 1)
    shift = [
        int(torch.randint(side // 4, 3 * side // 4, (), generator=generator, device=generator.device))
        for side in (height, width)
    ]
    return images.roll(shift, dims=(2, 3))


def _flat(images: Tensor, generator: Generator) -> Tensor:
    """Return plain colors, some of them near the image's own, some gray, some rough or unevenly lit."""
    n = len(images)
    color = uniform((n, 3, 1, 1), 0, 1, generator)
    near = images.mean(dim=(2, 3), keepdim=True) + uniform((n, 3, 1, 1), -0.3, 0.3, generator)
    gray = color[:, :1].expand(-1, 3, -1, -1)
    flat = torch.where(chance(n, 0.25, generator), near, torch.where(chance(n, 0.3, generator), gray, color))
    if happens(0.5, generator):
        flat = flat * (1 + 0.3 * smooth_noise(images.shape, 3, generator))
    if happens(0.5, generator):
        grain = torch.randn(images.shape, generator=generator, device=images.device)
        flat = flat + grain * uniform((n, 1, 1, 1), 0, 0.12, generator)
    return flat.expand_as(images).clamp(0, 1)


def smooth_noise(shape: Sequence[int], knots: int, generator: Generator) -> Tensor:
    """Return smooth random fields (n, 1, h, w) in about [-1, 1] with ``knots`` random values along each side."""
    coarse = uniform((shape[0], 1, knots, knots), -1, 1, generator)
    return interpolate(coarse, size=tuple(shape[-2:]), mode="bicubic", align_corners=True)
