"""From a score raster to a table of polygons, each with the evidence for it."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import geopandas
import numpy as np
import pandas as pd

from geosiam.detection.raster import SCENE_TAG, STRIDE_TAG, ScoreRaster, scene_extent
from geosiam.errors import OptionError, SceneRefusedError
from geosiam.imagery.grid import Grid
from geosiam.vector.areas import CellAreas, MinArea
from geosiam.vector.components import ComponentBatch, component_batches
from geosiam.vector.outlines import multipolygons

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray
    from rasterio.crs import CRS

STRIP_ROWS = 512  # one row of tiles of the score raster

COLUMNS = {
    "id": "Number of the polygon, from 1, in the raster order of its last cell",
    "score_mean": "Mean anomaly probability of its cells, 0 to 1",
    "score_max": "Highest anomaly probability of its cells, 0 to 1",
    "area_m2": "Area on the ground in square metres",
    "cells": "Number of cells of the score raster",
    "valid_fraction": "Share of scored cells among its own and those that touch it; 1 = all around it is known",
    "touches_nodata": "Whether a cell that could not be scored shares a side or a corner with it",
    "shift_px": "Misregistration left between the two scenes, in pixels of the before-scene; empty if not estimated",
    "review": "For the analyst: unreviewed (empty), confirmed, rejected or unsure",
}


_ROUNDING = 1e-9  # 3 cells of 0.1 x 0.1 m are 0.03 m2, whatever floats say


class Scores(Protocol):
    """Anything that gives scores strip by strip; :class:`~geosiam.detection.raster.ScoreRaster` does."""

    @property
    def grid(self) -> Grid:
        """The grid of cells."""
        ...

    @property
    def stride(self) -> int:
        """Pixels of the before-scene along a cell's side."""
        ...

    @property
    def extent(self) -> tuple[float, float]:
        """Where the scene ends, in cells (rows, cols)."""
        ...

    def strips(self, rows: int = ...) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores, float32 (rows, cols) in [0, 1], NaN = not scored, from top to bottom."""
        ...


def vectorize(
    scores: str | os.PathLike[str] | Scores | xr.DataArray,
    *,
    threshold: float = 0.5,
    min_area: MinArea | str | None = None,
    connectivity: int = 8,
    peak: float | None = None,
    shift_px: float | None = None,
) -> geopandas.GeoDataFrame:
    """Return the polygons of all connected cells with ``score >= threshold``.

    Parameters
    ----------
    scores
        A score raster, or its path; or a georeferenced (rioxarray) array of floats, NaN = not scored, which may be
        lazy: it is computed strip by strip.
    threshold
        Least score of a cell, above 0, up to 1.
    min_area
        Drop smaller components: ``1.5m2`` on the ground, or ``20px`` of the before-scene.
    connectivity
        8: cells that share a corner belong together; 4: only those that share a side.
    peak
        Drop components without a cell of this score or more (hysteresis).
    shift_px
        Misregistration left between the scenes; written to every row.

    Returns
    -------
    One row a polygon with the columns :data:`COLUMNS` and MultiPolygons in the CRS of the scores; rows are numbered
    in the raster order of their last cell. Without polygons the table is empty and has the same columns.

    Raises
    ------
    OptionError
        An option's value makes no sense.
    InputError
        The scores cannot be read, or are no scores.
    """
    source = as_scores(scores)
    options = {"threshold": threshold, "min_area": min_area, "connectivity": connectivity, "peak": peak}
    frames = list(iter_polygons(source, shift_px=shift_px, **options))  # type: ignore[arg-type]
    return geopandas.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=frames[0].crs)


def iter_polygons(
    scores: Scores,
    *,
    threshold: float = 0.5,
    min_area: MinArea | str | None = None,
    connectivity: int = 8,
    peak: float | None = None,
    shift_px: float | None = None,
) -> Iterator[geopandas.GeoDataFrame]:
    """Yield the table of :func:`vectorize` in pieces, at least one: without polygons it is empty.

    Memory is that of one strip, one piece, and the components not yet complete.
    """
    for name, value in (("--threshold", threshold), ("peak", 1.0 if peak is None else peak)):
        if not 0 < value <= 1:
            raise OptionError(name, f"is {value:g}", "give a probability above 0, up to 1")
    smallest = MinArea.parse(min_area) if isinstance(min_area, str) else min_area
    areas = CellAreas(scores.grid, scores.extent)
    strips = (strip for _, strip in scores.strips(STRIP_ROWS))
    min_cells = _min_cells(smallest, areas, scores.stride)
    first_id = 1
    for batch in component_batches(strips, threshold, connectivity=connectivity, min_cells=min_cells, peak=peak):
        area = areas.of(batch)
        if smallest is not None and smallest.unit == "m2":
            large = area >= smallest.value * (1 - _ROUNDING)
            batch, area = batch.where(large), area[large]  # noqa: PLW2901
        if len(batch):
            yield _frame(batch, area, scores, first_id, shift_px)
            first_id += len(batch)
    if first_id == 1:
        yield empty_frame(scores.grid.crs)


def _min_cells(smallest: MinArea | None, areas: CellAreas, stride: int) -> int:
    """Return the least number of cells a component can have and be large enough."""
    if smallest is None:
        return 1
    if smallest.unit == "px":
        cells = smallest.value / stride**2
    elif areas.uniform is not None:
        cells = smallest.value / areas.uniform
    else:
        return 1  # depends on where it lies
    return max(1, math.ceil(cells * (1 - _ROUNDING)))


def _frame(
    batch: ComponentBatch, area: NDArray[np.float64], scores: Scores, first_id: int, shift_px: float | None
) -> geopandas.GeoDataFrame:
    columns = {
        "id": np.arange(first_id, first_id + len(batch), dtype=np.int64),
        "score_mean": batch.score_mean,
        "score_max": batch.score_max,
        "area_m2": area,
        "cells": batch.cells,
        "valid_fraction": batch.valid_fraction,
        "touches_nodata": batch.nodata_neighbours > 0,
        "shift_px": np.full(len(batch), np.nan if shift_px is None else shift_px, np.float64),
        # Objects, not strings: pandas 2 and 3 write an all-empty column of either kind differently.
        "review": np.full(len(batch), None, dtype=object),
    }
    assert list(columns) == list(COLUMNS)
    frame = pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})
    outlines = multipolygons(batch, scores.grid.transform, scores.extent)
    return geopandas.GeoDataFrame(frame, geometry=outlines, crs=scores.grid.crs)


def empty_frame(crs: CRS) -> geopandas.GeoDataFrame:
    """Return a table without polygons, with the columns of :func:`vectorize`."""
    kinds = {"id": "int64", "cells": "int64", "touches_nodata": "bool", "review": "object"}
    columns = {name: pd.Series([], dtype=kinds.get(name, "float64")) for name in COLUMNS}
    return geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries([], crs=crs), crs=crs)


def as_scores(scores: str | os.PathLike[str] | Scores | xr.DataArray) -> Scores:
    """Return anything :func:`vectorize` takes as a source of strips."""
    if isinstance(scores, (str, os.PathLike)):
        return ScoreRaster.open(scores)
    if isinstance(scores, ScoreRaster):
        return scores
    import xarray as xr  # noqa: PLC0415 - a path does not need it

    return ArrayScores.of(scores) if isinstance(scores, xr.DataArray) else scores


@dataclass(frozen=True)
class ArrayScores:
    """A georeferenced array as a source of strips.

    Parameters
    ----------
    array
        Shape (rows, cols), floats in [0, 1], NaN = not scored.
    grid
        Its grid of cells.
    stride
        Pixels of the before-scene along a cell's side.
    extent
        Where the scene ends, in cells (rows, cols).
    """

    array: xr.DataArray
    grid: Grid
    stride: int
    extent: tuple[float, float]

    @classmethod
    def of(cls, array: xr.DataArray) -> ArrayScores:
        """Return an array with its grid; a single band may stand in front.

        Raises
        ------
        SceneRefusedError
            It has several bands, integer values, or no coordinate reference system.
        """
        import rioxarray  # noqa: F401, PLC0415 - only where an array is given

        name = "scores" if array.name is None else array.name
        flat = array.squeeze(drop=True) if array.ndim > 2 else array  # noqa: PLR2004
        if flat.ndim != 2:  # noqa: PLR2004
            raise SceneRefusedError(name, f"has the shape {array.shape}", "give one band of scores")
        if flat.dtype.kind != "f":
            remedy = "open it with rioxarray.open_rasterio(..., mask_and_scale=True), or give its path"
            raise SceneRefusedError(name, f"holds {flat.dtype}, not probabilities", remedy)
        if flat.rio.crs is None:
            raise SceneRefusedError(name, "has no coordinate reference system", "set one with .rio.write_crs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rioxarray multiplies the old way of affine 2
            grid = Grid(flat.rio.crs, flat.rio.transform(), flat.shape[1], flat.shape[0])
        stride = int(array.attrs.get("stride", array.attrs.get(STRIDE_TAG, 1)))
        try:
            # A part of the scores of a scene keeps the attributes of the whole, but ends where it ends.
            extent = scene_extent(grid, stride, array.attrs.get("scene_px", array.attrs.get(SCENE_TAG)))
        except ValueError:
            extent = float(grid.height), float(grid.width)
        return cls(flat, grid, stride, extent)

    def strips(self, rows: int = STRIP_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores; a lazy array is computed by whole chunks."""
        heights = self.array.chunks[0] if self.array.chunks else None
        spans = heights or [min(rows, self.grid.height - start) for start in range(0, self.grid.height, rows)]
        start = 0
        for height in spans:
            yield start, np.asarray(self.array[start : start + height].values, np.float32)
            start += height
