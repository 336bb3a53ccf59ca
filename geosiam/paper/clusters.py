"""The networks of figure 2: the same encoder trained in four ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from geosiam.paper.digits import DigitRecipe, DigitStack, digit_network
from geosiam.paper.workbench import fingerprint
from geosiam.training.recipes import Contrastive, CrossEntropy

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.paper.workbench import Workbench
    from geosiam.training.loop import TrainingRun
    from geosiam.training.recipes import Objective

QUICK_EPOCHS, QUICK_STEPS = 3, 100


@dataclass(frozen=True)
class Variant:
    """One way to train the encoder.

    Parameters
    ----------
    name
        Short name, also in file names.
    title
        As the reader sees it.
    objective, distance, head
        See :mod:`geosiam.training.recipes` and :class:`geosiam.network.siamese.NetworkConfig`.
    """

    name: str
    title: str
    objective: Objective
    distance: str
    head: str

    def recipe(self, *, quick: bool = False) -> DigitRecipe:
        """Return the recipe, shortened for a smoke run."""
        recipe = DigitRecipe(digit_network(distance=self.distance, head=self.head), objective=self.objective)
        if not quick:
            return recipe
        return replace(recipe, schedule=replace(recipe.schedule, epochs=QUICK_EPOCHS, steps=QUICK_STEPS))


VARIANTS = (
    Variant("contrastive", "(a) contrastive loss", Contrastive(), "euclidean", "distance"),
    Variant("concatenation", "(b) concatenation [f1, f2, ‖f1 - f2‖]", CrossEntropy(), "euclidean", "concat"),
    Variant("distance", "(c) distance ‖f1 - f2‖ only", CrossEntropy(), "euclidean", "distance"),
    Variant("elementwise", "(listing) concatenation [f1, f2, |f1 - f2|]", CrossEntropy(), "elementwise", "concat"),
)


def digit_folder(bench: Workbench) -> Path:
    """Return the folder with MNIST's files."""
    return bench.data("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte").parent


def load_digits(bench: Workbench) -> tuple[DigitStack, DigitStack]:
    """Return MNIST's training and test digits."""
    folder = digit_folder(bench)
    return DigitStack.load(folder, "train"), DigitStack.load(folder, "t10k")


def train_variant(bench: Workbench, variant: Variant, train: DigitStack, test: DigitStack, seed: int) -> TrainingRun:
    """Train one variant with one seed."""
    return bench.trained(
        f"digits-{variant.name}",
        variant.recipe(quick=bench.options.quick),
        train,
        test,
        seed=seed,
        fingerprint=fingerprint(train.images, train.labels),
    )
