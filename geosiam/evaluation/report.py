"""Evaluations as tables: for a terminal and as Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geosiam.evaluation.agreement import Evaluation

METRICS = {
    "auroc": ("AUROC", "chance that a changed pixel scores above an unchanged one"),
    "average_precision": ("average precision", "area under the precision-recall curve"),
    "best_f1": ("best F1", "largest pixel F1 over all thresholds"),
    "best_threshold": ("at threshold", "the threshold with the best F1"),
    "threshold": ("threshold", "the threshold that was used, for the metrics below"),
    "f1": ("F1", "of changed pixels"),
    "iou": ("IoU", "intersection over union of changed pixels"),
    "pixel_recall": ("pixel recall", "fraction of changed pixels that are flagged"),
    "pixel_precision": ("pixel precision", "fraction of flagged pixels that are changed"),
    "object_recall": ("object recall", "fraction of true objects that a polygon overlaps"),
    "object_precision": ("object precision", "fraction of polygons that overlap a true object"),
    "object_recall_iou50": ("object recall, IoU > 0.5", "the same for overlaps with an IoU above one half"),
    "object_precision_iou50": ("object precision, IoU > 0.5", "likewise"),
    "objects_true": ("true objects", "number of true objects that were compared"),
    "objects_reported": ("polygons", "number of polygons that were compared"),
    "objects_unseen": ("true objects excluded", "excluded because most of each has no score"),
    "alarms_per_megapixel": ("false alarms per Mpx", "polygons that overlap no true object, per million pixels"),
    "calibration_error": (
        "calibration error", "mean gap between score and fraction of changed pixels, over bins of equal mass",
    ),
    "pixels": ("pixels", "number of pixels of the before scene that were compared"),
}  # fmt: skip
"""Heading and meaning of each metric of :meth:`geosiam.evaluation.agreement.Agreement.metrics`, in the same order."""


def text_table(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the lines of a table: one row per metric, one column per evaluation, without undefined metrics."""
    cells = _cells(evaluations)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """Return a report with the table and the meaning of its metrics."""
    head, *rows = _cells(evaluations)
    lines = ["# Evaluation", "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    headings = {row[0] for row in rows}
    lines += ["", "Meaning of the metrics; only the change class counts as positive:", ""]
    lines += [f"- **{heading}**: {meaning}" for heading, meaning in METRICS.values() if heading in headings]
    return "\n".join(lines) + "\n"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return one line per value of a review summary, which is given as a dict; undefined values are left out."""
    values = {name: value for name, value in summary.items() if value is not None and not _is_nan(value)}
    width = max(map(len, values))
    return [
        f"{name.replace('_', ' '):<{width}}  {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in values.items()
    ]


def _cells(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """Return the table as rows of text; the first row has the names of the evaluations."""
    has_several_pairs = len({evaluation.pair for evaluation in evaluations}) > 1
    names = [f"{e.method}, {e.pair}" if has_several_pairs else e.method for e in evaluations]
    metrics = [evaluation.agreement.metrics() for evaluation in evaluations]
    table = [["", *names]]
    for name, (heading, _) in METRICS.items():
        values = [_text(values[name]) for values in metrics]
        if any(value != "-" for value in values):
            table.append([heading, *values])
    return table


def _text(value: float) -> str:
    if math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
