"""How well scores, or polygons, agree with the truth of one pair: strip by strip, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import shapely

from geosiam.evaluation.counts import ScoreCounts, ThresholdScores, in_cells, ratio
from geosiam.evaluation.metrics import object_scores
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_table
from geosiam.scores.working_file import FINE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import geopandas
    from affine import Affine
    from numpy.typing import NDArray

    from geosiam.evaluation.truth import Truth
    from geosiam.scores.raster import Scores

CLOSE = 0.5
_LEAST_SEEN = 0.5  # of an object's pixels that are scored, for it to count
_STRIP_CELLS = 256


@dataclass(frozen=True)
class ObjectCounts:
    """Objects found and reported, where two meet from an intersection over union greater than ``min_iou``."""

    min_iou: float
    found: int
    truth: int
    right: int
    predicted: int

    @classmethod
    def of(cls, predicted: NDArray[Any], truth: NDArray[Any], min_iou: float) -> Self:
        """Compare two sets of polygons in one CRS."""
        scores = object_scores(predicted, truth, min_iou)
        return cls(min_iou, scores.found, scores.truth, scores.correct, scores.predicted)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.min_iou, self.found + other.found, self.truth + other.truth, self.right + other.right,
            self.predicted + other.predicted,
        )  # fmt: skip

    @property
    def recall(self) -> float:
        """Share of true objects that are found."""
        return ratio(self.found, self.truth)

    @property
    def precision(self) -> float:
        """Share of reported objects that are right."""
        return ratio(self.right, self.predicted)


@dataclass(frozen=True)
class Agreement:
    """How well one method did, on one pair or several.

    Parameters
    ----------
    fixed
        Pixels at the threshold that the method chose itself, or area where only polygons are known.
    meeting, close
        Objects at that threshold, from any common area on, and from an intersection over union of one half on.
    pixels
        Pixels of the before-scene that were looked at.
    unseen
        True objects left out because most of them lies where nothing was scored or the truth is unknown.
    counts
        Changed and unchanged pixels by score; None where only polygons are known.
    calibrated
        Whether the scores claim to be probabilities.
    """

    fixed: ThresholdScores
    meeting: ObjectCounts
    close: ObjectCounts
    pixels: int
    unseen: int
    counts: ScoreCounts | None = None
    calibrated: bool = True

    def __add__(self, other: Self) -> Self:
        known = self.counts is not None and other.counts is not None
        return type(self)(
            fixed=self.fixed + other.fixed,
            meeting=self.meeting + other.meeting,
            close=self.close + other.close,
            pixels=self.pixels + other.pixels,
            unseen=self.unseen + other.unseen,
            counts=ScoreCounts.sum([self.counts, other.counts]) if known else None,  # type: ignore[list-item]
            calibrated=self.calibrated and other.calibrated,
        )

    def figures(self) -> dict[str, float]:
        """Return all figures by name; what cannot be told is NaN."""
        counts, nothing = self.counts, float("nan")
        alarms = self.meeting.predicted - self.meeting.right
        return {
            "auroc": counts.auroc if counts else nothing,
            "average_precision": counts.average_precision if counts else nothing,
            "best_f1": counts.best.f1 if counts else nothing,
            "best_threshold": counts.best.threshold if counts else nothing,
            "threshold": self.fixed.threshold,
            "f1": self.fixed.f1,
            "iou": self.fixed.iou,
            "pixel_recall": self.fixed.recall,
            "pixel_precision": self.fixed.precision,
            "object_recall": self.meeting.recall,
            "object_precision": self.meeting.precision,
            "object_recall_iou50": self.close.recall,
            "object_precision_iou50": self.close.precision,
            "objects_true": self.meeting.truth,
            "objects_reported": self.meeting.predicted,
            "objects_unseen": self.unseen,
            "alarms_per_megapixel": ratio(alarms, self.pixels / 1e6),
            "calibration_error": counts.calibration_error() if counts and self.calibrated else nothing,
            "pixels": self.pixels if counts else nothing,
        }


def pixel_grid(scores: Scores) -> Grid:
    """Return the grid of the before-scene's pixels, which a raster of cells was made on."""
    stride = scores.stride
    rows, cols = (round(cells * stride) for cells in scores.extent)
    t: Affine = scores.grid.transform
    return Grid(scores.grid.crs, t @ t.scale(1 / stride), cols, rows)


def judge_scores(
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
        The raster, read once for its pixels and once for its polygons.
    truth
        On the grid of :func:`pixel_grid`.
    threshold, seed_threshold, min_area
        What polygons are cut at, as in :func:`geosiam.polygons.table.vectorize`.
    calibrated
        Whether the scores claim to be probabilities.
    """
    counts = ScoreCounts.none()
    seen = np.zeros(len(truth.polygons) + 1, np.int64)
    drawn = seen.copy()
    width, height = truth.grid.width, truth.grid.height
    for first, strip in scores.strips(_STRIP_CELLS):
        top, bottom = first * scores.stride, min((first + len(strip)) * scores.stride, height)
        objects = truth.objects(Window(top, bottom, 0, width))
        known = objects >= 0
        changed, _ = in_cells(objects > 0, scores.stride)
        total, _ = in_cells(known, scores.stride)
        counts += ScoreCounts.of(strip, changed, total, steps=FINE_STEPS)
        scored = np.repeat(np.repeat(~np.isnan(strip), scores.stride, 0), scores.stride, 1)[: len(objects), :width]
        numbers = objects[known & (objects > 0)]
        drawn += np.bincount(numbers, minlength=len(drawn))
        seen += np.bincount(objects[known & (objects > 0) & scored], minlength=len(seen))
    counted = seen[1:] >= _LEAST_SEEN * np.maximum(drawn[1:], 1)
    cut = PolygonOptions(threshold=threshold, seed_threshold=seed_threshold, min_area=min_area)
    outlines = polygon_table(scores, cut).frame().geometry
    return _agreement(counts, counts.at(threshold), np.asarray(outlines), truth, counted, calibrated=calibrated)


def _agreement(
    counts: ScoreCounts, fixed: ThresholdScores, predicted: NDArray[Any], truth: Truth, counted: NDArray[np.bool_],
    *, calibrated: bool,
) -> Agreement:  # fmt: skip
    # What is reported where the true objects were left out is neither right nor wrong.
    left_out, true = truth.polygons[~counted], truth.polygons[counted]
    if len(left_out) and len(predicted):
        about, _ = shapely.STRtree(left_out).query(predicted, predicate="intersects")
        elsewhere, _ = shapely.STRtree(true).query(predicted, predicate="intersects")
        predicted = np.delete(predicted, np.setdiff1d(about, elsewhere))
    return Agreement(
        fixed=fixed,
        meeting=ObjectCounts.of(predicted, true, 0.0),
        close=ObjectCounts.of(predicted, true, CLOSE),
        pixels=counts.pixels,
        unseen=int((~counted).sum()),
        counts=counts,
        calibrated=calibrated,
    )


def judge_polygons(predicted: geopandas.GeoDataFrame, truth: Truth) -> Agreement:
    """Compare polygons with the truth, by object and by area; what lies where the truth is unknown counts as wrong.

    Parameters
    ----------
    predicted
        In the CRS of the truth's grid.
    truth
        Its grid says how large a pixel is.
    """
    outlines = np.asarray(predicted.geometry, dtype=object)
    found, true = shapely.union_all(outlines), shapely.union_all(truth.polygons)
    common = float(shapely.area(shapely.intersection(found, true)))
    fixed = ThresholdScores(float("nan"), common, float(shapely.area(found)), float(shapely.area(true)))
    return Agreement(
        fixed=fixed,
        meeting=ObjectCounts.of(outlines, truth.polygons, 0.0),
        close=ObjectCounts.of(outlines, truth.polygons, CLOSE),
        pixels=0,
        unseen=0,
    )


def together(parts: Sequence[Agreement]) -> Agreement:
    """Add up several pairs: all their pixels, and all their objects, as if they were one scene."""
    return reduce(Agreement.__add__, parts)


@dataclass(frozen=True)
class ScoreMap:
    """Scores of every pixel, such as a baseline's.

    Parameters
    ----------
    scores
        float32 (rows, cols) in [0, 1], NaN = not scored.
    grid
        Where they lie.
    """

    scores: NDArray[np.float32]
    grid: Grid
    stride: int = 1

    @property
    def extent(self) -> tuple[float, float]:
        """Where the scene ends, in cells (rows, cols)."""
        return float(self.grid.height), float(self.grid.width)

    def strips(self, rows: int = 512) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores, from top to bottom."""
        for start in range(0, self.grid.height, rows):
            yield start, self.scores[start : start + rows]

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window inside the map."""
        scores: NDArray[np.float32] = self.scores[window.slices]
        return scores
