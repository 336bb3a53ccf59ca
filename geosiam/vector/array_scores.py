"""A georeferenced array as a source of strips."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geosiam.detection.raster import SCENE_TAG, STRIDE_TAG, scene_extent
from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Grid
from geosiam.vector.field import MOST_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Window


@dataclass(frozen=True)
class ArrayScores:
    """A georeferenced array as a source of strips.

    Parameters
    ----------
    array
        Shape (rows, cols), floats in [0, 1], NaN = not scored.
    grid
        Its grid of cells.
    stride
        Pixels of the before-scene along a cell's side.
    extent
        Where the scene ends, in cells (rows, cols).
    """

    array: xr.DataArray
    grid: Grid
    stride: int
    extent: tuple[float, float]

    @classmethod
    def of(cls, array: xr.DataArray) -> ArrayScores:
        """Return an array with its grid; a single band may stand in front.

        Raises
        ------
        SceneRefusedError
            It has several bands, integer values, or no coordinate reference system.
        """
        import rioxarray  # noqa: F401, PLC0415 - only where an array is given

        name = "scores" if array.name is None else array.name
        flat = array.squeeze(drop=True) if array.ndim > 2 else array  # noqa: PLR2004
        if flat.ndim != 2:  # noqa: PLR2004
            raise SceneRefusedError(name, f"has the shape {array.shape}", "give one band of scores")
        if flat.dtype.kind != "f":
            remedy = "open it with rioxarray.open_rasterio(..., mask_and_scale=True), or give its path"
            raise SceneRefusedError(name, f"holds {flat.dtype}, not probabilities", remedy)
        if flat.rio.crs is None:
            raise SceneRefusedError(name, "has no coordinate reference system", "set one with .rio.write_crs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rioxarray multiplies the old way of affine 2
            grid = Grid(flat.rio.crs, flat.rio.transform(), flat.shape[1], flat.shape[0])
        stride = int(array.attrs.get("stride", array.attrs.get(STRIDE_TAG, 1)))
        try:
            # A part of the scores of a scene keeps the attributes of the whole, but ends where it ends.
            extent = scene_extent(grid, stride, array.attrs.get("scene_px", array.attrs.get(SCENE_TAG)))
        except ValueError:
            extent = float(grid.height), float(grid.width)
        return cls(flat, grid, stride, extent)

    def strips(self, rows: int = MOST_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores; a lazy array is computed by whole chunks."""
        heights = self.array.chunks[0] if self.array.chunks else None
        spans = heights or [min(rows, self.grid.height - start) for start in range(0, self.grid.height, rows)]
        start = 0
        for height in spans:
            yield start, np.asarray(self.array[start : start + height].values, np.float32)
            start += height

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window; of a lazy array, computed again."""
        return np.asarray(self.array[window.slices].values, np.float32)
