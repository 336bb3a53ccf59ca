"""Objects in label rasters, and at every threshold: the cost of recall in false alarms.

Counting rules. Neighboring cells (8-connected) at or above the threshold are one predicted object. It is correct if it
shares any pixel with a true object, and otherwise an alarm. A true object is found if any of its pixels is flagged. A
map that flags everything is a single correct object that finds all true objects: thresholds at which more than a tenth
of the unchanged ground is flagged are therefore excluded, and an alarm rate holds only down to the first threshold that
exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from geosiam.evaluation.counts import in_cells
from geosiam.evaluation.metrics import ObjectScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FLAGGED = 0.1
"""Largest fraction of the unchanged ground that may be flagged or reviewed."""

EIGHT_CONNECTED = np.ones((3, 3), int)
_THRESHOLDS = 40
_MIN_SHARE, _MAX_SHARE = 1e-5, 0.5  # fractions of the scene that the highest and the lowest threshold flag


def object_scores_raster(
    predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], min_iou: float = 0.0
) -> ObjectScores:
    """Compare two label rasters of one grid; each positive label is an object.

    Parameters
    ----------
    predicted, truth
        Integers (rows, cols), 0 or less = no object. Labels need not be consecutive.
    min_iou
        Two objects match if their intersection over union is greater.
    """
    return ObjectScores.of_matches(*match_labels(predicted, truth, min_iou))


def match_labels(
    predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], min_iou: float = 0.0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which predicted labels match a true one, bool (predicted,), and the reverse, bool (truth,)."""
    if predicted.shape != truth.shape:
        raise ValueError(f"label rasters of one grid have one shape, not {predicted.shape} and {truth.shape}")
    a, a_sizes = _renumber(predicted)
    b, b_sizes = _renumber(truth)
    matches = np.zeros((len(a_sizes), len(b_sizes)), bool)
    pairs, common = np.unique(a.astype(np.int64) * (len(b_sizes) + 1) + b, return_counts=True)
    i, j = np.divmod(pairs, len(b_sizes) + 1)
    both = (i > 0) & (j > 0)
    i, j, common = i[both] - 1, j[both] - 1, common[both]
    matches[i, j] = common > min_iou * (a_sizes[i] + b_sizes[j] - common)
    return matches.any(axis=1), matches.any(axis=0)


def _renumber(labels: NDArray[np.integer[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return labels renumbered 1, 2, ... (0 = none), flat, and the size of each object in pixels."""
    flat = np.where(labels > 0, labels, 0).ravel()
    values, index, counts = np.unique(flat, return_inverse=True, return_counts=True)
    if len(values) and values[0] == 0:
        return index.astype(np.intp), counts[1:]
    return (index + 1).astype(np.intp), counts


@dataclass(frozen=True)
class ObjectSweep:
    """Objects at descending thresholds; all arrays have shape (thresholds,).

    Parameters
    ----------
    thresholds
        float64, descending.
    found
        Number of true objects that are found.
    predicted, alarms
        Number of predicted objects, and of those that overlap no true one.
    flagged
        Fraction of the unchanged ground that is flagged.
    truth
        Number of true objects.
    megapixels
        Number of scored pixels of the before scene, in millions.
    """

    thresholds: NDArray[np.float64]
    found: NDArray[np.int64]
    predicted: NDArray[np.int64]
    alarms: NDArray[np.int64]
    flagged: NDArray[np.float64]
    truth: int
    megapixels: float

    def recall_at_precision(self, precision: float) -> float:
        """Return the largest recall with at least this precision; 0 if no threshold reaches it."""
        if not self.truth:
            return float("nan")
        is_precise = (self.predicted - self.alarms >= precision * self.predicted) & (self.flagged <= MAX_FLAGGED)
        return float(np.where(is_precise, self.found, 0).max(initial=0) / self.truth)

    def recall_at_alarms(self, per_megapixel: float) -> float:
        """Return the recall at the lowest threshold before the alarms first exceed a rate per million pixels."""
        if not self.truth:
            return float("nan")
        exceeds = (self.alarms > per_megapixel * self.megapixels) | (self.flagged > MAX_FLAGGED)
        count = int(exceeds.argmax()) if exceeds.any() else len(exceeds)
        return float(self.found[:count].max(initial=0) / self.truth)


def sweep_objects(scores: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]], stride: int = 1) -> ObjectSweep:
    """Count objects at thresholds spread over the scores, densely where few pixels are flagged.

    Parameters
    ----------
    scores
        float (cell rows, cell cols), NaN = not scored.
    truth
        Integers (rows, cols) of pixels: number of the true object, 0 = none.
    stride
        Side of a cell in pixels.
    """
    changed, size = in_cells(truth > 0, stride)
    is_scored = ~np.isnan(scores)
    filled = np.where(is_scored, scores, -np.inf)
    best = _best_score_of_each(filled, truth, stride)
    unchanged = np.where(is_scored, size - changed, 0)
    thresholds = _thresholds(scores[is_scored])
    counts = [_count(filled >= threshold, changed > 0) for threshold in thresholds]
    predicted, correct = np.array(counts, np.int64).reshape(-1, 2).T
    flagged = [unchanged[filled >= threshold].sum() / max(1, unchanged.sum()) for threshold in thresholds]
    return ObjectSweep(
        thresholds=thresholds,
        found=np.array([(best >= threshold).sum() for threshold in thresholds], np.int64),
        predicted=predicted,
        alarms=predicted - correct,
        flagged=np.array(flagged, np.float64),
        truth=int(np.isfinite(best).sum()),
        megapixels=float(size[is_scored].sum() / 1e6),
    )


def recall_of_strongest(
    objects: NDArray[np.integer[Any]],
    strength: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    max_alarms: float,
) -> float:
    """Return the recall if reported objects are reviewed from the strongest one, until there are too many alarms.

    The review also ends before more than :data:`MAX_FLAGGED` of the unchanged ground has been looked at. Of objects of
    equal strength, alarms come first. An object without pixels does not count.

    Parameters
    ----------
    objects
        Integers (rows, cols) of pixels: number of the reported object, counted from 1; 0 = none.
    strength
        Strength of each object, shape (count,).
    truth
        Integers (rows, cols): number of the true object, 0 = none.
    max_alarms
        Largest number of alarms.
    """
    true_numbers = np.unique(truth[truth > 0])
    if not len(true_numbers):
        return float("nan")
    count = len(strength)
    overlap = (objects > 0) & (truth > 0)
    matches = np.unique(np.stack([objects[overlap] - 1, np.searchsorted(true_numbers, truth[overlap])]), axis=1)
    is_correct = np.zeros(count, bool)
    is_correct[matches[0]] = True
    has_pixels = np.bincount(objects[objects > 0] - 1, minlength=count) > 0
    order = np.lexsort((is_correct, -strength))
    order = order[has_pixels[order]]
    unchanged_px = np.bincount(objects[(objects > 0) & (truth <= 0)] - 1, minlength=count)
    in_limits = np.cumsum(~is_correct[order]) <= max_alarms
    in_limits &= np.cumsum(unchanged_px[order]) <= MAX_FLAGGED * (truth <= 0).sum()
    reviewed = order if in_limits.all() else order[: int(in_limits.argmin())]
    return float(len(np.unique(matches[1, np.isin(matches[0], reviewed)])) / len(true_numbers))


def _thresholds(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return thresholds, descending."""
    if not scores.size:
        return np.zeros(0)
    shares = np.geomspace(_MIN_SHARE, _MAX_SHARE, _THRESHOLDS)
    return np.unique(np.quantile(scores.astype(np.float64), 1 - shares, method="higher"))[::-1]


def _best_score_of_each(
    filled: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]], stride: int
) -> NDArray[Any]:
    """Return the highest score on each true object."""
    row, col = np.nonzero(truth)
    if not len(row):
        return np.zeros(0)
    _, index = np.unique(truth[row, col], return_inverse=True)
    best = np.full(int(index.max()) + 1, -np.inf)
    np.maximum.at(best, index, filled[row // stride, col // stride])
    return best


def _count(flagged: NDArray[np.bool_], changed: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the number of components, and of those that overlap a change."""
    labels, count = ndimage.label(flagged, EIGHT_CONNECTED)
    return count, len(np.unique(labels[changed & flagged]))
