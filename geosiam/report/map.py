"""Place pairs and outlines on the page's map: all pairs together on the earth, or each in a plane of its own.

The map is drawn in Web Mercator, in which every web map library measures and zooms. A pair that is not on the earth, or
where this projection cannot show it (around the poles, across the date line), gets a map of its own, in its own
coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from geosiam.imagery.grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

Extent = tuple[float, float, float, float]
"""Left, bottom, right and top."""

WEB_MERCATOR = "EPSG:3857"
_WGS84 = "EPSG:4326"
_HALF_WORLD_M = 20_037_508.34  # from the center of Web Mercator to its edge
_MIN_CORNERS = 8  # of any simplified outline
_RING_STEPS = 100_000  # resolution of rings: steps along the longer side of the pair's extent
_EDGE_POINTS = 9  # along each side of an extent that is transformed


@dataclass(frozen=True)
class Plane:
    """The plane that a pair is drawn in.

    Parameters
    ----------
    crs
        Coordinate system of the pair, as WKT.
    on_earth
        Whether it is drawn on the common map of the earth; otherwise it is drawn in its own coordinates.
    """

    crs: str
    on_earth: bool

    @classmethod
    def of(cls, crs: str, bounds: Extent) -> Plane:
        """Return the plane for an extent in a coordinate system."""
        return cls(crs, _fits_web_mercator(crs, bounds))

    @property
    def target(self) -> CRS:
        """Coordinate system of the plane."""
        return CRS.from_string(WEB_MERCATOR) if self.on_earth else CRS.from_wkt(self.crs)

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (n, 2) of the pair in the coordinates of the plane."""
        if not self.on_earth:
            return points
        x, y = _transformer(self.crs, WEB_MERCATOR).transform(points[:, 0], points[:, 1])
        return np.column_stack([x, y])

    def position(self, x: float, y: float) -> tuple[float, float] | None:
        """Return longitude and latitude of a point of the pair; None off the earth."""
        if not self.on_earth:
            return None
        longitude, latitude = _transformer(self.crs, _WGS84).transform(x, y)
        return float(longitude), float(latitude)

    def extent(self, bounds: Extent) -> Extent:
        """Return the extent in the plane of an extent in the pair's coordinates."""
        return bounds_of(self.points(_edge_points(bounds)))

    def picture_grid(self, grid: Grid, max_px: int) -> Grid:
        """Return a north-up grid in the plane around a grid of the pair, at most ``max_px`` pixels a side."""
        left, bottom, right, top = self.extent(grid.bounds)
        size = max(right - left, top - bottom) / max_px
        width, height = max(1, math.ceil((right - left) / size)), max(1, math.ceil((top - bottom) / size))
        transform = type(grid.transform)(size, 0, left, 0, -size, top)
        return Grid(self.target, transform, width, height)


@dataclass(frozen=True)
class MapFrame:
    """The place of a pair on the map: its plane, and its extent there."""

    plane: Plane
    extent: Extent

    @classmethod
    def of(cls, crs: str, bounds: Extent) -> MapFrame:
        """Return the frame of an extent in a coordinate system."""
        plane = Plane.of(crs, bounds)
        return cls(plane, plane.extent(bounds))


def bounds_of(points: NDArray[np.float64]) -> Extent:
    """Return left, bottom, right and top of points (n, 2)."""
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    return float(left), float(bottom), float(right), float(top)


def ground_distance(crs: str, start: tuple[float, float], end: tuple[float, float]) -> float | None:
    """Return the meters on the ground between two points of a coordinate system; None off the earth."""
    try:
        to_degrees = _transformer(crs, _WGS84)
        points = [to_degrees.transform(*point) for point in (start, end)]
    except ProjError:
        return None
    meters = pyproj.Geod(ellps="WGS84").inv(*points[0], *points[1])[2] if np.isfinite(points).all() else math.nan
    return float(meters) if math.isfinite(meters) else None


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    """Return a transformer between coordinate systems; cached, for creating one takes milliseconds."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _fits_web_mercator(crs: str, bounds: Extent) -> bool:
    """Return whether Web Mercator shows all of an extent, in one piece."""
    edge = _edge_points(bounds)
    try:
        x, y = _transformer(crs, WEB_MERCATOR).transform(edge[:, 0], edge[:, 1])
    except ProjError:
        return False  # on another planet, or in a local system
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    inside = max(np.abs(x).max(), np.abs(y).max()) <= _HALF_WORLD_M
    return bool(inside and np.ptp(x) < _HALF_WORLD_M)


def _edge_points(bounds: Extent) -> NDArray[np.float64]:
    left, bottom, right, top = bounds
    corners = np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)], np.float64)
    return np.concatenate([np.linspace(start, end, _EDGE_POINTS) for start, end in pairwise(corners)])


def encode_rings(outline: shapely.MultiPolygon, frame: MapFrame, max_corners: int) -> list[list[list[int]]]:
    """Return an outline as small whole numbers, which the page adds up again: polygons of rings of coordinates.

    Parameters
    ----------
    outline
        Polygons in the coordinates of the pair.
    frame
        Frame of the pair. Coordinates count steps of :func:`ring_step` from its lower left corner; each is stored as
        the difference from the one before.
    max_corners
        About how many corners the outline may have.
    """
    plane, extent, step = frame.plane, frame.extent, ring_step(frame.extent)
    return [
        [_differences(plane.points(np.asarray(ring.coords)[:, :2]), extent, step) for ring in rings]
        for rings in ([part.exterior, *part.interiors] for part in simplify_outline(outline, max_corners).geoms)
    ]


def ring_step(extent: Extent) -> float:
    """Return the length of a step of ring coordinates, in units of the plane."""
    return max(extent[2] - extent[0], extent[3] - extent[1], 1e-12) / _RING_STEPS


def _differences(points: NDArray[np.float64], extent: Extent, step: float) -> list[int]:
    steps = np.rint((points - extent[:2]) / step).astype(np.int64)
    differences = np.diff(steps, axis=0, prepend=np.zeros((1, 2), np.int64))
    return [int(number) for number in differences.ravel()]


def simplify_outline(outline: shapely.MultiPolygon, max_corners: int) -> shapely.MultiPolygon:
    """Return an outline with about as many corners as allowed.

    Small holes and parts are dropped first: otherwise they would use up the corners and reduce the rest to triangles.
    """
    limit = max(max_corners, _MIN_CORNERS)
    tolerance = outline.length / (8 * limit)
    simple = outline
    while shapely.get_num_coordinates(simple) > limit and tolerance < math.sqrt(outline.area):
        simple = _without_specks(outline, tolerance**2).simplify(tolerance)
        tolerance *= 2
    if simple.geom_type == "Polygon":
        return shapely.MultiPolygon([simple])
    return simple if simple.geom_type == "MultiPolygon" and not simple.is_empty else outline


def _without_specks(outline: shapely.MultiPolygon, min_area: float) -> shapely.MultiPolygon:
    """Return an outline without holes below an area, and without parts below it except the largest."""
    largest, *smaller = sorted(outline.geoms, key=lambda part: -part.area)
    return shapely.MultiPolygon(
        [
            shapely.Polygon(part.exterior, [hole for hole in part.interiors if shapely.Polygon(hole).area >= min_area])
            for part in (largest, *(part for part in smaller if part.area >= min_area))
        ]
    )


def common_limit(demands: NDArray[np.int64], total: int) -> int:
    """Return the largest limit on each demand at which all together stay within a total."""
    remaining = total
    for served, demand in enumerate(np.sort(demands)):
        share = remaining // (len(demands) - served)
        if demand > share:
            return int(share)
        remaining -= int(demand)
    return int(max(demands, default=0))
