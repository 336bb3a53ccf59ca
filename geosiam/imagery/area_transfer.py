"""Polygons from their own coordinate reference system to the pixels of a grid, where that can be done corner by corner.

Around a pole, across the edge of a map or to where a projection is not defined it cannot: a polygon around the earth
has corners that lie nowhere on most maps, and one across the dateline would come out as a band around the earth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
import shapely.affinity

from geosiam.imagery.grid import apply_affine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid

_SAMPLES = 41  # points along a side of the grid that are looked at on both sides
_MARGIN = 0.1  # of the grid's extent that is brought over around it
_STEPS = 512  # straight pieces of a line across the grid, for there it may be a curve
_JUMP = 0.2  # of the grid's extent: no such piece gets this long, unless it is torn apart
_TURN = 360.0


class Bridge:
    """The way between the pixels of a grid and another coordinate reference system.

    Parameters
    ----------
    grid
        The grid.
    crs
        The other system.

    Raises
    ------
    ProjError
        The two systems have nothing to do with one another.
    """

    def __init__(self, grid: Grid, crs: pyproj.CRS) -> None:
        own = pyproj.CRS(grid.crs.to_wkt())
        self.grid = grid
        self.same = bool(crs.equals(own, ignore_axis_order=True))
        self._from_grid = pyproj.Transformer.from_crs(own, crs, always_xy=True)
        self._to_grid = pyproj.Transformer.from_crs(crs, own, always_xy=True)
        self._turn = _TURN / _degrees(crs) if crs.is_geographic else None
        self._from_grid.transform(*grid.transform @ (grid.width / 2, grid.height / 2))  # two planets part here

    def turned(self, polygon: shapely.Geometry) -> Iterator[shapely.Geometry]:
        """Yield a polygon of the other system and, where coordinates are angles, the same once around the earth."""
        yield polygon
        if self._turn is not None:
            for turn in (-self._turn, self._turn):
                yield shapely.affinity.translate(polygon, turn)

    def there(self, cols: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return where pixels lie in the other system; not finite where they lie nowhere."""
        x, y = apply_affine(self.grid.transform, cols, rows)
        if not self.same:
            x, y = self._from_grid.transform(x, y)
        return x, y

    def here(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixels (column, row) of points (x, y) of the other system, both (n, 2)."""
        x, y = points.T if self.same else self._to_grid.transform(*points.T)
        nowhere = ~(np.isfinite(x) & np.isfinite(y))
        x, y = np.where(nowhere, np.nan, x), np.where(nowhere, np.nan, y)
        return np.column_stack(apply_affine(~self.grid.transform, x, y))


def contains(polygons: Sequence[shapely.Geometry], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points lie in any of the polygons; points that lie nowhere do not."""
    known = np.isfinite(x) & np.isfinite(y)
    inside = np.zeros(x.shape, bool)
    for polygon in polygons:
        shapely.prepare(polygon)
        inside[known] |= shapely.intersects_xy(polygon, x[known], y[known])
    return inside


def to_pixels(polygons: Sequence[shapely.Geometry], bridge: Bridge) -> tuple[shapely.Geometry, ...] | None:
    """Return the parts of polygons near a grid in its pixels (column, row), or None where corners do not tell.

    Edges are straight in the polygons' own system.
    """
    cols, rows = _lattice(bridge.grid)
    x, y = bridge.there(cols, rows)
    near = list(polygons) if bridge.same else _near(polygons, x, y)
    brought = shapely.transform(near, bridge.here)
    if bridge.same:
        return tuple(shapely.make_valid(polygon) for polygon in brought)
    if any(_torn(polygon, bridge.grid) for polygon in brought):
        return None
    made = tuple(shapely.make_valid(polygon) for polygon in brought)
    # A polygon around what lies nowhere comes out as its opposite, without a tear.
    doubtful = contains(made, cols, rows) != contains(polygons, x, y)
    edges = shapely.union_all([polygon.boundary for polygon in made])
    far = shapely.distance(shapely.points(cols[doubtful], rows[doubtful]), edges) > 1
    wrong = bool(np.any(far)) if made else bool(doubtful.any())
    return None if wrong else made


def _near(
    polygons: Sequence[shapely.Geometry], x: NDArray[np.float64], y: NDArray[np.float64]
) -> list[shapely.Geometry]:
    """Return the parts of polygons around points, with corners close to one another."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return []
    left, right, bottom, top = x[known].min(), x[known].max(), y[known].min(), y[known].max()
    across, up = (right - left) * _MARGIN, (top - bottom) * _MARGIN
    region = shapely.box(left - across, bottom - up, right + across, top + up)
    parts = shapely.get_parts(shapely.intersection(list(polygons), region))
    areas = [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]
    step = max(right - left, top - bottom) / _STEPS
    return [part.segmentize(step) if step > 0 else part for part in areas]


def _torn(polygon: shapely.Geometry, grid: Grid) -> bool:
    points = shapely.get_coordinates(polygon)
    if not np.isfinite(points).all():
        return True
    longest = _JUMP * max(grid.width, grid.height)
    rings = [polygon.exterior, *polygon.interiors]
    steps = [np.diff(shapely.get_coordinates(ring), axis=0) for ring in rings]
    return any(bool((np.hypot(*step.T) > longest).any()) for step in steps)


def _lattice(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    along = np.linspace(0, 1, _SAMPLES)
    cols, rows = np.meshgrid(along * grid.width, along * grid.height)
    return cols.ravel(), rows.ravel()


def _degrees(crs: pyproj.CRS) -> float:
    """Return how many degrees the unit of a geographic system is."""
    return float(np.degrees(crs.axis_info[0].unit_conversion_factor)) if crs.axis_info else 1.0
