"""Objects at every threshold: what recall costs in false alarms.

Counting rules. Neighboring cells (8-connected) from the threshold up are one predicted object. It is right where it
shares any pixel with a true object, and otherwise an alarm; a true object is found where any of its pixels is flagged.
A map that flags everything is one single right object that finds all: thresholds at which more than a tenth of the
unchanged ground is flagged therefore do not count, and an alarm rate holds only down to the first threshold that
exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from geosiam.evaluation.counts import in_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_FLAGGED = 0.1
_EIGHT = np.ones((3, 3), int)
_THRESHOLDS = 40
_TOP, _BOTTOM = 1e-5, 0.5  # shares of the scene that the highest and the lowest threshold flag


@dataclass(frozen=True)
class ObjectSweep:
    """Objects by threshold, the highest first; arrays of one length.

    Parameters
    ----------
    thresholds
        float64.
    found
        True objects that are met.
    predicted, alarms
        Predicted objects, and those of them that meet no true one.
    flagged
        Share of the unchanged ground that is flagged.
    truth
        Number of true objects.
    megapixels
        Scored pixels of the before-scene, in millions.
    """

    thresholds: NDArray[np.float64]
    found: NDArray[np.int64]
    predicted: NDArray[np.int64]
    alarms: NDArray[np.int64]
    flagged: NDArray[np.float64]
    truth: int
    megapixels: float

    def recall_at_precision(self, precision: float) -> float:
        """Return the largest recall with at least this share of right objects; 0 where there is none."""
        if not self.truth:
            return float("nan")
        good = (self.predicted - self.alarms >= precision * self.predicted) & (self.flagged <= MOST_FLAGGED)
        return float(np.where(good, self.found, 0).max(initial=0) / self.truth)

    def recall_at_alarms(self, per_megapixel: float) -> float:
        """Return the recall at the lowest threshold before alarms first exceed a rate per million pixels."""
        if not self.truth:
            return float("nan")
        bad = (self.alarms > per_megapixel * self.megapixels) | (self.flagged > MOST_FLAGGED)
        until = int(bad.argmax()) if bad.any() else len(bad)
        return float(self.found[:until].max(initial=0) / self.truth)


def sweep_objects(scores: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]], stride: int = 1) -> ObjectSweep:
    """Count objects at thresholds spread over the scores, dense where few pixels are flagged.

    Parameters
    ----------
    scores
        float (cell rows, cell cols), NaN = not scored.
    truth
        Integers (rows, cols) of pixels: number of the true object, 0 = none.
    stride
        Pixels along a cell's side.
    """
    changed, size = in_cells(truth > 0, stride)
    known = ~np.isnan(scores)
    filled = np.where(known, scores, -np.inf)
    best = _best_of_each(filled, truth, stride)
    unchanged = np.where(known, size - changed, 0)
    thresholds = _spread(scores[known])
    rows = [_count(filled >= threshold, changed > 0) for threshold in thresholds]
    predicted, right = np.array(rows, np.int64).reshape(-1, 2).T
    flagged = [unchanged[filled >= threshold].sum() / max(1, unchanged.sum()) for threshold in thresholds]
    return ObjectSweep(
        thresholds=thresholds,
        found=np.array([(best >= threshold).sum() for threshold in thresholds], np.int64),
        predicted=predicted,
        alarms=predicted - right,
        flagged=np.array(flagged, np.float64),
        truth=int(np.isfinite(best).sum()),
        megapixels=float(size[known].sum() / 1e6),
    )


def recall_of_strongest(
    objects: NDArray[np.integer[Any]],
    strength: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    alarms: float,
) -> float:
    """Return the recall of who looks at reported objects, the strongest first, until alarms exceed a number.

    It ends before more than :data:`MOST_FLAGGED` of the unchanged ground has been looked at. Of equally strong objects
    the alarms come first. An object without a pixel is none.

    Parameters
    ----------
    objects
        Integers (rows, cols) of pixels: number of the reported object from 1 on, 0 = none.
    strength
        Of each object, shape (count,).
    truth
        Integers (rows, cols): number of the true object, 0 = none.
    alarms
        How many may be seen.
    """
    wanted = np.unique(truth[truth > 0])
    if not len(wanted):
        return float("nan")
    count = len(strength)
    met = (objects > 0) & (truth > 0)
    meetings = np.unique(np.stack([objects[met] - 1, np.searchsorted(wanted, truth[met])]), axis=1)
    right = np.zeros(count, bool)
    right[meetings[0]] = True
    there = np.bincount(objects[objects > 0] - 1, minlength=count) > 0
    order = np.lexsort((right, -strength))
    order = order[there[order]]
    waste = np.bincount(objects[(objects > 0) & (truth <= 0)] - 1, minlength=count)
    within = np.cumsum(~right[order]) <= alarms
    within &= np.cumsum(waste[order]) <= MOST_FLAGGED * (truth <= 0).sum()
    seen = order if within.all() else order[: int(within.argmin())]
    return float(len(np.unique(meetings[1, np.isin(meetings[0], seen)])) / len(wanted))


def _spread(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return thresholds, descending."""
    if not scores.size:
        return np.zeros(0)
    shares = np.geomspace(_TOP, _BOTTOM, _THRESHOLDS)
    return np.unique(np.quantile(scores.astype(np.float64), 1 - shares, method="higher"))[::-1]


def _best_of_each(filled: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]], stride: int) -> NDArray[Any]:
    """Return the highest score on each true object."""
    row, col = np.nonzero(truth)
    if not len(row):
        return np.zeros(0)
    _, index = np.unique(truth[row, col], return_inverse=True)
    best = np.full(int(index.max()) + 1, -np.inf)
    np.maximum.at(best, index, filled[row // stride, col // stride])
    return best


def _count(flagged: NDArray[np.bool_], changed: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the number of components, and of those that meet a change."""
    labels, count = ndimage.label(flagged, _EIGHT)
    met = np.unique(labels[changed & flagged])
    return count, len(met)
