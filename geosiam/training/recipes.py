"""Recipes: how a batch of labeled pairs is made, with the network, the objective and the schedule to train it.

``paper`` is the seed paper's recipe; ``survey`` trains the default model. Both label every output cell of their pairs,
so one training loop serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from geosiam.errors import OptionError
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import euclidean_distance
from geosiam.training.anomalies import AnomalyConfig, chance, insert, paper_rectangles
from geosiam.training.augment import JPEG_BLOCK_PX, NuisanceConfig, apply_nuisance

if TYPE_CHECKING:
    from geosiam.network.architecture import ReceptiveField
    from geosiam.network.siamese import SiameseNetwork
    from geosiam.training.sources import ChipSource

FINE_PX = 2
"""Largest cells in pixels that are labeled with the share of them that is anomalous. An object of 5 px fills some of
them; of cells of 4 px it may fill none, and with such labels one in fifty of the objects of 5-15 px was missed."""

LEAST_COVER = 0.5
"""Minimum anomalous share of a larger cell's own pixels for the cell to be labeled anomalous."""

LEAST_COVER_OF_8_PX = 0.125
"""Minimum anomalous share for cells of 8 px and more: an object of 5 px may lie on four of them and cover no more than
9 of the 64 pixels of any; of cells of 4 px it covers at least 9 of the 16 of some."""

COARSE_PX = 8
"""Smallest cells in pixels that are labeled with :data:`LEAST_COVER_OF_8_PX`."""

_CHIP_FIELDS = 1.75  # least side of a chip for several scales, in receptive fields
_UNDECIDED = 0.25  # width of the range of shares below the minimum in which a cell has no label


@dataclass(frozen=True)
class Batch:
    """Labeled pairs that one training step processes.

    Parameters
    ----------
    before, after
        float32 (n, 3, size, size), values in [0, 1].
    similar
        float32 (n, 1, rows, cols): 1 = similar, 0 = anomaly; between them where an anomaly ends inside a cell.
    weight
        float32 (n, 1, rows, cols): weight of the cell in the loss, 0 = undecided.
    """

    before: Tensor
    after: Tensor
    similar: Tensor
    weight: Tensor


class Objective(Protocol):
    """The logits by which a network compares a pair, and the loss that it is trained with."""

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return the logit of "similar" of every cell, (n, 1, rows, cols), of images (n, channels, h, w) in [0, 1]."""
        ...

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the scalar to minimize."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Binary cross-entropy of the discriminator's logit (equation 5).

    The paper prints ``y log p + (1 - y) log(1 - p)`` without the minus sign, which is small where the network is wrong.
    Used here, as in the paper's own listing, is its negative, with the sigmoid inside for numerical stability.
    """

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return the discriminator's logits."""
        logits: Tensor = network(before, after)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats, the weighted mean over the cells."""
        losses = binary_cross_entropy_with_logits(logits, batch.similar, weight=batch.weight, reduction="sum")
        return losses / batch.weight.sum().clamp(min=1)


@dataclass(frozen=True)
class Contrastive:
    """Contrastive loss (equation 2; Hadsell, Chopra and LeCun, 2006): similar pairs close, others ``margin`` apart.

    The distance is Euclidean, without the discriminator. Its gradient is finite, namely zero, where both features
    agree; a bare square root, as in the paper's listing, gives NaN there.

    Parameters
    ----------
    margin
        The paper's r: dissimilar pairs at this distance or more cost nothing. Pairs closer than half of it are
        classified as similar.

    Raises
    ------
    ValueError
        The margin is not positive.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"the margin is a distance greater than 0, not {self.margin}")

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return half the margin minus the distance."""
        return self.margin / 2 - euclidean_distance(network.encode(before).float(), network.encode(after).float())

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return ``y d^2 + (1 - y) max(0, margin - d)^2``, the weighted mean over the cells."""
        distance = self.margin / 2 - logits
        shortfall = (self.margin - distance).clamp(min=0)
        losses = batch.similar * distance.square() + (1 - batch.similar) * shortfall.square()
        return (losses * batch.weight).sum() / batch.weight.sum().clamp(min=1)


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a training.

    Parameters
    ----------
    epochs
        Number of epochs of ``steps`` batches.
    steps
        Batches per epoch; None: as many as the images of the source fill.
    batch_size
        Pairs per batch.
    learning_rate
        Peak of the one-cycle schedule (Smith and Topin, 2018).
    weight_decay
        Weight decay of AdamW.
    """

    epochs: int
    steps: int | None
    batch_size: int
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4


FINE_TUNING = Schedule(epochs=4, steps=100, batch_size=28, learning_rate=5e-4)
"""Schedule of fine-tuning: minutes on two cores."""


class Recipe(Protocol):
    """Network, objective, schedule and batches of a training; a frozen dataclass."""

    @property
    def name(self) -> str:
        """Short name of the recipe."""
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
        """Side of the chips in pixels."""
        ...

    @property
    def schedule(self) -> Schedule:
        """Length and learning rate of the training."""
        ...

    @property
    def objective(self) -> Objective:
        """Objective to train with: logits and loss."""
        ...

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch of labeled pairs."""
        ...


@dataclass(frozen=True)
class PaperRecipe:
    """The seed paper's recipe: two random chips, each with a blue rectangle at even odds; similar = same state."""

    network: NetworkConfig = field(default_factory=NetworkConfig.of_stride)
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=20, steps=None, batch_size=256))
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 32
    name: str = "paper"
    summary: str = "Blue rectangles of 1-99 % area on random pairs of chips; similar = same state (Hirokawa, VI)"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch; a label is of the whole chip, so all cells of a chip have the same one."""
        n = self.schedule.batch_size
        images = []
        states = []
        for _ in range(2):
            anomalous = chance(n, 0.5, generator)
            images.append(paper_rectangles(source.sample(n, self.chip_size, generator), anomalous, generator))
            states.append(anomalous)
        cells = self.network.receptive_field.cells(self.chip_size)
        similar = (states[0] == states[1]).float().expand(n, 1, cells, cells)
        return Batch(images[0], images[1], similar, torch.ones_like(similar))


@dataclass(frozen=True)
class SurveyRecipe:
    """The default model's recipe: one place at two dates, varied anomalies in one of them, nuisance in both.

    Parameters
    ----------
    network, schedule, objective, chip_size, name, summary
        See :class:`Recipe`.
    least_cover
        Minimum anomalous share of a cell's own pixels for an anomalous label; None: see :func:`label_cells`.
    anomalies, nuisance
        Appearance of the anomalies, and strength of the nuisance.
    """

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
        first, second, cover = apply_nuisance(first, second, torch.maximum(cover, changed), self.nuisance, generator)
        swapped = chance(n, 0.5, generator)
        similar, weight = label_cells(cover, self.network.receptive_field, self.least_cover)
        return Batch(torch.where(swapped, second, first), torch.where(swapped, first, second), similar, weight)


RECIPES = {"paper": PaperRecipe, "survey": SurveyRecipe}


def make_recipe(
    name: str, *, stride: int | None = None, subcells: int | None = None, scales: tuple[int, ...] = (1,)
) -> Recipe:
    """Return a recipe by name; its network has another stride, or number of subcells or scales, if they are given.

    Raises
    ------
    OptionError
        There is no such recipe or network.
    """
    if name not in RECIPES:
        raise OptionError(f"`recipe={name}`", "is not known", f"use one of {', '.join((*RECIPES, 'target'))}")
    return with_network(RECIPES[name](), stride=stride, subcells=subcells, scales=scales)


def with_network(
    recipe: Recipe, *, stride: int | None = None, subcells: int | None = None, scales: tuple[int, ...] = (1,)
) -> Recipe:
    """Return a recipe whose network has another stride, or number of subcells or scales, if they are given.

    With several scales the network is symmetric. Chips grow as its receptive field does, so that they have at least as
    many cells as before, and to 7/4 of it, so that most of what is computed has a label; the objects in them may be as
    large as before relative to the chip. A batch has fewer of them, for about as many cells.

    Raises
    ------
    OptionError
        There is no such network, or the recipe's chips are too small for it.
    """
    default = recipe.network
    try:
        single = NetworkConfig.of_stride(stride or default.window.stride, subcells=subcells or default.subcells)
    except ValueError as error:
        raise OptionError(f"`stride={stride}`", str(error), "use 8 or 4, and 1, 2 or 4 subcells") from error
    network = replace(single, scales=scales, symmetric=len(scales) > 1)
    if network != single:
        recipe = _with_larger_chips(recipe, single.receptive_field, network.receptive_field)
    if network.receptive_field.size > recipe.chip_size:
        fact = f"needs chips of {network.receptive_field.size} px, recipe {recipe.name} has {recipe.chip_size} px"
        raise OptionError(f"`subcells={network.subcells}`", fact, "use 1, or `recipe=survey`")
    return replace(recipe, network=network)  # type: ignore[type-var]  # recipes are dataclasses


def _with_larger_chips(recipe: Recipe, small: ReceptiveField, large: ReceptiveField) -> Recipe:
    """Return a recipe with chips, batches and objects for a larger receptive field."""
    growth = large.size - small.size
    side = max(recipe.chip_size + growth, _CHIP_FIELDS * large.size)
    side = math.ceil(side / JPEG_BLOCK_PX) * JPEG_BLOCK_PX
    cells = [field.cells(size) ** 2 for field, size in ((small, recipe.chip_size), (large, side))]
    batch_size = max(1, round(recipe.schedule.batch_size * min(1, cells[0] / cells[1])))
    changes: dict[str, Any] = {"chip_size": side, "schedule": replace(recipe.schedule, batch_size=batch_size)}
    if isinstance(recipe, SurveyRecipe):
        smallest, largest = recipe.anomalies.size_px
        zoom = side / recipe.chip_size
        sizes, most = (smallest, largest * zoom), round(recipe.anomalies.most * math.sqrt(zoom))
        changes["anomalies"] = replace(recipe.anomalies, size_px=sizes, most=most)
    return replace(recipe, **changes)  # type: ignore[type-var]  # recipes are dataclasses


def octaves(count: int) -> tuple[int, ...]:
    """Return so many scales of an image, each half as fine as the one before."""
    return tuple(2**level for level in range(count))


def label_cells(cover: Tensor, receptive_field: ReceptiveField, least_cover: float | None) -> tuple[Tensor, Tensor]:
    """Label cells by their size: with :func:`share_labels`, or with :func:`dense_labels` and a minimum share."""
    if least_cover is None and receptive_field.stride <= FINE_PX:
        return share_labels(cover, receptive_field)
    default = LEAST_COVER if receptive_field.stride < COARSE_PX else LEAST_COVER_OF_8_PX
    return dense_labels(cover, receptive_field, least_cover or default)


def share_labels(cover: Tensor, receptive_field: ReceptiveField) -> tuple[Tensor, Tensor]:
    """Label every cell with the share of its own pixels that is anomalous, so that scores are 1/2 on outlines.

    With :func:`dense_labels` the scores are arbitrary in the cells without a label, which lie just outside the outline
    of an object; so is then the outline of a polygon.

    Parameters
    ----------
    cover, receptive_field
        As in :func:`dense_labels`.

    Returns
    -------
    similar, weight
        float32 (n, 1, rows, cols) each. A cell is similar with up to a quarter of its pixels anomalous, an anomaly with
        three quarters or more, and halfway between with half of them; undecided pixels count half. The weight is the
        share of the decided pixels.
    """
    anomalous, touched = _shares(cover, receptive_field)
    share = (anomalous + touched) / 2
    return (1.5 - 2 * share).clamp(0, 1), 1 - (touched - anomalous)


def dense_labels(cover: Tensor, receptive_field: ReceptiveField, least_cover: float) -> tuple[Tensor, Tensor]:
    """Label every cell, all or nothing, by its own pixels instead of its whole receptive field.

    Parameters
    ----------
    cover
        float32 (n, 1, h, w): 1 = anomalous, 0.5 = undecided, 0 = normal.
    receptive_field
        Receptive field of the network.
    least_cover
        Minimum anomalous share of a cell's own pixels for an anomalous label. A cell whose share of anomalous or
        undecided pixels is smaller by a quarter or more is similar; between the two, a cell has weight 0.

    Returns
    -------
    similar, weight
        float32 (n, 1, rows, cols) each, as in :class:`Batch`.
    """
    share, touched = _shares(cover, receptive_field)
    anomalous, possible = share >= least_cover, touched > max(0.0, least_cover - _UNDECIDED)
    return (~anomalous).float(), (anomalous | ~possible).float()


def _shares(cover: Tensor, receptive_field: ReceptiveField) -> tuple[Tensor, Tensor]:
    """Return the share of each cell's own pixels that is anomalous, and that is anomalous or undecided."""
    stride, offset = receptive_field.stride, receptive_field.offset
    covered = slice(offset, offset + receptive_field.cells(cover.shape[-1]) * stride)
    center = cover[:, :, covered, covered]
    return avg_pool2d((center == 1).float(), stride), avg_pool2d((center > 0).float(), stride)
