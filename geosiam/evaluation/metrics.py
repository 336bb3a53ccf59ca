"""How good a result is: by object, by pixel, by the paper's windows, and by how honest its probabilities are.

Everything here takes arrays and geometries and gives numbers. "Positive" is always the change (anomaly) class; no
figure is a mean over both classes, which would flatter every method on scenes that hardly change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]
    LabelArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ObjectScores:
    """Agreement of predicted and true objects.

    Parameters
    ----------
    recall
        Share of true objects that some predicted object meets; NaN where there is no true object.
    precision
        Share of predicted objects that meet some true object; NaN where nothing is predicted.
    found, truth
        Number of true objects met, and of all.
    correct, predicted
        Number of predicted objects that meet a true one, and of all.
    matched
        bool (truth,): which true objects are met.
    right
        bool (predicted,): which predicted objects meet a true one.
    """

    recall: float
    precision: float
    found: int
    truth: int
    correct: int
    predicted: int
    matched: NDArray[np.bool_]
    right: NDArray[np.bool_]

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision; 0 where either is 0 or undefined."""
        if not (self.recall > 0 and self.precision > 0):
            return 0.0
        return 2 * self.recall * self.precision / (self.recall + self.precision)


@dataclass(frozen=True)
class PixelScores:
    """Agreement of a score raster with a truth mask.

    Parameters
    ----------
    auroc
        Area under the ROC curve; NaN where truth has one class only.
    average_precision
        Area under the precision-recall curve (step-wise, as scikit-learn has it).
    best_f1, best_threshold
        Largest F1 over all thresholds, and the threshold that reaches it.
    f1, iou, precision, recall
        At the threshold that was asked for.
    scored, positive
        Number of scored pixels (or cells), and of true ones among them.
    """

    auroc: float
    average_precision: float
    best_f1: float
    best_threshold: float
    f1: float
    iou: float
    precision: float
    recall: float
    scored: int
    positive: int


def object_scores(predicted: Iterable[Any], truth: Iterable[Any], min_iou: float = 0.0) -> ObjectScores:
    """Compare two sets of polygons.

    Parameters
    ----------
    predicted, truth
        Geometries in one CRS: a GeoDataFrame, a GeoSeries or any iterable of shapely polygons.
    min_iou
        Two objects meet where their intersection over union is *greater*; with 0, where they share any area.
    """
    a, b = _geometries(predicted), _geometries(truth)
    right, matched = np.zeros(len(a), bool), np.zeros(len(b), bool)
    if len(a) and len(b):
        left_index, right_index = shapely.STRtree(b).query(a, predicate="intersects")
        common = shapely.area(shapely.intersection(a[left_index], b[right_index]))
        union = shapely.area(a)[left_index] + shapely.area(b)[right_index] - common
        meets = common > min_iou * union
        right[left_index[meets]] = True
        matched[right_index[meets]] = True
    return _object_scores(right, matched)


def object_scores_raster(predicted: LabelArray, truth: LabelArray, min_iou: float = 0.0) -> ObjectScores:
    """Compare two label rasters of one grid; each positive label is an object.

    Parameters
    ----------
    predicted, truth
        Integers (rows, cols), 0 or less = no object. Labels need not be consecutive.
    min_iou
        Two objects meet where their intersection over union is greater.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"label rasters of one grid have one shape, not {predicted.shape} and {truth.shape}")
    a, a_sizes = _dense(predicted)
    b, b_sizes = _dense(truth)
    overlap = np.zeros((len(a_sizes), len(b_sizes)), bool)
    pairs, common = np.unique(a.astype(np.int64) * (len(b_sizes) + 1) + b, return_counts=True)
    i, j = np.divmod(pairs, len(b_sizes) + 1)
    both = (i > 0) & (j > 0)
    i, j, common = i[both] - 1, j[both] - 1, common[both]
    overlap[i, j] = common > min_iou * (a_sizes[i] + b_sizes[j] - common)
    return _object_scores(np.asarray(overlap.any(axis=1)), np.asarray(overlap.any(axis=0)))


def _geometries(objects: Iterable[Any]) -> NDArray[Any]:
    """Return geometries as an array, whatever holds them."""
    return np.asarray(list(getattr(objects, "geometry", objects)), dtype=object)


def _dense(labels: LabelArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return labels renumbered 1, 2, ... (0 = none), flat, and the size of each."""
    flat = np.where(labels > 0, labels, 0).ravel()
    values, index, counts = np.unique(flat, return_inverse=True, return_counts=True)
    if len(values) and values[0] == 0:
        return index.astype(np.intp), counts[1:]
    return (index + 1).astype(np.intp), counts


def _object_scores(right: NDArray[np.bool_], matched: NDArray[np.bool_]) -> ObjectScores:
    found, correct = int(matched.sum()), int(right.sum())
    return ObjectScores(
        recall=_ratio(found, len(matched)),
        precision=_ratio(correct, len(right)),
        found=found,
        truth=len(matched),
        correct=correct,
        predicted=len(right),
        matched=matched,
        right=right,
    )


def pixel_scores(scores: FloatArray, truth_mask: NDArray[np.bool_], threshold: float = 0.5) -> PixelScores:
    """Compare a score raster with a truth mask of the same grid.

    Parameters
    ----------
    scores
        float (rows, cols), larger = more anomalous, NaN = not scored and left out.
    truth_mask
        bool (rows, cols), True = changed.
    threshold
        Pixels scored ``>= threshold`` are predicted.
    """
    score, truth = _scored(scores, truth_mask)
    hits = int((truth & (score >= threshold)).sum())
    predicted, positive = int((score >= threshold).sum()), int(truth.sum())
    curve = _Curve.of(score, truth)
    best_f1, best_threshold = curve.best_f1()
    return PixelScores(
        auroc=_auroc(score, truth),
        average_precision=curve.average_precision(),
        best_f1=best_f1,
        best_threshold=best_threshold,
        f1=_ratio(2 * hits, predicted + positive),
        iou=_ratio(hits, predicted + positive - hits),
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, positive),
        scored=score.size,
        positive=positive,
    )


def auroc(scores: FloatArray, truth: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Parameters
    ----------
    scores
        float, any shape, NaN = left out.
    truth
        bool, same shape.

    Returns
    -------
    0 to 1, NaN where one class is missing
    """
    return _auroc(*_scored(scores, truth))


def average_precision(scores: FloatArray, truth: NDArray[np.bool_]) -> float:
    """Return the step-wise area under the precision-recall curve, NaN without positives; arguments as for AUROC."""
    return _Curve.of(*_scored(scores, truth)).average_precision()


def window_auroc(
    scores: FloatArray, mask: NDArray[np.bool_], *, receptive_field: int, stride: int, offset: int | None = None,
    min_share: float = 0.0,
) -> float:  # fmt: skip
    """Return the AUROC in the paper's view, where a cell stands for the whole window it was computed from.

    Parameters
    ----------
    scores
        float (cell rows, cell cols), NaN = left out.
    mask
        bool (rows, cols) of pixels, True = anomalous. Beyond its edges nothing is anomalous.
    receptive_field, stride
        Size of the window and distance of neighboring windows, in pixels.
    offset
        First pixel of the first cell's window; the default centers the window on the cell, as the score raster does.
    min_share
        A window is positive where more than this share of its pixels is anomalous; with 0, where any is.
    """
    positive = window_truth(
        mask, scores.shape, receptive_field=receptive_field, stride=stride, offset=offset, min_share=min_share
    )
    return auroc(scores, positive)


def window_truth(
    mask: NDArray[np.bool_], cells: tuple[int, ...], *, receptive_field: int, stride: int, offset: int | None = None,
    min_share: float = 0.0,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return which cells' windows hold anomalous pixels: bool (cell rows, cell cols); see :func:`window_auroc`."""
    if offset is None:
        offset = -((receptive_field - stride) // 2)
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    total[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    edges = []
    for size, count in zip(mask.shape, cells, strict=True):
        start = np.arange(count) * stride + offset
        edges.append((start.clip(0, size), (start + receptive_field).clip(0, size)))
    (top, bottom), (left, right) = edges
    count = total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)]
    count += total[np.ix_(top, left)]
    return np.asarray(count > min_share * receptive_field**2)


def expected_calibration_error(scores: FloatArray, truth: NDArray[np.bool_], bins: int = 15) -> float:
    """Return the mean gap between predicted probability and observed frequency, over equally wide bins.

    Guo et al. 2017, "On calibration of modern neural networks", equation 3, for the probability of change.

    Parameters
    ----------
    scores
        float of any shape, probabilities 0 to 1, NaN = left out.
    truth
        bool, same shape.
    bins
        Number of bins.

    Returns
    -------
    0 to 1, NaN where nothing is scored
    """
    score, positive = _scored(scores, truth)
    if score.size == 0:
        return float("nan")
    index = np.minimum((score * bins).astype(np.intp), bins - 1)
    gap = np.bincount(index, weights=score - positive, minlength=bins)
    return float(np.abs(gap).sum() / score.size)


def _scored(scores: FloatArray, truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores and truth of the scored positions, flat."""
    if scores.shape != truth.shape:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} are not of one grid")
    valid = ~np.isnan(scores)
    return scores[valid].astype(np.float64), truth[valid].astype(bool)


def _auroc(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Mann-Whitney: mean ranks make ties count exactly half."""
    positive = int(truth.sum())
    negative = truth.size - positive
    if positive == 0 or negative == 0:
        return float("nan")
    ranks = stats.rankdata(score)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / positive / negative)


@dataclass(frozen=True)
class _Curve:
    """Hits and predictions at every distinct threshold, the highest first."""

    thresholds: NDArray[np.float64]
    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    positive: int

    @classmethod
    def of(cls, score: NDArray[np.float64], truth: NDArray[np.bool_]) -> _Curve:
        order = np.argsort(-score, kind="stable")
        score, truth = score[order], truth[order]
        last = np.flatnonzero(np.append(np.diff(score) != 0, np.ones(min(1, score.size), bool)))
        hits = truth.cumsum(dtype=np.int64)[last]
        return cls(score[last], hits, last.astype(np.int64) + 1, int(truth.sum()))

    def average_precision(self) -> float:
        if self.positive == 0:
            return float("nan")
        gained = np.diff(self.hits, prepend=0)
        return float((gained * self.hits / self.predicted).sum() / self.positive)

    def best_f1(self) -> tuple[float, float]:
        if self.positive == 0:
            return float("nan"), float("nan")
        f1 = 2 * self.hits / (self.predicted + self.positive)
        best = int(f1.argmax())
        return float(f1[best]), float(self.thresholds[best])


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
