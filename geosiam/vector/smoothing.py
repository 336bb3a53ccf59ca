"""Sub-cell outlines: where the score field crosses the threshold between the centres of neighbouring cells.

A cell-exact outline walks along sides of cells, each between a cell inside and one outside. The smoothed outline has
one point for each such side, on the line between the two centres, where the log-odds of the score, interpolated along
it, are those of the threshold (marching squares on the log-odds, in which the network itself is linear). Towards a cell
without a score, and at the raster's edge, the point stays on the side.

Order and number of points are those of the sides, and no two points share a line between centres. So rings never cross:
neither those of one polygon nor those of neighbours; every component and every hole keeps its ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geosiam.detection.working_raster import SCORE_STEPS
from geosiam.vector.rings import Outlines

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Lookup = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]

LEAST, MOST = 0.2, 0.95
"""Share of the way from the centre inside to the one outside: even a cell that is just at the threshold stays visible,
and a hole of one cell stays open."""

_CERTAIN = 0.5 / SCORE_STEPS  # half a step of the score raster: its 0 and 1 are not infinitely sure
_BEYOND = 0.1  # but surer than a threshold close to them: by this factor
_SUREST = 1e-7

# By direction of the walk (dx, dy): which cells lie inside and outside of the side that begins at (x, y).
# Left sides are walked down and right sides up, so the inside is on the left hand as one sees it on a raster.
_INSIDE = {(0, 1): (0, 0), (0, -1): (-1, -1), (1, 0): (0, -1), (-1, 0): (-1, 0)}
_OUTSIDE = {(0, 1): (-1, 0), (0, -1): (0, -1), (1, 0): (0, 0), (-1, 0): (-1, -1)}


def smoothed(outlines: Outlines, threshold: float, scores_at: Lookup) -> Outlines:
    """Return outlines through the places where the score is the threshold.

    Parameters
    ----------
    outlines
        Those of :func:`~geosiam.vector.outlines.trace`, in whole cells; ``diagonal`` as the components are connected.
    threshold
        The score that the components were cut at.
    scores_at
        Returns the scores of cells by row and column, shape (n,) each; NaN without a score and outside the raster.
    """
    start, step, ring = _unit_sides(outlines)
    inside, outside = np.empty_like(start), np.empty_like(start)
    for direction, place in _INSIDE.items():
        here = (step == direction).all(axis=1)
        inside[here] = start[here] + place
        outside[here] = start[here] + _OUTSIDE[direction]
    certain = max(min(_CERTAIN, _BEYOND * threshold, _BEYOND * (1 - threshold)), _SUREST)
    strong = _log_odds(scores_at(inside[:, 1], inside[:, 0]), certain)
    weak = _log_odds(scores_at(outside[:, 1], outside[:, 0]), certain)
    limit = float(_log_odds(np.array([threshold]), certain)[0])
    with np.errstate(invalid="ignore"):  # a threshold of 1 meets scores of 1 on both sides of the rounding
        share = (strong - limit) / np.maximum(strong - weak, np.finfo(np.float64).tiny)
    share = np.where(np.isnan(weak), 0.5, np.clip(np.nan_to_num(share, nan=0.5), LEAST, MOST))
    points = np.asarray(inside + 0.5 + share[:, None] * (outside - inside), np.float64)
    ring_part = np.repeat(np.arange(len(outlines.parts) - 1), np.diff(outlines.parts))
    part_member = np.repeat(np.arange(len(outlines)), np.diff(outlines.members))
    return Outlines.of_open_rings(points, ring, ring_part, part_member)


def _unit_sides(outlines: Outlines) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the sides of single cells along all rings: start and direction of shape (sides, 2), and ring."""
    corners = outlines.xy.astype(np.int64)
    ring = np.repeat(np.arange(len(outlines.rings) - 1), np.diff(outlines.rings))
    along = ring[:-1] == ring[1:]
    side = np.diff(corners, axis=0)[along]
    length = np.abs(side).sum(axis=1)
    rank = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    step = np.repeat(np.sign(side), length, axis=0)
    start = np.repeat(corners[:-1][along], length, axis=0) + rank[:, None] * step
    return start, step, np.repeat(ring[:-1][along], length)


def _log_odds(scores: NDArray[np.floating], certain: float) -> NDArray[np.float64]:
    p = np.clip(scores.astype(np.float64), certain, 1 - certain)
    odds: NDArray[np.float64] = np.log(p / (1 - p))
    return odds
