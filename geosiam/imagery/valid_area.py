"""The area that is to be looked at: polygons of any vector file, as a mask on the before-scene's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.features import rasterize

from geosiam.errors import OptionError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import is_there
from geosiam.imagery.area_transfer import Bridge, contains, to_pixels
from geosiam.imagery.grid import Window

if TYPE_CHECKING:
    import os

    import geopandas
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid

_FARTHEST_PX = 1e9  # beyond, integers overflow
_NO_COORDINATE = 1e30


@dataclass(frozen=True)
class ValidArea:
    """Polygons on the before-scene's grid.

    Parameters
    ----------
    polygons
        In pixel coordinates (column, row) of the grid; in coordinates of ``crs`` where that is given.
    grid
        The before-scene's grid.
    crs
        Well-known text of the polygons' own system, where their corners do not tell which pixels they hold: then the
        centre of each pixel is looked up, which takes longer.
    """

    polygons: tuple[shapely.Geometry, ...]
    grid: Grid
    crs: str | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], grid: Grid) -> ValidArea:
        """Read the polygons of a vector file, in any coordinate reference system.

        Raises
        ------
        SceneNotFoundError, SceneUnreadableError
            There is no such file, or it holds no vectors.
        SceneRefusedError
            It holds no polygons, does not say where on earth they are, or is about another planet.
        OptionError
            No polygon lies in the scene.
        """
        if not is_there(path):
            raise SceneNotFoundError(path, "does not exist", "check the path of --valid-area")
        frame = _polygons(path)
        try:
            bridge = Bridge(grid, frame.crs)
        except ProjError as error:
            raise SceneRefusedError(
                path, f"cannot be brought to the before-scene's coordinate system ({error})", "use one system for both"
            ) from error
        own = [copy for polygon in frame.geometry for copy in bridge.turned(shapely.make_valid(polygon))]
        pixels = to_pixels(own, bridge)
        area = cls(pixels, grid) if pixels is not None else cls(tuple(own), grid, frame.crs.to_wkt())
        area.bounds()
        return area

    def bounds(self) -> Window:
        """Return the window of pixels around the polygons, inside the scene."""
        whole = Window(0, self.grid.height, 0, self.grid.width)
        inside = whole if self.crs is not None else None
        if self.polygons and self.crs is None:
            left, top, right, bottom = shapely.total_bounds(list(self.polygons)).clip(-_FARTHEST_PX, _FARTHEST_PX)
            area = Window(int(np.floor(top)), int(np.ceil(bottom)), int(np.floor(left)), int(np.ceil(right)))
            inside = area.intersection(whole)
        if inside is None:
            raise OptionError("valid area", "lies outside the before-scene", "check its coordinate reference system")
        return inside

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window have their centre in a polygon: bool (rows, cols)."""
        if self.crs is not None:
            rows, cols = np.mgrid[window.slices].astype(np.float64) + 0.5  # centres
            bridge = Bridge(self.grid, pyproj.CRS(self.crs))
            return contains(self.polygons, *bridge.there(cols, rows))
        corner = Affine.translation(window.col_start, window.row_start)
        box = shapely.box(window.col_start, window.row_start, window.col_stop, window.row_stop)
        near = [polygon for polygon in self.polygons if polygon.intersects(box)]
        if not near:
            return np.zeros(window.shape, bool)
        return np.asarray(rasterize(near, out_shape=window.shape, transform=corner, dtype=np.uint8), bool)


def _polygons(path: str | os.PathLike[str]) -> geopandas.GeoDataFrame:
    """Return the polygons of a vector file that enclose anything."""
    import geopandas  # noqa: PLC0415 - slow to import, and most pairs come without an area
    from pyogrio.errors import DataLayerError, DataSourceError  # noqa: PLC0415 - likewise

    try:
        frame = geopandas.read_file(path)
    except (DataSourceError, DataLayerError, ValueError, OSError) as error:
        raise SceneUnreadableError(path, f"is no readable vector file ({error})", "use a GeoPackage") from error
    if not isinstance(frame, geopandas.GeoDataFrame):  # a table of attributes
        raise SceneRefusedError(path, "holds no polygons", "give the area as polygons")
    if frame.crs is None:
        raise SceneRefusedError(path, "has no coordinate reference system", "assign one, for example in QGIS")
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"]) & ~frame.is_empty]
    if frame.empty:
        raise SceneRefusedError(path, "holds no polygons", "give the area as polygons")
    if not (np.abs(frame.total_bounds) < _NO_COORDINATE).all():
        raise SceneRefusedError(path, "has coordinates that are no numbers", "export the area again")
    return frame
