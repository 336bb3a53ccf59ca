"""Recipes: how a batch of labelled pairs is made, and the network and schedule that go with it.

``paper`` is the seed's recipe as it stands in the report; ``survey`` trains the default model. Both give pairs with
the label of every output cell, so one loop trains both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from geosiam.errors import OptionError
from geosiam.network.siamese import NetworkConfig
from geosiam.training.anomalies import AnomalyConfig, chance, insert, paper_rectangles
from geosiam.training.losses import CrossEntropy
from geosiam.training.nuisance import NuisanceConfig, misregister, photometric, shade, weather

if TYPE_CHECKING:
    from geosiam.network.receptive_field import ReceptiveField
    from geosiam.training.losses import Objective
    from geosiam.training.sources import ChipSource

LEAST_COVER = 0.125
"""Share of a cell's own pixels from which on it is labelled anomalous. An object of 5 px may lie on four cells of 8 px
and cover no more than 9 of the 64 pixels of any; with a stride of 4 px it covers at least 9 of the 16 of some cell."""

_UNDECIDED = 0.25  # width of the band of cover below that, in which a label would be a matter of taste


@dataclass(frozen=True)
class Batch:
    """Labelled pairs.

    Parameters
    ----------
    before, after
        float32 (n, 3, size, size), values in [0, 1].
    similar
        float32 (n, 1, rows, cols): 1 = similar, 0 = anomaly.
    weight
        float32 (n, 1, rows, cols): 0 where the label is undecided and must not count.
    """

    before: Tensor
    after: Tensor
    similar: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Parameters
    ----------
    epochs
        Passes of ``steps`` batches.
    steps
        Batches an epoch; None: as many as the source holds images.
    batch_size
        Pairs a batch.
    learning_rate
        Peak of the one-cycle schedule (Smith and Topin, 2018).
    weight_decay
        Of AdamW.
    """

    epochs: int
    steps: int | None
    batch_size: int
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4


class Recipe(Protocol):
    """What the training loop needs to know."""

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def summary(self) -> str:
        """One sentence for the model card."""
        ...

    @property
    def network(self) -> NetworkConfig:
        """The architecture to train."""
        ...

    @property
    def schedule(self) -> Schedule:
        """How long and how fast."""
        ...

    @property
    def objective(self) -> Objective:
        """What it is trained for."""
        ...

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch of labelled pairs."""
        ...


@dataclass(frozen=True)
class PaperRecipe:
    """The seed paper's recipe: two random chips, in each a blue rectangle at even odds; similar = same state."""

    network: NetworkConfig = field(default_factory=NetworkConfig.of_stride)
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=20, steps=None, batch_size=256))
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 32
    name: str = "paper"
    summary: str = "Blue rectangles of 1-99 % area on random pairs of chips; similar = same state (Hirokawa, VI)"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch; the label belongs to the whole chip, so all its cells share it."""
        n = self.schedule.batch_size
        pair = []
        states = []
        for _ in range(2):
            anomalous = chance(n, 0.5, generator)
            pair.append(paper_rectangles(source.sample(n, self.chip_size, generator), anomalous, generator))
            states.append(anomalous)
        cells = self.network.receptive_field.cells(self.chip_size)
        similar = (states[0] == states[1]).float().expand(n, 1, cells, cells)
        return Batch(pair[0], pair[1], similar, torch.ones_like(similar))


@dataclass(frozen=True)
class SurveyRecipe:
    """The default model's recipe: one place at two dates, varied anomalies in one of them, nuisance in both."""

    network: NetworkConfig = field(default_factory=NetworkConfig.of_stride)
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=40, steps=300, batch_size=28))
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 96
    least_cover: float = LEAST_COVER
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    nuisance: NuisanceConfig = field(default_factory=NuisanceConfig)
    name: str = "survey"
    summary: str = "Objects of varied shape and fill in one of two dates; light, season, shadow and shift are normal"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch; the label of a cell is whether its own ``stride x stride`` pixels are anomalous."""
        n = self.schedule.batch_size
        first, second, changed = source.pairs(n, self.chip_size, generator)
        second, cover = insert(second, self.anomalies, generator)
        cover = torch.maximum(cover, changed)
        first, second = weather(first, self.nuisance, generator), weather(second, self.nuisance, generator)
        first, second = shade(first, self.nuisance, generator), shade(second, self.nuisance, generator)
        second, cover = misregister(second, cover, self.nuisance, generator)
        first = photometric(first, self.nuisance, generator)
        second = photometric(second, self.nuisance, generator)
        swapped = chance(n, 0.5, generator)
        similar, weight = dense_labels(cover, self.network.receptive_field, self.least_cover)
        return Batch(torch.where(swapped, second, first), torch.where(swapped, first, second), similar, weight)


def dense_labels(cover: Tensor, field_: ReceptiveField, least_cover: float = LEAST_COVER) -> tuple[Tensor, Tensor]:
    """Label every cell by the pixels it stands for, not by its whole receptive field.

    Parameters
    ----------
    cover
        float32 (n, 1, h, w): 1 = anomalous, 0.5 = undecided, 0 = normal.
    field_
        Receptive field of the network.
    least_cover
        Share of a cell's own pixels from which on it is anomalous. What is touched less than that by a
        quarter or more, or not at all, is not; what lies between does not count.

    Returns
    -------
    similar, weight
        float32 (n, 1, rows, cols) each, as in :class:`Batch`.
    """
    cells = field_.cells(cover.shape[-1])
    own = slice(field_.offset, field_.offset + cells * field_.stride)
    centre = cover[:, :, own, own]
    anomalous = avg_pool2d((centre == 1).float(), field_.stride) >= least_cover
    touched = avg_pool2d((centre > 0).float(), field_.stride) > max(0.0, least_cover - _UNDECIDED)
    return (~anomalous).float(), (anomalous | ~touched).float()


RECIPES = {"paper": PaperRecipe, "survey": SurveyRecipe}


def make_recipe(name: str, *, stride: int = 8, subcells: int = 1) -> Recipe:
    """Return a ready-made recipe by name, for a network of the given stride, whose features have so many subcells."""
    if name not in RECIPES:
        raise OptionError(f"recipe {name!r}", "is not known", f"use one of {', '.join(RECIPES)}")
    try:
        network = NetworkConfig.of_stride(stride, subcells=subcells)
    except ValueError as error:
        raise OptionError(f"stride {stride}", str(error), "use 8 or 4, and 1, 2 or 4 subcells") from error
    recipe: Recipe = RECIPES[name](network=network)
    return recipe
