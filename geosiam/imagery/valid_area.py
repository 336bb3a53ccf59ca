"""The area that is to be looked at: polygons of any vector file, as a mask on the before-scene's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import shapely
from affine import Affine
from pyogrio.errors import DataSourceError
from rasterio.features import rasterize

from geosiam.errors import OptionError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.imagery.grid import Window

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid


@dataclass(frozen=True)
class ValidArea:
    """Polygons in pixel coordinates (column, row) of the before-scene."""

    polygons: tuple[shapely.Geometry, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str], grid: Grid) -> ValidArea:
        """Read the polygons of a vector file, in any coordinate reference system."""
        if not Path(path).exists():
            raise SceneNotFoundError(path, "does not exist", "check the path of --valid-area")
        try:
            frame = geopandas.read_file(path)
        except (DataSourceError, ValueError) as error:
            raise SceneUnreadableError(path, f"is no readable vector file ({error})", "use a GeoPackage") from error
        if frame.crs is None:
            raise SceneRefusedError(path, "has no coordinate reference system", "assign one, for example in QGIS")
        frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
        if frame.empty:
            raise SceneRefusedError(path, "holds no polygons", "give the area as polygons")
        inverse = ~grid.transform
        matrix = [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f]
        projected = frame.to_crs(grid.crs).geometry.make_valid()
        return cls(tuple(projected.affine_transform(matrix)))

    def bounds(self, grid: Grid) -> Window:
        """Return the window of pixels around the polygons, inside the scene."""
        left, top, right, bottom = shapely.total_bounds(list(self.polygons))
        area = Window(int(np.floor(top)), int(np.ceil(bottom)), int(np.floor(left)), int(np.ceil(right)))
        inside = area.intersection(Window(0, grid.height, 0, grid.width))
        if inside is None:
            raise OptionError("valid area", "lies outside the before-scene", "check its coordinate reference system")
        return inside

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window have their centre in a polygon: bool (rows, cols)."""
        corner = Affine.translation(window.col_start, window.row_start)
        box = shapely.box(window.col_start, window.row_start, window.col_stop, window.row_stop)
        near = [polygon for polygon in self.polygons if polygon.intersects(box)]
        if not near:
            return np.zeros(window.shape, bool)
        return np.asarray(rasterize(near, out_shape=window.shape, transform=corner, dtype=np.uint8), bool)
