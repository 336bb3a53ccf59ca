"""From scores to a table of polygons with their columns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely

from geosiam.polygons.areas import CellAreas
from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import simplified, smoothed, trace
from geosiam.polygons.schema import GEOMETRY, HEIGHT_SCHEMA, SCHEMA
from geosiam.polygons.score_stream import ScoreStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import geopandas
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from geosiam.polygons.attributes import AttributeReader
    from geosiam.polygons.components import ComponentBatch
    from geosiam.polygons.multipolygons import MultiPolygons
    from geosiam.polygons.options import PolygonOptions
    from geosiam.polygons.score_stream import Footprint
    from geosiam.scores.raster import Scores

    MeasureHeights = Callable[[NDArray[np.object_], NDArray[np.float64] | None], Mapping[str, Any]]

_AREA_ROUNDING = 1e-9  # fraction: 3 cells of 0.1 x 0.1 m are 0.03 m2, whatever the sum of floats


@dataclass(frozen=True)
class Origin:
    """Where the scores come from, as recorded in every row; None where unknown.

    Parameters
    ----------
    before, after
        File names of the scenes.
    created
        When the scores were computed, ISO 8601, UTC.
    shift_px
        Misregistration left between the scenes, in pixels of the before scene, where it is not known of each place.
    """

    before: str | None = None
    after: str | None = None
    created: str | None = None
    shift_px: float | None = None


@dataclass(frozen=True)
class PolygonTable:
    """A table of polygons that is computed while it is read, once.

    Parameters
    ----------
    crs
        CRS of the geometries.
    tables
        The rows in pieces of `schema`; no piece if there are no polygons.
    footprint
        The scored area; complete when the last piece has been taken.
    stride
        Pixels of the before scene along a cell's side.
    origin
        Where the scores come from.
    schema
        Columns and types: :data:`~geosiam.polygons.schema.SCHEMA`, or with heights
        :data:`~geosiam.polygons.schema.HEIGHT_SCHEMA`.
    """

    crs: CRS
    tables: Iterator[pa.Table]
    footprint: Footprint
    stride: int
    origin: Origin
    schema: pa.Schema = SCHEMA

    def frame(self) -> geopandas.GeoDataFrame:
        """Compute all rows and return them."""
        return to_frame(pa.concat_tables([self.schema.empty_table(), *self.tables]), self.crs)

    def footprint_table(self) -> pa.Table:
        """Return the outline of the scored area, after the last piece has been taken."""
        origin = {name: value for name, value in asdict(self.origin).items() if name != "shift_px"}
        return self.footprint.table(self.stride, origin)


def polygon_table(
    scores: Scores,
    options: PolygonOptions,
    origin: Origin = Origin(),
    reader: AttributeReader | None = None,
    heights: MeasureHeights | None = None,
) -> PolygonTable:
    """Return the polygons of all connected cells from a threshold up.

    Memory is that of two strips, one piece of the table, and the components not yet complete: twenty bytes for each
    horizontal run of their cells, and finally their outline.

    Parameters
    ----------
    scores
        Scores to cut polygons out of.
    options
        What becomes a polygon and how it is drawn; the threshold has been chosen, it is not ``"auto"``.
    origin
        Where the scores come from.
    reader
        Derives ``shift_px`` and the columns of evidence from the scenes; None: ``shift_px`` is that of the whole pair,
        and the others are empty.
    heights
        Returns the columns :data:`~geosiam.polygons.schema.HEIGHT_COLUMNS` of outlines (n,) in the CRS of the scores,
        given their ``shift_fraction``; None: the table has no such columns.
    """
    stream = ScoreStream(scores)
    builder = _TableBuilder(stream, options, origin, reader, heights)
    return PolygonTable(scores.grid.crs, builder.tables(), stream.footprint, scores.stride, origin, builder.schema)


class _TableBuilder:
    """Compute the pieces of one table of polygons.

    Parameters
    ----------
    stream, options, origin, reader, heights
        See :func:`polygon_table`.
    """

    def __init__(
        self,
        stream: ScoreStream,
        options: PolygonOptions,
        origin: Origin,
        reader: AttributeReader | None,
        heights: MeasureHeights | None,
    ) -> None:
        assert options.threshold != "auto", "the threshold has to be chosen before polygons are cut"
        self._stream, self._options, self._origin, self._reader = stream, options, origin, reader
        self._heights, self.schema = heights, SCHEMA if heights is None else HEIGHT_SCHEMA
        self._threshold = options.threshold
        self._scores = stream.scores
        self._areas = CellAreas(self._scores.grid, self._scores.extent)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the pieces of the table."""
        min_area, first_id = self._options.parsed_min_area(), 1
        batches = component_batches(
            self._stream.strips(),
            self._threshold,
            connectivity=self._options.connectivity,
            min_cells=self._min_cells(),
            seed_threshold=self._options.seed_threshold,
        )
        for batch in batches:
            area = self._areas.of(batch)
            if min_area is not None and min_area.unit == "m2":
                large = area >= min_area.value * (1 - _AREA_ROUNDING)
                batch, area = batch.where(large), area[large]  # noqa: PLW2901
            if len(batch):
                yield self._table(batch, area, first_id)
                first_id += len(batch)

    def _min_cells(self) -> int:
        """Return the number of cells below which no component reaches the minimum area."""
        min_area = self._options.parsed_min_area()
        if min_area is None:
            return 1
        if min_area.unit == "px":
            cells = min_area.value / self._scores.stride**2
        elif self._areas.uniform is not None:
            cells = min_area.value / self._areas.uniform
        else:
            return 1  # the area of a cell depends on its position
        return max(1, math.ceil(cells * (1 - _AREA_ROUNDING)))

    def _table(self, batch: ComponentBatch, cell_area: NDArray[np.float64], first_id: int) -> pa.Table:
        """Return the rows of a batch of components whose cells have areas in square meters of shape (n,)."""
        cells = self._areas.cells(batch)
        outlines, area = self._outlines(batch, cell_area, cells)
        lon, lat = self._areas.centroids(batch)
        attributes = {} if self._reader is None else self._reader.attributes_of(batch, self._stream)._asdict()
        values: dict[str, Any] = {
            "id": np.arange(first_id, first_id + len(batch), dtype=np.int64),
            "score_mean": batch.score_mean,
            "score_max": batch.score_max,
            "score_p90": self._stream.percentile_90(batch),
            "area_m2": area,
            "area_px": cells * self._scores.stride**2,
            "perimeter_m": self._areas.perimeters(outlines),
            "cells": batch.cells,
            "centroid_lon": lon,
            "centroid_lat": lat,
            "valid_fraction": batch.valid_fraction,
            "touches_nodata": batch.nodata_neighbors > 0,
            "shift_px": self._origin.shift_px,
            "before": self._origin.before,
            "after": self._origin.after,
            "created": self._origin.created,
            GEOMETRY: outlines.wkb(),
        }
        values |= {name: column for name, column in attributes.items() if column is not None}
        if self._heights is not None:
            values |= self._heights(outlines.geometries(), attributes.get("shift_fraction"))
        return pa.table([_column(values.get(f.name), f.type, len(batch)) for f in self.schema], schema=self.schema)

    def _outlines(
        self, batch: ComponentBatch, cell_area: NDArray[np.float64], cells: NDArray[np.float64]
    ) -> tuple[MultiPolygons, NDArray[np.float64]]:
        """Return the outlines of components in CRS coordinates and their areas on the ground, shape (n,)."""
        options, grid, extent = self._options, self._scores.grid, self._scores.extent
        tolerance = options.parsed_tolerance()
        outlines = trace(batch, diagonal=options.smooth and options.connectivity == 8)  # noqa: PLR2004
        if options.smooth:
            outlines = smoothed(outlines, self._threshold, self._stream.at)
        if tolerance is None:
            outlines = outlines.to_crs_coordinates(grid.transform, extent)
        else:
            cell_side = self._scores.stride if tolerance.unit == "px" else np.sqrt(cell_area / cells)
            distance = np.broadcast_to(tolerance.value / cell_side, len(batch))
            outlines = simplified(outlines, distance, grid.transform, extent)
        if not options.smooth and tolerance is None:
            return outlines, cell_area
        outline_cells = shapely.area(outlines.geometries()) / abs(grid.transform.determinant)
        return outlines, cell_area / cells * outline_cells


def _column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:  # noqa: ANN401 - array or value
    """Return a column from an array, or from one value for all rows; NaN becomes null."""
    if isinstance(value, pa.Array):
        return value
    if isinstance(value, np.ndarray):
        return pa.array(value, kind, from_pandas=True)
    return pa.repeat(pa.scalar(value, kind), rows)


def to_frame(table: pa.Table, crs: CRS) -> geopandas.GeoDataFrame:
    """Return a table of polygons for geopandas."""
    import geopandas  # noqa: PLC0415 - slow to import, and a file is written without
    import pandas as pd  # noqa: PLC0415 - likewise

    columns = {}
    for name in table.column_names:
        if name == GEOMETRY:
            continue
        column = table[name]
        if pa.types.is_string(column.type):
            # Objects, not strings: pandas 2 and 3 write an all-empty column of either kind differently.
            columns[name] = pd.Series(np.array([*column.to_pylist(), None], dtype=object)[:-1], dtype=object)
        else:
            columns[name] = pd.Series(column.to_numpy())
    geometry = shapely.from_wkb(table[GEOMETRY].to_numpy())
    return geopandas.GeoDataFrame(columns, geometry=np.asarray(geometry, dtype=object), crs=crs)
