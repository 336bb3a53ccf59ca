"""Figure 3: mosaics of unseen digits compared in one fully convolutional pass, and the ROC of "same digit"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from geosiam.evaluation.metrics import auroc
from geosiam.paper.chips import SIDE, VARIANTS, digit_folder, load_digits, train_variant
from geosiam.paper.fig2 import pair_logits
from geosiam.paper.results import Finding, Picture, Result, Table, spread
from geosiam.paper.workbench import ACROSS, mosaic, save_figure, score

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.paper.chips import DigitStack
    from geosiam.paper.workbench import Workbench
    from geosiam.training.loop import TrainingRun

NAME = "fig3"
USES_WEIGHTS = False
PAIRS = 20_000
TARGET = 0.985
_PAIR_SEED, _MOSAIC_SEED = 30_000, 30_001


def inputs(bench: Workbench) -> list[Path]:
    """Return the data files that the result depends on."""
    return [digit_folder(bench)]


def run(bench: Workbench) -> Result:
    """Compare mosaics with the concatenating network of figure 2, and classify 20,000 unseen pairs."""
    train, test = load_digits(bench)
    variant = next(variant for variant in VARIANTS if variant.name == "concatenation")
    rows, curves = [], []
    for seed in bench.seeds:
        trained = train_variant(bench, variant, train, test, seed)
        logits, same = pair_logits(trained, test, PAIRS, _PAIR_SEED)
        curves.append(roc(logits, same))
        rows.append({"accuracy": float(((logits > 0) == same).mean()), "auroc": auroc(logits, same)})
        if seed == 0:
            rows[0] |= _draw_mosaics(trained, test, bench.path("fig3-mosaics.png"))
    _draw_curves(curves, bench.path("fig3-roc.png"))
    accuracy = [row["accuracy"] for row in rows]
    return Result(
        name=NAME,
        title="Figure 3: unseen digits, side by side",
        setup=f"The networks of figure 2 (b). {ACROSS * ACROSS} unseen pairs as two {ACROSS}x{ACROSS} mosaics of "
        f"{ACROSS * SIDE} px, compared in one fully convolutional pass; and {PAIRS:,} unseen pairs, half of one digit.",
        findings=(
            Finding(
                "Three features are enough to classify unseen pairs",
                "holds" if np.mean(accuracy) >= TARGET else f"short of {TARGET:.1%}",
                f"Accuracy {spread(accuracy, 2, percent=True)}, worst seed {min(accuracy):.2%}.",
            ),
            Finding(
                "The map of a mosaic is the same as comparing digit by digit",
                "holds" if rows[0]["largest_difference"] < 1e-5 else "does not hold",  # noqa: PLR2004
                f"Largest difference of P(similar): {rows[0]['largest_difference']:.1e}.",
            ),
        ),
        tables=(
            Table(
                "Verification",
                ("pairs", "accuracy", "AUROC"),
                ((f"{PAIRS:,}", spread(accuracy, 2, percent=True), spread((r["auroc"] for r in rows), 4)),),
            ),
        ),
        pictures=(
            Picture(
                "fig3-mosaics.png",
                "Two mosaics, P(similar) of each pair (framed: wrong at 1/2), and the whole map.",
            ),
            Picture("fig3-roc.png", "ROC of each seed."),
        ),
        numbers={"seeds": rows},
    )


def roc(logits: NDArray[np.floating[Any]], same: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates at every threshold; "same digit" is the positive class."""
    order = np.argsort(-logits, kind="stable")
    hits = same[order]
    return (~hits).cumsum() / (~hits).sum(), hits.cumsum() / hits.sum()


def _draw_mosaics(trained: TrainingRun, test: DigitStack, path: Path) -> dict[str, float]:
    a, b = test.draw(ACROSS * ACROSS, torch.Generator().manual_seed(_MOSAIC_SEED))
    first, second = mosaic(test.chips(a)), mosaic(test.chips(b))
    similarity = 1 - score(trained.network, first, second)
    step = SIDE // trained.network.config.receptive_field.stride
    cells = similarity[::step, ::step]
    with torch.inference_mode():
        alone = torch.sigmoid(trained.network(test.chips(a), test.chips(b))).reshape(cells.shape).numpy()
    wrong = (cells > 0.5) != (test.labels[a] == test.labels[b]).reshape(cells.shape).numpy()  # noqa: PLR2004
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, picture, title in zip(axes[:2], (first, second), ("first", "second"), strict=True):
        axis.imshow(picture[0].numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, size=8)
    axes[2].imshow(cells, cmap="viridis", vmin=0, vmax=1)
    axes[2].set_title("P(similar), pair by pair", size=8)
    for row, col in np.argwhere(wrong):
        axes[2].plot([col - 0.5, col + 0.5, col + 0.5, col - 0.5, col - 0.5],
                     [row - 0.5, row - 0.5, row + 0.5, row + 0.5, row - 0.5], color="red")  # fmt: skip
    image = axes[3].imshow(similarity, cmap="viridis", vmin=0, vmax=1)
    axes[3].set_title("P(similar), every cell of the pass", size=8)
    figure.colorbar(image, ax=axes, shrink=0.8)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    save_figure(figure, path)
    return {"largest_difference": float(np.abs(cells - alone).max()), "wrong_in_mosaic": int(wrong.sum())}


def _draw_curves(curves: list[tuple[NDArray[np.float64], NDArray[np.float64]]], path: Path) -> None:
    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    for seed, (false, true) in enumerate(curves):
        axes.plot(false, true, linewidth=1, label=f"seed {seed}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 0.1), ylim=(0.9, 1.002))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save_figure(figure, path)
