"""The true ground area of cells, and the smallest area a user wants to see."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyproj

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.imagery.grid import apply_affine

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.vector.components import ComponentBatch

TOLERATED = 0.01  # below this a projection's areas are taken as they are, as surveyors do (UTM: 0.0008)


@dataclass(frozen=True)
class MinArea:
    """The smallest component worth a polygon.

    Parameters
    ----------
    value
        At least 0.
    unit
        ``m2``: square metres on the ground; ``px``: pixels of the before-scene.
    """

    value: float
    unit: Literal["m2", "px"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise OptionError("--min-area", f"is {self.value:g}", "give an area of 0 or more, like 1.5m2 or 20px")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the area that a text such as ``1.5m2`` or ``20px`` says.

        Raises
        ------
        OptionError
            The text is anything else.
        """
        match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(m2|m²|m\^2|px)", text.strip().lower())
        if match is None:
            raise OptionError(
                "--min-area", f"is {text!r}", "give a number and a unit: square metres as 1.5m2, pixels as 20px"
            )
        return cls(float(match[1]), "px" if match[2] == "px" else "m2")


class CellAreas:
    """Ground area of the cells of a grid in square metres.

    In a geographic CRS it is the area on the ellipsoid. In a projected CRS it is the area in the plane, in square
    metres whatever the CRS's unit; where the projection stretches areas by more than 1 % (Web Mercator far from the
    equator), what it adds is taken out.

    Parameters
    ----------
    grid
        The grid of cells.
    extent
        Where the scene ends, in cells (rows, cols): what the last row and column have beyond does not count.

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
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0  # metres, or radians
        self._plane = plane * unit**2
        self._ellipsoid = crs.ellipsoid if crs.is_geographic else None
        self._unit = unit
        self._projection = None
        if crs.is_projected and self._stretches(crs, grid):
            self._projection = pyproj.Proj(crs)

    @staticmethod
    def _stretches(crs: pyproj.CRS, grid: Grid) -> bool:
        x, y = np.array([*grid.corners, grid.transform @ (grid.width / 2, grid.height / 2)]).T
        scale = _areal_scale(pyproj.Proj(crs), x, y)
        return bool((np.abs(scale - 1) > TOLERATED).any())

    @property
    def uniform(self) -> float | None:
        """The area of every cell where all whole ones are alike, else None."""
        return self._plane if self._ellipsoid is None and self._projection is None else None

    def of(self, batch: ComponentBatch) -> NDArray[np.float64]:
        """Return the area of each component in square metres, shape (n,)."""
        if self.uniform is not None and self._whole:
            return batch.cells.astype(np.float64) * self.uniform
        row, start, stop = batch.runs.astype(np.float64).T
        bottom, stop = np.minimum(row + 1, self._rows), np.minimum(stop, self._cols)
        area = (stop - start) * (bottom - row) * self._plane
        if self.uniform is None:
            area *= self._factor(*apply_affine(self._transform, (start + stop) / 2, (row + bottom) / 2))
        total: NDArray[np.float64] = np.add.reduceat(area, batch.offsets[:-1])
        return total

    def _factor(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ground area over area in the plane (for angles: square metres per square radian) at places."""
        if self._projection is not None:
            stretch: NDArray[np.float64] = 1 / _areal_scale(self._projection, x, y)
            return stretch
        assert self._ellipsoid is not None
        a, b = self._ellipsoid.semi_major_metre, self._ellipsoid.semi_minor_metre
        e2 = 1 - (b / a) ** 2
        latitude = y * self._unit
        factor: NDArray[np.float64] = a**2 * (1 - e2) * np.cos(latitude) / (1 - e2 * np.sin(latitude) ** 2) ** 2
        return factor


def _areal_scale(projection: pyproj.Proj, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many times larger areas appear in the plane than they are, 1 where the projection cannot tell."""
    longitude, latitude = projection(x, y, inverse=True, errcheck=False)
    scale = np.asarray(projection.get_factors(longitude, latitude, errcheck=False).areal_scale, np.float64)
    return np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
