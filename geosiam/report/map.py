"""Where things lie on the page's map: on the earth, all pairs together, or each in a plane of its own.

The map is drawn in Web Mercator, in which every web map library measures and zooms. A pair that has no place on the
earth, or none that this projection shows (around the poles, across the dateline), gets a map of its own, in its own
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

EARTH = "EPSG:3857"
_DEGREES = "EPSG:4326"
_HALF = 20_037_508.34  # metres from the middle of the map to its edge
_FEWEST = 8  # corners that any outline may keep
_STEPS = 100_000  # an extent is measured in so many steps


@dataclass(frozen=True)
class Plane:
    """The plane that a pair is drawn in.

    Parameters
    ----------
    crs
        Coordinate system of the pair, as WKT.
    on_earth
        Whether it shares the earth's map with others; otherwise it is drawn in its own coordinates.
    """

    crs: str
    on_earth: bool

    @classmethod
    def of(cls, crs: str, bounds: Extent) -> Plane:
        """Return the plane for a part of the world: left, bottom, right and top in the coordinate system."""
        return cls(crs, _shown(crs, bounds))

    @property
    def target(self) -> CRS:
        """Coordinate system of the plane."""
        return CRS.from_string(EARTH) if self.on_earth else CRS.from_wkt(self.crs)

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where points (n, 2) of the pair lie in the plane."""
        if not self.on_earth:
            return points
        x, y = _between(self.crs, EARTH).transform(points[:, 0], points[:, 1])
        return np.column_stack([x, y])

    def position(self, x: float, y: float) -> tuple[float, float] | None:
        """Return longitude and latitude of a point of the pair; None off the earth."""
        if not self.on_earth:
            return None
        longitude, latitude = _between(self.crs, _DEGREES).transform(x, y)
        return float(longitude), float(latitude)

    def extent(self, bounds: Extent) -> Extent:
        """Return what a part of the pair's world covers in the plane."""
        return bounds_of(self.points(_rim(bounds)))

    def picture(self, grid: Grid, most: int) -> Grid:
        """Return the upright grid of at most ``most`` pixels a side around a grid, in the plane."""
        left, bottom, right, top = self.extent(grid.bounds)
        size = max(right - left, top - bottom) / most
        width, height = max(1, math.ceil((right - left) / size)), max(1, math.ceil((top - bottom) / size))
        transform = type(grid.transform)(size, 0, left, 0, -size, top)
        return Grid(self.target, transform, width, height)


@dataclass(frozen=True)
class Place:
    """Where a pair lies on the map: in which plane, and what it covers there."""

    plane: Plane
    extent: Extent

    @classmethod
    def of(cls, crs: str, bounds: Extent) -> Place:
        """Return the place of a part of the world, in the coordinate system ``crs``."""
        plane = Plane.of(crs, bounds)
        return cls(plane, plane.extent(bounds))


def bounds_of(points: NDArray[np.float64]) -> Extent:
    """Return left, bottom, right and top of points (n, 2)."""
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    return float(left), float(bottom), float(right), float(top)


@lru_cache(maxsize=64)
def _between(crs: str, other: str) -> pyproj.Transformer:
    """Return what brings points from one system to another; it takes milliseconds to make, and is asked for often."""
    return pyproj.Transformer.from_crs(crs, other, always_xy=True)


def distance(crs: str, first: tuple[float, float], second: tuple[float, float]) -> float | None:
    """Return the metres on the ground between two points of a coordinate system; None off the earth."""
    try:
        there = _between(crs, _DEGREES)
        ends = [there.transform(*point) for point in (first, second)]
    except ProjError:
        return None
    metres = pyproj.Geod(ellps="WGS84").inv(*ends[0], *ends[1])[2] if np.isfinite(ends).all() else math.nan
    return float(metres) if math.isfinite(metres) else None


def _shown(crs: str, bounds: Extent) -> bool:
    """Return whether Web Mercator shows all of a part of the world, in one piece."""
    try:
        there = _between(crs, EARTH)
        rim = _rim(bounds)
        x, y = there.transform(rim[:, 0], rim[:, 1])
    except ProjError:
        return False  # on another planet, or nowhere
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    inside = max(np.abs(x).max(), np.abs(y).max()) <= _HALF
    return bool(inside and np.ptp(x) < _HALF)


def _rim(bounds: Extent) -> NDArray[np.float64]:
    left, bottom, right, top = bounds
    ring = np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)], np.float64)
    return np.concatenate([np.linspace(a, b, 9) for a, b in pairwise(ring)])


def rings(outline: shapely.MultiPolygon, place: Place, most: int) -> list[list[list[int]]]:
    """Return an outline for the map: polygons of rings of whole numbers.

    Parameters
    ----------
    outline
        In the coordinates of the pair.
    place
        Of the pair: numbers count :func:`step_of` from its lower left corner, each as the difference to the one before.
    most
        About how many corners it may have.
    """
    plane, extent, step = place.plane, place.extent, step_of(place.extent)
    return [
        [_differences(plane.points(np.asarray(ring.coords)[:, :2]), extent, step) for ring in polygon_rings]
        for polygon_rings in ([part.exterior, *part.interiors] for part in simplified(outline, most).geoms)
    ]


def step_of(extent: Extent) -> float:
    """Return the length in the plane that one stands for."""
    return max(extent[2] - extent[0], extent[3] - extent[1], 1e-12) / _STEPS


def simplified(outline: shapely.MultiPolygon, most: int) -> shapely.MultiPolygon:
    """Return an outline with about as many corners as allowed; it stays where it is.

    Small holes and parts go first: kept, they would use up the corners, and leave the rest a few triangles.
    """
    tolerance = outline.length / (8 * max(most, _FEWEST))
    simple = outline
    while shapely.get_num_coordinates(simple) > max(most, _FEWEST) and tolerance < math.sqrt(outline.area):
        simple = _without_specks(outline, tolerance**2).simplify(tolerance)
        tolerance *= 2
    if simple.geom_type == "Polygon":
        return shapely.MultiPolygon([simple])
    return simple if simple.geom_type == "MultiPolygon" and not simple.is_empty else outline


def _without_specks(outline: shapely.MultiPolygon, least: float) -> shapely.MultiPolygon:
    """Return an outline without holes, and without parts but the largest, that are smaller than an area."""
    parts = sorted(outline.geoms, key=lambda part: -part.area)
    kept = [part for part in parts[1:] if part.area >= least]
    return shapely.MultiPolygon(
        [
            shapely.Polygon(part.exterior, [hole for hole in part.interiors if shapely.Polygon(hole).area >= least])
            for part in (parts[0], *kept)
        ]
    )


def shared_out(wanted: NDArray[np.int64], all_together: int) -> int:
    """Return the most that each may have, so that all together have no more than that, if some want less."""
    left = all_together
    for done, want in enumerate(np.sort(wanted)):
        share = left // (len(wanted) - done)
        if want > share:
            return int(share)
        left -= int(want)
    return int(max(wanted, default=0))


def _differences(points: NDArray[np.float64], extent: Extent, step: float) -> list[int]:
    counted = np.rint((points - extent[:2]) / step).astype(np.int64)
    changed = np.diff(counted, axis=0, prepend=np.zeros((1, 2), np.int64))
    return [int(number) for number in changed.ravel()]
