"""Scores against truth as counts by score: exact curves in memory that does not grow with the scene.

A score raster of uint8 knows 255 scores. Whatever the size of the scene, all that ROC and precision-recall curves, F1
and calibration depend on is how many changed and unchanged pixels have each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class ThresholdScores:
    """Agreement of what is scored ``>= threshold`` with the truth; the positive class is the change, alone.

    Shares of nothing are NaN.

    Parameters
    ----------
    threshold
        What was asked for; NaN where it differs between parts.
    hits, predicted, positives
        Pixels (or square metres) that are flagged and changed, flagged, and changed.
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
        """Share of what is flagged that is changed."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> float:
        """Share of what is changed that is flagged."""
        return ratio(self.hits, self.positives)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return ratio(2 * self.hits, self.predicted + self.positives)

    @property
    def iou(self) -> float:
        """Intersection over union."""
        return ratio(self.hits, self.predicted + self.positives - self.hits)


@dataclass(frozen=True)
class CalibrationBin:
    """Pixels of similar score: their mean score, the share of them that is changed, and their number."""

    score: float
    changed: float
    pixels: int


@dataclass(frozen=True)
class ScoreCounts:
    """How many changed and unchanged pixels have each score.

    Parameters
    ----------
    values
        float64 (n,), the distinct scores, ascending.
    positive, negative
        int64 (n,), changed and unchanged pixels of that score.
    """

    values: NDArray[np.float64]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]

    @classmethod
    def of(
        cls, scores: NDArray[np.floating[Any]], positive: NDArray[Any], total: NDArray[Any] | None = None,
        *, steps: int | None = None,
    ) -> Self:  # fmt: skip
        """Count an array.

        Parameters
        ----------
        scores
            float of any shape, larger = more anomalous, NaN = left out.
        positive
            Of the same shape: bool, True = changed; or, where each score stands for several pixels, how many of them
            are changed.
        total
            How many pixels each score stands for; None: one.
        steps
            Round scores to multiples of 1 / steps, which bounds the number of distinct ones; None keeps them.
        """
        if scores.shape != positive.shape:
            raise ValueError(f"scores {scores.shape} and truth {positive.shape} are not of one grid")
        known = ~np.isnan(scores)
        score = scores[known].astype(np.float64)
        if steps is not None:
            score = np.rint(score * steps) / steps
        changed = positive[known].astype(np.int64)
        whole = np.ones_like(changed) if total is None else total[known].astype(np.int64)
        values, index = np.unique(score, return_inverse=True)
        counts = (
            np.bincount(index, weights=weights, minlength=len(values)).astype(np.int64)
            for weights in (changed, whole - changed)
        )
        return cls(values, *counts)

    @classmethod
    def none(cls) -> Self:
        """Return the counts of no pixel at all."""
        return cls(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def sum(cls, parts: Iterable[Self]) -> Self:
        """Add counts of parts of a scene, or of several."""
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
        """Area under the precision-recall curve, step-wise as scikit-learn has it; NaN without changed pixels."""
        if not self.positives:
            return float("nan")
        hits, predicted = self._at_and_above()
        return float((self.positive * hits / np.maximum(predicted, 1)).sum() / self.positives)

    @property
    def best(self) -> ThresholdScores:
        """The threshold of the largest F1, and the figures there."""
        if not self.positives:
            return self.at(float("nan"))
        hits, predicted = self._at_and_above()
        f1 = 2 * hits / (predicted + self.positives)
        return self.at(float(self.values[len(f1) - 1 - int(f1[::-1].argmax())]))

    def at(self, threshold: float) -> ThresholdScores:
        """Return the figures of the pixels scored ``>= threshold``."""
        above = self.values >= threshold
        hits = int(self.positive[above].sum())
        return ThresholdScores(threshold, hits, hits + int(self.negative[above].sum()), self.positives)

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Return ``threshold``, ``recall``, ``precision`` and ``false_alarm_rate``, the highest threshold first."""
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
        """Return pixels in bins by score, those that hold any.

        Parameters
        ----------
        bins
            Their number.
        of_equal
            Bins of equal numbers of pixels, as far as equal scores allow, which are never parted; or equally wide ones
            from 0 to 1.
        """
        whole = self.positive + self.negative
        if not whole.sum():
            return []
        # With equal mass a score belongs to the bin in which the middle of its pixels lies.
        share = (whole.cumsum() - whole / 2) / whole.sum() if of_equal == "mass" else self.values
        index = np.minimum((share * bins).astype(np.intp), bins - 1)
        mass, changed, score = (
            np.bincount(index, weights=weights, minlength=bins)
            for weights in (whole, self.positive, whole * self.values)
        )
        return [
            CalibrationBin(float(s / m), float(c / m), int(m))
            for m, c, s in zip(mass, changed, score, strict=True)
            if m
        ]

    def calibration_error(self, bins: int = 15) -> float:
        """Return the mean gap between score and share of changed pixels, over bins of equal mass.

        The expected calibration error of Guo et al., "On calibration of modern neural networks" (2017), with the
        adaptive bins of Nguyen and O'Connor, "Posterior calibration" (2015): where almost every score is next to 0,
        bins of equal width would hold everything in the first one.
        """
        parts = self.calibration(bins)
        return ratio(sum(abs(part.score - part.changed) * part.pixels for part in parts), self.pixels)

    def _at_and_above(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return changed pixels, and all, of each score or more."""
        hits = self.positive[::-1].cumsum()[::-1]
        return hits, hits + self.negative[::-1].cumsum()[::-1]


def ratio(part: float, whole: float) -> float:
    """Return a share, NaN of nothing."""
    return part / whole if whole else float("nan")


def in_cells(mask: NDArray[np.bool_], stride: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many pixels of each cell are True, and how many it has: int64 (cell rows, cell cols) each.

    Parameters
    ----------
    mask
        bool (rows, cols) of pixels.
    stride
        Pixels along a cell's side; the last cells may reach beyond the scene and then have fewer.
    """
    down, across = (np.arange(0, size, stride) for size in mask.shape)
    summed = np.add.reduceat(np.add.reduceat(mask.astype(np.int64), down, axis=0), across, axis=1)
    heights, widths = (np.diff(edges, append=size) for edges, size in zip((down, across), mask.shape, strict=True))
    return summed, np.outer(heights, widths)
