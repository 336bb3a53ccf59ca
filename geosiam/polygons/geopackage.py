"""Add to a GeoPackage what is not a polygon: footprint, displacement, column descriptions, QGIS styles, provenance."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from pyogrio.raw import write_arrow

from geosiam.imagery.grid import apply_affine
from geosiam.polygons.schema import (
    DISPLACEMENT_COLUMNS,
    DISPLACEMENT_SCHEMA,
    FOOTPRINT_COLUMNS,
    GEOMETRY,
    REVIEWS,
)
from geosiam.qml import displacement_qml, footprint_qml, polygon_qml, polygon_sld

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import geopandas
    from numpy.typing import NDArray

    from geosiam.imagery.pair import ScenePair

LAYER = "anomalies"
FOOTPRINT_LAYER = "footprint"
DISPLACEMENT_LAYER = "displacement"
RUN_COLUMNS = ("created", "geosiam_version", "inputs", "fingerprints", "model", "options", "threshold")


def add_footprint(footprint: geopandas.GeoDataFrame | pa.Table, path: str, crs: str) -> None:
    """Add the layer of the scored area to a GeoPackage: a table in a CRS, in either form."""
    layer: dict[str, Any] = {
        "layer": FOOTPRINT_LAYER,
        "driver": "GPKG",
        "geometry_type": "MultiPolygon",
        "append": True,
        "layer_options": {"GEOMETRY_NAME": "geom", "DESCRIPTION": "Scored area: cells that have a score"},
    }
    if isinstance(footprint, pa.Table):
        write_arrow(footprint, path, geometry_name=GEOMETRY, crs=crs, **layer)
    else:
        pyogrio.write_dataframe(footprint, path, **layer)


_MAX_POINTS = 10_000
_SHORT_PX = 1.0  # displacements up to this length are not drawn as if they were long


@dataclass(frozen=True)
class DisplacementPoints:
    """The displacement of a pair at points of a lattice, as the layer of a GeoPackage.

    Parameters
    ----------
    table
        The points, with the columns of :data:`~geosiam.polygons.schema.DISPLACEMENT_COLUMNS`.
    exaggeration
        How many times as long as the displacement the arrows of the style are.
    qml
        The style.
    """

    table: pa.Table
    exaggeration: float
    qml: str

    def add_to(self, path: str, crs: str) -> None:
        """Add the layer to a GeoPackage."""
        description = f"Displacement of the after scene; its arrows are drawn {self.exaggeration:g} times as long"
        options = {"GEOMETRY_NAME": "geom", "DESCRIPTION": description}
        write_arrow(
            self.table,
            path,
            layer=DISPLACEMENT_LAYER,
            driver="GPKG",
            geometry_type="Point",
            geometry_name=GEOMETRY,
            crs=crs,
            append=True,
            layer_options=options,
        )


def displacement_points(pair: ScenePair) -> DisplacementPoints | None:
    """Return the displacement of a pair, averaged around at most 10,000 points; None if it is not known anywhere."""
    displacement = pair.displacement
    if displacement is None or not displacement.is_known.any():
        return None
    shape = displacement.confidence.shape
    step = 1
    while (-(-shape[0] // step)) * (-(-shape[1] // step)) > _MAX_POINTS:
        step += 1
    is_known = displacement.is_known
    counts = _sums(is_known.astype(np.float64), step)
    values = [*displacement.displacement[::-1], displacement.confidence]
    dx, dy, confidence = (
        (_sums(np.where(is_known, value, 0.0), step) / np.maximum(counts, 1))[counts > 0] for value in values
    )
    rows, cols = (
        (first + (np.arange(0, size, step) + np.minimum(np.arange(step, size + step, step), size)) / 2)
        * displacement.spacing
        for first, size in zip(displacement.first, shape, strict=True)
    )
    height, width = pair.grid.shape
    row, col = (index[counts > 0] for index in np.meshgrid(rows.clip(0, height), cols.clip(0, width), indexing="ij"))
    length = np.hypot(dx, dy)
    exaggeration = float(f"{step * displacement.spacing / max(np.percentile(length, 95), _SHORT_PX):.2g}")
    points = shapely.to_wkb(shapely.points(*apply_affine(pair.grid.transform, col, row)))
    table = pa.table([dx, dy, length, confidence, points], schema=DISPLACEMENT_SCHEMA)
    t = pair.grid.transform
    return DisplacementPoints(
        table, exaggeration, displacement_qml([exaggeration * part for part in (t.a, t.b, t.d, t.e)])
    )


def _sums(values: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Return the sums over squares of ``step x step`` values; the last ones may be smaller."""
    down = np.add.reduceat(values, np.arange(0, values.shape[0], step), axis=0)
    return np.asarray(np.add.reduceat(down, np.arange(0, values.shape[1], step), axis=1), np.float64)


def describe(
    path: Path,
    record: dict[str, object],
    now: str,
    columns: Mapping[str, str],
    *,
    footprint: bool,
    displacement: DisplacementPoints | None = None,
) -> None:
    """Add column descriptions, styles and provenance to a GeoPackage.

    Parameters
    ----------
    path
        The file, with the layer of polygons and perhaps that of the footprint.
    record
        How the polygons came about.
    now
        The current time, ISO 8601.
    columns
        Columns of the polygons and their descriptions.
    footprint
        Whether the file has the layer of the footprint.
    displacement
        The layer of the displacement; None if the file has none.
    """
    threshold = record.get("threshold")
    lowest = float(threshold) if isinstance(threshold, (int, float)) else 0.5
    styles, descriptions = [_style(lowest, tuple(columns.items()))], {LAYER: columns}
    if footprint:
        styles.append((FOOTPRINT_LAYER, "outline", footprint_qml(), None))
        descriptions[FOOTPRINT_LAYER] = FOOTPRINT_COLUMNS
    if displacement is not None:
        styles.append((DISPLACEMENT_LAYER, "arrows", displacement.qml, None))
        descriptions[DISPLACEMENT_LAYER] = DISPLACEMENT_COLUMNS
    # The connection's own context manager commits, it does not close.
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")  # the file is synced once, before it takes its name
        db.executescript(_TABLES)
        db.executemany(
            "INSERT INTO gpkg_data_columns (table_name, column_name, description) VALUES (?, ?, ?)",
            [(layer, column, text) for layer, texts in descriptions.items() for column, text in texts.items()],
        )
        db.executemany(_INSERT_STYLE, [(*style, now) for style in styles])
        values = [_as_text(record.get(column)) for column in RUN_COLUMNS]
        db.execute(_INSERT_RUN, (*values, json.dumps(record, default=str)))


@functools.lru_cache(maxsize=8)
def _style(lowest: float, columns: tuple[tuple[str, str], ...]) -> tuple[str, str, str, str | None]:
    """Return layer, name, QML and SLD of the style of polygons.

    Cached: the pairs of a batch share few thresholds, and XML takes a tenth of the time of a small GeoPackage.
    """
    return LAYER, "anomalies by score", polygon_qml(lowest, dict(columns), REVIEWS), polygon_sld(lowest, LAYER)


def _as_text(value: object) -> object:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value, default=str)


# GeoPackage 1.2: schema extension (annex F.9), attributes tables (2.4); layer_styles is QGIS's own convention.
_TABLES = """
CREATE TABLE IF NOT EXISTS gpkg_extensions (
  table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL, scope TEXT NOT NULL,
  CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name)
);
CREATE TABLE IF NOT EXISTS gpkg_data_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT, mime_type TEXT,
  constraint_name TEXT, CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name),
  CONSTRAINT gdc_tn UNIQUE (table_name, name)
);
CREATE TABLE IF NOT EXISTS gpkg_data_column_constraints (
  constraint_name TEXT NOT NULL, constraint_type TEXT NOT NULL, value TEXT, min NUMERIC, min_is_inclusive BOOLEAN,
  max NUMERIC, max_is_inclusive BOOLEAN, description TEXT,
  CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value)
);
INSERT OR IGNORE INTO gpkg_extensions VALUES
  ('gpkg_data_columns', NULL, 'gpkg_schema', 'http://www.geopackage.org/spec/#extension_schema', 'read-write'),
  ('gpkg_data_column_constraints', NULL, 'gpkg_schema', 'http://www.geopackage.org/spec/#extension_schema',
   'read-write');
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
  f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
  useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME
);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, created DATETIME, geosiam_version TEXT, inputs TEXT,
  fingerprints TEXT, model TEXT, options TEXT, threshold REAL, provenance TEXT
);
-- Registered, so that GDAL lists them: QGIS finds only styles in tables that GDAL lists.
INSERT INTO gpkg_contents (table_name, data_type, identifier, description) VALUES
  ('layer_styles', 'attributes', 'layer_styles', 'QGIS styles of the layers'),
  ('runs', 'attributes', 'runs', 'Provenance of the layers');
"""
_INSERT_STYLE = """
INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML,
  styleSLD, useAsDefault, description, owner, update_time)
VALUES ('', '', ?, 'geom', ?, ?, ?, 1, 'made by geosiam', '', ?)
"""
_INSERT_RUN = f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}, provenance) VALUES ({', '.join('?' * 8)})"  # noqa: S608
