"""Reading a scene through a displacement field, in one resampling."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.imagery.alignment import align, transform_pixels
from geosiam.imagery.grid import Window
from geosiam.imagery.reader import AlignedReader
from geosiam.runtime import unchanged_environment

with unchanged_environment():
    import cv2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.alignment import Alignment
    from geosiam.imagery.bands import Channels
    from geosiam.imagery.displacement import DisplacementField
    from geosiam.imagery.scene import Scene

    Values = tuple[NDArray[Any], NDArray[np.bool_]]

_STEPS = 32  # positions between two pixels that OpenCV interpolates at
_TAPS = 4  # values along each axis that a cubic interpolation uses
_PART_PX = 1024  # side of what is resampled at once; OpenCV takes up to 32767 pixels of the scene
_FAR_PX = 1e8  # positions beyond have no integer

OPENCV_TYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "int16", "float32", "float64"))
"""Types that OpenCV interpolates and averages."""


class DisplacedReader(AlignedReader):
    """Read a scene through a displacement field: CRS, pixel size and displacement are undone in one resampling.

    A pixel's place in the scene is rounded to 1/32 of the scene's pixel, the precision of OpenCV's interpolation, so
    that it has the same value in every window.

    Parameters
    ----------
    scene, channels, alignment
        As of :class:`AlignedReader`; see :func:`~geosiam.imagery.alignment.displaced`.
    field
        The displacement of the scene's content on the target grid.
    """

    def __init__(self, scene: Scene, channels: Channels, alignment: Alignment, field: DisplacementField) -> None:
        super().__init__(scene, channels, alignment)
        self.field = field
        self._source = AlignedReader(scene, channels, align(alignment.scene, alignment.scene))
        finer = alignment.resampling == "average"
        self._samples = math.ceil(alignment.ratio) if finer else 1  # along the side of a pixel
        self._kernel = {"nearest": cv2.INTER_NEAREST, "average": cv2.INTER_LINEAR}.get(
            alignment.resampling, cv2.INTER_CUBIC
        )

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window of the target grid, as :meth:`AlignedReader.read` does."""
        return self._resampled(window, self._source.read)

    def read_once(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read an isolated window, as :meth:`AlignedReader.read_once` does."""
        return self._resampled(window, self._source.read_once)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return the validity that :meth:`read` returns."""
        return self.read(window)[1]

    def clear_cache(self) -> None:
        """Drop all decoded tiles."""
        self._source.clear_cache()

    @property
    def columns_at_once(self) -> int | None:
        """Largest width in pixels of a row of blocks whose tiles can be kept; None: any width."""
        columns = self._source.columns_at_once
        return None if columns is None else max(1, int(columns / self.alignment.ratio))

    @property
    def decodes_again(self) -> bool:
        """Whether blocks of the file are so large that they are decoded more than once."""
        return self._source.decodes_again

    def _resampled(self, window: Window, read: Callable[[Window], Values]) -> Values:
        columns = list(_parts(window.col_start, window.col_stop))
        parts = [
            [self._resampled_part(Window(top, bottom, left, right), read) for left, right in columns]
            for top, bottom in _parts(window.row_start, window.row_stop)
        ]
        values, valid = ([[part[i] for part in row] for row in parts] for i in (0, 1))
        return np.block(values), np.block(valid)

    def _resampled_part(self, window: Window, read: Callable[[Window], Values]) -> Values:
        rows, cols = self._places(window)
        height, width = self.alignment.scene.shape
        area = Window(0, height, 0, width).intersection(_around(rows, cols))
        if area is None:
            return np.zeros((len(self.channels.indexes), *window.shape), np.uint8), np.zeros(window.shape, bool)
        values, valid = read(area)
        rows, cols = rows - area.row_start, cols - area.col_start
        samples, inside = resample(values, valid, rows, cols, self._kernel)
        return averaged(samples, inside, self._samples)

    def _places(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return row and column in the scene of each sample of a window; whole numbers are centers of pixels."""
        field, target = self.field, self.alignment.target
        rows, cols = field.around(window)
        down, right = field.at_nodes(rows, cols)
        node_rows, node_cols = np.meshgrid((rows + 0.5) * field.spacing, (cols + 0.5) * field.spacing, indexing="ij")
        nodes = transform_pixels(target, self.alignment.scene, node_cols + right, node_rows + down)
        places, starts = [], (window.row_start, window.col_start)
        axes = list(enumerate(zip((rows[0], cols[0]), starts, window.shape, strict=True)))
        for positions in reversed(nodes):
            for axis, (first, start, size) in reversed(axes):  # the rows last: whole ones are taken
                centers = start + (np.arange(size * self._samples) + 0.5) / self._samples
                positions = interpolated(positions, axis, centers / field.spacing - 0.5 - first)  # noqa: PLW2901
            positions = np.where(np.isfinite(positions), positions, -_FAR_PX).clip(-_FAR_PX, _FAR_PX)  # noqa: PLW2901
            places.append(np.round((positions - 0.5) * _STEPS) / _STEPS)
        return places[0], places[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "field": self.field}


def _parts(start: int, stop: int) -> Iterator[tuple[int, int]]:
    return pairwise((*range(start, stop, _PART_PX), stop))


def _around(rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Window:
    """Return the window of all pixels from which values at positions are interpolated."""
    limits = [(int(np.floor(at.min())) - 1, int(np.floor(at.max())) + _TAPS - 1) for at in (rows, cols)]
    return Window(*limits[0], *limits[1])


def resample(
    values: NDArray[Any], valid: NDArray[np.bool_], rows: NDArray[np.float64], cols: NDArray[np.float64], kernel: int
) -> Values:
    """Interpolate an image; a cubic kernel becomes a linear one beside invalid pixels, from which no value is taken.

    Parameters
    ----------
    values, valid
        Values (bands, height, width) and validity, bool (height, width).
    rows, cols
        Positions (n, m) in multiples of 1/32 pixel; whole numbers are centers of pixels. Up to half a pixel beyond the
        image it is continued.
    kernel
        OpenCV's interpolation: ``INTER_CUBIC``, ``INTER_LINEAR`` or ``INTER_NEAREST``.

    Returns
    -------
    values (bands, n, m) of the same type, 0 where not valid, and validity, bool (n, m)
    """
    dtype, (height, width) = values.dtype, valid.shape
    if dtype not in OPENCV_TYPES:
        values = values.astype(np.float64)
    x, y = cols.astype(np.float32), rows.astype(np.float32)
    inside = (np.abs(rows - (height - 1) / 2) <= height / 2) & (np.abs(cols - (width - 1) / 2) <= width / 2)

    def interpolate(image: NDArray[Any], how: int) -> NDArray[Any]:
        margin = 0
        if how == cv2.INTER_CUBIC and image.dtype == np.float64:
            # OpenCV truncates these to whole numbers where its kernel reaches beyond the image.
            margin = _TAPS // 2
            image = np.pad(image, margin, "edge")
        return np.asarray(cv2.remap(image, x + margin, y + margin, how, borderMode=cv2.BORDER_REPLICATE))

    result = np.stack([interpolate(band, kernel) for band in values])
    if not valid.all():
        mask = valid.astype(np.float32)
        inside &= interpolate(mask, min(kernel, cv2.INTER_LINEAR)) > 1 - 1 / (2 * _STEPS**2)
        if kernel == cv2.INTER_CUBIC:
            surrounded = cv2.erode(mask, np.ones((_TAPS, _TAPS), np.uint8), anchor=(1, 1))
            near = np.floor(rows).clip(0, height - 1).astype(np.intp), np.floor(cols).clip(0, width - 1).astype(np.intp)
            beside = inside & (surrounded[near] == 0)
            if beside.any():
                linear = np.stack([interpolate(band, cv2.INTER_LINEAR) for band in values])
                result = np.where(beside, linear, result)
    result = np.where(inside, result, 0)
    if result.dtype != dtype:
        limits = np.iinfo(dtype)
        result = np.rint(result).clip(limits.min, limits.max).astype(dtype)
    return result, inside


def averaged(values: NDArray[Any], valid: NDArray[np.bool_], side: int) -> Values:
    """Average squares of samples, of which at least half have to be valid."""
    if side == 1:
        return values, valid
    rows, cols = valid.shape[0] // side, valid.shape[1] // side
    count = valid.reshape(rows, side, cols, side).sum(axis=(1, 3))
    sums = values.reshape(-1, rows, side, cols, side).sum(axis=(2, 4), dtype=np.float64)
    means = sums / np.maximum(count, 1)
    if values.dtype.kind in "iu":
        means = np.rint(means)
    return means.astype(values.dtype), 2 * count >= side**2


def interpolated(nodes: NDArray[np.float64], axis: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate along an axis by cubic convolution (Keys, 1981), the same at a position whatever else is asked for.

    Parameters
    ----------
    nodes
        Values; along the axis at 0, 1, 2...
    axis
        Axis to interpolate along.
    positions
        Shape (n,), at least 1 and less than the number of nodes less 2.
    """
    whole = np.floor(positions).astype(np.intp)
    t = positions - whole
    weights = (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
    shape = tuple(-1 if i == axis else 1 for i in range(nodes.ndim))
    terms = [
        np.take(nodes, whole + offset, axis) * weight.reshape(shape)
        for offset, weight in zip(range(-1, _TAPS - 1), weights, strict=True)
    ]
    return (terms[0] + terms[1]) + (terms[2] + terms[3])
