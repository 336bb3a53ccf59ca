"""The threshold that a pair calls for.

A model's own threshold suits two dates that differ by their anomalies and little else. Where years, seasons or another
camera lie between them, all of the ground scores high, and the analyst wants what stands out from that.
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

    from geosiam.scores.raster import Scores

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
    """The thresholds at which polygons are cut, and where they come from.

    Parameters
    ----------
    value
        Minimum anomaly probability for a cell to be part of a polygon.
    seed
        Minimum score of the strongest cell of each polygon (hysteresis); None: any.
    model
        The threshold that the model records for itself.
    typical
        Median of all scores; NaN where there are none or nobody asked.
    """

    value: float
    seed: float | None
    model: float
    typical: float = float("nan")

    @classmethod
    def of(cls, value: float, model: float, typical: float) -> Self:
        """Return a threshold with the seed threshold that goes with it."""
        odds = SEED_ODDS * value
        return cls(value, odds / (odds + 1 - value), model, typical)

    def seeded(self, seed_threshold: float | None) -> Self:
        """Return the same threshold with the seed threshold that the user gave, raised to the threshold if below."""
        return self if seed_threshold is None else replace(self, seed=max(seed_threshold, self.value))

    @property
    def warning(self) -> str | None:
        """What the user should know; None where the model's own threshold holds."""
        if self.value <= self.model:
            return None
        return (
            f"the two scenes differ almost everywhere (half of the ground scores {self.typical:.2g} or more), so the "
            f"threshold was raised from {self.model:.2g} to {self.value:.2g}; set another with `threshold`"
        )


def choose_threshold(
    scores: Scores, threshold: float | Literal["auto"] = "auto", seed_threshold: float | None = None
) -> Threshold:
    """Return the thresholds for some scores: the given ones, or those that the scores call for.

    An automatic threshold is the model's own or, if that is higher, the score :data:`DEVIATIONS` above the median of
    the log-odds, at most :data:`HIGHEST`. The deviation is taken below the median (its distance from the 15.9th
    percentile), where changed ground does not count. All scores are read once for it.

    Parameters
    ----------
    scores
        The scores of the whole pair.
    threshold
        Minimum anomaly probability for a cell to be part of a polygon, or ``"auto"``.
    seed_threshold
        Minimum score of the strongest cell of each polygon. None: any, or with ``"auto"`` the one that goes with the
        threshold.

    Raises
    ------
    OptionError
        The threshold is automatic and the scores do not record that of their model.
    """
    if threshold != "auto":
        return Threshold(threshold, seed_threshold, threshold)
    if scores.model_threshold is None:
        raise OptionError(scores.name, "does not record a threshold", "give one, such as `threshold=0.5`")
    return of_counts(scores.counts(), scores.model_threshold).seeded(seed_threshold)


def of_counts(counts: NDArray[np.int64], model: float) -> Threshold:
    """Choose a threshold by how many cells have each score: int64 (255,), from 0 to 1 in steps of 1/254."""
    if not counts.any():
        return Threshold.of(model, model, float("nan"))
    middle, low = (_percentile(counts, share) for share in (0.5, _BELOW))
    deviation = max(_log_odds(middle) - _log_odds(low), _LEAST_DEVIATION)
    outstanding = 1 / (1 + exp(-(_log_odds(middle) + DEVIATIONS * deviation)))
    enough = int(counts.sum()) >= LEAST_CELLS
    value = max(model, round(min(outstanding, HIGHEST), 4)) if enough else model
    return Threshold.of(value, model, middle)


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
