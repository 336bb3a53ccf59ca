"""Collect per-cell pixel statistics while blocks are scored, so that polygon attributes need no second reading.

The attributes of a polygon depend on the pixels of its cells and of the cells around them. When the polygons are known,
these pixels have long been dropped, and reading them again would decode every tile of the scenes that holds a polygon.
So the statistics of all cells that may belong to a polygon are computed with the scores. They are integers that depend
on the cell alone, so computing them again later gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.imagery.grid import Window
from geosiam.imagery.pair import StoredBlock
from geosiam.scores.working_file import SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block
    from geosiam.imagery.pair import PairBlock

BUFFER_CELLS = 2
"""Width of the surroundings that a component is compared with, in cells."""

COUNTS = ("valid", "shaded", "changed", "unchanged")
SUMS = (
    "changed_before",
    "changed_after",
    "unchanged_before",
    "unchanged_after",
    "unchanged_before_squared",
    "unchanged_after_squared",
)
REACH_PX = 3
"""Pixels around a cell that its statistics depend on: the longest shift in :data:`SHIFTS` along a row or a column."""

SHIFTS = (
    (0, 0),
    *((down * px, right * px) for px in range(1, REACH_PX + 1) for down in (-1, 0, 1) for right in (-1, 0, 1)
      if down or right),
)  # fmt: skip
"""Shifts (down, right) of the after scene's content in pixels at which both scenes are compared; first, none."""

PIXEL_COLUMNS = len(COUNTS) + 3 * len(SUMS)
COLUMNS = PIXEL_COLUMNS + 1 + len(SHIFTS)
"""Statistics of a cell: the number of its pixels of each kind in :data:`COUNTS`; sums of three channels in `SUMS`;
whether all pixels are valid that a shift may lead to; if so, its mean difference at each of `SHIFTS` in 1/255 of the
brightness, rounded to a byte, otherwise 0."""

UNIT = 1 << 12
"""What a channel's largest value counts in the sums: integers, so that the order of summation does not matter."""

PATCH_PX = 128
"""Side of the area whose statistics are computed in one go, in pixels."""

_INNER = slice(REACH_PX, -REACH_PX)
_MAX_STORE_BYTES = 48_000_000
_MAX_BLOCK_CELLS = 1 << 14  # a quarter of a block's cells: where nearly everything changed, nothing is stored
_STORED_SCORE_ERROR = 0.5 / SCORE_STEPS  # what the score raster may add to a score that it stores as a byte


@dataclass(frozen=True)
class PixelPolicy:
    """Limits by which pixels count as changed or as shaded; channel values lie in [0, 1].

    Parameters
    ----------
    min_change
        Least difference of a channel that makes a pixel a changed one.
    shade
        Least and largest share of the brightness that a shadow leaves.
    max_hue_difference
        Largest difference of a channel's share of the brightness between a pixel and the same pixel in the shade.
    min_brightness
        Brightness below which a pixel is too dark to classify as shaded.
    """

    min_change: float = 0.1
    shade: tuple[float, float] = (0.25, 0.85)
    max_hue_difference: float = 0.025
    min_brightness: float = 0.06


_POLICY = PixelPolicy()


@dataclass(frozen=True)
class CellStatistics:
    """Pixel statistics of some cells.

    Parameters
    ----------
    cells
        int64 (n,), numbers of the cells in raster order, ascending.
    values
        uint16 or int32 (n, :data:`PIXEL_COLUMNS`).
    differences
        uint8 (n, :data:`COLUMNS` - `PIXEL_COLUMNS`).
    """

    cells: NDArray[np.int64]
    values: NDArray[np.uint16] | NDArray[np.int32]
    differences: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Memory of the statistics in bytes."""
        return self.cells.nbytes + self.values.nbytes + self.differences.nbytes


@dataclass(frozen=True)
class ZonalStatistics:
    """Compute the statistics of the cells of a block with high scores and of the cells around these.

    Parameters
    ----------
    shape
        Rows and columns of cells of the scene.
    stride
        Pixels along a cell's side.
    threshold
        Least score of a cell that may become part of a polygon.
    """

    shape: tuple[int, int]
    stride: int
    threshold: float

    def of_block(
        self, block: Block, window: Window, pixels: StoredBlock, scores: NDArray[np.float32]
    ) -> CellStatistics | None:
        """Return the statistics of a block; None without high scores, or with too many to store.

        Parameters
        ----------
        block
            The block of cells.
        window
            The window of pixels that was read for it.
        pixels
            The pixels of this window.
        scores
            float32 of the block's shape, NaN = not scored.
        """
        high = scores >= self.threshold - _STORED_SCORE_ERROR
        if not high.any():
            return None
        row, col = self._near(high, block.cells, self._whole_cells(window.grown(-REACH_PX)))
        if len(row) > _MAX_BLOCK_CELLS:
            return None
        # The largest possible sum is that of a cell of white pixels.
        fits_uint16 = self.stride**2 * UNIT <= np.iinfo(np.uint16).max
        values = np.empty((len(row), PIXEL_COLUMNS), np.uint16 if fits_uint16 else np.int32)
        differences = np.empty((len(row), COLUMNS - PIXEL_COLUMNS), np.uint8)
        for members, cells in patches(row, col, self.stride):
            rows, cols = cells.scaled(self.stride).grown(REACH_PX).relative_to(window).slices
            statistics = cell_statistics(_comparable(pixels, rows, cols), self.stride)
            of_members = statistics[:, row[members] - cells.row_start, col[members] - cells.col_start].T
            values[members], differences[members] = np.split(of_members, [PIXEL_COLUMNS], axis=1)
        return CellStatistics(self.cell_numbers(row, col), values, differences)

    def cell_numbers(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of cells in raster order."""
        return row.astype(np.int64) * self.shape[1] + col

    def _near(
        self, high: NDArray[np.bool_], cells: Window, available: Window
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column of the available cells that have a high score or lie around one."""
        area = Window(0, self.shape[0], 0, self.shape[1]).intersection(cells.grown(BUFFER_CELLS))
        assert area is not None, "a block lies in the scene"
        row, col = np.nonzero(_buffered(high, cells, area))
        row, col = row + area.row_start, col + area.col_start
        inside = (row >= available.row_start) & (row < available.row_stop)
        inside &= (col >= available.col_start) & (col < available.col_stop)
        return row[inside], col[inside]

    def _whole_cells(self, window: Window) -> Window:
        """Return the cells of the scene whose pixels all lie in a window."""
        s, (height, width) = self.stride, self.shape
        return Window(
            max(0, -(-window.row_start // s)),
            min(height, window.row_stop // s),
            max(0, -(-window.col_start // s)),
            min(width, window.col_stop // s),
        )


class ZonalStatsStore:
    """Hold the statistics of the cells of a scene in bounded memory; what does not fit has to be computed again.

    Parameters
    ----------
    statistics
        Computes the statistics that are stored.
    max_bytes
        Most memory that the statistics take.
    """

    def __init__(self, statistics: ZonalStatistics, max_bytes: int = _MAX_STORE_BYTES) -> None:
        self.statistics = statistics
        self._free_bytes = max_bytes
        self._blocks: list[CellStatistics] = []

    @property
    def full(self) -> bool:
        """Whether there is no room left."""
        return self._free_bytes <= 0

    def add(self, block: CellStatistics) -> None:
        """Add the statistics of a block; drop them if they do not fit."""
        if block.nbytes <= self._free_bytes:
            self._free_bytes -= block.nbytes
            self._blocks.append(block)
        else:
            self._free_bytes = 0

    def lookup(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which of some cells are stored, bool (n,), and their statistics, int64 (stored, :data:`COLUMNS`)."""
        index, cells = self._index, self.statistics.cell_numbers(row, col)
        place = np.searchsorted(index.cells, cells)
        stored = np.zeros(len(cells), bool)
        inside = place < len(index.cells)
        stored[inside] = index.cells[place[inside]] == cells[inside]
        block, line = index.block[place[stored]], index.line[place[stored]]
        values = np.empty((len(block), COLUMNS), np.int64)
        for number in np.unique(block):
            of_block = block == number
            statistics, lines = self._blocks[number], line[of_block]
            values[of_block, :PIXEL_COLUMNS] = statistics.values[lines]
            values[of_block, PIXEL_COLUMNS:] = statistics.differences[lines]
        return stored, values

    @cached_property
    def _index(self) -> _Index:
        """Index of the stored cells; built at the first lookup, when all blocks have been added."""
        lengths = [len(block.cells) for block in self._blocks]
        cells = np.concatenate([block.cells for block in self._blocks] or [np.empty(0, np.int64)])
        order = np.argsort(cells, kind="stable")
        block = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        starts = np.repeat(np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)], lengths)
        line = (np.arange(len(cells)) - starts).astype(np.int32)
        return _Index(cells[order], block[order], line[order])


@dataclass(frozen=True)
class _Index:
    """The stored cells (n,), ascending, each with the block that its statistics are in and its line there."""

    cells: NDArray[np.int64]
    block: NDArray[np.int32]
    line: NDArray[np.int32]


def patches(
    row: NDArray[np.int64], col: NDArray[np.int64], stride: int, factor: int = 1
) -> Iterator[tuple[NDArray[np.intp], Window]]:
    """Group cells by the square patch that they lie in; its side is :data:`PATCH_PX` times a factor.

    Yields
    ------
    The indices of the cells of a patch among those given, and the smallest window of cells that holds them.
    """
    side = max(1, PATCH_PX // stride) * factor
    down, across = row // side, col // side
    key = down * (int(across.max(initial=0)) + 1) + across
    order = np.argsort(key, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        if len(members):
            rows, cols = row[members], col[members]
            yield members, Window(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)


def cell_statistics(pixels: PairBlock, stride: int) -> NDArray[np.int64]:
    """Return the statistics of each cell of a block of pixels: shape (:data:`COLUMNS`, rows, cols).

    Parameters
    ----------
    pixels
        The cells' pixels with a margin of :data:`REACH_PX`.
    stride
        Pixels along a cell's side.
    """
    before, after = (np.ascontiguousarray(image[:, _INNER, _INNER]) for image in (pixels.before, pixels.after))
    valid = pixels.valid[_INNER, _INNER]
    changed = valid & (np.abs(after - before).max(axis=0) >= _POLICY.min_change)
    unchanged = valid & ~changed
    layers = np.empty((PIXEL_COLUMNS, *valid.shape), np.int32)
    layers[: len(COUNTS)] = valid, valid & _shaded(before, after), changed, unchanged
    images = np.concatenate([before, after])
    values, squares = np.rint(images * UNIT).astype(np.int32), np.rint(images * images * UNIT).astype(np.int32)
    changed_values, unchanged_values, unchanged_squares = layers[len(COUNTS) :].reshape(3, 6, *valid.shape)
    np.multiply(values, changed, out=changed_values)
    np.multiply(values, unchanged, out=unchanged_values)
    np.multiply(squares, unchanged, out=unchanged_squares)
    return np.concatenate([_cell_sums(layers, stride), _shift_statistics(pixels, stride)], dtype=np.int64)


def _shift_statistics(pixels: PairBlock, stride: int) -> NDArray[Any]:
    """Return the last of :data:`COLUMNS`, from the one on that tells whether a shift leads to valid pixels only."""
    area = stride**2
    dtype = np.dtype(np.uint16 if (2 * 255 + 1) * area <= np.iinfo(np.uint16).max else np.uint32)
    invalid = _dilated(~pixels.valid, REACH_PX)[_INNER, _INNER]
    whole = _cell_sums((~invalid[None]).astype(dtype), stride) // area
    sums = _cell_sums(_shifted_differences(pixels, dtype), stride)
    return np.concatenate([whole, (sums + area) // (2 * area) * whole])


def _shifted_differences(pixels: PairBlock, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return twice the difference of both scenes at each of :data:`SHIFTS`, in 1/255 of the brightness.

    A pixel of each scene is compared with the shifted one of the other: a small object that one scene shows alone
    would be moved away by a shift of its scene, but not by a shift of the other.

    Returns
    -------
    (number of shifts, rows, cols) of pixels without the margin of :data:`REACH_PX`
    """
    before, after = (np.rint(image.mean(axis=0) * 255).astype(np.int16) for image in (pixels.before, pixels.after))
    first, second = (np.ascontiguousarray(image[_INNER, _INNER]) for image in (before, after))
    height, width = first.shape
    differences = np.empty((len(SHIFTS), height, width), dtype)
    for (down, right), difference in zip(SHIFTS, differences, strict=True):
        row, col, row_back, col_back = REACH_PX + down, REACH_PX + right, REACH_PX - down, REACH_PX - right
        forward = first - after[row : row + height, col : col + width]
        backward = second - before[row_back : row_back + height, col_back : col_back + width]
        difference[:] = np.abs(forward, out=forward) + np.abs(backward, out=backward)
    return differences


def _cell_sums(layers: NDArray[Any], stride: int) -> NDArray[Any]:
    """Return the sums of the pixels of each cell, added in the layers' own type: (layers, rows, cols)."""
    count, height, width = layers.shape
    # Down the columns first, where the values to add lie side by side in memory.
    down = layers.reshape(count, height // stride, stride, width)
    rows = sum((down[:, :, i] for i in range(1, stride)), start=down[:, :, 0])
    across = rows.reshape(count, height // stride, width // stride, stride)
    return sum((across[..., i] for i in range(1, stride)), start=across[..., 0])


def _shaded(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels darken like a shadow: float32 (3, rows, cols) to bool (rows, cols)."""
    brightness_before, brightness_after = before.mean(axis=0), after.mean(axis=0)
    low, high = _POLICY.shade
    darker = (
        (brightness_before >= _POLICY.min_brightness)
        & (brightness_after >= low * brightness_before)
        & (brightness_after <= high * brightness_before)
    )
    hue_before = before / np.maximum(3 * brightness_before, 1e-6)
    hue_after = after / np.maximum(3 * brightness_after, 1e-6)
    hue_difference = np.abs(hue_before - hue_after).max(axis=0)
    return np.asarray(darker & (hue_difference <= _POLICY.max_hue_difference), np.bool_)


def _buffered(high: NDArray[np.bool_], cells: Window, area: Window) -> NDArray[np.bool_]:
    """Return the mask of the cells of an area that have a high score or lie around one: bool, of the area's shape."""
    mask = np.zeros(area.shape, bool)
    mask[cells.relative_to(area).slices] = high
    return _dilated(mask, BUFFER_CELLS)


def _dilated(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return which places lie in the squares around those of a mask, up to a distance along rows and columns."""
    result = mask.copy()
    for lines in (result, result.T):  # a square grows along one axis after the other
        original = lines.copy()
        for distance in range(1, reach + 1):
            lines[distance:] |= original[:-distance]
            lines[:-distance] |= original[distance:]
    return result


def _comparable(pixels: StoredBlock, rows: slice, cols: slice) -> PairBlock:
    before, after = pixels.before[:, rows, cols], pixels.after[:, rows, cols]
    return StoredBlock(before, after, pixels.valid[rows, cols], pixels.transforms).comparable()
