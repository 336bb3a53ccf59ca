"""Anomalies inserted into chips: the paper's blue rectangle, and recipe survey's objects of varied shape and fill.

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
_VISIBLE = 0.04  # smallest visible difference, in the most different channel, in [0, 1]
_SOLID, _FRINGE = 0.5, 0.05  # alpha above which a pixel belongs to an object, and above which it is undecided
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


def paper_rectangles(images: Tensor, selected: Tensor, generator: Generator) -> Tensor:
    """Draw the paper's anomaly into the selected images: a blue rectangle of 1-99 % of the area and aspect 0.5-1.5.

    Parameters
    ----------
    images
        float32 (n, 3, h, w) in [0, 1].
    selected
        bool (n, 1, 1, 1), images that get a rectangle; the others are returned unchanged.
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
    return torch.where(inside & selected, blue, images)


@dataclass(frozen=True)
class AnomalyConfig:
    """Appearance of recipe survey's anomalies.

    Parameters
    ----------
    most
        Largest number of objects in a chip.
    size_px
        Smallest and largest diameter in pixels; the logarithm is uniform.
    rate
        Probability of each of these objects.
    flat, texture, same
        Relative frequency of the fills: one color; texture of another image; texture of the same image from elsewhere,
        which looks as if an object had been removed.
    line
        Probability that an object is a thin line.
    shadow
        Probability that an object casts a shadow, which is not part of the anomaly.
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
        float32 (n, 1, h, w): 1 where an object visibly differs from the ground, 0.5 at its feathered edge and where it
        cannot be seen, 0 elsewhere.
    """
    result = images.clone()
    cover = torch.zeros_like(images[:, :1])
    wobble = smooth_noise(images.shape, 9, generator)
    foreign = images.roll(1, 0).flip(-1)
    for _ in range(config.most):
        selected = chance(len(images), config.rate, generator).flatten()
        if not selected.any():
            continue
        ground = result[selected]
        shape = Shape.random(ground, config, generator)
        alpha = shape.alpha(wobble[selected], generator)
        if happens(config.shadow, generator):
            ground = _with_shadow(ground, shape, wobble[selected], generator)
        fill = _fill(images[selected], foreign[selected], config, generator)
        result[selected] = torch.lerp(ground, fill, alpha)
        cover[selected] = torch.maximum(cover[selected], alpha)
    result = result.clamp(0, 1)
    visible = (result - images).abs().amax(dim=1, keepdim=True) > _VISIBLE
    cover = torch.where((cover > _SOLID) & visible, 1.0, torch.where(cover > _FRINGE, 0.5, 0.0))
    return result, cover


@dataclass(frozen=True)
class Shape:
    """One shape per image as a signed distance in pixels, negative inside; all of a batch are of one kind.

    A few hundred batches show every kind with every fill; a kind for each image would cost as much as the network's own
    step.

    Parameters
    ----------
    kind
        ``"rectangle"``, ``"ellipse"``, ``"polygon"`` or ``"blob"``.
    u, v
        float32 (n, 1, h, w), pixel coordinates along the long and the short axis, from the center.
    a, b
        float32 (n, 1, 1, 1), half axes in pixels.
    corners
        float32 (n, corners, 1, 1), directions of a polygon's sides in radians.
    """

    kind: str
    u: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    corners: Tensor

    @classmethod
    def random(cls, images: Tensor, config: AnomalyConfig, generator: Generator) -> Shape:
        """Draw a random shape for each image of a batch, of which only size and device matter."""
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
        """Return the share of each pixel that the shape covers; edges may be feathered, and shapes translucent."""
        n = len(self.a)
        soft = uniform((n, 1, 1, 1), 1.5, 5.0, generator).minimum(self.b)
        feather = torch.where(chance(n, 0.2, generator), soft, 0.7)
        opacity = torch.where(chance(n, 0.15, generator), uniform((n, 1, 1, 1), 0.55, 1.0, generator), 1.0)
        return (0.5 - self.distance(wobble) / feather).clamp(0, 1) * opacity

    def moved(self, du: Tensor, dv: Tensor) -> Shape:
        """Return the shape moved by pixels along its two axes."""
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
    """Return images filled with the material of an object, the same kind of fill for all."""
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
    similar = images.mean(dim=(2, 3), keepdim=True) + uniform((n, 3, 1, 1), -0.3, 0.3, generator)
    gray = color[:, :1].expand(-1, 3, -1, -1)
    flat = torch.where(chance(n, 0.25, generator), similar, torch.where(chance(n, 0.3, generator), gray, color))
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
