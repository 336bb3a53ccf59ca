"""What is known of runs and components while they grow: statistics, cells, and the gaps around them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    pitch = cols + 2  # a column of False on either side, a row above and below: neighbours are plain offsets
    padded = np.zeros((rows + 2, pitch), np.bool_)
    padded[1:-1, 1:-1] = above
    near = padded.copy()
    near[:, 1:] |= padded[:, :-1]
    near[:, :-1] |= padded[:, 1:]
    near[1:-1] |= near[:-2] | near[2:]
    at, col = np.nonzero(missing & near[1:-1, 1:-1])
    centre = (at + 1) * pitch + col + 1
    first_cell = (runs[:, 0] + 1) * pitch + runs[:, 1] + 1
    pairs = []
    for offset in (-pitch - 1, -pitch, -pitch + 1, -1, 1, pitch - 1, pitch, pitch + 1):
        hit = padded.ravel()[centre + offset]
        pairs.append((np.flatnonzero(hit), np.searchsorted(first_cell, centre[hit] + offset, side="right") - 1))
    which = np.concatenate([cells for cells, _ in pairs])
    return (at * cols + col)[which], np.concatenate([run for _, run in pairs])
