"""A cache of decoded tiles that threads share: each tile is decoded once, by the thread that first needs it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from geosiam.imagery.grid import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Self

    from numpy.typing import NDArray

Position: TypeAlias = tuple[int, int]
"""Row and column of a tile in its layout."""

_MIN_SIDE_PX = 256  # smaller blocks of a file are decoded several at a time
_STRIP_ROWS = 64
_MARGIN_ROWS = 64  # most rows that a row of blocks reads beyond its own


@dataclass(frozen=True)
class Tile:
    """A decoded part of a scene.

    Parameters
    ----------
    values
        (3, rows, cols) in the scene's own values.
    valid
        bool (rows, cols), True = valid; None: all pixels are valid.
    """

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None

    @property
    def nbytes(self) -> int:
        """Memory of the tile in bytes."""
        return self.values.nbytes + (0 if self.valid is None else self.valid.nbytes)


@dataclass(frozen=True)
class TileLayout:
    """Division of a raster into tiles: whole blocks of its file, so that no block is decoded twice.

    Parameters
    ----------
    height, width
        Size of the raster in pixels.
    rows, cols
        Size of a tile in pixels; the last tiles are smaller.
    """

    height: int
    width: int
    rows: int
    cols: int

    @classmethod
    def of_blocks(cls, shape: tuple[int, int], block: tuple[int, int]) -> Self:
        """Choose the tiles of a raster of a shape whose file has blocks of another shape, both (rows, cols)."""
        (height, width), (block_rows, block_cols) = shape, block
        in_strips = block_cols >= width
        min_rows = _STRIP_ROWS if in_strips else _MIN_SIDE_PX
        rows, cols = block_rows * -(-min_rows // block_rows), block_cols * -(-_MIN_SIDE_PX // block_cols)
        return cls(height, width, min(rows, height), min(cols, width))

    @property
    def in_strips(self) -> bool:
        """Whether each tile is as wide as the raster."""
        return self.cols >= self.width

    def over(self, window: Window) -> list[Position]:
        """Return the tiles that a window inside the raster touches, in raster order."""
        rows = range(window.row_start // self.rows, -(-window.row_stop // self.rows))
        cols = range(window.col_start // self.cols, -(-window.col_stop // self.cols))
        return [(row, col) for row in rows for col in cols]

    def window(self, position: Position) -> Window:
        """Return the pixels of a tile."""
        row, col = position[0] * self.rows, position[1] * self.cols
        return Window(row, min(row + self.rows, self.height), col, min(col + self.cols, self.width))

    def reach(self, rows: int) -> int:
        """Return the most pixel rows of tiles that a row of blocks of ``rows`` pixel rows touches, wherever it lies."""
        return min(self.height, (-(-(rows + _MARGIN_ROWS) // self.rows) + 1) * self.rows)


class TileCache:
    """The most recently used tiles, up to a number of bytes.

    Parameters
    ----------
    capacity
        Capacity in bytes. Tiles in use beyond it stay alive until they are released.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tiles: OrderedDict[Position, Future[Tile]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, positions: Sequence[Position], load: Callable[[Position], Tile]) -> list[Tile]:
        """Return tiles: load those that no thread is loading yet, then wait for the others.

        An error of `load` is raised here and in all threads that wait for that tile; a later call tries again.
        """
        futures, to_load = self._claim(positions)
        try:
            while to_load:
                position, future = to_load[-1]
                tile = load(position)
                to_load.pop()
                future.set_result(tile)
                self._keep(tile)
        except BaseException as error:
            self._give_up(to_load, error)
            raise
        return [future.result() for future in futures]

    def clear(self) -> None:
        """Drop all tiles but those that are being loaded."""
        with self._lock:
            for position in [position for position, future in self._tiles.items() if future.done()]:
                self._bytes -= self._tiles.pop(position).result().nbytes

    def _claim(self, positions: Sequence[Position]) -> tuple[list[Future[Tile]], list[tuple[Position, Future[Tile]]]]:
        futures, to_load = [], []
        with self._lock:
            for position in positions:
                future = self._tiles.get(position)
                if future is None:
                    future = self._tiles[position] = Future()
                    to_load.append((position, future))
                self._tiles.move_to_end(position)
                futures.append(future)
        return futures, to_load[::-1]

    def _keep(self, tile: Tile) -> None:
        with self._lock:
            self._bytes += tile.nbytes
            for position in list(self._tiles):
                if self._bytes <= self.capacity:
                    return
                if self._tiles[position].done():
                    self._bytes -= self._tiles.pop(position).result().nbytes

    def _give_up(self, to_load: list[tuple[Position, Future[Tile]]], error: BaseException) -> None:
        with self._lock:
            for position, _ in to_load:
                del self._tiles[position]
        for _, future in to_load:
            future.set_exception(error)


def assemble(layout: TileLayout, window: Window, tiles: Sequence[Tile]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Assemble a window of a raster from the tiles that it touches, in raster order.

    Returns
    -------
    values (3, rows, cols) and validity (rows, cols), both new arrays
    """
    first = tiles[0].values
    values = np.empty((len(first), *window.shape), first.dtype)
    valid = np.ones(window.shape, bool)
    for position, tile in zip(layout.over(window), tiles, strict=True):
        place = layout.window(position)
        shared = place.intersection(window)
        assert shared is not None
        target, source = shared.relative_to(window).slices, shared.relative_to(place).slices
        values[:, *target] = tile.values[:, *source]
        if tile.valid is not None:
            valid[target] = tile.valid[source]
    return values, valid
