"""Ground truth from polygons or a raster, on the grid of the before scene."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.results import read_polygons
from geosiam.polygons.table import polygon_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import geopandas
    from numpy.typing import NDArray


VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".kml", ".gml")
_STRIP_ROWS = 512
_MAX_BANDS = 4
_JPEG_BLACK = 127  # largest value of an unchanged pixel in a JPEG file, which has noise around black


@dataclass(frozen=True)
class Truth:
    """Ground truth of one pair.

    Parameters
    ----------
    path
        File it was read from.
    grid
        Grid of the pixels of the before scene.
    polygons
        Outlines of the true objects, shape (objects,), in the CRS of the grid.
    raster
        The truth raster, which says where the truth is unknown; None if the file has polygons.
    tree
        Spatial index of the polygons.
    """

    path: str
    grid: Grid
    polygons: NDArray[Any]
    raster: _TruthRaster | None
    tree: shapely.STRtree = field(repr=False)

    @classmethod
    def read(cls, path: str, grid: Grid) -> Truth:
        """Read the ground truth of a scene.

        Parameters
        ----------
        path
            Polygons in any vector format and CRS, or a raster in which changes are not 0.
        grid
            Grid of the pixels of the before scene.

        Raises
        ------
        SceneNotFoundError, SceneUnreadableError
            The file does not exist or is in neither format.
        SceneRefusedError
            The file has other geometries than polygons, is not georeferenced, or cannot be transformed.
        """
        if is_vector(path):
            raster = None
            frame = in_crs_of(grid, path, read_polygons(path))
        else:
            raster = _TruthRaster.open(path, grid)
            frame = polygon_table(raster, PolygonOptions(threshold=1.0, smooth=False)).frame()
        polygons = np.asarray(frame.geometry, dtype=object)
        return cls(path, grid, polygons, raster, shapely.STRtree(polygons))

    def objects(self, window: Window) -> NDArray[np.int32]:
        """Return the object at the center of each pixel of a window.

        Returns
        -------
        int32 (rows, cols): number of the object, counted from 1; 0 = none, -1 = unknown
        """
        transform = self.grid.transform @ Affine.translation(window.col_start, window.row_start)
        rows, cols = window.shape
        corners = [transform @ corner for corner in ((0, 0), (cols, 0), (cols, rows), (0, rows))]
        indices = self.tree.query(shapely.Polygon(corners), predicate="intersects")
        numbers = np.zeros(window.shape, np.int32)
        if len(indices):
            # In ascending order, so that the same one of two overlapping objects is on top in every window.
            shapes = [(self.polygons[i], int(i) + 1) for i in sorted(indices)]
            numbers = rasterize(shapes, out_shape=window.shape, transform=transform, dtype="int32")
        if self.raster is not None:
            numbers[np.isnan(self.raster.read(window))] = -1
        return numbers


def is_vector(path: str) -> bool:
    """Return whether a file is a vector file, by its suffix."""
    return path.lower().endswith(VECTOR_SUFFIXES)


def in_crs_of(grid: Grid, path: str, frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Return polygons in the CRS of a grid.

    Raises
    ------
    SceneRefusedError
        The polygons cannot be transformed.
    """
    try:
        return frame.to_crs(grid.crs.to_wkt())
    except ProjError as error:
        raise SceneRefusedError(path, f"cannot be transformed ({error})", "use the scenes' CRS") from error


def grid_of(path: str) -> Grid:
    """Return the grid of a truth raster.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError, SceneRefusedError
        The file does not exist, cannot be read, or is not georeferenced.
    """
    with _open(path) as file:
        if file.crs is None:
            raise SceneRefusedError(path, "has no coordinate reference system", "give the truth as a GeoTIFF")
        return Grid(file.crs, file.transform, file.width, file.height)


@dataclass(frozen=True)
class _TruthRaster:
    """A truth raster on the grid of the before scene, read like a score raster: 1 = changed, 0 = not, NaN = unknown."""

    path: str
    grid: Grid
    stride: int = 1

    @classmethod
    def open(cls, path: str, grid: Grid) -> _TruthRaster:
        truth = cls(path, grid)
        with truth._on_grid() as raster:
            if raster.count > _MAX_BANDS:
                fact = f"has {raster.count - _has_alpha(raster)} bands"
                raise SceneRefusedError(path, fact, "give one band, in which changes are not 0")
        return truth

    @property
    def extent(self) -> tuple[float, float]:
        return float(self.grid.height), float(self.grid.width)

    def strips(self, rows: int = _STRIP_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        with self._on_grid() as raster:
            for start in range(0, self.grid.height, rows):
                height = min(rows, self.grid.height - start)
                yield start, _read_changes(raster, RasterWindow(0, start, self.grid.width, height))

    def read(self, window: Window) -> NDArray[np.float32]:
        with self._on_grid() as raster:
            return _read_changes(raster, RasterWindow.from_slices(*window.slices))

    @contextlib.contextmanager
    def _on_grid(self) -> Iterator[Any]:
        """Open the raster on the grid, by nearest neighbor if its own grid is another one."""
        with _open(self.path) as file:
            if file.crs is None and file.shape == self.grid.shape:
                yield file  # an image of the size of the scene, as in benchmark data sets
                return
            if file.crs is None:
                fact = f"has no coordinate reference system, nor the size of the before scene, {self.grid.shape}"
                raise SceneRefusedError(
                    self.path, fact, "georeference it, or give truth on the grid of the before scene"
                )
            size = {"width": self.grid.width, "height": self.grid.height}
            # Beyond its edges the truth is unknown; without a nodata value, an alpha band marks it.
            options = {"resampling": Resampling.nearest, "add_alpha": file.nodata is None and not _has_alpha(file)}
            with WarpedVRT(file, crs=self.grid.crs, transform=self.grid.transform, **size, **options) as raster:
                yield raster


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Open a raster; errors of GDAL become one line."""
    if not exists(path) and "://" not in path and not path.startswith("/vsi"):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(path)
        with file:
            yield file
    except RasterioError as error:
        fact = f"is not a raster that GDAL can read ({error})"
        raise SceneUnreadableError(path, fact, "give polygons or a raster of changes") from error


def _read_changes(raster: Any, window: RasterWindow) -> NDArray[np.float32]:  # noqa: ANN401 - a dataset or a VRT
    """Read a window of a truth raster: float32 (rows, cols), 1 = changed, 0 = not, NaN = unknown.

    A nodata value of 0 means unchanged, not unknown: that is how such rasters are drawn.
    """
    has_alpha = _has_alpha(raster)
    bands = list(range(1, raster.count + (0 if has_alpha else 1)))
    stored = raster.read(bands, window=window)
    is_known = raster.read(raster.count, window=window) > 0 if has_alpha else np.ones(stored.shape[1:], bool)
    if raster.nodata is not None and raster.nodata != 0:
        is_known &= ~(np.isnan(stored) if np.isnan(raster.nodata) else stored == raster.nodata).all(axis=0)
    is_changed = (stored > (_JPEG_BLACK if raster.driver == "JPEG" else 0)).any(axis=0)
    return np.where(is_known, is_changed.astype(np.float32), np.float32(np.nan))


def _has_alpha(raster: Any) -> bool:  # noqa: ANN401 - a dataset or a VRT
    return bool(raster.colorinterp[-1] == ColorInterp.alpha)
