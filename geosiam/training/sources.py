"""Sources of chips: endless random crops of images, as batches of float tensors in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from geosiam.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNCHANGED, UNDECIDED, CHANGED = 0, 128, 255
"""Values of the last channel of a :class:`PairStack`, the label of a pixel."""

_ZOOMS = (0.5, 0.75, 1.0, 1.0, 1.0, 1.5, 2.0)
_GROUP = 16  # chips of a batch that share one zoom, so that a resize is one call for many


class ChipSource(Protocol):
    """A source of random chips, and of pairs of chips."""

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return ``count`` chips, float32 of shape (count, 3, size, size), values in [0, 1]."""
        ...

    def pairs(self, count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``count`` pairs of chips, the same places at two dates, and the label of each pixel.

        Returns
        -------
        first, second
            float32 (count, 3, size, size), values in [0, 1].
        cover
            float32 (count, 1, size, size): 1 = changed, 0.5 = undecided, 0 = unchanged.
        """
        ...

    def __len__(self) -> int:
        """Return the number of images that chips are cut from."""
        ...


TrainingSources: TypeAlias = tuple[ChipSource, ChipSource]
"""Chips for training, and held-out chips."""


class _SingleDate:
    """A source with a single date: both dates of its pairs are the same."""

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        raise NotImplementedError

    def pairs(self, count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same chips for both dates, all unchanged."""
        chips = self.sample(count, size, generator)
        return chips, chips, torch.zeros_like(chips[:, :1])


@dataclass(frozen=True)
class ChipStack(_SingleDate):
    """A source of small images of one size, such as CIFAR-10.

    Parameters
    ----------
    chips
        Images, uint8 (n, 3, side, side).
    """

    chips: Tensor

    def __post_init__(self) -> None:
        if self.chips.ndim != 4 or self.chips.shape[1] != 3 or self.chips.dtype != torch.uint8:  # noqa: PLR2004
            raise ValueError(f"chips are uint8 of shape (n, 3, side, side), not {self.chips.dtype} {self.chips.shape}")
        if not len(self.chips):
            raise TrainingDataError("chips", "none were found", "name a folder or archive that holds images")

    def __len__(self) -> int:
        return len(self.chips)

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return random chips, randomly flipped; chips larger than the images are enlarged or mosaics."""
        side = self.chips.shape[-1]
        if size <= side:
            return _flipped(_crops(self._draw(count, generator), size, generator), generator)
        third = count // 3
        return torch.cat(
            [
                self._enlarged(third, size, generator),
                self._mosaics(third, size, 2, generator),
                self._mosaics(count - 2 * third, size, 1, generator),
            ]
        )

    def _draw(self, count: int, generator: Generator) -> Tensor:
        index = torch.randint(len(self.chips), (count,), generator=generator, device=generator.device)
        return self.chips[index.to(self.chips.device)].to(generator.device).float() / 255

    def _enlarged(self, count: int, size: int, generator: Generator) -> Tensor:
        chips = _flipped(self._draw(count, generator), generator)
        return interpolate(chips, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)

    def _mosaics(self, count: int, size: int, zoom: int, generator: Generator) -> Tensor:
        """Return crops of images side by side."""
        side = zoom * self.chips.shape[-1]
        across = -(-size // side) + 1
        tiles = _flipped(self._draw(count * across * across, generator), generator)
        if zoom > 1:
            tiles = interpolate(tiles, size=(side, side), mode="bilinear", align_corners=False)
        grid = tiles.reshape(count, across, across, 3, side, side).permute(0, 3, 1, 4, 2, 5)
        return _crops(grid.reshape(count, 3, across * side, across * side), size, generator)


@dataclass(frozen=True)
class SceneStack(_SingleDate):
    """A source of larger images of any size, from which chips are cut at random places, scales and orientations.

    Parameters
    ----------
    scenes
        Images, each uint8 (3, height, width).
    """

    scenes: Sequence[Tensor]

    def __post_init__(self) -> None:
        if not self.scenes:
            raise TrainingDataError("scenes", "none were found", "name images or GeoTIFFs to cut chips from")
        for scene in self.scenes:
            if scene.ndim != 3 or scene.shape[0] != 3 or scene.dtype != torch.uint8:  # noqa: PLR2004
                raise ValueError(f"a scene is uint8 of shape (3, height, width), not {scene.dtype} {scene.shape}")

    def __len__(self) -> int:
        return len(self.scenes)

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return random crops, zoomed by 0.5 to 2, flipped and transposed."""
        return _windows(self.scenes, count, size, generator)


@dataclass(frozen=True)
class PairStack:
    """A source of scenes at two dates with labeled changes, such as synthetic pairs.

    Parameters
    ----------
    scenes
        uint8, each of shape (7, height, width): three channels of the first date, three of the second, and
        :data:`CHANGED`, :data:`UNDECIDED` or :data:`UNCHANGED`.
    """

    scenes: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.scenes)

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return random crops of the first date."""
        return _windows(self.scenes, count, size, generator)[:, :3]

    def pairs(self, count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return random crops of both dates and their labels, as :meth:`ChipSource.pairs` does."""
        crops = _windows(self.scenes, count, size, generator)
        labels = crops[:, 6:]
        cover = torch.where(labels > 0.8, 1.0, torch.where(labels > 0.1, 0.5, 0.0))  # noqa: PLR2004
        return crops[:, :3], crops[:, 3:6], cover


@dataclass(frozen=True)
class Mixture:
    """A mixture of sources, each of which provides its share of every batch.

    Parameters
    ----------
    sources
        The sources with their weights; each has a share of a batch in proportion to its weight.
    """

    sources: Sequence[tuple[ChipSource, float]]

    def __len__(self) -> int:
        return sum(len(source) for source, _ in self.sources)

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return a shuffled batch of chips of all sources."""
        order = torch.randperm(count, generator=generator, device=generator.device)
        return torch.cat([source.sample(n, size, generator) for source, n in self._shares(count)])[order]

    def pairs(self, count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return a shuffled batch of pairs of all sources."""
        order = torch.randperm(count, generator=generator, device=generator.device)
        parts = [source.pairs(n, size, generator) for source, n in self._shares(count)]
        first, second, cover = (torch.cat(part)[order] for part in zip(*parts, strict=True))
        return first, second, cover

    def _shares(self, count: int) -> list[tuple[ChipSource, int]]:
        weights = torch.tensor([weight for _, weight in self.sources], dtype=torch.float64)
        ends = (weights.cumsum(0) / weights.sum() * count).round().to(torch.int64).tolist()
        shares = zip(self.sources, [0, *ends], ends, strict=False)
        return [(source, end - start) for (source, _), start, end in shares if end > start]


def _windows(scenes: Sequence[Tensor], count: int, size: int, generator: Generator) -> Tensor:
    """Cut random windows from random scenes, zoomed, flipped and transposed: float32 (count, channels, size, size)."""
    groups = []
    for start in range(0, count, _GROUP):
        side = max(1, round(size / _ZOOMS[_integer(len(_ZOOMS), generator)]))
        group = min(_GROUP, count - start)
        crops = torch.stack([_window(scenes, side, generator) for _ in range(group)]).to(generator.device).float() / 255
        if side != size:
            crops = interpolate(crops, size=(size, size), mode="bilinear", antialias=True)
        groups.append(crops)
    return _flipped(torch.cat(groups), generator)


def _window(scenes: Sequence[Tensor], side: int, generator: Generator) -> Tensor:
    scene = scenes[_integer(len(scenes), generator)]
    height, width = scene.shape[1:]
    if min(height, width) < side:
        height, width = max(side, height), max(side, width)
        scene = interpolate(scene[None].float(), size=(height, width), mode="bilinear")[0].to(torch.uint8)
    top, left = _integer(height - side + 1, generator), _integer(width - side + 1, generator)
    return scene[:, top : top + side, left : left + side]


def _integer(high: int, generator: Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))


def _crops(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Cut the same random window of ``size`` px from all images of a batch."""
    room = images.shape[-1] - size + 1
    top, left = _integer(room, generator), _integer(room, generator)
    return images[:, :, top : top + size, left : left + size]


def _flipped(images: Tensor, generator: Generator) -> Tensor:
    """Mirror and transpose images, each with probability 1/2, so that all eight orientations occur."""
    for dims in ((-1,), (-2,), None):
        flipped = images.flip(dims) if dims else images.transpose(-1, -2)
        is_flipped = torch.rand((len(images), 1, 1, 1), generator=generator, device=generator.device) < 0.5  # noqa: PLR2004
        images = torch.where(is_flipped, flipped, images)
    return images
