"""The area of interest: polygons of any vector file, as a mask on the before scene's grid."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
import shapely.affinity
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.features import rasterize

from geosiam.errors import OptionError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists, file_and_layer, plain_path
from geosiam.imagery.grid import Window, apply_affine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import geopandas
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid


_FARTHEST_PX = 1e9  # integers overflow beyond
_MAX_COORDINATE = 1e30  # larger values are fill values, not coordinates


@dataclass(frozen=True)
class AreaOfInterest:
    """Polygons on the before scene's grid, outside of which nothing is valid.

    Parameters
    ----------
    polygons
        Polygons in pixel coordinates (column, row) of the grid; in coordinates of ``crs`` if that is given.
    grid
        Grid of the before scene.
    crs
        Well-known text of the polygons' own coordinate system, if transforming their corners would give other
        polygons. Then the center of each pixel is transformed instead, which takes longer. None otherwise.
    """

    polygons: tuple[shapely.Geometry, ...]
    grid: Grid
    crs: str | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], grid: Grid) -> AreaOfInterest:
        """Read the polygons of a vector file, in any coordinate reference system.

        Raises
        ------
        SceneNotFoundError, SceneUnreadableError
            There is no such file, or it is not a vector file.
        SceneRefusedError
            The file has no polygons, no coordinate reference system, or one of another planet.
        OptionError
            No polygon lies in the scene.
        """
        if not exists(file_and_layer(path)[0]):
            raise SceneNotFoundError(path, "does not exist", "check the path given as `aoi`")
        frame = _polygons(path)
        try:
            transformer = PixelTransformer(grid, frame.crs)
        except ProjError as error:
            raise SceneRefusedError(
                path,
                f"cannot be transformed to the before scene's coordinate system ({error})",
                "use one coordinate system for both",
            ) from error
        polygons = [copy for polygon in frame.geometry for copy in transformer.full_turns(shapely.make_valid(polygon))]
        pixels = to_pixels(polygons, transformer)
        area = cls(pixels, grid) if pixels is not None else cls(tuple(polygons), grid, frame.crs.to_wkt())
        area.bounds()
        return area

    def bounds(self) -> Window:
        """Return the window of pixels around the polygons, inside the scene."""
        scene = Window(0, self.grid.height, 0, self.grid.width)
        inside = scene if self.crs is not None else None
        if self.polygons and self.crs is None:
            left, top, right, bottom = shapely.total_bounds(list(self.polygons)).clip(-_FARTHEST_PX, _FARTHEST_PX)
            area = Window(int(np.floor(top)), int(np.ceil(bottom)), int(np.floor(left)), int(np.ceil(right)))
            inside = area.intersection(scene)
        if inside is None:
            raise OptionError("`aoi`", "lies outside the before scene", "check its coordinate reference system")
        return inside

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return the mask of the pixels of a window whose center lies in a polygon: bool (rows, cols)."""
        if self.crs is not None:
            rows, cols = np.mgrid[window.slices].astype(np.float64) + 0.5  # centers
            transformer = PixelTransformer(self.grid, pyproj.CRS(self.crs))
            return contains(self.polygons, *transformer.to_crs(cols, rows))
        corner = Affine.translation(window.col_start, window.row_start)
        box = shapely.box(window.col_start, window.row_start, window.col_stop, window.row_stop)
        polygons = [polygon for polygon in self.polygons if polygon.intersects(box)]
        if not polygons:
            return np.zeros(window.shape, bool)
        return np.asarray(rasterize(polygons, out_shape=window.shape, transform=corner, dtype=np.uint8), bool)


def _polygons(path: str | os.PathLike[str]) -> geopandas.GeoDataFrame:
    """Read the polygons of a vector file that are not empty."""
    import geopandas  # noqa: PLC0415 - slow to import, and most pairs come without an area
    from pyogrio.errors import DataLayerError, DataSourceError  # noqa: PLC0415 - likewise

    try:
        file, layer = file_and_layer(path)
        with plain_path(file) as plain:
            frame = geopandas.read_file(plain, layer=_layer(path, plain, layer))
    except SceneRefusedError:
        raise
    except (DataSourceError, DataLayerError, ValueError, OSError) as error:
        raise SceneUnreadableError(path, f"is not a readable vector file ({error})", "use a GeoPackage") from error
    if not isinstance(frame, geopandas.GeoDataFrame):  # a table of attributes
        raise SceneRefusedError(path, "holds no polygons", "use a layer of polygons")
    if frame.crs is None:
        raise SceneRefusedError(path, "has no coordinate reference system", "assign one, for example in QGIS")
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"]) & ~frame.is_empty]
    if frame.empty:
        raise SceneRefusedError(path, "holds no polygons", "use a layer of polygons")
    if not (np.abs(frame.total_bounds) < _MAX_COORDINATE).all():
        raise SceneRefusedError(path, "has coordinates that are not finite", "export the area again")
    return frame


def _layer(path: str | os.PathLike[str], file: str, named: str | None) -> str | None:
    """Return the layer to read: the one that is named, or the only one of polygons; None where GDAL lists none.

    Raises
    ------
    SceneRefusedError
        There is no such layer, or there are several.
    """
    import pyogrio  # noqa: PLC0415 - slow to import, and most pairs come without an area

    layers = {str(name): str(kind) for name, kind in pyogrio.list_layers(file)}
    if named is not None:
        if named not in layers:
            raise SceneRefusedError(path, f"has no layer {named!r}", f"name one of {', '.join(layers)}")
        return named
    areas = [name for name, kind in layers.items() if "Polygon" in kind or kind in ("Unknown", "GeometryCollection")]
    if len(areas) > 1:
        fact = f"has several layers of polygons ({', '.join(areas)})"
        raise SceneRefusedError(path, fact, f"name one: {os.fspath(path)}:{areas[0]}")
    return areas[0] if areas else None


_SAMPLES = 41  # points along a side of the grid at which both coordinate systems are compared
_MARGIN = 0.1  # of the grid's extent; polygons are cut off beyond it
_STEPS = 512  # straight pieces of a line across the grid, which may be a curve on it
_JUMP = 0.2  # of the grid's extent; only a line that is torn apart has longer pieces
_TURN_DEGREES = 360.0


class PixelTransformer:
    """Transform between the pixels of a grid and another coordinate reference system.

    Parameters
    ----------
    grid
        Grid of the pixels.
    crs
        The other coordinate reference system.

    Raises
    ------
    ProjError
        There is no transformation between the two systems.
    """

    def __init__(self, grid: Grid, crs: pyproj.CRS) -> None:
        grid_crs = pyproj.CRS(grid.crs.to_wkt())
        self.grid = grid
        self.same = bool(crs.equals(grid_crs, ignore_axis_order=True))
        self._from_grid = pyproj.Transformer.from_crs(grid_crs, crs, always_xy=True)
        self._to_grid = pyproj.Transformer.from_crs(crs, grid_crs, always_xy=True)
        self._turn = _TURN_DEGREES / _degrees(crs) if crs.is_geographic else None
        self._from_grid.transform(*grid.transform @ (grid.width / 2, grid.height / 2))  # raises for two planets

    def full_turns(self, polygon: shapely.Geometry) -> Iterator[shapely.Geometry]:
        """Yield a polygon of the other system and, if coordinates are angles, its copies a full turn east and west."""
        yield polygon
        if self._turn is not None:
            for turn in (-self._turn, self._turn):
                yield shapely.affinity.translate(polygon, turn)

    def to_crs(self, cols: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return the coordinates (x, y) of pixels in the other system; not finite where there are none."""
        x, y = apply_affine(self.grid.transform, cols, rows)
        if not self.same:
            x, y = self._from_grid.transform(x, y)
        return x, y

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixel coordinates (column, row) of points (x, y) of the other system, both (n, 2)."""
        x, y = points.T if self.same else self._to_grid.transform(*points.T)
        undefined = ~(np.isfinite(x) & np.isfinite(y))
        x, y = np.where(undefined, np.nan, x), np.where(undefined, np.nan, y)
        return np.column_stack(apply_affine(~self.grid.transform, x, y))


def contains(polygons: Sequence[shapely.Geometry], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point lies in any of the polygons; points that are not finite do not."""
    finite = np.isfinite(x) & np.isfinite(y)
    inside = np.zeros(x.shape, bool)
    for polygon in polygons:
        shapely.prepare(polygon)
        inside[finite] |= shapely.intersects_xy(polygon, x[finite], y[finite])
    return inside


def to_pixels(
    polygons: Sequence[shapely.Geometry], transformer: PixelTransformer
) -> tuple[shapely.Geometry, ...] | None:
    """Return the parts of polygons near a grid in its pixels (column, row).

    None if polygons through the transformed corners would hold other pixels. Edges are straight in the polygons' own
    system.
    """
    cols, rows = _sample_points(transformer.grid)
    x, y = transformer.to_crs(cols, rows)
    nearby = list(polygons) if transformer.same else _clipped(polygons, x, y)
    transformed = shapely.transform(nearby, transformer.to_pixels)
    if transformer.same:
        return tuple(shapely.make_valid(polygon) for polygon in transformed)
    if any(_torn(polygon, transformer.grid) for polygon in transformed):
        return None
    pixels = tuple(shapely.make_valid(polygon) for polygon in transformed)
    # A polygon around an area without coordinates turns into its complement, without a tear.
    differing = contains(pixels, cols, rows) != contains(polygons, x, y)
    edges = shapely.union_all([polygon.boundary for polygon in pixels])
    distances = shapely.distance(shapely.points(cols[differing], rows[differing]), edges)
    wrong = bool(np.any(distances > 1)) if pixels else bool(differing.any())
    return None if wrong else pixels


def _clipped(
    polygons: Sequence[shapely.Geometry], x: NDArray[np.float64], y: NDArray[np.float64]
) -> list[shapely.Geometry]:
    """Clip polygons to the surroundings of points, and split their edges into short pieces."""
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return []
    left, right, bottom, top = x[finite].min(), x[finite].max(), y[finite].min(), y[finite].max()
    across, up = (right - left) * _MARGIN, (top - bottom) * _MARGIN
    region = shapely.box(left - across, bottom - up, right + across, top + up)
    parts = shapely.get_parts(shapely.intersection(list(polygons), region))
    areas = [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]
    step = max(right - left, top - bottom) / _STEPS
    return [part.segmentize(step) if step > 0 else part for part in areas]


def _torn(polygon: shapely.Geometry, grid: Grid) -> bool:
    """Return whether an outline jumps across the grid, or has points without coordinates."""
    points = shapely.get_coordinates(polygon)
    if not np.isfinite(points).all():
        return True
    longest = _JUMP * max(grid.width, grid.height)
    rings = [polygon.exterior, *polygon.interiors]
    steps = [np.diff(shapely.get_coordinates(ring), axis=0) for ring in rings]
    return any(bool((np.hypot(*step.T) > longest).any()) for step in steps)


def _sample_points(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    along = np.linspace(0, 1, _SAMPLES)
    cols, rows = np.meshgrid(along * grid.width, along * grid.height)
    return cols.ravel(), rows.ravel()


def _degrees(crs: pyproj.CRS) -> float:
    """Return the unit of a geographic system in degrees."""
    return float(np.degrees(crs.axis_info[0].unit_conversion_factor)) if crs.axis_info else 1.0
