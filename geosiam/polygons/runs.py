"""Runs: maximal horizontal rows of neighboring cells, the compact form of components.

A run is ``(line, start, stop)``: the cells ``start <= column < stop`` of one line. Lines are row numbers, or any
non-decreasing integers in which adjacent rows differ by exactly one. All functions are vectorized with numpy or
compiled scipy, without a Python loop over runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from numpy.typing import NDArray


def runs_of(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the runs of True of a mask in raster order.

    Parameters
    ----------
    mask
        Shape (rows, cols).

    Returns
    -------
    runs of shape (n, 3): row, start column, stop column
    """
    rows, cols = mask.shape
    # One False column closes each row, one False cell opens the first: no run continues into the next row.
    padded = np.zeros(rows * (cols + 1) + 1, np.bool_)
    padded[1:].reshape(rows, cols + 1)[:, :cols] = mask
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    row, start = np.divmod(changes[::2], cols + 1)
    return np.stack([row, start, changes[1::2] - row * (cols + 1)], axis=1)


def cells_of(runs: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column of each cell of runs of shape (n, 3), run by run."""
    row, start, stop = runs.astype(np.int64).T
    length = stop - start
    rank = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(row, length), np.repeat(start, length) + rank


def adjacent_runs(
    line: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64], *, diagonal: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of runs on adjacent lines that touch.

    Parameters
    ----------
    line, start, stop
        Runs of shape (n,) each, sorted by line, then start; start >= 0.
    diagonal
        Whether runs that share just a corner touch (8-connectivity).

    Returns
    -------
    upper, lower
        Indices of the runs of each pair, shape (pairs,) each.
    """
    if not len(line):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pitch = int(stop.max()) + 1  # one column more than the grid has, so that a corner never reaches the next line
    reach = 1 if diagonal else 0
    below = (line + 1) * pitch
    first = np.searchsorted(line * pitch + stop, below + start - reach, side="right")
    last = np.searchsorted(line * pitch + start, below + stop + reach, side="left")
    count = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(line)), count)
    rank = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    return upper, np.repeat(first, count) + rank


def union(nodes: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Return the groups of nodes that are connected by the edges ``a[i] - b[i]``.

    Returns
    -------
    count
        Number of groups.
    label
        The group of each node, shape (nodes,); groups are numbered by their first node.
    """
    if not nodes:
        return 0, np.empty(0, np.int64)
    graph = csr_array((np.ones(len(a), np.int32), (a, b)), shape=(nodes, nodes))
    count, label = connected_components(graph, directed=False)
    first = np.full(count, nodes, np.int64)
    np.minimum.at(first, label, np.arange(nodes))
    rank = np.empty(count, np.int64)
    rank[np.argsort(first)] = np.arange(count)
    return int(count), rank[label]
