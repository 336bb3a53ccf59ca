"""Connected components of a score raster as a stream, in the memory of one strip and the components still open.

The raster arrives in strips of any height. Each strip is cut into runs; a graph connects the runs that touch, the runs
of the row above the strip (the *frontier*) and the components still open there. The connected parts of that graph are
the components so far: those that do not reach the last row of the strip cannot grow any more. They are filtered by size
and score and yielded before any geometry is computed.

Nothing depends on where the strips are cut. Sums are kept in fixed point, so the order of addition does not matter, and
components are ordered by the raster position of their *last* cell, which is the earliest order that a stream can know.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from geosiam.errors import OptionError
from geosiam.polygons.runs import adjacent_runs, runs_of, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_FIXED_POINT_ONE = 1 << 30  # a score of 1 in fixed point: sums are exact, in any order, for up to 8e9 cells


@dataclass(frozen=True)
class ComponentBatch:
    """Connected components as columns: neighboring cells at or above the threshold.

    Parameters
    ----------
    cells
        Number of cells, shape (n,).
    score_mean, score_max
        Mean and highest score of these cells, shape (n,).
    bounds
        Bounding box, shape (n, 4): row start, row stop, column start, column stop.
    neighbors
        Number of raster cells that share a side or a corner with the component and are outside it, shape (n,).
    nodata_neighbors
        Number of these neighbors that have no score, shape (n,).
    touches_edge
        Whether the component reaches the first or last row or column of the raster, shape (n,).
    runs
        Shape (k, 3): row, start column and stop column of all runs, component by component, each in raster order.
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

    @property
    def run_owner(self) -> NDArray[np.int64]:
        """Component of each run, shape (k,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def valid_fraction(self) -> NDArray[np.float64]:
        """Fraction of the component's own and adjacent cells that have a score, shape (n,)."""
        return 1 - self.nodata_neighbors / (self.cells + self.neighbors)

    def where(self, mask: NDArray[np.bool_]) -> ComponentBatch:
        """Return the components that a mask of shape (n,) selects."""
        count = np.diff(self.offsets)
        columns = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name not in ("runs", "offsets")}
        offsets = np.concatenate([[0], np.cumsum(count[mask])])
        return ComponentBatch(**columns, runs=self.runs[np.repeat(mask, count)], offsets=offsets)


def component_batches(
    strips: Iterable[NDArray[np.float32]],
    threshold: float,
    *,
    connectivity: int = 8,
    min_cells: int = 1,
    seed_threshold: float | None = None,
) -> Iterator[ComponentBatch]:
    """Yield the connected components of all cells with ``score >= threshold``.

    Parameters
    ----------
    strips
        The raster from top to bottom: float32 (rows, cols) in [0, 1], NaN = not scored. Heights may differ.
    threshold
        Minimum score of a cell.
    connectivity
        8: cells that share a corner are connected; 4: only those that share a side.
    min_cells
        Minimum number of cells of a component.
    seed_threshold
        Minimum score that at least one cell of a component must reach (hysteresis); None: no such condition.

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
        raise OptionError("`connectivity`", f"is {connectivity}", "use 4 or 8")
    stream: _ComponentStream | None = None
    for strip in strips:
        if not strip.shape[0]:
            continue
        if stream is None:
            stream = _ComponentStream(strip.shape[1], threshold, diagonal=connectivity == 8)  # noqa: PLR2004
        complete = stream.advance(strip)
        yield from _batch(complete, stream, min_cells, seed_threshold)
    if stream is not None:
        yield from _batch(stream.finish(), stream, min_cells, seed_threshold)


class _ComponentStream:
    """The components of the strips so far: those that reach the last row are open, the others complete.

    Parameters
    ----------
    width
        Columns of the raster.
    threshold
        Minimum score of a cell.
    diagonal
        Whether cells that share just a corner are connected.
    """

    def __init__(self, width: int, threshold: float, *, diagonal: bool) -> None:
        self.width = width
        self.rows = 0  # of all strips so far
        self._threshold = threshold
        self._diagonal = diagonal
        self._open = RegionTable.empty()
        self._frontier = np.full(width, -1, np.float32)  # scores of the last row; -1 before the first strip
        self._frontier_owner = np.empty(0, np.int64)  # the open component of each run of the frontier

    def advance(self, strip: NDArray[np.float32]) -> RegionTable:
        """Add the next strip and return the components that end above its last row."""
        scores = np.concatenate([self._frontier[None], strip])
        above = scores >= self._threshold
        above[0] &= self.rows > 0
        runs = runs_of(above)
        upper, lower = adjacent_runs(*runs.T, diagonal=self._diagonal)

        # The graph has two kinds of nodes: the open components, which own the runs of the frontier, and the new runs.
        frontier_count, open_count = len(self._frontier_owner), len(self._open)
        node = np.concatenate([self._frontier_owner, open_count + np.arange(len(runs) - frontier_count)])
        nodata, nodata_run = nodata_neighbors(scores, above, runs)
        new_runs = runs[frontier_count:] + np.array([self.rows - 1, 0, 0])
        new = RegionTable.of_runs(new_runs, strip[above[1:]], self.width)
        regions = self._open.followed_by(new).with_nodata(nodata + (self.rows - 1) * self.width, node[nodata_run])
        count, label = union(len(regions), node[upper], node[lower])

        components = regions.merged(label, count)
        frontier_owner = label[node[runs[:, 0] == len(strip)]]
        is_open = np.zeros(count, np.bool_)
        is_open[frontier_owner] = True
        self.rows += len(strip)
        self._frontier = strip[-1].copy()
        self._open = components.where(is_open)
        self._frontier_owner = (np.cumsum(is_open) - 1)[frontier_owner]
        return components.where(~is_open)

    def finish(self) -> RegionTable:
        """Return the components that reach the last row of the raster."""
        last, self._open = self._open, RegionTable.empty()
        self._frontier_owner = np.empty(0, np.int64)
        return last


def _batch(
    complete: RegionTable, stream: _ComponentStream, min_cells: int, seed_threshold: float | None
) -> Iterator[ComponentBatch]:
    """Yield the components that are large and strong enough as one ordered batch; nothing if there are none."""
    selected = complete.statistics.cells >= min_cells
    if seed_threshold is not None:
        selected &= complete.statistics.score_max >= seed_threshold
    if not selected.any():
        return
    regions = complete.where(selected)
    order = np.argsort(regions.statistics.last)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    owner = rank[regions.run_owner]
    # Runs of one strip are in raster order and strips follow each other, so a stable sort preserves raster order.
    runs = regions.runs[np.argsort(owner, kind="stable")]
    s = regions.statistics.where(order)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(order)))])
    bounds = np.stack([s.top, s.bottom + 1, s.left, s.right + 1], axis=1)
    yield ComponentBatch(
        cells=s.cells,
        score_mean=s.score_sum / (s.cells * _FIXED_POINT_ONE),
        score_max=s.score_max.astype(np.float64),
        bounds=bounds,
        neighbors=_dilated_cells(runs, offsets, bounds, stream) - s.cells,
        nodata_neighbors=np.bincount(rank[regions.nodata_owner], minlength=len(order)).astype(np.int64),
        touches_edge=(s.top == 0) | (s.left == 0) | (s.right == stream.width - 1) | (s.bottom == stream.rows - 1),
        runs=runs,
        offsets=offsets,
    )


def _dilated_cells(
    runs: NDArray[np.int32], offsets: NDArray[np.int64], bounds: NDArray[np.int64], stream: _ComponentStream
) -> NDArray[np.int64]:
    """Return the number of raster cells of each component, grown by one cell on all sides: shape (n,)."""
    owner = np.repeat(np.arange(len(bounds)), np.diff(offsets))
    height = bounds[:, 1] - bounds[:, 0] + 2
    line = (np.cumsum(height) - height - bounds[:, 0] + 1)[owner] + runs[:, 0]  # separate lines for every component
    pitch = stream.width + 1
    start, stop = np.maximum(runs[:, 1] - 1, 0), np.minimum(runs[:, 2] + 1, stream.width)
    shifts = [(shift, (runs[:, 0] + shift >= 0) & (runs[:, 0] + shift < stream.rows)) for shift in (-1, 0, 1)]
    begin = np.concatenate([((line + shift) * pitch + start)[inside] for shift, inside in shifts])
    end = np.concatenate([((line + shift) * pitch + stop)[inside] for shift, inside in shifts])
    interval_owner = np.concatenate([owner[inside] for _, inside in shifts])
    order = np.argsort(begin, kind="stable")  # three sorted parts: merged in linear time
    begin, end, interval_owner = begin[order], end[order], interval_owner[order]
    reached = np.concatenate([[-1], np.maximum.accumulate(end)[:-1]])
    covered = np.maximum(end - np.maximum(begin, reached), 0)
    return np.bincount(interval_owner, weights=covered, minlength=len(bounds)).astype(np.int64)


@dataclass(frozen=True)
class RegionStatistics:
    """Statistics of regions as columns of shape (n,); rows and columns are inclusive."""

    cells: NDArray[np.int64]
    score_sum: NDArray[np.int64]  # fixed point
    score_max: NDArray[np.float32]
    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    last: NDArray[np.int64]  # raster index of the last cell

    def where(self, selection: NDArray[np.bool_] | NDArray[np.int64]) -> RegionStatistics:
        """Return the rows that a mask or indices select."""
        return RegionStatistics(**{f.name: getattr(self, f.name)[selection] for f in fields(self)})

    def followed_by(self, other: RegionStatistics) -> RegionStatistics:
        """Return the rows of both."""
        columns = {f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        return RegionStatistics(**columns)

    def merged(self, label: NDArray[np.int64], count: int) -> RegionStatistics:
        """Return the statistics of ``count`` groups of rows; ``label`` of shape (n,) is the group of each row."""
        reductions = {"cells": np.add, "score_sum": np.add, "top": np.minimum, "left": np.minimum}
        initial = {np.add: 0, np.minimum: np.iinfo(np.int64).max, np.maximum: -1}
        columns = {}
        for f in fields(self):
            ufunc, values = reductions.get(f.name, np.maximum), getattr(self, f.name)
            columns[f.name] = np.full(count, initial[ufunc], values.dtype)
            ufunc.at(columns[f.name], label, values)
        return RegionStatistics(**columns)


@dataclass(frozen=True)
class RegionTable:
    """Regions (single runs, or components so far) with their statistics, runs and neighbors without a score.

    Parameters
    ----------
    statistics
        Statistics of n regions.
    runs
        Shape (k, 3), raster order: row, start column, stop column.
    run_owner
        Shape (k,): the region of each run.
    nodata
        Shape (g,): raster index of a cell without a score that shares a side or a corner with a region.
    nodata_owner
        Shape (g,): that region.
    """

    statistics: RegionStatistics
    runs: NDArray[np.int32]
    run_owner: NDArray[np.int64]
    nodata: NDArray[np.int64]
    nodata_owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.statistics.cells)

    @classmethod
    def empty(cls) -> RegionTable:
        """Return a table without regions."""
        return cls.of_runs(np.empty((0, 3), np.int64), np.empty(0, np.float32), 0)

    @classmethod
    def of_runs(cls, runs: NDArray[np.int64], values: NDArray[np.float32], width: int) -> RegionTable:
        """Return a table in which each run is a region.

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
        fixed = np.rint(values.astype(np.float64) * _FIXED_POINT_ONE).astype(np.int64)
        score_sum, score_max = np.add.reduceat(fixed, first), np.maximum.reduceat(values, first)
        statistics = RegionStatistics(cells, score_sum, score_max, row, row, start, stop - 1, row * width + stop - 1)
        none = np.empty(0, np.int64)
        return cls(statistics, runs.astype(np.int32), np.arange(len(runs)), none, none)

    def followed_by(self, below: RegionTable) -> RegionTable:
        """Return the regions of both tables; the runs of the other one lie below."""
        return RegionTable(
            self.statistics.followed_by(below.statistics),
            np.concatenate([self.runs, below.runs]),
            np.concatenate([self.run_owner, len(self) + below.run_owner]),
            np.concatenate([self.nodata, below.nodata]),
            np.concatenate([self.nodata_owner, len(self) + below.nodata_owner]),
        )

    def with_nodata(self, nodata: NDArray[np.int64], owner: NDArray[np.int64]) -> RegionTable:
        """Return the table with more neighbors without a score, shape (g,) each; repeated ones do no harm."""
        return replace(
            self, nodata=np.concatenate([self.nodata, nodata]), nodata_owner=np.concatenate([self.nodata_owner, owner])
        )

    def merged(self, label: NDArray[np.int64], count: int) -> RegionTable:
        """Return the table of ``count`` groups of regions; ``label`` of shape (n,) is the group of each region."""
        nodata, owner = self.nodata, label[self.nodata_owner]
        if len(nodata):  # a cell counts once for a region, however many sides and corners they share
            owner, nodata = np.unique(np.stack([owner, nodata]), axis=1)
        return RegionTable(self.statistics.merged(label, count), self.runs, label[self.run_owner], nodata, owner)

    def where(self, mask: NDArray[np.bool_]) -> RegionTable:
        """Return the regions that a mask of shape (n,) selects, in the same order, renumbered."""
        number = np.cumsum(mask) - 1
        run_mask, nodata_mask = mask[self.run_owner], mask[self.nodata_owner]
        return RegionTable(
            self.statistics.where(mask),
            self.runs[run_mask],
            number[self.run_owner[run_mask]],
            self.nodata[nodata_mask],
            number[self.nodata_owner[nodata_mask]],
        )


def nodata_neighbors(
    scores: NDArray[np.float32], above: NDArray[np.bool_], runs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cells without a score that share a side or a corner with a run.

    Parameters
    ----------
    scores, above
        Shape (rows, cols): scores, NaN = none, and whether they reach the threshold.
    runs
        The runs of `above`, shape (n, 3).

    Returns
    -------
    cell, run
        Flat index of the cell and number of the run, shape (pairs,) each; a pair may come several times.
    """
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
    row, col = np.nonzero(missing & near[1:-1, 1:-1])
    center = (row + 1) * pitch + col + 1
    first_cell = (runs[:, 0] + 1) * pitch + runs[:, 1] + 1
    pairs = []
    for offset in (-pitch - 1, -pitch, -pitch + 1, -1, 1, pitch - 1, pitch, pitch + 1):
        hit = padded.ravel()[center + offset]
        pairs.append((np.flatnonzero(hit), np.searchsorted(first_cell, center[hit] + offset, side="right") - 1))
    cell = np.concatenate([cells for cells, _ in pairs])
    return (row * cols + col)[cell], np.concatenate([run for _, run in pairs])
