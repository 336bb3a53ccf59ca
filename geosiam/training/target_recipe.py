"""The recipe for one kind of object: find it, and ignore every other change.

Labels are the paper's: a place is similar if the object is there at both dates or at neither, whatever else has
changed, and an anomaly if it is there at exactly one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from geosiam.network.architecture import NetworkConfig
from geosiam.training.anomalies import AnomalyConfig, chance, insert, uniform
from geosiam.training.augment import NuisanceConfig, apply_nuisance
from geosiam.training.recipes import Batch, CrossEntropy, Schedule, label_cells

if TYPE_CHECKING:
    from geosiam.training.recipes import Objective
    from geosiam.training.sources import ChipSource
    from geosiam.training.targets import Target

_HUE_ROTATION = 0.45, 2 * math.pi - 0.45  # radians
_ROTATED_SATURATION, _PALE_SATURATION, _MISS_LIGHT = (0.2, 1.2), (0.0, 0.5), (0.35, 1.2)  # factors
_SOLID, _FRINGE = 0.5, 0.05  # alpha above which a pixel belongs to an object, and above which it is undecided


@dataclass(frozen=True)
class TargetRecipe:
    """The recipe for given kinds of objects at either or both dates; every other change is normal.

    Parameters
    ----------
    targets
        The kinds of objects to find.
    network, schedule, objective, chip_size, name, summary
        See :class:`geosiam.training.recipes.Recipe`.
    most, rate
        Largest number of objects in a pair, and the probability of each.
    both
        Probability that an object is there at both dates, at the same place.
    elsewhere
        Share of pairs whose dates show two different places, as the paper's pairs do: everything has changed.
    least_cover
        Minimum anomalous share of a cell's own pixels for an anomalous label; None: see
        :func:`geosiam.training.recipes.label_cells`.
    others
        Other objects that come and go, which count as similar.
    misses
        Largest number of objects with the shape and texture of a target in another color, which count as similar too.
    nuisance
        Strength of the nuisance.
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
        """Make a batch; the label of a cell is whether the object is there at exactly one date."""
        n = self.schedule.batch_size
        first, second, _ = source.pairs(n, self.chip_size, generator)
        second = torch.where(chance(n, self.elsewhere, generator), first.roll(1, 0), second)
        second, _ = insert(second, self.others, generator)
        first, second = self._insert_misses(first, second, generator)
        similar_colors = torch.stack([self._resembles(first), self._resembles(second)])
        first, second, states = self._insert_targets(first, second, generator)
        undecided = (similar_colors[0] != similar_colors[1]) | (
            similar_colors.any(dim=0) & (states > 0).any(dim=1, keepdim=True)
        )
        masks = torch.cat([states[:, 1:], undecided.float()], dim=1)
        first, second, moved = apply_nuisance(first, second, masks, self.nuisance, generator)
        cover = pair_rule(states[:, :1], moved[:, :1], torch.maximum(states[:, 2:], moved[:, 1:2]))
        cover = torch.where(undecided | (moved[:, 2:] > 0), 0.5, cover)
        swapped = chance(n, 0.5, generator)
        similar, weight = label_cells(cover, self.network.receptive_field, self.least_cover)
        return Batch(torch.where(swapped, second, first), torch.where(swapped, first, second), similar, weight)

    def _resembles(self, images: Tensor) -> Tensor:
        return torch.stack([target.resembles(images) for target in self.targets]).any(dim=0)

    def _random_target(self, generator: Generator) -> Target:
        return self.targets[int(torch.randint(len(self.targets), (), generator=generator, device=generator.device))]

    def _insert_misses(self, first: Tensor, second: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw objects of another color; those that still resemble a target become undecided later."""
        n = len(first)
        for _ in range(self.misses):
            fill, alpha = self._random_target(generator).draw(first.shape, generator)
            fill = recolored(fill, generator)
            alpha = alpha * chance(n, self.rate, generator)
            pick = uniform((n, 1, 1, 1), 0, 1, generator)
            first = torch.lerp(first, fill, alpha * (pick < (1 + self.both) / 2))
            second = torch.lerp(second, fill, alpha * (pick > (1 - self.both) / 2))
        return first, second

    def _insert_targets(self, first: Tensor, second: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw targets into either or both dates.

        Returns
        -------
        first, second
            The images with the targets.
        states
            float32 (n, 3, h, w), whether a target is at the first date only, at the second only, and at both: 1 = yes,
            0.5 = its fringe, 0 = no.
        """
        n = len(first)
        layers = torch.zeros((n, 3, *first.shape[-2:]), device=first.device)
        for _ in range(self.most):
            fill, alpha = self._random_target(generator).draw(first.shape, generator)
            alpha = alpha * chance(n, self.rate, generator)
            pick = uniform((n, 1, 1, 1), 0, 1, generator)
            both, earlier = pick < self.both, pick > (1 + self.both) / 2
            first = torch.lerp(first, fill, alpha * (both | earlier))
            second = torch.lerp(second, fill, alpha * (both | ~earlier))
            dates = torch.cat([earlier & ~both, ~earlier & ~both, both], dim=1)
            layers = torch.maximum(layers, alpha * dates)
        return first, second, torch.where(layers > _SOLID, 1.0, torch.where(layers > _FRINGE, 0.5, 0.0))


def pair_rule(first: Tensor, second: Tensor, both: Tensor) -> Tensor:
    """Label pixels by the paper's rule: anomalous if the object is there at exactly one of two dates.

    Parameters
    ----------
    first, second
        float32 (n, 1, h, w), whether an object is there at that date: 1 = yes, 0.5 = its fringe, 0 = no.
    both
        float32 (n, 1, h, w), more than 0 where an object that is there at both dates lies at either of them.

    Returns
    -------
    Tensor
        float32 (n, 1, h, w): 1 = anomaly, 0.5 = undecided, 0 = similar.
    """
    fringe = (first == 0.5) | (second == 0.5)  # noqa: PLR2004 - as documented above
    differs = torch.where(fringe, 0.5, (first != second).float())
    return torch.where(both > 0, 0.0, differs)


def recolored(images: Tensor, generator: Generator) -> Tensor:
    """Return images (n, 3, h, w) in other colors: about half of them in another hue, the others paler, in any light."""
    column = (len(images), 1, 1, 1)
    rotated = chance(len(images), 0.5, generator)
    angle = torch.where(rotated, uniform(column, *_HUE_ROTATION, generator), 0.0)
    saturation = torch.where(
        rotated, uniform(column, *_ROTATED_SATURATION, generator), uniform(column, *_PALE_SATURATION, generator)
    )
    gray = images.mean(dim=1, keepdim=True)
    color = images - gray  # perpendicular to the gray axis, about which hues rotate
    across = torch.stack([color[:, 2] - color[:, 1], color[:, 0] - color[:, 2], color[:, 1] - color[:, 0]], dim=1)
    hue = color * angle.cos() + across * (angle.sin() / 3**0.5)
    return ((gray + hue * saturation) * uniform(column, *_MISS_LIGHT, generator)).clamp(0, 1)
