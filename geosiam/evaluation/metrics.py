"""Metrics of arrays and geometries: objects, AUROC, and the windows of the seed paper.

"Positive" is always the change (anomaly) class. No metric is a mean over both classes, which would flatter every method
on scenes where little changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import shapely
from scipy import stats

from geosiam.evaluation.counts import ratio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]
    BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class ObjectScores:
    """Agreement of predicted objects with true objects.

    Parameters
    ----------
    found, truth
        Number of true objects that match a predicted one, and number of all true objects.
    correct, predicted
        Number of predicted objects that match a true one, and number of all predicted objects.
    """

    found: int
    truth: int
    correct: int
    predicted: int

    @classmethod
    def of_matches(cls, is_correct: BoolArray, is_found: BoolArray) -> Self:
        """Count matches, given as bool (predicted,) and bool (truth,)."""
        return cls(int(is_found.sum()), len(is_found), int(is_correct.sum()), len(is_correct))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.found + other.found,
            self.truth + other.truth,
            self.correct + other.correct,
            self.predicted + other.predicted,
        )

    @property
    def recall(self) -> float:
        """Fraction of true objects that are found; NaN without true objects."""
        return ratio(self.found, self.truth)

    @property
    def precision(self) -> float:
        """Fraction of predicted objects that are correct; NaN without predicted objects."""
        return ratio(self.correct, self.predicted)

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision; 0 if either is 0 or undefined."""
        if not (self.recall > 0 and self.precision > 0):
            return 0.0
        return 2 * self.recall * self.precision / (self.recall + self.precision)


def object_scores(predicted: Iterable[Any], truth: Iterable[Any], min_iou: float = 0.0) -> ObjectScores:
    """Compare two sets of polygons; arguments as for :func:`match_objects`."""
    return ObjectScores.of_matches(*match_objects(predicted, truth, min_iou))


def match_objects(predicted: Iterable[Any], truth: Iterable[Any], min_iou: float = 0.0) -> tuple[BoolArray, BoolArray]:
    """Return which predicted objects match a true one, bool (predicted,), and the reverse, bool (truth,).

    Several predicted objects may match one true object, and one several.

    Parameters
    ----------
    predicted, truth
        Geometries in one CRS: a GeoDataFrame, a GeoSeries or any iterable of shapely polygons.
    min_iou
        Two objects match if their intersection over union is *greater*; with 0, if they share any area.
    """
    a, b = _geometries(predicted), _geometries(truth)
    is_correct, is_found = np.zeros(len(a), bool), np.zeros(len(b), bool)
    if len(a) and len(b):
        a_index, b_index = shapely.STRtree(b).query(a, predicate="intersects")
        common = shapely.area(shapely.intersection(a[a_index], b[b_index]))
        union = shapely.area(a)[a_index] + shapely.area(b)[b_index] - common
        matches = common > min_iou * union
        is_correct[a_index[matches]] = True
        is_found[b_index[matches]] = True
    return is_correct, is_found


def _geometries(objects: Iterable[Any]) -> NDArray[Any]:
    """Return the geometries of any container as an array."""
    return np.asarray(list(getattr(objects, "geometry", objects)), dtype=object)


def auroc(scores: FloatArray, truth: BoolArray) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative; ties count half.

    Parameters
    ----------
    scores
        float of any shape, larger = more anomalous, NaN = excluded.
    truth
        bool of the same shape, True = changed.

    Returns
    -------
    0 to 1, NaN if one class is missing
    """
    if scores.shape != truth.shape:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} are not of one grid")
    valid = ~np.isnan(scores)
    score, is_positive = scores[valid].astype(np.float64), truth[valid].astype(bool)
    positive = int(is_positive.sum())
    negative = is_positive.size - positive
    if positive == 0 or negative == 0:
        return float("nan")
    ranks = stats.rankdata(score)  # Mann-Whitney: mean ranks make ties count exactly half
    return float((ranks[is_positive].sum() - positive * (positive + 1) / 2) / positive / negative)


def window_auroc(
    scores: FloatArray, mask: BoolArray, *, receptive_field: int, stride: int, offset: int | None = None,
    min_share: float = 0.0,
) -> float:  # fmt: skip
    """Return the AUROC in the paper's view, in which a cell stands for the whole window it was computed from.

    Parameters
    ----------
    scores
        float (cell rows, cell cols), NaN = excluded.
    mask
        bool (rows, cols) of pixels, True = anomalous. Nothing is anomalous beyond its edges.
    receptive_field, stride
        Size of the windows and distance between neighboring windows, in pixels.
    offset
        First pixel of the first cell's window; by default windows are centered on their cells, as in the score raster.
    min_share
        A window is positive if more than this fraction of its pixels is anomalous; with 0, if any pixel is.
    """
    positive = window_truth(
        mask, scores.shape, receptive_field=receptive_field, stride=stride, offset=offset, min_share=min_share
    )
    return auroc(scores, positive)


def window_truth(
    mask: BoolArray, cells: tuple[int, ...], *, receptive_field: int, stride: int, offset: int | None = None,
    min_share: float = 0.0,
) -> BoolArray:  # fmt: skip
    """Return which cells' windows contain anomalous pixels: bool (cell rows, cell cols); see :func:`window_auroc`."""
    if offset is None:
        offset = -((receptive_field - stride) // 2)
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    total[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    edges = []
    for size, count in zip(mask.shape, cells, strict=True):
        start = np.arange(count) * stride + offset
        edges.append((start.clip(0, size), (start + receptive_field).clip(0, size)))
    (top, bottom), (left, right) = edges
    anomalous = total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)]
    anomalous += total[np.ix_(top, left)]
    return np.asarray(anomalous > min_share * receptive_field**2)
