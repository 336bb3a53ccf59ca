"""From a score raster to a table of polygons, each with the evidence for it."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import shapely

from geosiam.polygons.areas import CellAreas
from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import simplified, smoothed, trace
from geosiam.polygons.options import MinArea, PolygonOptions
from geosiam.polygons.schema import COLUMNS, GEOMETRY, SCHEMA
from geosiam.polygons.score_stream import ArrayScores, ScoreStream
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Iterator

    import geopandas
    import xarray as xr
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from geosiam.polygons.components import ComponentBatch
    from geosiam.polygons.score_stream import Footprint, Scores

_ROUNDING = 1e-9  # 3 cells of 0.1 x 0.1 m are 0.03 m2, whatever floats say


@dataclass(frozen=True)
class Origin:
    """What the scores were made of, as every row says it; None where it is not known."""

    before: str | None = None
    after: str | None = None
    created: str | None = None
    shift_px: float | None = None


class Witness(Protocol):
    """Who has seen the scenes, and says what the pixels of components show."""

    def attributes_of(
        self, batch: ComponentBatch, field: ScoreStream
    ) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
        """Return ``shadow_fraction`` (NaN = unknown) and ``hint`` (None = unknown), shape (n,) each."""
        ...


@dataclass(frozen=True)
class PolygonPieces:
    """Polygons on their way: made while they are taken.

    Parameters
    ----------
    crs
        Of the geometries.
    tables
        Pieces of the table, of :data:`~geosiam.polygons.schema.SCHEMA`; none without polygons.
    footprint
        What was looked at; complete when the last piece has been taken.
    stride
        Pixels of the before-scene along a cell's side.
    origin
        What the scores were made of.
    """

    crs: CRS
    tables: Iterator[pa.Table]
    footprint: Footprint
    stride: int
    origin: Origin

    def frame(self) -> geopandas.GeoDataFrame:
        """Take all pieces and return them as one table."""
        return to_frame(pa.concat_tables([SCHEMA.empty_table(), *self.tables]), self.crs)

    def footprint_table(self) -> pa.Table:
        """Return the outline of what was looked at, after the last piece has been taken."""
        origin = {name: value for name, value in asdict(self.origin).items() if name != "shift_px"}
        return self.footprint.table(self.stride, origin)


def polygon_pieces(
    scores: Scores, options: PolygonOptions, origin: Origin = Origin(), witness: Witness | None = None
) -> PolygonPieces:
    """Return the table of :func:`vectorize` in pieces.

    Memory is that of two strips, one piece, and the components not yet complete: twenty bytes for each horizontal run
    of cells of these, and then the outline they are to become.
    """
    assert options.threshold != "auto", "a threshold has to be chosen before polygons are cut"
    field = ScoreStream(scores)
    maker = _Maker(field, options, origin, witness)
    return PolygonPieces(scores.grid.crs, maker.tables(), field.footprint, scores.stride, origin)


class _Maker:
    """Makes the pieces of one table."""

    def __init__(self, field: ScoreStream, options: PolygonOptions, origin: Origin, witness: Witness | None) -> None:
        self._field, self._options, self._origin, self._witness = field, options, origin, witness
        self._scores = field.scores
        self._areas = CellAreas(self._scores.grid, self._scores.extent)

    def tables(self) -> Iterator[pa.Table]:
        options, smallest, first_id = self._options, self._options.smallest(), 1
        assert options.threshold != "auto"
        batches = component_batches(
            self._field.strips(),
            options.threshold,
            connectivity=options.connectivity,
            min_cells=self._min_cells(smallest),
            peak=options.seed_threshold,
        )
        for batch in batches:
            area = self._areas.of(batch)
            if smallest is not None and smallest.unit == "m2":
                large = area >= smallest.value * (1 - _ROUNDING)
                batch, area = batch.where(large), area[large]  # noqa: PLW2901
            if len(batch):
                yield self._table(batch, area, first_id)
                first_id += len(batch)

    def _min_cells(self, smallest: MinArea | None) -> int:
        """Return the least number of cells a component can have and be large enough."""
        if smallest is None:
            return 1
        if smallest.unit == "px":
            cells = smallest.value / self._scores.stride**2
        elif self._areas.uniform is not None:
            cells = smallest.value / self._areas.uniform
        else:
            return 1  # depends on where it lies
        return max(1, math.ceil(cells * (1 - _ROUNDING)))

    def _table(self, batch: ComponentBatch, area: NDArray[np.float64], first_id: int) -> pa.Table:
        options, grid, extent = self._options, self._scores.grid, self._scores.extent
        assert options.threshold != "auto"
        cells, tolerance = self._areas.cells(batch), options.tolerance()
        outlines = trace(batch, diagonal=options.smooth and options.connectivity == 8)  # noqa: PLR2004
        if options.smooth:
            outlines = smoothed(outlines, options.threshold, self._field.at)
        if tolerance is None:
            placed = outlines.placed(grid.transform, extent)
        else:
            side = self._scores.stride if tolerance.unit == "px" else np.sqrt(area / cells)
            reach = np.broadcast_to(tolerance.value / side, len(batch))
            placed = simplified(outlines, reach, grid.transform, extent)
        if options.smooth or tolerance is not None:
            plane = shapely.area(placed.geometries()) / abs(grid.transform.determinant)
            area = area / cells * plane
        lon, lat = self._areas.centroids(batch)
        shadow, hint = (None, None) if self._witness is None else self._witness.attributes_of(batch, self._field)
        values: dict[str, Any] = {
            "id": np.arange(first_id, first_id + len(batch), dtype=np.int64),
            "score_mean": batch.score_mean,
            "score_max": batch.score_max,
            "score_p90": self._field.percentile_90(batch),
            "area_m2": area,
            "area_px": cells * self._scores.stride**2,
            "perimeter_m": self._areas.perimeters(placed),
            "cells": batch.cells,
            "centroid_lon": lon,
            "centroid_lat": lat,
            "valid_fraction": batch.valid_fraction,
            "touches_nodata": batch.nodata_neighbors > 0,
            "shift_px": self._origin.shift_px,
            "shadow_fraction": shadow,
            "hint": hint,
            "before": self._origin.before,
            "after": self._origin.after,
            "created": self._origin.created,
            "review": None,
            GEOMETRY: placed.wkb(),
        }
        return pa.table([_column(values[f.name], f.type, len(batch)) for f in SCHEMA], schema=SCHEMA)


def _column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:  # noqa: ANN401 - a column or what fills it
    """Return a column of an array, or of one value for all rows; NaN is null."""
    if isinstance(value, pa.Array):
        return value
    if isinstance(value, np.ndarray):
        return pa.array(value, kind, from_pandas=True)
    return pa.repeat(pa.scalar(value, kind), rows)


def to_frame(table: pa.Table, crs: CRS) -> geopandas.GeoDataFrame:
    """Return a piece of the table for geopandas."""
    import geopandas  # noqa: PLC0415 - slow to import, and a file is written without
    import pandas as pd  # noqa: PLC0415 - likewise

    columns = {}
    for name in COLUMNS:
        column = table[name]
        if pa.types.is_string(column.type):
            # Objects, not strings: pandas 2 and 3 write an all-empty column of either kind differently.
            columns[name] = pd.Series(np.array([*column.to_pylist(), None], dtype=object)[:-1], dtype=object)
        else:
            columns[name] = pd.Series(column.to_numpy())
    geometry = shapely.from_wkb(table[GEOMETRY].to_numpy())
    return geopandas.GeoDataFrame(columns, geometry=np.asarray(geometry, dtype=object), crs=crs)


def empty_frame(crs: CRS) -> geopandas.GeoDataFrame:
    """Return a table without polygons, with the columns of :func:`vectorize`."""
    return to_frame(SCHEMA.empty_table(), crs)


def as_scores(scores: str | os.PathLike[str] | Scores | xr.DataArray) -> Scores:
    """Return anything :func:`vectorize` takes as a source of strips."""
    if isinstance(scores, (str, os.PathLike)):
        return ScoreRaster.open(scores)
    if isinstance(scores, ScoreRaster):
        return scores
    import xarray as xr  # noqa: PLC0415 - a path does not need it

    return ArrayScores.of(scores) if isinstance(scores, xr.DataArray) else scores
