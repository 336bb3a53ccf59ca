"""What was looked at: the cells that have a score, outlined, with holes where nothing could be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine

from geosiam.imagery.grid import Grid
from geosiam.vector.areas import CellAreas
from geosiam.vector.columns import GEOMETRY
from geosiam.vector.components import component_batches
from geosiam.vector.outlines import trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CELLS = 1024
"""Along either side: a footprint is as exact as the scores up to this size, and a part of it beyond."""

FOOTPRINT_COLUMNS = {
    "before": "File name of the before-scene",
    "after": "File name of the after-scene",
    "created": "When the scores were computed, ISO 8601, UTC",
    "looked_at_m2": "Area of the cells with a score in square metres, counted in the grid of this outline",
    "accuracy_px": "Side of the squares that the outline is made of, in pixels of the before-scene: it is that exact",
}

FOOTPRINT_SCHEMA = pa.schema(
    [
        ("before", pa.string()),
        ("after", pa.string()),
        ("created", pa.string()),
        ("looked_at_m2", pa.float64()),
        ("accuracy_px", pa.int64()),
        (GEOMETRY, pa.binary()),
    ]
)
"""The columns with their types, and the outline as WKB."""


class Footprint:
    """Counts scored cells in squares while strips go by, in bounded memory.

    Parameters
    ----------
    grid, extent
        The grid of cells, and where the scene ends on it, in cells (rows, cols).
    """

    def __init__(self, grid: Grid, extent: tuple[float, float]) -> None:
        self._grid, self._extent = grid, extent
        self.factor = -(-max(grid.shape) // MOST_CELLS)
        height, width = (-(-side // self.factor) for side in grid.shape)
        self._scored = np.zeros((height, width), np.int64)

    def add(self, start: int, strip: NDArray[np.float32]) -> None:
        """Count the cells of a strip that begins at row ``start``."""
        rows = (start + np.arange(len(strip))) // self.factor
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        # Down the columns first, in numbers as small as they can be: along rows it would take ten times as long.
        counting = np.uint8 if self.factor <= np.iinfo(np.uint8).max else np.int64
        down = np.add.reduceat((~np.isnan(strip)).view(np.uint8), first, axis=0, dtype=counting)
        for offset in range(self.factor):
            across = down[:, offset :: self.factor]
            self._scored[rows[first], : across.shape[1]] += across

    def looked_at(self) -> NDArray[np.bool_]:
        """Return the squares of which at least half of the cells have a score, shape (rows, cols)."""
        sides = []
        for side in self._grid.shape:
            starts = np.arange(0, side, self.factor)
            sides.append(np.minimum(starts + self.factor, side) - starts)
        cells = sides[0][:, None] * sides[1][None, :]
        return 2 * self._scored >= cells

    def table(self, stride: int, origin: dict[str, str | None]) -> pa.Table:
        """Return the outline as a table of one row, or of none where nothing has a score.

        Parameters
        ----------
        stride
            Pixels of the before-scene along a cell's side.
        origin
            ``before``, ``after`` and ``created``.
        """
        squares = self.looked_at().astype(np.float32)
        transform = self._grid.transform @ Affine.scale(self.factor)
        grid = Grid(self._grid.crs, transform, squares.shape[1], squares.shape[0])
        extent = self._extent[0] / self.factor, self._extent[1] / self.factor
        areas = CellAreas(grid, extent)
        polygons, area = [], 0.0
        for batch in component_batches([squares], 1.0, connectivity=4):
            for outline in trace(batch).placed(transform, extent).geometries():
                polygons.extend(outline.geoms)
            area += float(areas.of(batch).sum())
        outline = shapely.to_wkb(shapely.MultiPolygon(polygons))
        row = {**origin, "looked_at_m2": area, "accuracy_px": self.factor * stride, GEOMETRY: outline}
        return pa.Table.from_pylist([row] if polygons else [], schema=FOOTPRINT_SCHEMA)
