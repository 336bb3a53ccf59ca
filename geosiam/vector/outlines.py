"""Outlines of components, traced along the sides of cells: always valid, in whole numbers of cells.

A component is cut into *parts*, the pieces that hang together by sides. Cells that meet at a corner only belong to
different parts of a MultiPolygon, which may touch there; in one ring they would make it cross itself. All outlines
of a batch are traced at once:

1. A run has four corners. Where a run continues the one above it at the same end, both corners cancel.
2. Along each line the remaining corners, from left to right, are in pairs the ends of the horizontal sides; along
   each column, from top to bottom, those of the vertical sides.
3. Walking down left sides and up right sides, sides follow each other into rings. The first ring of a part, from its
   top left corner, is its exterior; all others are holes.

Where two cells of the *same* part meet at a corner, step 2 orders the two coincident corners so that the ring parts in
two there: a hole may touch its exterior in a point, but no ring may touch itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from geosiam.vector.rings import Outlines
from geosiam.vector.runs import grouped, touching

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.vector.components import ComponentBatch


def trace(batch: ComponentBatch, *, diagonal: bool = False) -> Outlines:
    """Return the outlines of components along the sides of their cells.

    Parameters
    ----------
    batch
        Components; not empty.
    diagonal
        Whether cells that share just a corner belong to one part. A ring may then pass through that corner twice, so
        these outlines are not valid yet: :func:`~geosiam.vector.smoothing.smoothed` leads them past each other.

    Returns
    -------
    one MultiPolygon a component, corners as (column, row) in whole cells
    """
    owner = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    row, start, stop = batch.runs.astype(np.int64).T
    upper, lower = touching(_own_lines(owner, row), start, stop, diagonal=diagonal)
    _, part = grouped(len(row), upper, lower)
    xy, ring, ring_part = _rings(part, row, start, stop)
    part_owner = np.empty(int(part.max()) + 1, np.int64)
    part_owner[part] = owner  # ascending: parts are numbered by their first run, and runs come component by component
    return Outlines.of_open_rings(xy.astype(np.float64), ring, ring_part, part_owner)


def _own_lines(group: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return line numbers that are the group's own: rows of different groups are never adjacent.

    Any order of rows will do; equal rows of a group get equal numbers and adjacent rows adjacent ones.
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
    whose, y, x, kind, is_top = _corners(part, row, start, stop)
    across = _partners(len(x))  # corners are sorted along lines: neighbours in pairs
    by_column = np.argsort((_own_lines(whose, x) * 2 + kind) * (int(y.max()) + 1) + y)
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
    return np.stack([x[corner], y[corner]], axis=1), np.repeat(ring, 2), whose[departing[order[first]]]


def _corners(
    part: NDArray[np.int64], row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the corners of all parts, sorted by part, line and column.

    Returns
    -------
    whose, y, x, kind, is_top
        Shape (corners,) each: part; line; column; 0 on a left side, 1 on a right side; upper end of that side or not.
        At coincident corners the left side comes first, which parts a ring that would touch itself.
    """
    whose = np.concatenate([part] * 4)
    y = np.concatenate([row, row, row + 1, row + 1])
    x = np.concatenate([start, stop, start, stop])
    kind = np.repeat([0, 1, 0, 1], len(row))
    is_top = np.repeat([True, False], 2 * len(row))
    key = (_own_lines(whose, y) * (int(stop.max()) + 1) + x) * 2 + kind
    order = np.argsort(key)
    key = key[order]
    same = key[1:] == key[:-1]  # a side that continues from one row into the next
    keep = order[~(np.append(same, False) | np.append(False, same))]
    return whose[keep], y[keep], x[keep], kind[keep], is_top[keep]


def _partners(count: int) -> NDArray[np.int64]:
    """Return the other one of each pair of neighbours: 1, 0, 3, 2, ..."""
    return np.arange(count) ^ 1


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
        The number of each one's cycle, shape (n,), ascending.
    """
    size = len(follower)
    count, label = grouped(size, np.arange(size), follower)
    first = np.full(count, size, np.int64)
    np.minimum.at(first, label, np.arange(size))
    # Each cycle is opened before its first element and tied to the next one: a single path, walked by compiled code.
    last = np.empty(size, np.int64)
    last[follower] = np.arange(size)
    path = follower.copy()
    path[last[first]] = np.append(first[1:], first[0])
    graph = csr_array((np.ones(size, np.int8), path, np.arange(size + 1)), shape=(size, size))
    order = breadth_first_order(graph, int(first[0]), return_predecessors=False).astype(np.int64)
    return order, label[order]
