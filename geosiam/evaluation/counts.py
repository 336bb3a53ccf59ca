"""Pixel metrics from counts by score: exact curves in memory that does not grow with the scene.

A uint8 score raster has 255 distinct scores. ROC and precision-recall curves, F1 and calibration depend only on the
number of changed and unchanged pixels of each score, whatever the size of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

CALIBRATION_BINS = 10
"""Number of bins of equal width in a calibration curve."""


@dataclass(frozen=True)
class ThresholdScores:
    """Agreement of the pixels scored ``>= threshold`` with the truth; only the change class is positive.

    Fractions with a denominator of 0 are NaN.

    Parameters
    ----------
    threshold
        The threshold; NaN if it differs between the parts of a sum.
    hits, predicted, positives
        Number of pixels (or square meters) that are both flagged and changed, that are flagged, and that are changed.
    """

    threshold: float
    hits: float
    predicted: float
    positives: float

    def __add__(self, other: Self) -> Self:
        threshold = self.threshold if self.threshold == other.threshold else float("nan")
        parts = (self.hits + other.hits, self.predicted + other.predicted, self.positives + other.positives)
        return type(self)(threshold, *parts)

    @property
    def precision(self) -> float:
        """Fraction of flagged pixels that are changed."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> float:
        """Fraction of changed pixels that are flagged."""
        return ratio(self.hits, self.positives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return ratio(2 * self.hits, self.predicted + self.positives)

    @property
    def iou(self) -> float:
        """Intersection over union of flagged and changed pixels."""
        return ratio(self.hits, self.predicted + self.positives - self.hits)


@dataclass(frozen=True)
class CalibrationBin:
    """Pixels of similar score: mean score, fraction of changed pixels, and number of pixels."""

    score: float
    changed: float
    pixels: int


@dataclass(frozen=True)
class ScoreCounts:
    """Number of changed and unchanged pixels of each score.

    Parameters
    ----------
    values
        float64 (n,), distinct scores, ascending.
    positive, negative
        int64 (n,), number of changed and of unchanged pixels with that score.
    """

    values: NDArray[np.float64]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]

    @classmethod
    def of(
        cls, scores: NDArray[np.floating[Any]], positive: NDArray[Any], total: NDArray[Any] | None = None,
        *, steps: int | None = None,
    ) -> Self:  # fmt: skip
        """Count the scores of an array.

        Parameters
        ----------
        scores
            float of any shape, larger = more anomalous, NaN = excluded.
        positive
            Array of the same shape: bool, True = changed; or, if each score stands for several pixels, the number of
            changed pixels.
        total
            Number of pixels that each score stands for; None: one.
        steps
            Round scores to multiples of 1 / steps, which bounds the number of distinct scores; None: do not round.
        """
        if scores.shape != positive.shape:
            raise ValueError(f"scores {scores.shape} and truth {positive.shape} are not of one grid")
        is_scored = ~np.isnan(scores)
        score = scores[is_scored].astype(np.float64)
        if steps is not None:
            score = np.rint(score * steps) / steps
        changed = positive[is_scored].astype(np.int64)
        pixels = np.ones_like(changed) if total is None else total[is_scored].astype(np.int64)
        values, index = np.unique(score, return_inverse=True)
        counts = (
            np.bincount(index, weights=weights, minlength=len(values)).astype(np.int64)
            for weights in (changed, pixels - changed)
        )
        return cls(values, *counts)

    @classmethod
    def none(cls) -> Self:
        """Return counts of zero pixels."""
        return cls(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def sum(cls, parts: Iterable[Self]) -> Self:
        """Add the counts of several parts of a scene, or of several scenes."""
        return reduce(cls.__add__, parts, cls.none())

    def __add__(self, other: Self) -> Self:
        values, index = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        merged = np.zeros((2, len(values)), np.int64)
        np.add.at(merged[0], index, np.concatenate([self.positive, other.positive]))
        np.add.at(merged[1], index, np.concatenate([self.negative, other.negative]))
        return type(self)(values, merged[0], merged[1])

    @property
    def positives(self) -> int:
        """Number of changed pixels."""
        return int(self.positive.sum())

    @property
    def pixels(self) -> int:
        """Number of scored pixels."""
        return int(self.positive.sum() + self.negative.sum())

    @property
    def auroc(self) -> float:
        """Area under the ROC curve: the chance that a changed pixel scores above an unchanged one, ties half."""
        if not self.positives or self.positives == self.pixels:
            return float("nan")
        below = self.negative.cumsum() - self.negative / 2
        return float((self.positive * below).sum() / self.positives / int(self.negative.sum()))

    @property
    def average_precision(self) -> float:
        """Area under the step-wise precision-recall curve, as in scikit-learn; NaN without changed pixels."""
        if not self.positives:
            return float("nan")
        hits, predicted = self._at_and_above()
        return float((self.positive * hits / np.maximum(predicted, 1)).sum() / self.positives)

    @property
    def best(self) -> ThresholdScores:
        """Scores at the threshold with the largest F1."""
        if not self.positives:
            return self.at(float("nan"))
        hits, predicted = self._at_and_above()
        f1 = 2 * hits / (predicted + self.positives)
        return self.at(float(self.values[len(f1) - 1 - int(f1[::-1].argmax())]))

    def at(self, threshold: float) -> ThresholdScores:
        """Return the agreement of the pixels scored ``>= threshold``."""
        above = self.values >= threshold
        hits = int(self.positive[above].sum())
        return ThresholdScores(threshold, hits, hits + int(self.negative[above].sum()), self.positives)

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Return ``threshold``, ``recall``, ``precision`` and ``false_alarm_rate`` by descending threshold."""
        hits, predicted = self._at_and_above()
        false = predicted - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            curves = {
                "threshold": self.values,
                "recall": hits / np.float64(self.positives),
                "precision": hits / predicted.astype(np.float64),
                "false_alarm_rate": false / np.float64(self.negative.sum()),
            }
        return {name: curve[::-1] for name, curve in curves.items()}

    def calibration(self, bins: int = 15, *, of_equal: Literal["mass", "width"] = "mass") -> list[CalibrationBin]:
        """Return pixels in bins by score, without empty bins.

        Parameters
        ----------
        bins
            Number of bins.
        of_equal
            ``"mass"``: bins with approximately equal numbers of pixels, pixels of equal score staying together;
            ``"width"``: bins of equal width from 0 to 1.
        """
        pixels = self.positive + self.negative
        if not pixels.sum():
            return []
        # With equal mass, a score belongs to the bin that contains the middle one of its pixels.
        position = (pixels.cumsum() - pixels / 2) / pixels.sum() if of_equal == "mass" else self.values
        index = np.minimum((position * bins).astype(np.intp), bins - 1)
        mass, changed, score = (
            np.bincount(index, weights=weights, minlength=bins)
            for weights in (pixels, self.positive, pixels * self.values)
        )
        return [
            CalibrationBin(float(s / m), float(c / m), int(m))
            for m, c, s in zip(mass, changed, score, strict=True)
            if m
        ]

    def calibration_error(self, bins: int = 15, *, of_equal: Literal["mass", "width"] = "mass") -> float:
        """Return the mean gap between score and fraction of changed pixels; arguments as for :meth:`calibration`.

        This is the expected calibration error of Guo et al., "On calibration of modern neural networks" (2017), by
        default with the adaptive bins of Nguyen and O'Connor, "Posterior calibration" (2015): if almost every score is
        close to 0, the first of the bins of equal width contains nearly all pixels.
        """
        parts = self.calibration(bins, of_equal=of_equal)
        return ratio(sum(abs(part.score - part.changed) * part.pixels for part in parts), self.pixels)

    def _at_and_above(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of changed pixels, and of all pixels, with each score or more."""
        hits = self.positive[::-1].cumsum()[::-1]
        return hits, hits + self.negative[::-1].cumsum()[::-1]


def ratio(part: float, whole: float) -> float:
    """Return a fraction; NaN if the whole is 0."""
    return part / whole if whole else float("nan")


def in_cells(mask: NDArray[np.bool_], stride: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of True pixels and of all pixels of each cell, both int64 (cell rows, cell cols).

    Parameters
    ----------
    mask
        bool (rows, cols) of pixels.
    stride
        Side of a cell in pixels. The last cells may extend beyond the scene and then have fewer pixels.
    """
    tops, lefts = (np.arange(0, size, stride) for size in mask.shape)
    counts = np.add.reduceat(np.add.reduceat(mask.astype(np.int64), tops, axis=0), lefts, axis=1)
    heights, widths = (np.diff(starts, append=size) for starts, size in zip((tops, lefts), mask.shape, strict=True))
    return counts, np.outer(heights, widths)
