"""Choose the threshold of a pair of scenes from the distribution of its scores.

A model's own threshold suits two dates that differ by their anomalies and little else. If years, seasons or another
camera lie between them, all of the ground scores high, and the anomalies are what stands out from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from geosiam.errors import OptionError
from geosiam.scores.working_file import SCORE_STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.scores.raster import ModelScores

_ONE_DEVIATION_BELOW = 0.158655  # share of a normal distribution more than one standard deviation below its mean


@dataclass(frozen=True)
class ThresholdPolicy:
    """Limits that decide when and how far the threshold is raised.

    Deviations are robust standard deviations of the log-odds of scores.

    Parameters
    ----------
    deviations
        Least distance of the threshold from the median, in deviations. If the log-odds of unchanged ground were
        normally distributed, one of 740 cells would lie above.
    min_deviation
        Least deviation, in log-odds.
    max_threshold
        Largest raised threshold: where nearly everything has changed, it should be found.
    min_cells
        Least number of scored cells; of fewer the median says little.
    seed_odds
        Odds of a polygon's strongest cell relative to those of the threshold, at least: single cells just above the
        threshold are chance more often than not.
    """

    deviations: float = 3.0
    min_deviation: float = 0.5
    max_threshold: float = 0.98
    min_cells: int = 4096
    seed_odds: float = 2.0


POLICY = ThresholdPolicy()


@dataclass(frozen=True)
class Threshold:
    """The thresholds at which polygons are cut, and where they come from.

    Parameters
    ----------
    value
        Least score of an anomalous cell.
    seed
        Least score of a polygon's strongest cell (hysteresis); None: any.
    model_threshold
        The model's own threshold.
    median
        Median of all scores; NaN without any, or if the user gave the threshold.
    """

    value: float
    seed: float | None
    model_threshold: float
    median: float = float("nan")

    @classmethod
    def of(cls, value: float, model_threshold: float, median: float) -> Self:
        """Return a threshold with the seed threshold derived from it."""
        odds = POLICY.seed_odds * value
        return cls(value, odds / (odds + 1 - value), model_threshold, median)

    def seeded(self, seed_threshold: float | None) -> Self:
        """Return the threshold with the seed threshold that the user gave, but no less than it; None: with its own."""
        return self if seed_threshold is None else replace(self, seed=max(seed_threshold, self.value))

    @property
    def warning(self) -> str | None:
        """A warning for the user if the threshold was raised; None otherwise."""
        if self.value <= self.model_threshold:
            return None
        return (
            f"the scenes differ almost everywhere (half of the ground scores {self.median:.2g} or more): the threshold "
            f"was raised from {self.model_threshold:.2g} to {self.value:.2g}; set `threshold` to choose another"
        )


def choose_threshold(
    scores: ModelScores, threshold: float | Literal["auto"] = "auto", seed_threshold: float | None = None
) -> Threshold:
    """Return the thresholds for the scores of a pair: the given ones, or those that the scores call for.

    An automatic threshold is the model's own, or a higher one that lies some deviations above the median of the
    log-odds (:class:`ThresholdPolicy`). The deviation is measured below the median (its distance from the 15.9th
    percentile), where changed cells do not count. All scores are read once for it.

    Parameters
    ----------
    scores
        Scores of the whole pair.
    threshold
        Minimum anomaly probability for a cell to be part of a polygon, or ``"auto"``.
    seed_threshold
        Least score of a polygon's strongest cell. None: any, or with ``"auto"`` the one that goes with the threshold.

    Raises
    ------
    OptionError
        The threshold is automatic and the scores do not record that of their model.
    """
    if threshold != "auto":
        return Threshold(threshold, seed_threshold, threshold)
    if scores.model_threshold is None:
        raise OptionError(scores.name, "does not record a threshold", "set one, such as `threshold=0.5`")
    return threshold_of_counts(scores.counts(), scores.model_threshold).seeded(seed_threshold)


def threshold_of_counts(counts: NDArray[np.int64], model_threshold: float) -> Threshold:
    """Choose a threshold from the histogram of scores: int64 (255,), from 0 to 1 in steps of 1/254."""
    if not counts.any():
        return Threshold.of(model_threshold, model_threshold, float("nan"))
    median, low = (_percentile(counts, share) for share in (0.5, _ONE_DEVIATION_BELOW))
    deviation = max(_log_odds(median) - _log_odds(low), POLICY.min_deviation)
    raised = 1 / (1 + exp(-(_log_odds(median) + POLICY.deviations * deviation)))
    has_enough_cells = int(counts.sum()) >= POLICY.min_cells
    raised = round(min(raised, POLICY.max_threshold), 4)
    value = max(model_threshold, raised) if has_enough_cells else model_threshold
    return Threshold.of(value, model_threshold, median)


def _percentile(counts: NDArray[np.int64], share: float) -> float:
    """Return the score that a share of the cells does not exceed, interpolated within steps."""
    cumulative = np.cumsum(counts)
    rank = share * cumulative[-1]
    step = int(np.searchsorted(cumulative, rank))
    within_step = (rank - (cumulative[step] - counts[step])) / counts[step]
    return float(min(max((step - 0.5 + within_step) / SCORE_STEPS, 0.0), 1.0))


def _log_odds(score: float) -> float:
    score = min(max(score, 0.5 / SCORE_STEPS), 1 - 0.5 / SCORE_STEPS)
    return log(score / (1 - score))
