"""The recipe for one kind of thing: find just that, and let everything else change.

Labels are the paper's: a place is similar when its state is the same at both dates - the thing is there at both or at
neither - whatever else has changed, and an anomaly when it is there at exactly one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from geosiam.network.siamese import NetworkConfig
from geosiam.training.anomalies import AnomalyConfig, chance, insert, uniform
from geosiam.training.augment import NuisanceConfig, differing
from geosiam.training.recipes import Batch, CrossEntropy, Schedule, labels_of

if TYPE_CHECKING:
    from geosiam.training.recipes import Objective
    from geosiam.training.sources import ChipSource
    from geosiam.training.targets import Target

_TURN = 0.45, 2 * math.pi - 0.45  # radians
_TURNED_SATURATION, _PALE, _MISS_LIGHT = (0.2, 1.2), (0.0, 0.5), (0.35, 1.2)
_SOLID, _FRINGE = 0.5, 0.05  # alpha from which on a pixel belongs to a thing, and up to which it does not


@dataclass(frozen=True)
class TargetRecipe:
    """Things of one or several kinds at either or both dates, all other change normal.

    Parameters
    ----------
    targets
        What is to be found.
    most, rate
        Largest number of things in a pair, and the probability that each is there.
    both
        Probability that a thing is there at both dates, at the same place.
    elsewhere
        Share of pairs whose dates show two different places, as the paper's pairs do: everything has changed.
    others
        Other objects that come and go, which count as similar.
    misses
        Largest number of things of the right shape and texture in another color, which count as similar too.
    """

    targets: tuple[Target, ...]
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig.of_stride(4, subcells=2))
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=8, steps=200, batch_size=28, learning_rate=2e-3))
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 96
    most: int = 4
    rate: float = 0.45
    both: float = 0.3
    elsewhere: float = 0.25
    least_cover: float | None = None
    others: AnomalyConfig = field(default_factory=AnomalyConfig)
    misses: int = 3
    nuisance: NuisanceConfig = field(default_factory=NuisanceConfig)
    name: str = "target"
    summary: str = "One kind of thing, at one of two dates; all other change is normal"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch; the label of a cell is whether the thing is there at exactly one date."""
        n = self.schedule.batch_size
        first, second, _ = source.pairs(n, self.chip_size, generator)
        second = torch.where(chance(n, self.elsewhere, generator), first.roll(1, 0), second)
        second, _ = insert(second, self.others, generator)
        first, second = self._with_misses(first, second, generator)
        alike = torch.stack([self._resembles(first), self._resembles(second)])
        first, second, states = self._with_things(first, second, generator)
        unsure = (alike[0] != alike[1]) | (alike.any(dim=0) & (states > 0).any(dim=1, keepdim=True))
        masks = torch.cat([states[:, 1:], unsure.float()], dim=1)
        first, second, moved = differing(first, second, masks, self.nuisance, generator)
        cover = pair_rule(states[:, :1], moved[:, :1], torch.maximum(states[:, 2:], moved[:, 1:2]))
        cover = torch.where(unsure | (moved[:, 2:] > 0), 0.5, cover)
        swapped = chance(n, 0.5, generator)
        field_ = self.network.receptive_field
        similar, weight = labels_of(cover, field_, self.least_cover)
        return Batch(torch.where(swapped, second, first), torch.where(swapped, first, second), similar, weight)

    def _resembles(self, images: Tensor) -> Tensor:
        return torch.stack([target.resembles(images) for target in self.targets]).any(dim=0)

    def _any_target(self, generator: Generator) -> Target:
        return self.targets[int(torch.randint(len(self.targets), (), generator=generator, device=generator.device))]

    def _with_misses(self, first: Tensor, second: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw things of another color; where they come too near to the right one, the labels leave them out."""
        n = len(first)
        for _ in range(self.misses):
            fill, alpha = self._any_target(generator).draw(first.shape, generator)
            fill = recolored(fill, generator)
            alpha = alpha * chance(n, self.rate, generator)
            pick = uniform((n, 1, 1, 1), 0, 1, generator)
            first = torch.lerp(first, fill, alpha * (pick < (1 + self.both) / 2))
            second = torch.lerp(second, fill, alpha * (pick > (1 - self.both) / 2))
        return first, second

    def _with_things(self, first: Tensor, second: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw things into either or both dates.

        Returns
        -------
        first, second
            The images with the things.
        states
            float32 (n, 3, h, w), where a thing is at the first date only, at the second only, and at both: 1 = there,
            0.5 = its fringe.
        """
        n = len(first)
        layers = torch.zeros((n, 3, *first.shape[-2:]), device=first.device)
        for _ in range(self.most):
            fill, alpha = self._any_target(generator).draw(first.shape, generator)
            alpha = alpha * chance(n, self.rate, generator)
            pick = uniform((n, 1, 1, 1), 0, 1, generator)
            shared, earlier = pick < self.both, pick > (1 + self.both) / 2
            first = torch.lerp(first, fill, alpha * (shared | earlier))
            second = torch.lerp(second, fill, alpha * (shared | ~earlier))
            where = torch.cat([earlier & ~shared, ~earlier & ~shared, shared], dim=1)
            layers = torch.maximum(layers, alpha * where)
        return first, second, torch.where(layers > _SOLID, 1.0, torch.where(layers > _FRINGE, 0.5, 0.0))


def recolored(images: Tensor, generator: Generator) -> Tensor:
    """Return images (n, 3, h, w), half of them in another hue and half of them paler, and all in another light."""
    column = (len(images), 1, 1, 1)
    turned = chance(len(images), 0.5, generator)
    angle = torch.where(turned, uniform(column, *_TURN, generator), 0.0)
    saturation = torch.where(
        turned, uniform(column, *_TURNED_SATURATION, generator), uniform(column, *_PALE, generator)
    )
    gray = images.mean(dim=1, keepdim=True)
    color = images - gray  # at right angles to the gray axis, about which hues turn
    across = torch.stack([color[:, 2] - color[:, 1], color[:, 0] - color[:, 2], color[:, 1] - color[:, 0]], dim=1)
    hue = color * angle.cos() + across * (angle.sin() / 3**0.5)
    return ((gray + hue * saturation) * uniform(column, *_MISS_LIGHT, generator)).clamp(0, 1)


def pair_rule(first: Tensor, second: Tensor, both: Tensor) -> Tensor:
    """Return what is anomalous by the paper's rule: the thing is there at exactly one of two dates.

    Parameters
    ----------
    first, second
        float32 (n, 1, h, w), whether a thing is at that date: 1 = there, 0.5 = its fringe, 0 = not there.
    both
        Likewise of things that are at both dates, wherever they lie at either of them.

    Returns
    -------
    Tensor
        float32 (n, 1, h, w): 1 = anomaly, 0.5 = undecided, 0 = similar.
    """
    unsure = (first == 0.5) | (second == 0.5)  # noqa: PLR2004 - the fringe, as said
    differs = torch.where(unsure, 0.5, (first != second).float())
    return torch.where(both > 0, 0.0, differs)
