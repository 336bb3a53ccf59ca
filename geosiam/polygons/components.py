"""Connected components of a score raster as a stream, in the memory of one strip and the components still open.

The raster arrives in strips of any height. Each strip is cut into runs; a graph joins the runs that touch, the runs
of the row above the strip (the *frontier*) and the components still open there. The connected parts of that graph
are the components so far: those that do not reach the last row of the strip can grow no more and are handed on,
filtered by size before any geometry is made of them.

Nothing depends on where the strips are cut. Sums are kept in fixed point, so the order of addition does not matter,
and components come in the order in which a stream can know them at the earliest: the raster order of their *last*
cell.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from geosiam.errors import OptionError
from geosiam.polygons.runs import grouped, runs_of, touching

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Component:
    """Neighboring cells at or above the threshold.

    Parameters
    ----------
    cells
        Number of cells.
    score_mean, score_max
        Over these cells.
    rows, cols
        Half-open ranges of the bounding box.
    neighbors
        Number of raster cells around it: outside it, but sharing a side or a corner with it.
    nodata_neighbors
        How many of these have no score.
    touches_edge
        Whether it reaches the first or last row or column of the raster.
    runs
        Shape (n, 3), raster order: row, start column, stop column.
    """

    cells: int
    score_mean: float
    score_max: float
    rows: tuple[int, int]
    cols: tuple[int, int]
    neighbors: int
    nodata_neighbors: int
    touches_edge: bool
    runs: NDArray[np.int32]

    @property
    def touches_nodata(self) -> bool:
        """Whether a cell without a score shares a side or a corner with it."""
        return self.nodata_neighbors > 0

    @property
    def valid_fraction(self) -> float:
        """Share of cells with a score among its own and those around it."""
        return 1 - self.nodata_neighbors / (self.cells + self.neighbors)


@dataclass(frozen=True)
class ComponentBatch:
    """Many components as columns; the meaning of each is that of :class:`Component`.

    Parameters
    ----------
    cells, score_mean, score_max, neighbors, nodata_neighbors, touches_edge
        Shape (n,).
    bounds
        Shape (n, 4): row start, row stop, column start, column stop.
    runs
        Shape (k, 3): the runs of all components, one component after the other.
    offsets
        Shape (n + 1,): component ``i`` has the runs ``offsets[i]:offsets[i + 1]``.
    """

    cells: NDArray[np.int64]
    score_mean: NDArray[np.float64]
    score_max: NDArray[np.float64]
    bounds: NDArray[np.int64]
    neighbors: NDArray[np.int64]
    nodata_neighbors: NDArray[np.int64]
    touches_edge: NDArray[np.bool_]
    runs: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: int) -> Component:
        top, bottom, left, right = self.bounds[i].tolist()
        return Component(
            int(self.cells[i]),
            float(self.score_mean[i]),
            float(self.score_max[i]),
            (top, bottom),
            (left, right),
            int(self.neighbors[i]),
            int(self.nodata_neighbors[i]),
            bool(self.touches_edge[i]),
            self.runs[self.offsets[i] : self.offsets[i + 1]],
        )

    def __iter__(self) -> Iterator[Component]:
        return (self[i] for i in range(len(self)))

    def where(self, keep: NDArray[np.bool_]) -> ComponentBatch:
        """Return the components that a mask of shape (n,) keeps."""
        count = np.diff(self.offsets)
        columns = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name not in ("runs", "offsets")}
        offsets = np.concatenate([[0], np.cumsum(count[keep])])
        return ComponentBatch(**columns, runs=self.runs[np.repeat(keep, count)], offsets=offsets)

    @property
    def valid_fraction(self) -> NDArray[np.float64]:
        """Share of cells with a score among the component's own and those around it, shape (n,)."""
        return 1 - self.nodata_neighbors / (self.cells + self.neighbors)


def connected_components(
    strips: Iterable[NDArray[np.float32]],
    threshold: float,
    *,
    connectivity: int = 8,
    min_cells: int = 1,
    peak: float | None = None,
) -> Iterator[Component]:
    """Yield the components one by one; see :func:`component_batches`, which is faster for many."""
    for batch in component_batches(strips, threshold, connectivity=connectivity, min_cells=min_cells, peak=peak):
        yield from batch


def component_batches(
    strips: Iterable[NDArray[np.float32]],
    threshold: float,
    *,
    connectivity: int = 8,
    min_cells: int = 1,
    peak: float | None = None,
) -> Iterator[ComponentBatch]:
    """Yield the connected components of all cells with ``score >= threshold``.

    Parameters
    ----------
    strips
        The raster from top to bottom: float32 (rows, cols) in [0, 1], NaN = not scored. Heights may differ.
    threshold
        Least score of a cell.
    connectivity
        8: cells that share a corner are connected; 4: only those that share a side.
    min_cells
        Smaller components are dropped.
    peak
        Components without a cell of this score or more are dropped (hysteresis); None keeps all.

    Yields
    ------
    Batches that are not empty. All components together are ordered by the raster position of their last cell,
    whatever the heights of the strips.

    Raises
    ------
    OptionError
        The connectivity is neither 4 nor 8.
    """
    if connectivity not in (4, 8):
        raise OptionError("connectivity", f"is {connectivity}", "use 4 or 8")
    stream: _Stream | None = None
    for strip in strips:
        if not strip.shape[0]:
            continue
        if stream is None:
            stream = _Stream(strip.shape[1], threshold, diagonal=connectivity == 8)  # noqa: PLR2004
        closed = stream.advance(strip)
        yield from _batch(closed, stream, min_cells, peak)
    if stream is not None:
        yield from _batch(stream.finish(), stream, min_cells, peak)


class _Stream:
    """What is known of the raster after some strips: the frontier and the components that reach it."""

    def __init__(self, width: int, threshold: float, *, diagonal: bool) -> None:
        self.width = width
        self.rows = 0
        self._threshold = threshold
        self._diagonal = diagonal
        self._open = Members.empty()
        self._frontier = np.full(width, -1, np.float32)  # scores of the last row seen; nothing above the first row
        self._frontier_owner = np.empty(0, np.int64)  # the open component of each run of the frontier

    def advance(self, strip: NDArray[np.float32]) -> Members:
        """Take the next strip and return the components that end above its last row."""
        scores = np.concatenate([self._frontier[None], strip])
        above = scores >= self._threshold
        above[0] &= self.rows > 0
        runs = runs_of(above)
        upper, lower = touching(*runs.T, diagonal=self._diagonal)

        # The graph has two kinds of nodes: the open components, in which the runs of the frontier are, and new runs.
        old, opened = len(self._frontier_owner), len(self._open)
        node = np.concatenate([self._frontier_owner, opened + np.arange(len(runs) - old)])
        gap, gap_run = gaps_beside(scores, above, runs)
        new = Members.of_runs(runs[old:] + np.array([self.rows - 1, 0, 0]), strip[above[1:]], self.width)
        nodes = self._open.followed_by(new).with_gaps(gap + (self.rows - 1) * self.width, node[gap_run])
        count, label = grouped(len(nodes), node[upper], node[lower])

        members = nodes.merged(label, count)
        frontier_owner = label[node[runs[:, 0] == len(strip)]]
        is_open = np.zeros(count, np.bool_)
        is_open[frontier_owner] = True
        self.rows += len(strip)
        self._frontier = strip[-1].copy()
        self._open = members.where(is_open)
        self._frontier_owner = (np.cumsum(is_open) - 1)[frontier_owner]
        return members.where(~is_open)

    def finish(self) -> Members:
        """Return the components that reach the last row of the raster."""
        last, self._open = self._open, Members.empty()
        self._frontier_owner = np.empty(0, np.int64)
        return last


def _batch(closed: Members, stream: _Stream, min_cells: int, peak: float | None) -> Iterator[ComponentBatch]:
    """Yield the components that are large and strong enough, in order, or nothing."""
    keep = closed.statistics.cells >= min_cells
    if peak is not None:
        keep &= closed.statistics.peak >= peak
    if not keep.any():
        return
    members = closed.where(keep)
    order = np.argsort(members.statistics.last)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    owner = rank[members.owner]
    # Runs of one strip are in raster order and strips follow each other, so a stable sort leaves raster order.
    runs = members.runs[np.argsort(owner, kind="stable")]
    t = members.statistics.where(order)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(order)))])
    bounds = np.stack([t.top, t.bottom + 1, t.left, t.right + 1], axis=1)
    edge = (t.top == 0) | (t.left == 0) | (t.right == stream.width - 1) | (t.bottom == stream.rows - 1)
    yield ComponentBatch(
        t.cells,
        t.total / (t.cells * ONE),
        t.peak.astype(np.float64),
        bounds,
        _dilated_cells(runs, offsets, bounds, stream) - t.cells,
        np.bincount(rank[members.gap_owner], minlength=len(order)).astype(np.int64),
        edge,
        runs,
        offsets,
    )


def _dilated_cells(
    runs: NDArray[np.int32], offsets: NDArray[np.int64], bounds: NDArray[np.int64], stream: _Stream
) -> NDArray[np.int64]:
    """Return how many raster cells each component covers after growing by one cell on all sides, shape (n,)."""
    owner = np.repeat(np.arange(len(bounds)), np.diff(offsets))
    height = bounds[:, 1] - bounds[:, 0] + 2
    line = (np.cumsum(height) - height - bounds[:, 0] + 1)[owner] + runs[:, 0]  # own lines for every component
    pitch = stream.width + 1
    start, stop = np.maximum(runs[:, 1] - 1, 0), np.minimum(runs[:, 2] + 1, stream.width)
    shifts = [(shift, (runs[:, 0] + shift >= 0) & (runs[:, 0] + shift < stream.rows)) for shift in (-1, 0, 1)]
    begin = np.concatenate([((line + shift) * pitch + start)[inside] for shift, inside in shifts])
    end = np.concatenate([((line + shift) * pitch + stop)[inside] for shift, inside in shifts])
    whose = np.concatenate([owner[inside] for _, inside in shifts])
    order = np.argsort(begin, kind="stable")  # three sorted parts: merged in linear time
    begin, end, whose = begin[order], end[order], whose[order]
    reached = np.concatenate([[-1], np.maximum.accumulate(end)[:-1]])
    covered = np.maximum(end - np.maximum(begin, reached), 0)
    return np.bincount(whose, weights=covered, minlength=len(bounds)).astype(np.int64)


ONE = 1 << 30  # a score of 1 in fixed point: sums are exact, in any order, up to 8 thousand million cells


@dataclass(frozen=True)
class Statistics:
    """Statistics as columns of shape (n,); rows and columns are inclusive."""

    cells: NDArray[np.int64]
    total: NDArray[np.int64]  # sum of scores, fixed point
    peak: NDArray[np.float32]
    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    last: NDArray[np.int64]  # raster index of the last cell

    def where(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Statistics:
        """Return the rows that a mask or indices select."""
        return Statistics(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def followed_by(self, other: Statistics) -> Statistics:
        """Return the rows of both."""
        columns = {f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        return Statistics(**columns)

    def merged(self, label: NDArray[np.int64], count: int) -> Statistics:
        """Return the statistics of the ``count`` groups that ``label`` of shape (n,) makes of the rows."""
        how = {"cells": np.add, "total": np.add, "top": np.minimum, "left": np.minimum}
        start = {np.add: 0, np.minimum: np.iinfo(np.int64).max, np.maximum: -1}
        columns = {}
        for f in fields(self):
            ufunc, values = how.get(f.name, np.maximum), getattr(self, f.name)
            columns[f.name] = np.full(count, start[ufunc], values.dtype)
            ufunc.at(columns[f.name], label, values)
        return Statistics(**columns)


@dataclass(frozen=True)
class Members:
    """Components, or single runs, and what belongs to each.

    Parameters
    ----------
    statistics
        Of n components.
    runs
        Shape (k, 3), raster order: row, start column, stop column.
    owner
        Shape (k,): the component of each run.
    gaps
        Shape (g,): raster index of a cell without a score that shares a side or a corner with a component.
    gap_owner
        Shape (g,): that component.
    """

    statistics: Statistics
    runs: NDArray[np.int32]
    owner: NDArray[np.int64]
    gaps: NDArray[np.int64]
    gap_owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.statistics.cells)

    @classmethod
    def empty(cls) -> Members:
        """Return no components."""
        return cls.of_runs(np.empty((0, 3), np.int64), np.empty(0, np.float32), 0)

    @classmethod
    def of_runs(cls, runs: NDArray[np.int64], values: NDArray[np.float32], width: int) -> Members:
        """Return each run by itself.

        Parameters
        ----------
        runs
            Shape (n, 3), raster order.
        values
            The scores of all their cells, in raster order.
        width
            Columns of the raster.
        """
        row, start, stop = runs.T
        cells = stop - start
        first = np.cumsum(cells) - cells
        fixed = np.rint(values.astype(np.float64) * ONE).astype(np.int64)
        total, peak = np.add.reduceat(fixed, first), np.maximum.reduceat(values, first)
        statistics = Statistics(cells, total, peak, row, row, start, stop - 1, row * width + stop - 1)
        none = np.empty(0, np.int64)
        return cls(statistics, runs.astype(np.int32), np.arange(len(runs)), none, none)

    def followed_by(self, below: Members) -> Members:
        """Return both; the other's runs lie below."""
        return Members(
            self.statistics.followed_by(below.statistics),
            np.concatenate([self.runs, below.runs]),
            np.concatenate([self.owner, len(self) + below.owner]),
            np.concatenate([self.gaps, below.gaps]),
            np.concatenate([self.gap_owner, len(self) + below.gap_owner]),
        )

    def with_gaps(self, gaps: NDArray[np.int64], owner: NDArray[np.int64]) -> Members:
        """Return the same with more gaps, shape (g,) each; a gap may be known already."""
        return replace(self, gaps=np.concatenate([self.gaps, gaps]), gap_owner=np.concatenate([self.gap_owner, owner]))

    def merged(self, label: NDArray[np.int64], count: int) -> Members:
        """Return the ``count`` components that ``label`` of shape (n,) makes of these."""
        gaps, gap_owner = self.gaps, label[self.gap_owner]
        if len(gaps):  # a gap counts once for a component, however many sides and corners they share
            gap_owner, gaps = np.unique(np.stack([gap_owner, gaps]), axis=1)
        return Members(self.statistics.merged(label, count), self.runs, label[self.owner], gaps, gap_owner)

    def where(self, keep: NDArray[np.bool_]) -> Members:
        """Return the components that a mask of shape (n,) keeps, in the same order, renumbered."""
        number = np.cumsum(keep) - 1
        mine, gaps = keep[self.owner], keep[self.gap_owner]
        return Members(
            self.statistics.where(keep),
            self.runs[mine],
            number[self.owner[mine]],
            self.gaps[gaps],
            number[self.gap_owner[gaps]],
        )


def gaps_beside(
    scores: NDArray[np.float32], above: NDArray[np.bool_], runs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each cell without a score beside a run, and that run: flat index and number, shape (pairs,) each."""
    none = np.empty(0, np.int64)
    missing = np.isnan(scores)
    if not len(runs) or not missing.any():
        return none, none
    rows, cols = scores.shape
    pitch = cols + 2  # a column of False on either side, a row above and below: neighbors are plain offsets
    padded = np.zeros((rows + 2, pitch), np.bool_)
    padded[1:-1, 1:-1] = above
    near = padded.copy()
    near[:, 1:] |= padded[:, :-1]
    near[:, :-1] |= padded[:, 1:]
    near[1:-1] |= near[:-2] | near[2:]
    at, col = np.nonzero(missing & near[1:-1, 1:-1])
    center = (at + 1) * pitch + col + 1
    first_cell = (runs[:, 0] + 1) * pitch + runs[:, 1] + 1
    pairs = []
    for offset in (-pitch - 1, -pitch, -pitch + 1, -1, 1, pitch - 1, pitch, pitch + 1):
        hit = padded.ravel()[center + offset]
        pairs.append((np.flatnonzero(hit), np.searchsorted(first_cell, center[hit] + offset, side="right") - 1))
    which = np.concatenate([cells for cells, _ in pairs])
    return (at * cols + col)[which], np.concatenate([run for _, run in pairs])
