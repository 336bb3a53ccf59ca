"""The footprint: the outline of the area that was scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine

from geosiam.imagery.grid import Grid
from geosiam.polygons.areas import CellAreas
from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import trace
from geosiam.polygons.schema import FOOTPRINT_SCHEMA, GEOMETRY

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CELLS = 1024
"""Maximum number of squares along a side; up to this size of raster a footprint is as exact as the scores."""


class Footprint:
    """Count scored cells per square while strips are read, in bounded memory.

    Parameters
    ----------
    grid
        The grid of cells.
    extent
        Where the scene ends on it, in cells (rows, cols).
    """

    def __init__(self, grid: Grid, extent: tuple[float, float]) -> None:
        self._grid, self._extent = grid, extent
        self.factor = -(-max(grid.shape) // MAX_CELLS)  # cells along the side of a square
        height, width = (-(-side // self.factor) for side in grid.shape)
        self._scored = np.zeros((height, width), np.int64)

    def add(self, start: int, strip: NDArray[np.float32]) -> None:
        """Count the cells of a strip whose first row is ``start``."""
        rows = (start + np.arange(len(strip))) // self.factor
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        # Down the columns first, in the smallest type that can count them: along rows it would take ten times as long.
        count_type = np.uint8 if self.factor <= np.iinfo(np.uint8).max else np.int64
        down = np.add.reduceat((~np.isnan(strip)).view(np.uint8), first, axis=0, dtype=count_type)
        for offset in range(self.factor):
            across = down[:, offset :: self.factor]
            self._scored[rows[first], : across.shape[1]] += across

    def scored_squares(self) -> NDArray[np.bool_]:
        """Return the squares of which at least half of the cells have a score, shape (rows, cols)."""
        heights, widths = (np.minimum(self.factor, side - np.arange(0, side, self.factor)) for side in self._grid.shape)
        return 2 * self._scored >= heights[:, None] * widths[None, :]

    def table(self, stride: int, origin: dict[str, str | None]) -> pa.Table:
        """Return the outline as a table of :data:`~geosiam.polygons.schema.FOOTPRINT_SCHEMA`.

        It has one row, or none if nothing has a score.

        Parameters
        ----------
        stride
            Pixels of the before scene along a cell's side.
        origin
            The columns ``before``, ``after`` and ``created``.
        """
        squares = self.scored_squares().astype(np.float32)
        transform = self._grid.transform @ Affine.scale(self.factor)
        grid = Grid(self._grid.crs, transform, squares.shape[1], squares.shape[0])
        extent = self._extent[0] / self.factor, self._extent[1] / self.factor
        areas = CellAreas(grid, extent)
        polygons, area = [], 0.0
        for batch in component_batches([squares], 1.0, connectivity=4):
            for outline in trace(batch).to_crs_coordinates(transform, extent).geometries():
                polygons.extend(outline.geoms)
            area += float(areas.of(batch).sum())
        outline = shapely.to_wkb(shapely.MultiPolygon(polygons))
        row = {**origin, "looked_at_m2": area, "accuracy_px": self.factor * stride, GEOMETRY: outline}
        return pa.Table.from_pylist([row] if polygons else [], schema=FOOTPRINT_SCHEMA)
