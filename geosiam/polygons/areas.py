"""Areas and lengths on the ground, and centroids, of components and outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyproj

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import apply_affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.polygons.components import ComponentBatch
    from geosiam.polygons.multipolygons import MultiPolygons

_AREA_DISTORTION = 0.01  # fraction up to which areas of a projection are not corrected, as surveyors do (UTM: 0.0008)
_EARTH_M = 6_378_137.0  # semi-major axis
_EARTH_TOLERANCE = 0.01  # fraction by which the axes of ellipsoids of the earth differ at most; planets differ by more
_WGS84 = 4326


class CellAreas:
    """Ground area of the cells of a grid in square meters.

    In a geographic CRS it is the area on the ellipsoid. In a projected CRS it is the area in the plane, in square
    meters whatever the unit of the CRS, corrected where the projection distorts areas by more than 1 % (Web Mercator
    far from the equator).

    Parameters
    ----------
    grid
        The grid of cells.
    extent
        Where the scene ends, in cells (rows, cols): cells of the last row and column count up to there.

    Raises
    ------
    SceneRefusedError
        The grid has no coordinate reference system.
    """

    def __init__(self, grid: Grid, extent: tuple[float, float] = (np.inf, np.inf)) -> None:
        if not grid.crs:
            remedy = "assign one, for example with gdal_edit.py -a_srs"
            raise SceneRefusedError("scores", "have no coordinate reference system", remedy)
        self._transform = grid.transform
        self._rows, self._cols = min(extent[0], grid.height), min(extent[1], grid.width)
        self._whole = (self._rows, self._cols) == grid.shape
        crs = pyproj.CRS.from_user_input(grid.crs.to_wkt())
        plane = abs(grid.transform.determinant)  # in units of the CRS, squared
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0  # meters, or radians
        self._plane = plane * unit**2
        self._crs = crs
        self._ellipsoid = crs.ellipsoid if crs.is_geographic else None
        self._unit = unit
        self._projection = None
        if crs.is_projected and _distorts_areas(crs, grid):
            self._projection = pyproj.Proj(crs)

    @property
    def uniform(self) -> float | None:
        """The area of a whole cell if all have the same, else None."""
        return self._plane if self._ellipsoid is None and self._projection is None else None

    def of(self, batch: ComponentBatch) -> NDArray[np.float64]:
        """Return the area of each component in square meters, shape (n,)."""
        if self.uniform is not None and self._whole:
            return batch.cells.astype(np.float64) * self.uniform
        row, bottom, start, stop = self._inside(batch)
        area = (stop - start) * (bottom - row) * self._plane
        if self.uniform is None:
            area *= self._factor(*apply_affine(self._transform, (start + stop) / 2, (row + bottom) / 2))
        total: NDArray[np.float64] = np.add.reduceat(area, batch.offsets[:-1])
        return total

    def cells(self, batch: ComponentBatch) -> NDArray[np.float64]:
        """Return the number of cells of each component inside the scene, shape (n,); cut cells count as fractions."""
        if self._whole:
            return batch.cells.astype(np.float64)
        row, bottom, start, stop = self._inside(batch)
        total: NDArray[np.float64] = np.add.reduceat((stop - start) * (bottom - row), batch.offsets[:-1])
        return total

    def centroids(self, batch: ComponentBatch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitude and latitude (WGS 84) of the centers of mass, shape (n,) each; NaN if not on Earth."""
        if not self._on_earth():
            return np.full(len(batch), np.nan), np.full(len(batch), np.nan)
        row, bottom, start, stop = self._inside(batch)
        weight = (stop - start) * (bottom - row)
        first = batch.offsets[:-1]
        mass = np.add.reduceat(weight, first)
        col = np.add.reduceat(weight * (start + stop) / 2, first) / mass
        line = np.add.reduceat(weight * (row + bottom) / 2, first) / mass
        to_wgs84 = pyproj.Transformer.from_crs(self._crs, _WGS84, always_xy=True)
        lon_lat = np.array(to_wgs84.transform(*apply_affine(self._transform, col, line)))
        lon_lat[:, ~np.isfinite(lon_lat).all(axis=0)] = np.nan
        turns = np.where(np.abs(lon_lat[0]) > 180, np.round(lon_lat[0] / 360), 0)  # noqa: PLR2004 - degrees
        return lon_lat[0] - 360 * turns, lon_lat[1]

    def perimeters(self, outlines: MultiPolygons) -> NDArray[np.float64]:
        """Return the length of outlines in CRS coordinates, holes included, in meters: shape (n,)."""
        owner = outlines.point_geometry
        along = np.ones(max(len(owner) - 1, 0), np.bool_)
        along[outlines.ring_offsets[1:-1] - 1] = False  # from the end of a ring to the beginning of the next one
        middle = (outlines.xy[1:] + outlines.xy[:-1])[along] / 2
        across, up = (outlines.xy[1:] - outlines.xy[:-1])[along].T * self._unit
        if self._ellipsoid is not None:
            a, e2 = self._ellipsoid.semi_major_metre, self._eccentricity2()
            latitude = middle[:, 1] * self._unit
            w2 = 1 - e2 * np.sin(latitude) ** 2
            across, up = across * a * np.cos(latitude) / np.sqrt(w2), up * a * (1 - e2) / w2**1.5
        length = np.hypot(across, up)
        if self._projection is not None:
            length *= np.sqrt(self._factor(*middle.T))  # right for conformal projections, and Mercators are
        return np.asarray(np.bincount(owner[:-1][along], weights=length, minlength=len(outlines)), np.float64)

    def _inside(self, batch: ComponentBatch) -> tuple[NDArray[np.float64], ...]:
        """Return the sides of runs, cut off at the scene's edge: top, bottom, left and right, shape (runs,) each."""
        row, start, stop = batch.runs.astype(np.float64).T
        return row, np.minimum(row + 1, self._rows), start, np.minimum(stop, self._cols)

    def _on_earth(self) -> bool:
        ellipsoid = self._crs.ellipsoid
        if ellipsoid is None or self._crs.is_geocentric:
            return False
        return bool(abs(ellipsoid.semi_major_metre / _EARTH_M - 1) < _EARTH_TOLERANCE)

    def _eccentricity2(self) -> float:
        assert self._ellipsoid is not None
        return float(1 - (self._ellipsoid.semi_minor_metre / self._ellipsoid.semi_major_metre) ** 2)

    def _factor(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ground area over area in the plane at points; for angles, in square meters per square radian."""
        if self._projection is not None:
            return np.asarray(1 / _areal_scale(self._projection, x, y), np.float64)
        assert self._ellipsoid is not None
        a, e2 = self._ellipsoid.semi_major_metre, self._eccentricity2()
        latitude = y * self._unit
        factor: NDArray[np.float64] = a**2 * (1 - e2) * np.cos(latitude) / (1 - e2 * np.sin(latitude) ** 2) ** 2
        return factor


def pixel_lengths(grid: Grid, cols: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lengths of pixels on the ground, along a row and along a column, around points of a grid.

    In a projected CRS they are lengths in the plane, in meters whatever the unit of the CRS; in a geographic CRS, and
    where the projection distorts areas by more than 1 %, they are geodesic.

    Parameters
    ----------
    grid
        The grid of the pixels.
    cols, rows
        Points in pixels of the grid, shape (n,) each.

    Returns
    -------
    float64 (2, n) in meters; NaN where the CRS has no place on the ellipsoid
    """
    crs = pyproj.CRS.from_user_input(grid.crs.to_wkt())
    offsets = np.array([[-0.5, 0.5, 0, 0], [0, 0, -0.5, 0.5]])  # from one side of a pixel to the other, and down
    x, y = apply_affine(grid.transform, cols[:, None] + offsets[0], rows[:, None] + offsets[1])
    ellipsoid, geodetic = crs.ellipsoid, crs.geodetic_crs
    if not crs.is_geographic and not (crs.is_projected and _distorts_areas(crs, grid)):
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return np.stack([np.hypot(np.diff(x)[:, i], np.diff(y)[:, i]) * unit for i in (0, 2)])
    assert ellipsoid is not None
    assert geodetic is not None
    angles = np.array(pyproj.Transformer.from_crs(crs, geodetic, always_xy=True).transform(x, y))
    lon, lat = np.degrees(angles * geodetic.axis_info[0].unit_conversion_factor)
    geod = pyproj.Geod(a=ellipsoid.semi_major_metre, b=ellipsoid.semi_minor_metre)
    on_ground = np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
    lengths = np.full((2, len(x)), np.nan)
    for i in (0, 1):
        ends = (side[on_ground, 2 * i + end] for end in (0, 1) for side in (lon, lat))
        lengths[i, on_ground] = geod.inv(*ends)[2]
    return lengths


def _distorts_areas(crs: pyproj.CRS, grid: Grid) -> bool:
    """Return whether areas at the corners or in the middle of a grid have to be corrected."""
    x, y = np.array([*grid.corners, grid.transform @ (grid.width / 2, grid.height / 2)]).T
    scale = _areal_scale(pyproj.Proj(crs), x, y)
    return bool((np.abs(scale - 1) > _AREA_DISTORTION).any())


def _areal_scale(projection: pyproj.Proj, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratio of areas in the plane to those on the ground; 1 where the projection does not give it."""
    longitude, latitude = projection(x, y, inverse=True, errcheck=False)
    scale = np.asarray(projection.get_factors(longitude, latitude, errcheck=False).areal_scale, np.float64)
    return np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
