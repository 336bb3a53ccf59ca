"""Evaluations as tables: for a terminal, as Markdown, and as plain values for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geosiam.evaluation.agreement import Agreement

FIGURES = {
    "auroc": ("AUROC", "chance that a changed pixel scores above an unchanged one"),
    "average_precision": ("average precision", "area under the precision-recall curve"),
    "best_f1": ("best F1", "largest pixel F1 over all thresholds"),
    "best_threshold": ("at threshold", "where that is"),
    "threshold": ("threshold", "what the figures below are cut at"),
    "f1": ("F1", "of changed pixels"),
    "iou": ("IoU", "of changed pixels: intersection over union"),
    "pixel_recall": ("pixel recall", "share of changed pixels that are flagged"),
    "pixel_precision": ("pixel precision", "share of flagged pixels that are changed"),
    "object_recall": ("object recall", "share of true objects that a polygon meets"),
    "object_precision": ("object precision", "share of polygons that meet a true object"),
    "object_recall_iou50": ("object recall, IoU > 0.5", "the same where both overlap by more than half"),
    "object_precision_iou50": ("object precision, IoU > 0.5", "likewise"),
    "objects_true": ("true objects", "that were looked at"),
    "objects_reported": ("polygons", "that were reported"),
    "objects_unseen": ("true objects not looked at", "most of each lies where nothing was scored; left out"),
    "alarms_per_megapixel": ("false alarms per Mpx", "polygons that meet no true object, per million pixels"),
    "calibration_error": ("calibration error", "mean gap between score and share of changes, bins of equal mass"),
    "pixels": ("pixels", "of the before-scene that were looked at"),
}
"""Heading and meaning of each figure of :meth:`geosiam.evaluation.agreement.Agreement.figures`, in their order."""


def plain(named: Sequence[tuple[str, str, Agreement]]) -> list[dict[str, Any]]:
    """Return evaluations, given as (method, pair, agreement), as plain values; what cannot be told is None."""
    return [
        {"method": method, "pair": pair}
        | {name: _plain(value) for name, value in agreement.figures().items()}
        | {"calibration": _calibration(agreement)}
        for method, pair, agreement in named
    ]


def text_table(named: Sequence[tuple[str, str, Agreement]]) -> list[str]:
    """Return lines: a figure each, with a column for each evaluation; what none of them can tell is left out."""
    cells = _cells(named)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]


def markdown(named: Sequence[tuple[str, str, Agreement]]) -> str:
    """Return a report with a table and what its figures mean."""
    head, *rows = _cells(named)
    lines = ["# Evaluation", "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    shown = {row[0] for row in rows}
    lines += ["", "What the figures mean; the positive class is the change, alone:", ""]
    lines += [f"- **{heading}**: {meaning}" for heading, meaning in FIGURES.values() if heading in shown]
    return "\n".join(lines) + "\n"


def _cells(named: Sequence[tuple[str, str, Agreement]]) -> list[list[str]]:
    several = len({pair for _, pair, _ in named}) > 1
    table = [["", *(f"{method}, {pair}" if several else method for method, pair, _ in named)]]
    figures = [agreement.figures() for _, _, agreement in named]
    for name, (heading, _) in FIGURES.items():
        values = [_text(figure[name]) for figure in figures]
        if any(value != "-" for value in values):
            table.append([heading, *values])
    return table


def _calibration(agreement: Agreement) -> list[dict[str, float]]:
    if agreement.counts is None or not agreement.calibrated:
        return []
    return [asdict(part) for part in agreement.counts.calibration(10, of_equal="width")]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float) -> str:
    if math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def described(review: Mapping[str, Any]) -> list[str]:
    """Return lines for a summary of verdicts, given as plain values."""
    shown = {name: value for name, value in review.items() if value is not None and not _is_nan(value)}
    width = max(map(len, shown))
    return [
        f"{name.replace('_', ' '):<{width}}  {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in shown.items()
    ]


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
