"""Pure arithmetic of pixels and cells: grids, windows, halo and the canonical lattice of blocks.

There are two units of length. A *pixel* is one pixel of the before scene; a *cell* is one output value of the
network and covers ``stride x stride`` pixels. Cell ``(i, j)`` covers the pixel rows ``[i * stride, (i + 1) * stride)``
and the pixel columns ``[j * stride, (j + 1) * stride)``, and depends on these and on ``halo`` pixels around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyproj
from affine import Affine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.crs import CRS


_MAX_COORDINATE, _MIN_PIXEL_SIZE = 1e15, 1e-15  # in units of the CRS; no place on any planet is beyond


@dataclass(frozen=True)
class Grid:
    """CRS, geotransform, width and height of a raster of pixels or cells.

    Parameters
    ----------
    crs
        Coordinate reference system.
    transform
        Maps (column, row) of a pixel's upper left corner to (x, y) in units of the CRS.
    width, height
        Number of columns and rows.
    """

    crs: CRS
    transform: Affine
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a grid has at least one pixel, not {self.width} x {self.height}")
        sizes = np.abs(self.transform[:6])
        if not np.isfinite(sizes).all() or sizes.max() > _MAX_COORDINATE:
            raise ValueError("the geotransform gives infinite coordinates")
        if self.transform.is_degenerate or min(self.pixel_size) < _MIN_PIXEL_SIZE:
            raise ValueError("the geotransform maps all pixels onto a line")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.height, self.width

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Length of a pixel's side along a row and along a column, in units of the CRS."""
        t = self.transform
        return float(np.hypot(t.a, t.d)), float(np.hypot(t.b, t.e))

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The four outer corners (x, y), ring order, starting at the first pixel."""
        w, h = self.width, self.height
        return [self.transform @ corner for corner in ((0, 0), (w, 0), (w, h), (0, h))]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest and largest x and y: (left, bottom, right, top)."""
        x, y = zip(*self.corners, strict=True)
        return min(x), min(y), max(x), max(y)

    def coarsened(self, stride: int) -> Grid:
        """Return the grid of cells of ``stride x stride`` pixels; last cells may reach beyond the scene."""
        return Grid(
            self.crs, self.transform @ Affine.scale(stride), -(-self.width // stride), -(-self.height // stride)
        )


@dataclass(frozen=True)
class Window:
    """A half-open rectangle of rows and columns; it may reach outside the scene on every side."""

    row_start: int
    row_stop: int
    col_start: int
    col_stop: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.row_stop - self.row_start, self.col_stop - self.col_start

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slice, to index an array that starts at (0, 0)."""
        return slice(self.row_start, self.row_stop), slice(self.col_start, self.col_stop)

    def intersection(self, other: Window) -> Window | None:
        """Return the intersection of both windows, or None if they do not overlap."""
        rows = max(self.row_start, other.row_start), min(self.row_stop, other.row_stop)
        cols = max(self.col_start, other.col_start), min(self.col_stop, other.col_stop)
        if rows[0] >= rows[1] or cols[0] >= cols[1]:
            return None
        return Window(*rows, *cols)

    def union(self, other: Window) -> Window:
        """Return the smallest window around both."""
        return Window(
            min(self.row_start, other.row_start), max(self.row_stop, other.row_stop),
            min(self.col_start, other.col_start), max(self.col_stop, other.col_stop),
        )  # fmt: skip

    def relative_to(self, other: Window) -> Window:
        """Return the window counted from the first pixel of another one."""
        row, col = other.row_start, other.col_start
        return Window(self.row_start - row, self.row_stop - row, self.col_start - col, self.col_stop - col)

    def scaled(self, factor: int) -> Window:
        """Return the window of pixels that a window of cells covers, each cell being ``factor`` pixels wide."""
        return Window(self.row_start * factor, self.row_stop * factor, self.col_start * factor, self.col_stop * factor)

    def coarsened(self, stride: int) -> Window:
        """Return the cells of ``stride x stride`` pixels that hold any pixel of the window."""
        return Window(
            self.row_start // stride, -(-self.row_stop // stride), self.col_start // stride, -(-self.col_stop // stride)
        )

    def grown(self, margin: int) -> Window:
        """Return the window with a margin on every side."""
        return Window(self.row_start - margin, self.row_stop + margin, self.col_start - margin, self.col_stop + margin)


@dataclass(frozen=True)
class Halo:
    """Margin in pixels around a cell's own ``stride`` pixels that its score depends on.

    Parameters
    ----------
    leading, trailing
        Pixels needed above (and left of) and below (and right of) the cells.
    """

    leading: int
    trailing: int


@dataclass(frozen=True)
class Block:
    """A rectangle of cells that is scored at once.

    Parameters
    ----------
    index
        Position on the lattice in raster order.
    cells
        Cells that the block covers; always inside the score grid, smaller in the last row and column of the lattice.
    """

    index: int
    cells: Window

    def pixels(self, stride: int, halo: Halo) -> Window:
        """Return the window of pixels that the network needs to score exactly these cells.

        The window may reach outside the scene; there the scene is reflected (see :func:`reflected`).
        """
        inner = self.cells.scaled(stride)
        return Window(
            inner.row_start - halo.leading,
            inner.row_stop + halo.trailing,
            inner.col_start - halo.leading,
            inner.col_stop + halo.trailing,
        )


@dataclass(frozen=True)
class Lattice:
    """The canonical blocks of a score grid, anchored to its first cell and numbered in raster order.

    The lattice depends on the scene and the block size only, never on how a run is executed. It computes its
    blocks when asked for them, so a lattice of a million blocks is as small as one of four.

    Parameters
    ----------
    rows, cols
        Shape of the score grid in cells.
    block_rows, block_cols
        Shape of a full block in cells.
    """

    rows: int
    cols: int
    block_rows: int
    block_cols: int

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.block_rows, self.block_cols) < 1:
            raise ValueError(f"a lattice needs positive sizes, not {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        return -(-self.rows // self.block_rows), -(-self.cols // self.block_cols)

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Block sizes in cells down and across, as dask writes them."""
        return _spans(self.rows, self.block_rows), _spans(self.cols, self.block_cols)

    def __len__(self) -> int:
        down, across = self.shape
        return down * across

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(index)
        i, j = divmod(index, self.shape[1])
        row, col = i * self.block_rows, j * self.block_cols
        return Block(
            index,
            Window(row, min(row + self.block_rows, self.rows), col, min(col + self.block_cols, self.cols)),
        )

    def __iter__(self) -> Iterator[Block]:
        return (self[index] for index in range(len(self)))

    def in_stripes(self, across: int) -> Stripes:
        """Return all blocks in stripes from top to bottom, each ``across`` blocks wide, so that its rows are short."""
        return Stripes(self, across)


@dataclass(frozen=True)
class Stripes:
    """The blocks of a lattice in the order of :meth:`Lattice.in_stripes`, computed on access like the lattice's own.

    Parameters
    ----------
    lattice
        Lattice of the blocks.
    across
        Width of a stripe in blocks; the last stripe may be narrower.
    """

    lattice: Lattice
    across: int

    def __len__(self) -> int:
        return len(self.lattice)

    def __getitem__(self, place: int) -> Block:
        down, width = self.lattice.shape
        stripe, position = divmod(place, down * self.across)
        first_col = stripe * self.across
        row, col = divmod(position, min(self.across, width - first_col))
        return self.lattice[row * width + first_col + col]

    def __iter__(self) -> Iterator[Block]:
        return (self[place] for place in range(len(self)))


def authority_code(crs: pyproj.CRS) -> str | None:
    """Return authority and code of a coordinate reference system, such as ``EPSG:32633``; None if no code means it.

    Both PROJ and GDAL answer with the code of a similar system: of a custom one without a datum, with that of the
    national system of the same projection, which lies a hundred meters away.
    """
    authority = crs.to_authority()
    if authority is None or not pyproj.CRS.from_authority(*authority).equals(crs, ignore_axis_order=True):
        return None
    return ":".join(authority)


def apply_affine(
    transform: Affine, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map arrays of coordinates, which the ``@`` of :class:`affine.Affine` does for single points only."""
    t = transform
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


def _spans(total: int, size: int) -> tuple[int, ...]:
    return tuple(min(size, total - start) for start in range(0, total, size))


def common_parts(shape: tuple[int, int], down: int, right: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the parts of two images of a shape that show the same ground if the second one's content is shifted.

    Parameters
    ----------
    shape
        Rows and columns of both images.
    down, right
        How far the content of the second image lies down and right, in pixels.

    Returns
    -------
    rows and columns of the first image, and those of the second one
    """
    height, width = shape
    first = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
    second = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
    return first, second


def reflected(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the source index for every index in ``[start, stop)`` of an axis mirrored at its ends.

    Same as ``numpy.pad(..., mode="reflect")``: the outermost pixel is not repeated, and an axis shorter than the
    padding is reflected again and again, so a scene of any size from one pixel up has a margin.

    Parameters
    ----------
    start, stop
        Half-open range of indices, which may lie outside ``[0, size)``.
    size
        Length of the axis.

    Returns
    -------
    indices of shape (stop - start,), each within ``[0, size)``
    """
    if size < 1:
        raise ValueError("an axis without pixels cannot be reflected")
    if size == 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (size - 1)
    index = np.arange(start, stop, dtype=np.intp) % period
    return np.where(index < size, index, period - index)


def centers(cells: slice, stride: int, size: int) -> NDArray[np.intp]:
    """Return the pixel index of each cell's center along one axis, held inside an axis of ``size`` pixels."""
    index = np.arange(cells.start, cells.stop, dtype=np.intp) * stride + stride // 2
    return index.clip(max=size - 1)
