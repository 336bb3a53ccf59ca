"""ROC, precision-recall and calibration of several evaluations in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from geosiam.evaluation.agreement import Agreement

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_INK, _MUTED = "#1b1f24", "#8c959f"
_DPI = 150


def save_curves(path: Path, named: Sequence[tuple[str, Agreement]]) -> None:
    """Write a PNG of the curves of evaluations that know scores.

    Parameters
    ----------
    path
        Where to write.
    named
        Name and agreement of each.
    """
    figure = Figure(figsize=(12, 4.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    roc, precision, calibration = figure.subplots(1, 3)
    _frame(roc, "ROC", "false alarm rate", "recall")
    _frame(precision, "Precision and recall", "recall", "precision")
    _frame(calibration, "Calibration", "score", "share that is changed")
    for axis in (roc, calibration):
        axis.plot([0, 1], [0, 1], color=_MUTED, lw=0.8, ls=":")
    for number, (name, agreement) in enumerate(named):
        if agreement.counts is None:
            continue
        look = {"color": _COLOURS[number % len(_COLOURS)], "lw": 1.6, "ls": "-" if number < len(_COLOURS) else "--"}
        curves = agreement.counts.curves()
        roc.plot(_from(0, curves["false_alarm_rate"]), _from(0, curves["recall"]),
                 label=f"{name} ({agreement.counts.auroc:.3f})", **look)  # fmt: skip
        precision.plot(curves["recall"], curves["precision"], drawstyle="steps-pre",
                       label=f"{name} ({agreement.counts.average_precision:.3f})", **look)  # fmt: skip
        at = agreement.fixed
        precision.plot([at.recall], [at.precision], "o", color=look["color"], ms=5)
        if agreement.calibrated:
            bins = agreement.counts.calibration(10, of_equal="width")
            calibration.plot([b.score for b in bins], [b.changed for b in bins], label=name, marker="o", ms=3, **look)
    for axis, corner in ((roc, "lower right"), (precision, "center"), (calibration, "upper left")):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False, loc=corner)
    figure.savefig(path, format="png", metadata={"Software": None})


def _from(start: float, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a curve that begins at a value."""
    return np.concatenate([[start], curve])


def _frame(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", size=10, color=_INK)
    axis.set_xlabel(x, size=8, color=_INK)
    axis.set_ylabel(y, size=8, color=_INK)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
