"""Compare scores or polygons with the ground truth of one pair, strip by strip, in bounded memory; tables of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import shapely

from geosiam.evaluation.counts import CALIBRATION_BINS, ScoreCounts, ThresholdScores, in_cells, ratio
from geosiam.evaluation.metrics import ObjectScores, object_scores
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_table
from geosiam.scores.working_file import FINE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import geopandas
    from affine import Affine
    from numpy.typing import NDArray

    from geosiam.evaluation.truth import Truth
    from geosiam.scores.raster import Scores

ALL_PAIRS = "all"
"""Value of :attr:`Evaluation.pair` if all pairs are evaluated together."""

_IOU50 = 0.5
_MIN_SCORED_SHARE = 0.5  # fraction of an object's pixels that must be scored for the object to count
_STRIP_CELLS = 256  # rows of cells that are compared at once


@dataclass(frozen=True)
class Agreement:
    """Agreement of the results of one method with the truth of one pair, or of several.

    Parameters
    ----------
    at_threshold
        Pixels at the threshold that the method chose itself, or areas if only polygons are given.
    any_overlap, iou50
        Objects at that threshold, which match if they share any area, or if their intersection over union exceeds 0.5.
    pixels
        Number of pixels of the before scene that were compared.
    unseen
        Number of true objects that are excluded because most of each is not scored or has unknown truth.
    counts
        Changed and unchanged pixels by score; None if only polygons are given.
    calibrated
        Whether the scores are meant as probabilities.
    """

    at_threshold: ThresholdScores
    any_overlap: ObjectScores
    iou50: ObjectScores
    pixels: int
    unseen: int
    counts: ScoreCounts | None = None
    calibrated: bool = True

    @classmethod
    def sum(cls, parts: Iterable[Self]) -> Self:
        """Add up several pairs: all their pixels and all their objects, as if they were one scene."""
        return reduce(cls.__add__, parts)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            at_threshold=self.at_threshold + other.at_threshold,
            any_overlap=self.any_overlap + other.any_overlap,
            iou50=self.iou50 + other.iou50,
            pixels=self.pixels + other.pixels,
            unseen=self.unseen + other.unseen,
            counts=None if self.counts is None or other.counts is None else self.counts + other.counts,
            calibrated=self.calibrated and other.calibrated,
        )

    def metrics(self) -> dict[str, float]:
        """Return all metrics by name, see :data:`geosiam.evaluation.agreement.METRICS`; NaN = undefined."""
        counts, undefined = self.counts, float("nan")
        alarms = self.any_overlap.predicted - self.any_overlap.correct
        return {
            "auroc": counts.auroc if counts else undefined,
            "average_precision": counts.average_precision if counts else undefined,
            "best_f1": counts.best.f1 if counts else undefined,
            "best_threshold": counts.best.threshold if counts else undefined,
            "threshold": self.at_threshold.threshold,
            "f1": self.at_threshold.f1,
            "iou": self.at_threshold.iou,
            "pixel_recall": self.at_threshold.recall,
            "pixel_precision": self.at_threshold.precision,
            "object_recall": self.any_overlap.recall,
            "object_precision": self.any_overlap.precision,
            "object_recall_iou50": self.iou50.recall,
            "object_precision_iou50": self.iou50.precision,
            "objects_true": self.any_overlap.truth,
            "objects_reported": self.any_overlap.predicted,
            "objects_unseen": self.unseen,
            "alarms_per_megapixel": ratio(alarms, self.pixels / 1e6),
            "calibration_error": counts.calibration_error() if counts and self.calibrated else undefined,
            "pixels": self.pixels if counts else undefined,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics, and the calibration curve, as values for JSON; None = undefined."""
        counts = self.counts if self.calibrated else None
        curve = [] if counts is None else counts.calibration(CALIBRATION_BINS, of_equal="width")
        metrics = {name: None if math.isnan(value) else value for name, value in self.metrics().items()}
        return {**metrics, "calibration": [asdict(part) for part in curve]}


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of one method on one pair, or on all pairs together.

    Parameters
    ----------
    method
        Name of a model or baseline, or ``"prediction"`` if the prediction was given.
    pair
        Name of the pair, or :data:`ALL_PAIRS`.
    agreement
        Agreement of the results with the truth.
    """

    method: str
    pair: str
    agreement: Agreement

    def to_dict(self) -> dict[str, Any]:
        """Return method, pair and all metrics as values for JSON; None = undefined."""
        return {"method": self.method, "pair": self.pair, **self.agreement.to_dict()}


def pixel_grid(scores: Scores) -> Grid:
    """Return the grid of the pixels of the before scene that a raster of scores was computed from."""
    stride = scores.stride
    rows, cols = (round(cells * stride) for cells in scores.extent)
    transform: Affine = scores.grid.transform
    return Grid(scores.grid.crs, transform @ transform.scale(1 / stride), cols, rows)


def compare_scores(
    scores: Scores,
    truth: Truth,
    threshold: float,
    *,
    seed_threshold: float | None = None,
    min_area: str | None = None,
    calibrated: bool = True,
) -> Agreement:
    """Compare a raster of scores with the truth.

    Parameters
    ----------
    scores
        The raster, which is read once for its pixels and once for its polygons.
    truth
        Ground truth on the grid of :func:`pixel_grid`.
    threshold, seed_threshold, min_area
        Thresholds and smallest area of the polygons, as in :class:`geosiam.polygons.options.PolygonOptions`.
    calibrated
        Whether the scores are meant as probabilities.
    """
    counts, is_seen = _compare_pixels(scores, truth)
    options = PolygonOptions(threshold=threshold, seed_threshold=seed_threshold, min_area=min_area)
    predicted = np.asarray(polygon_table(scores, options).frame().geometry)
    true, unseen = truth.polygons[is_seen], truth.polygons[~is_seen]
    predicted = _without_undecided(predicted, true, unseen)
    return Agreement(
        at_threshold=counts.at(threshold),
        any_overlap=object_scores(predicted, true),
        iou50=object_scores(predicted, true, _IOU50),
        pixels=counts.pixels,
        unseen=len(unseen),
        counts=counts,
        calibrated=calibrated,
    )


def compare_polygons(predicted: geopandas.GeoDataFrame, truth: Truth) -> Agreement:
    """Compare polygons with the truth, by object and by area; polygons where the truth is unknown count as wrong.

    Parameters
    ----------
    predicted
        Polygons in the CRS of the truth's grid.
    truth
        Ground truth.
    """
    outlines = np.asarray(predicted.geometry, dtype=object)
    flagged, changed = shapely.union_all(outlines), shapely.union_all(truth.polygons)
    common = float(shapely.area(shapely.intersection(flagged, changed)))
    areas = ThresholdScores(float("nan"), common, float(shapely.area(flagged)), float(shapely.area(changed)))
    return Agreement(
        at_threshold=areas,
        any_overlap=object_scores(outlines, truth.polygons),
        iou50=object_scores(outlines, truth.polygons, _IOU50),
        pixels=0,
        unseen=0,
    )


def _compare_pixels(scores: Scores, truth: Truth) -> tuple[ScoreCounts, NDArray[np.bool_]]:
    """Return the pixels by score, and which true objects are scored well enough to count: bool (objects,)."""
    counts = ScoreCounts.none()
    scored_px = np.zeros(len(truth.polygons) + 1, np.int64)
    all_px = scored_px.copy()
    width, height = truth.grid.width, truth.grid.height
    for first, strip in scores.strips(_STRIP_CELLS):
        top, bottom = first * scores.stride, min((first + len(strip)) * scores.stride, height)
        objects = truth.objects(Window(top, bottom, 0, width))
        changed, _ = in_cells(objects > 0, scores.stride)
        total, _ = in_cells(objects >= 0, scores.stride)
        counts += ScoreCounts.of(strip, changed, total, steps=FINE_STEPS)
        is_scored = np.repeat(np.repeat(~np.isnan(strip), scores.stride, 0), scores.stride, 1)[: len(objects), :width]
        all_px += np.bincount(objects[objects > 0], minlength=len(all_px))
        scored_px += np.bincount(objects[(objects > 0) & is_scored], minlength=len(scored_px))
    return counts, scored_px[1:] >= _MIN_SCORED_SHARE * np.maximum(all_px[1:], 1)


def _without_undecided(predicted: NDArray[Any], true: NDArray[Any], unseen: NDArray[Any]) -> NDArray[Any]:
    """Remove the predicted polygons that overlap excluded true objects only: they are neither right nor wrong."""
    if not (len(unseen) and len(predicted)):
        return predicted
    near_unseen, _ = shapely.STRtree(unseen).query(predicted, predicate="intersects")
    near_true, _ = shapely.STRtree(true).query(predicted, predicate="intersects")
    return np.delete(predicted, np.setdiff1d(near_unseen, near_true))


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
