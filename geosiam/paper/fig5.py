"""Figure 5: mosaics of 100 chips, half of them with an anomaly, in one fully convolutional pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from geosiam.paper.chips import anomaly_recipe, cifar_file, load_cifar, train_anomalies
from geosiam.paper.results import Finding, Picture, Result, Table, spread
from geosiam.paper.workbench import ACROSS, mosaic, save_figure, score
from geosiam.training.anomalies import paper_rectangles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.paper.workbench import Workbench
    from geosiam.training.sources import ChipStack

NAME = "fig5"
USES_WEIGHTS = False
SIDE = 32
MOSAICS = 20
TARGET = 0.999
_MOSAIC_SEED = 50_000


def inputs(bench: Workbench) -> list[Path]:
    """Return the data files that the result depends on."""
    return [cifar_file(bench)]


def run(bench: Workbench) -> Result:
    """Score mosaics of training images, as the paper does, and of unseen images, as it should be."""
    train, test = load_cifar(bench)
    accuracies: dict[str, list[float]] = {"training images": [], "unseen images": []}
    for seed in bench.seeds:
        network = train_anomalies(bench, anomaly_recipe(bench), seed).network
        for name, source in zip(accuracies, (train, test), strict=True):
            correct = 0
            for number in range(MOSAICS):
                before, after, truth = mosaic_pair(source, _MOSAIC_SEED + number)
                scores = score(network, before, after)
                correct += int(((chip_scores(scores) > 0.5) == truth).sum())  # noqa: PLR2004 - even odds
                if seed == 0 and number == 0:
                    _draw(before, after, scores, truth, bench.path(f"fig5-{name.split()[0]}.png"))
            accuracies[name].append(correct / (MOSAICS * ACROSS * ACROSS))
    unseen = accuracies["unseen images"]
    return Result(
        name=NAME,
        title="Figure 5: mosaics with anomalies",
        setup=f"The networks of figure 4. {MOSAICS} pairs of mosaics of {ACROSS * ACROSS} chips ({ACROSS * SIDE} px), "
        "of different images, with a blue rectangle as in training in half of the chips of the second one. A chip "
        f"is classified by the cell whose window it is, at probability 1/2; {len(bench.seeds)} seeds.",
        findings=(
            Finding(
                "The map of a mosaic shows which chips contain an anomaly",
                "holds" if np.mean(unseen) >= TARGET else f"short of {TARGET:.1%}",
                f"Unseen images: {spread(unseen, 3, percent=True)} of chips correct, worst seed {min(unseen):.3%}; "
                f"training images: {spread(accuracies['training images'], 3, percent=True)}.",
            ),
        ),
        tables=(
            Table(
                "Chips classified correctly",
                ("mosaics of", "chips", "correct", "worst seed"),
                tuple(
                    (name, f"{MOSAICS * ACROSS * ACROSS:,}", spread(values, 3, percent=True), f"{min(values):.3%}")
                    for name, values in accuracies.items()
                ),
            ),
        ),
        pictures=(
            Picture("fig5-unseen.png", "Unseen images: two mosaics, the whole map, and each chip (framed: wrong)."),
            Picture("fig5-training.png", "The same with training images."),
        ),
        numbers=dict(accuracies),
    )


def mosaic_pair(source: ChipStack, seed: int) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """Return two mosaics, float32 (3, 320, 320), and which chips of the second contain an anomaly, bool (10, 10)."""
    generator = torch.Generator().manual_seed(seed)
    count = ACROSS * ACROSS
    first, second = (source.sample(count, SIDE, generator) for _ in range(2))
    anomalous = (torch.randperm(count, generator=generator) < count // 2).view(count, 1, 1, 1)
    second = paper_rectangles(second, anomalous, generator)
    return mosaic(first), mosaic(second), anomalous.reshape(ACROSS, ACROSS).numpy()


def chip_scores(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cells of the map of a mosaic whose window is exactly one chip: (10, 10)."""
    step = (scores.shape[0] - 1) // (ACROSS - 1)
    return scores[::step, ::step]


def _draw(before: Tensor, after: Tensor, scores: NDArray[np.float32], truth: NDArray[np.bool_], path: Path) -> None:
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes: list[Any] = list(figure.subplots(1, 4))
    for axis, picture, title in zip(axes[:2], (before, after), ("first", "second"), strict=True):
        axis.imshow(picture.permute(1, 2, 0).numpy())
        axis.set_title(title, size=8)
    axes[2].imshow(scores, cmap="inferno", vmin=0, vmax=1)
    axes[2].set_title("anomaly score, every cell of the pass", size=8)
    chips = chip_scores(scores)
    image = axes[3].imshow(chips, cmap="inferno", vmin=0, vmax=1)
    axes[3].set_title("anomaly score, chip by chip", size=8)
    for row, col in np.argwhere((chips > 0.5) != truth):  # noqa: PLR2004 - even odds
        axes[3].add_patch(Rectangle((col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="cyan", linewidth=1.5))
    figure.colorbar(image, ax=axes, shrink=0.8)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    save_figure(figure, path)
