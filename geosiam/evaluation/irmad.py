"""Iteratively reweighted multivariate alteration detection (IR-MAD).

Nielsen, "The regularized iteratively reweighted MAD method for change detection in multi- and hyperspectral data",
IEEE Transactions on Image Processing 16 (2007). Canonical correlation finds the pairs of linear combinations of both
scenes' bands that agree best; the squared standardised differences of all pairs add up to a chi-square variable where
nothing changed. Pixels are then weighted by their probability of no change, and all is repeated until the correlations
stand still. Gain and offset of either scene's bands do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import LinAlgError, eigh
from scipy.special import chdtrc

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-3
MOST_ITERATIONS = 50
SAMPLE = 200_000
_RIDGE = 1e-9  # of the mean variance: bands that are copies of each other are no error
_LEAST_VARIANCE = 1e-9


@dataclass(frozen=True)
class Alteration:
    """What IR-MAD found.

    Parameters
    ----------
    statistic
        float64 (n,), chi-square distributed with as many degrees of freedom as bands where nothing changed.
    correlations
        float64 (bands,), canonical correlations, ascending.
    iterations
        Until these stood still.
    converged
        Whether they did.
    """

    statistic: NDArray[np.float64]
    correlations: NDArray[np.float64]
    iterations: int
    converged: bool


def irmad(before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]], *, sample: int = SAMPLE) -> Alteration:
    """Run IR-MAD to convergence.

    Parameters
    ----------
    before, after
        float (bands, n), the same pixels at both dates.
    sample
        Pixels to estimate from, drawn at random; the statistic is then given for all.
    """
    bands, count = before.shape
    stacked = np.concatenate([before, after]).astype(np.float64)
    drawn = stacked
    if count > sample:
        drawn = stacked[:, np.random.default_rng(0).choice(count, sample, replace=False)]
    weights = np.ones(drawn.shape[1])
    previous = np.full(bands, np.inf)
    converged = False
    for iteration in range(1, MOST_ITERATIONS + 1):
        try:
            variates = _Variates.of(drawn, weights)
        except LinAlgError:  # all weight on pixels that are alike: there is nothing left to correlate
            return Alteration(np.zeros(count), np.zeros(bands), iteration, converged=False)
        converged = bool(np.abs(variates.correlations - previous).max() < TOLERANCE)
        if converged:
            break
        previous, weights = variates.correlations, chdtrc(bands, variates.statistic(drawn))
    return Alteration(variates.statistic(stacked), variates.correlations, iteration, converged)


@dataclass(frozen=True)
class _Variates:
    """The canonical variates of weighted pixels: their mean, what to multiply both scenes' bands by, correlations."""

    mean: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    correlations: NDArray[np.float64]

    @classmethod
    def of(cls, stacked: NDArray[np.float64], weights: NDArray[np.float64]) -> _Variates:
        bands = len(stacked) // 2
        mean = (stacked @ weights / weights.sum())[:, None]
        centred = stacked - mean
        covariance = (centred * weights) @ centred.T / weights.sum()
        covariance += np.eye(2 * bands) * max(_RIDGE * np.trace(covariance) / (2 * bands), 1e-15)
        s11, s22, s12 = covariance[:bands, :bands], covariance[bands:, bands:], covariance[:bands, bands:]
        # s12 s22^-1 s21 a = rho^2 s11 a, ascending: as MAD variates are numbered, the least alike first.
        squares, a = eigh(s12 @ np.linalg.solve(s22, s12.T), s11)
        b = np.linalg.solve(s22, s12.T @ a)
        b /= np.sqrt(np.einsum("ij,ik,kj->j", b, s22, b)).clip(1e-15)
        return cls(mean, a, b, np.sqrt(squares.clip(0, 1)))

    def statistic(self, stacked: NDArray[np.float64]) -> NDArray[np.float64]:
        bands = len(stacked) // 2
        centred = stacked - self.mean
        difference = self.first.T @ centred[:bands] - self.second.T @ centred[bands:]
        variance = (2 * (1 - self.correlations)).clip(_LEAST_VARIANCE)
        return np.asarray((difference**2 / variance[:, None]).sum(axis=0))
