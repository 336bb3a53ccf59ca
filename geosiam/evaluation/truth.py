"""What really changed, given as polygons or as a raster, on the grid of the before-scene."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj.exceptions import ProjError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.geopackage import LAYER
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


VECTORS = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".kml", ".gml")
_STRIP_ROWS = 512
_HALF = 127
_MOST_BANDS = 4


@dataclass(frozen=True)
class Truth:
    """What really changed.

    Parameters
    ----------
    path
        Where it was read from.
    grid
        Of the pixels of the before-scene.
    polygons
        One for each object, in the CRS of the grid.
    raster
        Where the truth is a raster: what knows which pixels are unknown.
    """

    path: str
    grid: Grid
    polygons: NDArray[Any]
    raster: _TruthRaster | None = None
    tree: shapely.STRtree = field(repr=False, default_factory=lambda: shapely.STRtree([]))

    @classmethod
    def read(cls, path: str, grid: Grid) -> Truth:
        """Read the truth of a scene: polygons of any vector file in any CRS, or a raster whose changes are not 0.

        Raises
        ------
        SceneNotFoundError, SceneUnreadableError
            There is no such file, or it holds neither.
        SceneRefusedError
            It holds something else than polygons, does not say where on earth it lies, or lies elsewhere.
        """
        if is_vector(path):
            outlines = np.asarray(in_crs_of(grid, path, read_polygons(path)).geometry, dtype=object)
            return cls(path, grid, outlines, None, shapely.STRtree(outlines))
        raster = _TruthRaster.open(path, grid)
        outlines = np.asarray(
            polygon_table(raster, PolygonOptions(threshold=1.0, smooth=False)).frame().geometry, dtype=object
        )
        return cls(path, grid, outlines, raster, shapely.STRtree(outlines))

    def objects(self, window: Window) -> NDArray[np.int32]:
        """Return which object covers the center of each pixel: its number from 1, 0 = none, -1 = unknown."""
        inner = self.grid.transform @ Affine.translation(window.col_start, window.row_start)
        rows, cols = window.shape
        corners = [inner @ corner for corner in ((0, 0), (cols, 0), (cols, rows), (0, rows))]
        near = self.tree.query(shapely.Polygon(corners), predicate="intersects")
        drawn = np.zeros(window.shape, np.int32)
        if len(near):
            # Numbers in ascending order, so that it does not depend on the window which of two overlapping ones wins.
            shapes = [(self.polygons[i], int(i) + 1) for i in sorted(near)]
            drawn = rasterize(shapes, out_shape=window.shape, transform=inner, dtype="int32")
        if self.raster is not None:
            drawn[self.raster.unknown(window)] = -1
        return drawn


def is_vector(path: str) -> bool:
    """Return whether a file is one of vectors, by its suffix."""
    return path.lower().endswith(VECTORS)


def read_polygons(path: str) -> geopandas.GeoDataFrame:
    """Read the polygons of a vector file; where it is one of ours, those of its layer ``anomalies``.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError, SceneRefusedError
        See :meth:`Truth.read`. A file without any feature is fine: nothing changed.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    try:
        if path.lower().endswith(".parquet"):
            frame = geopandas.read_parquet(path)
        else:
            layers = list(geopandas.list_layers(path).name)
            frame = geopandas.read_file(path, layer=LAYER if LAYER in layers else layers[0])
    except (DataSourceError, DataLayerError, ValueError, OSError, IndexError, ImportError) as error:
        raise SceneUnreadableError(path, f"is no readable vector file ({error})", "use a GeoPackage") from error
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise SceneRefusedError(path, "holds no polygons", "give the changes as polygons")
    if frame.crs is None:
        raise SceneRefusedError(path, "has no coordinate reference system", "assign one, for example in QGIS")
    kinds = set(frame.geom_type.dropna())
    if not kinds <= {"Polygon", "MultiPolygon"}:
        other = ", ".join(sorted(kinds - {"Polygon", "MultiPolygon"}))
        raise SceneRefusedError(path, f"holds geometries of type {other}", "buffer them to polygons, such as 1 m wide")
    frame = frame[frame.geometry.notna() & ~frame.is_empty]
    return frame.set_geometry(shapely.make_valid(frame.geometry.values))


def in_crs_of(grid: Grid, path: str, frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Return polygons in the CRS of a grid.

    Raises
    ------
    SceneRefusedError
        That cannot be done.
    """
    try:
        return frame.to_crs(grid.crs.to_wkt())
    except ProjError as error:
        raise SceneRefusedError(path, f"cannot be transformed ({error})", "use the scenes' CRS") from error


def grid_of(path: str) -> Grid:
    """Return the grid of a raster of changes.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError, SceneRefusedError
        There is none, or it does not say where on earth it lies.
    """
    with _opened(path) as file:
        if file.crs is None:
            raise SceneRefusedError(path, "has no coordinate reference system", "give the truth as a GeoTIFF")
        return Grid(file.crs, file.transform, file.width, file.height)


@dataclass(frozen=True)
class _TruthRaster:
    """A raster of changes on the grid of the before-scene, read in strips as if it were scores of 0 and 1."""

    path: str
    grid: Grid
    stride: int = 1

    @classmethod
    def open(cls, path: str, grid: Grid) -> _TruthRaster:
        truth = cls(path, grid)
        with truth._on_grid() as raster:
            if raster.count > _MOST_BANDS:
                raise SceneRefusedError(
                    path, f"has {raster.count - _has_alpha(raster)} bands", "give one band, in which changes are not 0"
                )
        return truth

    @property
    def extent(self) -> tuple[float, float]:
        return float(self.grid.height), float(self.grid.width)

    def strips(self, rows: int = _STRIP_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        with self._on_grid() as raster:
            for start in range(0, self.grid.height, rows):
                window = RasterWindow(0, start, self.grid.width, min(rows, self.grid.height - start))
                values, known = _values(raster, window)
                yield start, np.where(known, values, np.float32(np.nan))

    def read(self, window: Window) -> NDArray[np.float32]:
        with self._on_grid() as raster:
            (top, left), (rows, cols) = (window.row_start, window.col_start), window.shape
            values, known = _values(raster, RasterWindow(left, top, cols, rows))
        return np.where(known, values, np.float32(np.nan))

    def unknown(self, window: Window) -> NDArray[np.bool_]:
        (top, left), (rows, cols) = (window.row_start, window.col_start), window.shape
        with self._on_grid() as raster:
            return ~_values(raster, RasterWindow(left, top, cols, rows))[1]

    @contextlib.contextmanager
    def _on_grid(self) -> Iterator[Any]:
        """Open it, put on the grid by nearest neighbor where it lies on another one."""
        with _opened(self.path) as file:
            if file.crs is None and file.shape == self.grid.shape:
                yield file  # a picture of the size of the scene, as benchmark data come
                return
            if file.crs is None:
                fact = f"has no coordinate reference system, nor the before-scene's size {self.grid.shape}"
                raise SceneRefusedError(self.path, fact, "give truth in the before-scene's grid, or georeference it")
            size = {"width": self.grid.width, "height": self.grid.height}
            # Beyond its edges nobody knows; GDAL adds alpha only where no nodata value says so already.
            how = {"resampling": Resampling.nearest, "add_alpha": file.nodata is None and not _has_alpha(file)}
            with WarpedVRT(file, crs=self.grid.crs, transform=self.grid.transform, **size, **how) as raster:
                yield raster


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a raster; what GDAL says becomes one line."""
    if not exists(path) and "://" not in path and not path.startswith("/vsi"):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(path)
        with file:
            yield file
    except RasterioError as error:
        fact = f"is no raster GDAL can read ({error})"
        raise SceneUnreadableError(path, fact, "give polygons or a raster of changes") from error


def _values(raster: Any, window: RasterWindow) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # noqa: ANN401
    """Return what changed (1.0, else 0.0) and what is known of a window.

    A nodata value of 0 says that nothing changed there, not that nobody knows: that is how such rasters are drawn.
    """
    alpha = _has_alpha(raster)
    bands = list(range(1, raster.count + (0 if alpha else 1)))
    stored = raster.read(bands, window=window)
    known = raster.read(raster.count, window=window) > 0 if alpha else np.ones(stored.shape[1:], bool)
    if raster.nodata is not None and raster.nodata != 0:
        known &= ~(np.isnan(stored) if np.isnan(raster.nodata) else stored == raster.nodata).all(axis=0)
    changed = stored > (_HALF if raster.driver == "JPEG" else 0)  # JPEG leaves noise around black
    return changed.any(axis=0).astype(np.float32), known


def _has_alpha(raster: Any) -> bool:  # noqa: ANN401 - a dataset or a virtual one
    return bool(raster.colorinterp[-1] == ColorInterp.alpha)
