"""Recipes: how a batch of labelled pairs is made, and the network and schedule that go with it.

``paper`` is the seed's recipe as it stands in the report; ``survey`` trains the default model. Both give pairs with
the label of every output cell, so one loop trains both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from geosiam.errors import OptionError
from geosiam.network.siamese import NetworkConfig, euclidean_distance
from geosiam.training.anomalies import AnomalyConfig, chance, insert, paper_rectangles
from geosiam.training.augment import NuisanceConfig, differing

if TYPE_CHECKING:
    from torch import Tensor

    from geosiam.network.receptive_field import ReceptiveField
    from geosiam.network.siamese import SiameseNetwork
    from geosiam.training.sources import ChipSource


class Labelled(Protocol):
    """What a loss needs of a batch: labels and weights of its cells, float32 (n, 1, rows, cols) each."""

    @property
    def similar(self) -> Tensor:
        """Return 1 for similar, 0 for an anomaly."""
        ...

    @property
    def weight(self) -> Tensor:
        """Return 0 where the label must not count."""
        ...


class Objective(Protocol):
    """How a network judges a pair, and what it is trained for."""

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return the logit of "similar" of every cell, (n, 1, rows, cols), of images (n, channels, h, w) in [0, 1]."""
        ...

    def loss(self, logits: Tensor, batch: Labelled) -> Tensor:
        """Return the scalar to make small."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Binary cross-entropy of the discriminator's logit (equation 5).

    The paper prints ``y log p + (1 - y) log(1 - p)`` without the minus sign: small where the network is wrong. Meant,
    and used here as in the paper's own listing, is its negative, with the sigmoid inside for numerical stability.
    """

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return what the discriminator says."""
        judged: Tensor = network(before, after)
        return judged

    def loss(self, logits: Tensor, batch: Labelled) -> Tensor:
        """Return the cross-entropy in nats, mean over the cells that count."""
        losses = binary_cross_entropy_with_logits(logits, batch.similar, weight=batch.weight, reduction="sum")
        return losses / batch.weight.sum().clamp(min=1)


@dataclass(frozen=True)
class Contrastive:
    """Contrastive loss (equation 2; Hadsell, Chopra and LeCun, 2006): similar together, others ``margin`` apart.

    The distance is Euclidean, without the discriminator. Its gradient is finite, namely zero, where both features
    agree; a bare square root, as in the paper's listing, gives NaN there.

    Parameters
    ----------
    margin
        The paper's r: from this distance on, dissimilar pairs cost nothing. Pairs closer than half of it are judged
        similar.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"the margin is a distance greater than 0, not {self.margin}")

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return half the margin less the distance."""
        return self.margin / 2 - euclidean_distance(network.encode(before).float(), network.encode(after).float())

    def loss(self, logits: Tensor, batch: Labelled) -> Tensor:
        """Return ``y d^2 + (1 - y) max(0, margin - d)^2``, mean over the cells that count."""
        distance = self.margin / 2 - logits
        apart = (self.margin - distance).clamp(min=0)
        losses = batch.similar * distance.square() + (1 - batch.similar) * apart.square()
        return (losses * batch.weight).sum() / batch.weight.sum().clamp(min=1)


FINE_PX = 2
"""Cells up to this size are labelled by how much of them is anomalous. An object of 5 px fills some of them; of cells
of 4 px it may fill none, and with such labels one in fifty of the objects of 5-15 px was lost."""

LEAST_COVER = 0.5
"""Share of a larger cell's own pixels from which on it is anomalous."""

LEAST_COVER_OF_8_PX = 0.125
"""The same for cells of 8 px and more: an object of 5 px may lie on four of them and cover no more than 9 of the 64
pixels of any; of cells of 4 px it covers at least 9 of the 16 of some."""

COARSE_PX = 8
_UNDECIDED = 0.25  # width of the band of cover below that, in which a label would be a matter of taste


@dataclass(frozen=True)
class Batch:
    """Labelled pairs.

    Parameters
    ----------
    before, after
        float32 (n, 3, size, size), values in [0, 1].
    similar
        float32 (n, 1, rows, cols): 1 = similar, 0 = anomaly, and between them where an anomaly ends inside a cell.
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


FINE_TUNING = Schedule(epochs=4, steps=100, batch_size=28, learning_rate=5e-4)
"""For weights that know their trade and should learn a place: minutes on two cores."""


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
    def chip_size(self) -> int:
        """Side of its chips in pixels."""
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

    network: NetworkConfig = field(default_factory=lambda: NetworkConfig.of_stride(4, subcells=2))
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=40, steps=300, batch_size=28))
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 96
    least_cover: float | None = None
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    nuisance: NuisanceConfig = field(default_factory=NuisanceConfig)
    name: str = "survey"
    summary: str = "Objects of varied shape and fill in one of two dates; light, season, shadow and shift are normal"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch; the label of a cell is whether its own ``stride x stride`` pixels are anomalous."""
        n = self.schedule.batch_size
        first, second, changed = source.pairs(n, self.chip_size, generator)
        second, cover = insert(second, self.anomalies, generator)
        first, second, cover = differing(first, second, torch.maximum(cover, changed), self.nuisance, generator)
        swapped = chance(n, 0.5, generator)
        field_ = self.network.receptive_field
        similar, weight = labels_of(cover, field_, self.least_cover)
        return Batch(torch.where(swapped, second, first), torch.where(swapped, first, second), similar, weight)


def labels_of(cover: Tensor, field_: ReceptiveField, least_cover: float | None) -> tuple[Tensor, Tensor]:
    """Label cells as suits their size: by :func:`share_labels`, or by :func:`dense_labels` with a least cover."""
    if least_cover is None and field_.stride <= FINE_PX:
        return share_labels(cover, field_)
    usual = LEAST_COVER if field_.stride < COARSE_PX else LEAST_COVER_OF_8_PX
    return dense_labels(cover, field_, least_cover or usual)


def share_labels(cover: Tensor, field_: ReceptiveField) -> tuple[Tensor, Tensor]:
    """Label every cell by the share of its own pixels that is anomalous: a score of 1/2 runs where an object ends.

    With :func:`dense_labels` the network may say either in the band of cells that do not count, which lies outside of
    where objects end, and so did its outlines.

    Parameters
    ----------
    cover, field_
        As in :func:`dense_labels`.

    Returns
    -------
    similar, weight
        float32 (n, 1, rows, cols) each. Up to a quarter of anomalous pixels is similar, from three quarters on it is
        an anomaly, and half lies in the middle; undecided pixels count by half. The weight is the share of the others.
    """
    anomalous, touched = _shares(cover, field_)
    share = (anomalous + touched) / 2
    return (1.5 - 2 * share).clamp(0, 1), 1 - (touched - anomalous)


def dense_labels(cover: Tensor, field_: ReceptiveField, least_cover: float) -> tuple[Tensor, Tensor]:
    """Label every cell, all or nothing, by the pixels it stands for, not by its whole receptive field.

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
    share, touched = _shares(cover, field_)
    anomalous, touched = share >= least_cover, touched > max(0.0, least_cover - _UNDECIDED)
    return (~anomalous).float(), (anomalous | ~touched).float()


def _shares(cover: Tensor, field_: ReceptiveField) -> tuple[Tensor, Tensor]:
    """Return which share of each cell's own pixels is anomalous, and which at least undecided."""
    cells = field_.cells(cover.shape[-1])
    own = slice(field_.offset, field_.offset + cells * field_.stride)
    center = cover[:, :, own, own]
    return avg_pool2d((center == 1).float(), field_.stride), avg_pool2d((center > 0).float(), field_.stride)


RECIPES = {"paper": PaperRecipe, "survey": SurveyRecipe}


def make_recipe(name: str, *, stride: int | None = None, subcells: int | None = None) -> Recipe:
    """Return a ready-made recipe by name, its network with another stride or number of subcells if they are given."""
    if name not in RECIPES:
        raise OptionError(f"recipe {name!r}", "is not known", f"use one of {', '.join((*RECIPES, 'target'))}")
    return with_network(RECIPES[name](), stride=stride, subcells=subcells)


def with_network(recipe: Recipe, *, stride: int | None = None, subcells: int | None = None) -> Recipe:
    """Return a recipe with another stride or number of subcells of its network if they are given."""
    usual = recipe.network
    try:
        network = NetworkConfig.of_stride(stride or usual.window.stride, subcells=subcells or usual.subcells)
    except ValueError as error:
        raise OptionError(f"stride {stride}", str(error), "use 8 or 4, and 1, 2 or 4 subcells") from error
    if network.receptive_field.size > recipe.chip_size:
        fact = f"needs chips of {network.receptive_field.size} px, recipe {recipe.name} has {recipe.chip_size} px"
        raise OptionError(f"{network.subcells} subcells", fact, "use 1, or recipe survey")
    return replace(recipe, network=network)  # type: ignore[type-var]  # recipes are dataclasses
