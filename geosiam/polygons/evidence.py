"""What the pixels of cells show, noted while these pixels are decoded anyway.

The evidence for a polygon is in the pixels of its cells and of those around them. When the polygons are known, these
pixels are long gone, and decoding them once more takes as long as decoding all tiles of the scenes that hold a polygon.
So the cells that may be asked for are noted while they are scored. What is noted are whole numbers that depend on the
cell alone: whoever looks at a cell again finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from geosiam.imagery.grid import Window
from geosiam.imagery.pair import StoredBlock
from geosiam.scores.working_file import SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block
    from geosiam.imagery.pair import PairBlock

    Notes = tuple[NDArray[np.int64], NDArray[np.uint16] | NDArray[np.int32]]

REACH = 2
"""Cells around a component that are its surroundings."""

SHADE = 0.25, 0.85
"""Share of the brightness that a shadow leaves."""

SAME_HUE, DARK = 0.025, 0.06
"""Largest difference of a channel's share in the brightness; brightness below which there is no telling."""

CHANGED = 0.1
"""Difference of a channel from which on a pixel has changed."""

COUNTS = ("valid", "shaded", "changed", "still")
SUMS = ("changed_before", "changed_after", "still_before", "still_after", "still_before_2", "still_after_2")
COLUMNS = len(COUNTS) + 3 * len(SUMS)
"""How many numbers say what a cell shows: pixels of each kind in :data:`COUNTS`, sums of three channels in `SUMS`."""

ONE = 1 << 12
"""A channel's largest value in the sums, which are whole numbers so that their order does not matter."""

BLOCK_PX = 128
"""Side of what is looked at in one go."""

_MOST_BYTES = 32_000_000
_MOST_OF_A_BLOCK = 1 << 14  # a quarter of the cells of one: where nearly everything has changed, nothing is noted
_ROUNDING = 0.5 / SCORE_STEPS  # what the score raster may add to a score, if it stores bytes


@dataclass(frozen=True)
class ZonalStatistics:
    """Looks at the pixels of cells with high scores, and of those around them, where they are scored.

    Parameters
    ----------
    shape
        Rows and columns of cells of the scene.
    stride
        Pixels along a cell's side.
    least
        Score from which on a cell may become part of a polygon.
    """

    shape: tuple[int, int]
    stride: int
    least: float

    def __call__(self, block: Block, window: Window, pixels: StoredBlock, scores: NDArray[np.float32]) -> Notes | None:
        """Return which cells are worth noting and what they show.

        Parameters
        ----------
        block
            The cells.
        window
            The pixels of the scene that were read for them.
        pixels
            These.
        scores
            float32 of the block's shape, NaN = none.

        Returns
        -------
        places of cells in raster order (n,) and sums (n, :data:`COLUMNS`); None if there are none, or too many
        """
        high = scores >= self.least - _ROUNDING
        if not high.any():
            return None
        seen = self._within(window)
        row, col = np.nonzero(_grown(high, block.cells, seen))
        if len(row) > _MOST_OF_A_BLOCK:
            return None
        row, col = row + seen.row_start, col + seen.col_start
        # The largest sum is that of a cell whose pixels all have the largest value.
        small = self.stride**2 * ONE <= np.iinfo(np.uint16).max
        sums = np.empty((len(row), COLUMNS), np.uint16 if small else np.int32)
        for here, cells in patches(row, col, self.stride):
            place = cells.scaled(self.stride).relative_to(window).slices
            shown = cell_sums(_part(pixels, *place), self.stride)
            sums[here] = shown[:, row[here] - cells.row_start, col[here] - cells.col_start].T
        return self.places(row, col), sums

    def _within(self, window: Window) -> Window:
        """Return the cells of the scene whose pixels are all in a window."""
        s, (height, width) = self.stride, self.shape
        return Window(
            max(0, -(-window.row_start // s)),
            min(height, window.row_stop // s),
            max(0, -(-window.col_start // s)),
            min(width, window.col_stop // s),
        )

    def places(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of cells in raster order."""
        return row.astype(np.int64) * self.shape[1] + col


class ZonalStatsStore:
    """What a lookout has noted, in bounded memory: what is not here has to be looked at again."""

    def __init__(self, lookout: ZonalStatistics, most_bytes: int = _MOST_BYTES) -> None:
        self.lookout = lookout
        self._room = most_bytes
        self._notes: list[Notes] = []

    @property
    def wanted(self) -> bool:
        """Whether there is room for more."""
        return self._room > 0

    def keep(self, notes: Notes) -> None:
        """Keep what the lookout has noted of a block."""
        size = sum(part.nbytes for part in notes)
        if size <= self._room:
            self._room -= size
            self._notes.append(notes)

    def recall(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which of some cells were noted, bool (n,), and what these show, shape (noted, :data:`COLUMNS`)."""
        index, wanted = self._index, self.lookout.places(row, col)
        found = np.searchsorted(index.places, wanted)
        known = np.zeros(len(wanted), bool)
        inside = found < len(index.places)
        known[inside] = index.places[found[inside]] == wanted[inside]
        block, line = index.block[found[known]], index.line[found[known]]
        sums = np.empty((len(block), COLUMNS), np.int64)
        for number in np.unique(block):
            here = block == number
            sums[here] = self._notes[number][1][line[here]]
        return known, sums

    @cached_property
    def _index(self) -> _Index:
        """Where to find each place; all is noted when the first of them is looked for."""
        lengths = [len(places) for places, _ in self._notes]
        places = np.concatenate([places for places, _ in self._notes] or [np.empty(0, np.int64)])
        order = np.argsort(places, kind="stable")
        block = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        first = np.repeat(np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)], lengths)
        line = (np.arange(len(places)) - first).astype(np.int32)
        return _Index(places[order], block[order], line[order])


@dataclass(frozen=True)
class _Index:
    """The places noted (n,), in order, and of each the block whose note it is in, and its line there."""

    places: NDArray[np.int64]
    block: NDArray[np.int32]
    line: NDArray[np.int32]


def patches(
    row: NDArray[np.int64], col: NDArray[np.int64], stride: int, blocks: int = 1
) -> Iterator[tuple[NDArray[np.intp], Window]]:
    """Sort cells by where they lie, in patches so many times :data:`BLOCK_PX` wide.

    Yields
    ------
    places of the cells of a patch among those given, and the smallest window of cells that holds these
    """
    side = max(1, BLOCK_PX // stride) * blocks
    down, across = row // side, col // side
    key = down * (int(across.max(initial=0)) + 1) + across
    order = np.argsort(key, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        if len(here):
            yield (
                here,
                Window(int(row[here].min()), int(row[here].max()) + 1, int(col[here].min()), int(col[here].max()) + 1),
            )


def cell_sums(seen: PairBlock, stride: int) -> NDArray[np.int64]:
    """Return what each cell of a block shows: shape (:data:`COLUMNS`, rows, cols), summed over its pixels."""
    before, after, valid = seen.before, seen.after, seen.valid
    changed = valid & (np.abs(after - before).max(axis=0) >= CHANGED)
    still = valid & ~changed
    layers = np.empty((COLUMNS, *valid.shape), np.int32)
    layers[: len(COUNTS)] = valid, valid & _shaded(before, after), changed, still
    both = np.concatenate([before, after])
    values, squares = np.rint(both * ONE).astype(np.int32), np.rint(both * both * ONE).astype(np.int32)
    of_changed, of_still, of_squares = layers[len(COUNTS) :].reshape(3, 6, *valid.shape)
    np.multiply(values, changed, out=of_changed)
    np.multiply(values, still, out=of_still)
    np.multiply(squares, still, out=of_squares)
    height, width = (side // stride for side in valid.shape)
    # Down the columns first, where what is added lies side by side in memory.
    down = layers.reshape(COLUMNS, height, stride, width * stride)
    rows = sum((down[:, :, i] for i in range(1, stride)), start=down[:, :, 0])
    across = rows.reshape(COLUMNS, height, width, stride)
    return np.asarray(sum((across[..., i] for i in range(1, stride)), start=across[..., 0]), np.int64)


def _shaded(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels darken like a shadow: float32 (3, rows, cols) to bool (rows, cols)."""
    light, left = before.mean(axis=0), after.mean(axis=0)
    low, high = SHADE
    darker = (light >= DARK) & (left >= low * light) & (left <= high * light)
    hue = np.abs(before / np.maximum(3 * light, 1e-6) - after / np.maximum(3 * left, 1e-6)).max(axis=0)
    return np.asarray(darker & (hue <= SAME_HUE), np.bool_)


def _grown(high: NDArray[np.bool_], cells: Window, seen: Window) -> NDArray[np.bool_]:
    """Return which of the cells seen are such cells of a block or around one: bool, of the shape of `seen`."""
    grown = np.zeros(seen.shape, bool)
    grown[cells.relative_to(seen).slices] = high
    for lines in (grown, grown.T):  # a square grows along one axis after the other
        here = lines.copy()
        for distance in range(1, REACH + 1):
            lines[distance:] |= here[:-distance]
            lines[:-distance] |= here[distance:]
    return grown


def _part(pixels: StoredBlock, rows: slice, cols: slice) -> PairBlock:
    before, after = pixels.before[:, rows, cols], pixels.after[:, rows, cols]
    return StoredBlock(before, after, pixels.valid[rows, cols], pixels.transforms).comparable()
