"""Add to a GeoPackage what is not a polygon: footprint, column descriptions, QGIS styles, provenance."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyogrio
from pyogrio.raw import write_arrow

from geosiam.polygons.schema import FOOTPRINT_COLUMNS, GEOMETRY, REVIEWS
from geosiam.qml import footprint_qml, polygon_qml, polygon_sld

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import geopandas

LAYER = "anomalies"
FOOTPRINT_LAYER = "footprint"
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


def describe(path: Path, record: dict[str, object], now: str, columns: Mapping[str, str], *, footprint: bool) -> None:
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
    """
    threshold = record.get("threshold")
    lowest = float(threshold) if isinstance(threshold, (int, float)) else 0.5
    styles, descriptions = [_style(lowest, tuple(columns.items()))], {LAYER: columns}
    if footprint:
        styles.append((FOOTPRINT_LAYER, "outline", footprint_qml(), None))
        descriptions[FOOTPRINT_LAYER] = FOOTPRINT_COLUMNS
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
