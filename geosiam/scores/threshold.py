"""The threshold that a pair calls for.

A model's own threshold suits two dates that differ by their anomalies and little else. Where years, seasons or another
camera lie between them, all of the ground scores high, and what the analyst wants is what stands out from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Self

import numpy as np

from geosiam.scores.working_file import SCORE_STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.scores.raster import ScoreRaster

DEVIATIONS = 3.0
"""How far above the typical cell the threshold lies at least, in robust standard deviations of the log-odds: were those
of unchanged ground normally distributed, one of its cells in 740 would lie above."""

HIGHEST = 0.98
"""No pair raises the threshold further: where nearly everything has changed, that is what should be found."""

SEED_ODDS = 2.0
"""A polygon has at least one cell whose odds are so many times those of the threshold: single cells just above it are
chance more often than not."""

LEAST_CELLS = 4096
"""Of fewer cells nobody can say what is typical."""

_LEAST_DEVIATION = 0.5
_BELOW = 0.158655  # share of a normal distribution that lies more than one deviation below its middle


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it came about.

    Parameters
    ----------
    value
        The score from which a cell is anomalous.
    seed
        The score that a polygon's strongest cell has at least (hysteresis).
    usual
        The model's own.
    typical
        Median of all scores; NaN without any.
    """

    value: float
    seed: float
    usual: float
    typical: float

    @classmethod
    def of(cls, value: float, usual: float, typical: float) -> Self:
        """Return a threshold with the seed that goes with it."""
        odds = SEED_ODDS * value
        return cls(value, odds / (odds + 1 - value), usual, typical)

    def seed_or(self, asked: float | None) -> float:
        """Return the seed that was asked for, which no seed below the threshold can be; or this one's own."""
        return self.seed if asked is None else max(asked, self.value)

    @property
    def remark(self) -> str | None:
        """What the user should know; None where nothing is unusual."""
        if self.value <= self.usual:
            return None
        return (
            f"the two dates differ all over (half of the ground scores {self.typical:.2g} or more): the threshold was "
            f"raised from {self.usual:.2g} to {self.value:.2g}; --threshold chooses another"
        )


def threshold_of_pair(raster: ScoreRaster, usual: float) -> Threshold:
    """Choose the threshold of a pair from its scores, which are read once.

    It is the model's own, or, if that is higher, what lies :data:`DEVIATIONS` above the median of the log-odds, at most
    :data:`HIGHEST`. The deviation is taken below the median (its distance from the 15.9th percentile), where what has
    changed does not count.

    Parameters
    ----------
    raster
        The scores of the whole pair.
    usual
        The model's own threshold.
    """
    return of_counts(raster.counts(), usual)


def of_counts(counts: NDArray[np.int64], usual: float) -> Threshold:
    """Choose a threshold by how many cells have each score: int64 (255,), from 0 to 1 in steps of 1/254."""
    if not counts.any():
        return Threshold.of(usual, usual, float("nan"))
    middle, low = (_percentile(counts, share) for share in (0.5, _BELOW))
    deviation = max(_log_odds(middle) - _log_odds(low), _LEAST_DEVIATION)
    outstanding = 1 / (1 + exp(-(_log_odds(middle) + DEVIATIONS * deviation)))
    enough = int(counts.sum()) >= LEAST_CELLS
    value = max(usual, round(min(outstanding, HIGHEST), 4)) if enough else usual
    return Threshold.of(value, usual, middle)


def _percentile(counts: NDArray[np.int64], share: float) -> float:
    """Return the score that a share of the cells does not exceed, between steps: cells of a step are spread over it."""
    total = np.cumsum(counts)
    wanted = share * total[-1]
    step = int(np.searchsorted(total, wanted))
    inside = (wanted - (total[step] - counts[step])) / counts[step]
    return float(min(max((step - 0.5 + inside) / SCORE_STEPS, 0.0), 1.0))


def _log_odds(score: float) -> float:
    held = min(max(score, 0.5 / SCORE_STEPS), 1 - 0.5 / SCORE_STEPS)
    return log(held / (1 - held))
