"""Outlines of components: traced along cell edges, smoothed to the threshold, simplified.

**Tracing.** A component is cut into *parts*, whose cells are connected by sides. Cells that meet only at a corner
belong to different parts of a MultiPolygon, which may touch there; within one ring they would make it cross itself. All
outlines of a batch are traced at once:

1. A run has four corners. Where a run continues the one above it at the same end, both corners cancel.
2. Along each line the remaining corners, from left to right, are in pairs the ends of the horizontal sides; along
   each column, from top to bottom, those of the vertical sides.
3. Walking down left sides and up right sides, sides follow each other into rings. The first ring of a part, from its
   top left corner, is its exterior; all others are holes.

Where two cells of the *same* part meet at a corner, step 2 orders the two coincident corners so that the ring splits in
two there: a hole may touch its exterior in a point, but no ring may touch itself.

**Smoothing** moves the outline to where the score crosses the threshold between cell centers (marching squares on the
log-odds). **Simplification** drops points by the Douglas-Peucker algorithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from geosiam.polygons.multipolygons import MultiPolygons
from geosiam.polygons.runs import adjacent_runs, union
from geosiam.scores.working_file import SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from affine import Affine
    from numpy.typing import NDArray

    from geosiam.polygons.components import ComponentBatch

    Lookup = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def trace(batch: ComponentBatch, *, diagonal: bool = False) -> MultiPolygons:
    """Return the outlines of components along the sides of their cells.

    Parameters
    ----------
    batch
        Components; not empty.
    diagonal
        Whether cells that share just a corner belong to one part. A ring may then pass through that corner twice, so
        these outlines are not valid until :func:`smoothed` separates the two passes.

    Returns
    -------
    One MultiPolygon per component, always valid unless `diagonal`; corners as (column, row) in whole cells.
    """
    owner = batch.run_owner
    row, start, stop = batch.runs.astype(np.int64).T
    upper, lower = adjacent_runs(_separate_lines(owner, row), start, stop, diagonal=diagonal)
    _, part = union(len(row), upper, lower)
    xy, ring, ring_part = _rings(part, row, start, stop)
    part_owner = np.empty(int(part.max()) + 1, np.int64)
    part_owner[part] = owner  # ascending: parts are numbered by their first run, and runs come component by component
    return MultiPolygons.of_open_rings(xy.astype(np.float64), ring, ring_part, part_owner)


def _separate_lines(group: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return line numbers by which rows of different groups are never adjacent.

    Rows may come in any order; equal rows of a group get equal numbers, adjacent rows adjacent numbers.
    """
    count = int(group.max()) + 1
    top, bottom = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(top, group, row)
    np.maximum.at(bottom, group, row)
    height = bottom - top + 2
    shift: NDArray[np.int64] = np.cumsum(height) - height - top
    return shift[group] + row


def _rings(
    part: NDArray[np.int64], row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Trace the rings of all parts.

    Returns
    -------
    xy
        Shape (corners, 2): column, row of the corners, ring by ring.
    ring
        Shape (corners,): the number of each corner's ring, ascending.
    ring_part
        Shape (rings,): the part of each ring, ascending; the exterior comes first.
    """
    owner, y, x, kind, is_top = _corners(part, row, start, stop)
    across = np.arange(len(x)) ^ 1  # corners are sorted along lines: 1, 0, 3, 2, ... are neighbors in pairs
    by_column = np.argsort((_separate_lines(owner, x) * 2 + kind) * (int(y.max()) + 1) + y)
    along = np.empty_like(across)
    along[by_column] = by_column[across]

    # Left sides (kind 0) are walked down, right sides (kind 1) up: from a corner that departs to one that arrives.
    departing = np.flatnonzero(is_top == (kind == 0))
    number = np.empty_like(across)
    number[departing] = np.arange(len(departing))
    follower = number[across[along[departing]]]
    order, ring = _cycles(follower)
    corner = np.stack([departing[order], along[departing[order]]], axis=1).ravel()
    first = np.flatnonzero(np.diff(ring, prepend=-1))
    return np.stack([x[corner], y[corner]], axis=1), np.repeat(ring, 2), owner[departing[order[first]]]


def _corners(
    part: NDArray[np.int64], row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the corners of all parts, sorted by part, line and column.

    Returns
    -------
    owner, y, x, kind, is_top
        Shape (corners,) each: part; line; column; 0 on a left side, 1 on a right side; upper end of that side or not.
        At coincident corners the left side comes first, which splits a ring that would touch itself.
    """
    owner = np.concatenate([part] * 4)
    y = np.concatenate([row, row, row + 1, row + 1])
    x = np.concatenate([start, stop, start, stop])
    kind = np.repeat([0, 1, 0, 1], len(row))
    is_top = np.repeat([True, False], 2 * len(row))
    key = (_separate_lines(owner, y) * (int(stop.max()) + 1) + x) * 2 + kind
    order = np.argsort(key)
    key = key[order]
    same = key[1:] == key[:-1]  # a side that continues from one row into the next
    remaining = order[~(np.append(same, False) | np.append(False, same))]
    return owner[remaining], y[remaining], x[remaining], kind[remaining], is_top[remaining]


def _cycles(follower: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the elements of a permutation cycle by cycle, each in walking order from its first element.

    Parameters
    ----------
    follower
        The permutation, shape (n,), n > 0.

    Returns
    -------
    order
        The elements, shape (n,); cycles come in the order of their first elements.
    cycle
        The number of the cycle of each element, shape (n,), ascending.
    """
    size = len(follower)
    count, label = union(size, np.arange(size), follower)
    first = np.full(count, size, np.int64)
    np.minimum.at(first, label, np.arange(size))
    # Each cycle is opened before its first element and linked to the next one: a single path, walked by compiled code.
    last = np.empty(size, np.int64)
    last[follower] = np.arange(size)
    path = follower.copy()
    path[last[first]] = np.append(first[1:], first[0])
    graph = csr_array((np.ones(size, np.int8), path, np.arange(size + 1)), shape=(size, size))
    order = breadth_first_order(graph, int(first[0]), return_predecessors=False).astype(np.int64)
    return order, label[order]


_MIN_SHARE, _MAX_SHARE = 0.2, 0.95
"""Where a smooth outline may lie on the way from the center inside to the one outside: so even a cell that is just at
the threshold stays visible, and a hole of one cell stays open."""

_STEP_MARGIN = 0.5 / SCORE_STEPS  # half a step of the score raster: stored 0 and 1 do not mean infinite log-odds
_THRESHOLD_MARGIN = 0.1  # of a threshold's distance from 0 or 1: scores beyond a threshold close to them stay apart
_LEAST_MARGIN = 1e-7  # keeps log-odds finite

# By direction of the walk (dx, dy): which cells lie inside and outside of the side that begins at (x, y).
# Left sides are walked down and right sides up, so the inside is on the left hand as one sees it on a raster.
_INSIDE = {(0, 1): (0, 0), (0, -1): (-1, -1), (1, 0): (0, -1), (-1, 0): (-1, 0)}
_OUTSIDE = {(0, 1): (-1, 0), (0, -1): (0, -1), (1, 0): (0, 0), (-1, 0): (-1, -1)}


def smoothed(outlines: MultiPolygons, threshold: float, scores_at: Lookup) -> MultiPolygons:
    """Return outlines where the score, interpolated between cell centers, is the threshold.

    Parameters
    ----------
    outlines
        Outlines of :func:`trace`, in whole cells, with `diagonal` as the components are connected.
    threshold
        The threshold of the components.
    scores_at
        Returns the scores of cells by row and column, shape (n,) each; NaN without a score and outside the raster.
    """
    start, step, ring = _unit_sides(outlines)
    inside, outside = np.empty_like(start), np.empty_like(start)
    for direction, offset in _INSIDE.items():
        selected = (step == direction).all(axis=1)
        inside[selected] = start[selected] + offset
        outside[selected] = start[selected] + _OUTSIDE[direction]
    margin = max(min(_STEP_MARGIN, _THRESHOLD_MARGIN * threshold, _THRESHOLD_MARGIN * (1 - threshold)), _LEAST_MARGIN)
    strong = _log_odds(scores_at(inside[:, 1], inside[:, 0]), margin)
    weak = _log_odds(scores_at(outside[:, 1], outside[:, 0]), margin)
    limit = float(_log_odds(np.array([threshold]), margin)[0])
    with np.errstate(invalid="ignore"):  # a threshold of 1 meets scores of 1 on both sides of the rounding
        share = (strong - limit) / np.maximum(strong - weak, np.finfo(np.float64).tiny)
    share = np.where(np.isnan(weak), 0.5, np.clip(np.nan_to_num(share, nan=0.5), _MIN_SHARE, _MAX_SHARE))
    points = np.asarray(inside + 0.5 + share[:, None] * (outside - inside), np.float64)
    return MultiPolygons.of_open_rings(points, ring, outlines.ring_polygon, outlines.polygon_geometry)


def _unit_sides(outlines: MultiPolygons) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the sides of single cells along all rings: start and direction of shape (sides, 2), and ring."""
    corners = outlines.xy.astype(np.int64)
    ring = outlines.point_ring
    along = ring[:-1] == ring[1:]
    side = np.diff(corners, axis=0)[along]
    length = np.abs(side).sum(axis=1)
    rank = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    step = np.repeat(np.sign(side), length, axis=0)
    start = np.repeat(corners[:-1][along], length, axis=0) + rank[:, None] * step
    return start, step, np.repeat(ring[:-1][along], length)


def _log_odds(scores: NDArray[np.floating], margin: float) -> NDArray[np.float64]:
    p = np.clip(scores.astype(np.float64), margin, 1 - margin)
    odds: NDArray[np.float64] = np.log(p / (1 - p))
    return odds


_ROUNDING_CELLS = 1e-9


def simplified(
    outlines: MultiPolygons, tolerance: NDArray[np.float64], transform: Affine, extent: tuple[float, float]
) -> MultiPolygons:
    """Return outlines in CRS coordinates without the points that change them by less than a tolerance.

    Points are dropped in cell units (Douglas-Peucker, by GEOS, preserving topology), so the tolerance means the same in
    every direction and CRS. Where the simplified outline is invalid, has lost a part or a hole, or lies too far off,
    which GEOS cannot rule out, the full one is returned.

    Parameters
    ----------
    outlines
        Outlines in cells (column, row).
    tolerance
        Shape (n,), in cells: how far the points of the full outline may lie from the simplified one.
    transform, extent
        As in :meth:`~geosiam.polygons.multipolygons.MultiPolygons.to_crs_coordinates`.
    """
    full = outlines.to_crs_coordinates(transform, extent).geometries()
    exact = outlines.geometries()
    simple = shapely.simplify(exact, tolerance, preserve_topology=True)
    # GEOS measures a ring's first corner against sides that are simplified already: off by twice the tolerance at most.
    far = ~_near(exact, simple, tolerance)
    simple[far] = shapely.simplify(exact[far], tolerance[far] / 2, preserve_topology=True)
    result = MultiPolygons.of_geometries(simple).to_crs_coordinates(transform, extent).geometries()
    same_shape = (_shape(result) == _shape(full)).all(axis=1)
    sound = shapely.is_valid(result) & ~shapely.is_empty(result) & same_shape
    return MultiPolygons.of_geometries(np.where(sound & _near(exact, simple, tolerance), result, full))


def _near(exact: NDArray[np.object_], simple: NDArray[np.object_], tolerance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether all points of each full outline lie within the tolerance of the simplified one, shape (n,)."""
    points, owner = shapely.get_coordinates(exact, return_index=True)
    sides = shapely.boundary(simple)
    shapely.prepare(sides)
    far = ~shapely.dwithin(sides[owner], shapely.points(points), tolerance[owner] + _ROUNDING_CELLS)
    return np.asarray(np.bincount(owner[far], minlength=len(exact)) == 0, np.bool_)


def _shape(multipolygons: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the number of parts and of rings of each MultiPolygon, shape (n, 2)."""
    parts, owner = shapely.get_parts(multipolygons, return_index=True)
    rings = np.bincount(owner, weights=shapely.get_num_interior_rings(parts) + 1, minlength=len(multipolygons))
    return np.stack([np.bincount(owner, minlength=len(multipolygons)), rings.astype(np.int64)], axis=1)
