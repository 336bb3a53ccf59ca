"""The score raster as polygons need it: once from top to bottom, and then some cells of it again."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from geosiam.detection.working_raster import FINE_STEPS
from geosiam.imagery.grid import Grid, Window
from geosiam.vector.footprint import Footprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.vector.components import ComponentBatch

MOST_ROWS, STRIP_CELLS = 512, 1 << 22
"""Height of a strip: a row of tiles, or less where a strip would have too many cells."""

_ROUNDING = 0.01  # of a step, more than float32 is off where a score is one of these
_SLICE_CELLS = 1 << 21
_TENTH = 10


class Scores(Protocol):
    """Anything that gives scores strip by strip; :class:`~geosiam.detection.raster.ScoreRaster` does."""

    @property
    def grid(self) -> Grid:
        """The grid of cells."""
        ...

    @property
    def stride(self) -> int:
        """Pixels of the before-scene along a cell's side."""
        ...

    @property
    def extent(self) -> tuple[float, float]:
        """Where the scene ends, in cells (rows, cols)."""
        ...

    def strips(self, rows: int = ...) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores, float32 (rows, cols) in [0, 1], NaN = not scored, from top to bottom."""
        ...

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window inside the raster."""
        ...


class ScoreField:
    """Scores that are streamed once, while what of them components need later is at hand or read again.

    Components end soon after the rows they lie in, so the last two strips are kept. What lies above, in components that
    are taller, is read again.

    Parameters
    ----------
    scores
        Where they come from.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.footprint = Footprint(scores.grid, scores.extent)
        self._held: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=2)

    def strips(self) -> Iterator[NDArray[np.float32]]:
        """Yield the strips from top to bottom."""
        for start, strip in self.scores.strips(strip_rows(self.scores.grid.width)):
            self._held.append((start, strip))
            self.footprint.add(start, strip)
            yield strip

    def at(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of cells of the strips seen so far, shape (n,); NaN outside the raster."""
        height, width = self.scores.grid.shape
        found = np.full(len(rows), np.nan, np.float32)
        missing = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        for start, strip in self._held:
            here = missing & (rows >= start) & (rows < start + len(strip))
            found[here] = strip[rows[here] - start, cols[here]]
            missing &= ~here
        where = np.flatnonzero(missing)
        pitch = strip_rows(width)
        band = rows[where] // pitch
        for number in np.unique(band):
            which = where[band == number]
            top, left = int(number) * pitch, int(cols[which].min())
            part = Window(top, min(top + pitch, height), left, int(cols[which].max()) + 1)
            found[which] = self.scores.read(part)[rows[which] - top, cols[which] - left]
        return found

    def ninth_decile(self, batch: ComponentBatch) -> NDArray[np.float64]:
        """Return the score that 90 % of the cells of each component do not exceed, shape (n,).

        It is the least such score (the inverse of the distribution function): exactly where scores are stored as bytes,
        else up to the next step of 1/65532. So a component of any size needs a histogram only.
        """
        result = batch.score_max.copy()  # of fewer than ten cells it is the highest
        large = batch.cells >= _TENTH
        if not large.any():
            return result
        chosen = batch.where(large)
        key, count = _histograms(chosen, self)
        owner, step = np.divmod(key, FINE_STEPS + 1)
        within = np.cumsum(count) - (np.cumsum(chosen.cells) - chosen.cells)[owner]
        enough = within * _TENTH >= chosen.cells[owner] * (_TENTH - 1)
        first = np.full(len(chosen), FINE_STEPS, np.int64)
        np.minimum.at(first, owner[enough], step[enough])
        result[large] = np.minimum((first / np.float32(FINE_STEPS)).astype(np.float32), chosen.score_max)
        return result


def strip_rows(width: int) -> int:
    """Return how many rows of a raster of this width are worked on at a time: a power of two, up to a tile's height."""
    rows = MOST_ROWS
    while rows > 1 and rows * width > STRIP_CELLS:
        rows //= 2
    return rows


def _histograms(batch: ComponentBatch, field: ScoreField) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the histograms of components: ascending ``component * (FINE_STEPS + 1) + step`` and number of cells."""
    length = (batch.runs[:, 2] - batch.runs[:, 1]).astype(np.int64)
    owner = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    part = np.cumsum(length) // _SLICE_CELLS
    keys, counts = [], []
    for number in np.unique(part):
        run = part == number
        rows, cols = cells_of(batch.runs[run])
        steps = np.ceil(field.at(rows, cols).astype(np.float64) * FINE_STEPS - _ROUNDING).astype(np.int64)
        key, count = np.unique(np.repeat(owner[run], length[run]) * (FINE_STEPS + 1) + steps, return_counts=True)
        keys.append(key)
        counts.append(count)
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    return key, np.bincount(inverse, weights=np.concatenate(counts)).astype(np.int64)


def cells_of(runs: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column of each cell of runs of shape (k, 3)."""
    row, start, stop = runs.astype(np.int64).T
    length = stop - start
    rank = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(row, length), np.repeat(start, length) + rank
