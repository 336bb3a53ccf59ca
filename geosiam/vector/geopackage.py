"""The table of polygons as a file: a GeoPackage with its style and provenance inside, or another vector format."""

from __future__ import annotations

import contextlib
import datetime as dt
import glob
import importlib.metadata
import importlib.util
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import pandas as pd
import pyogrio

from geosiam.errors import GeosiamError, OptionError, OutputError
from geosiam.files import check_place
from geosiam.vector.polygons import COLUMNS
from geosiam.vector.style import polygon_qml, polygon_sld

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

LAYER = "anomalies"
PIECE_ROWS = 50_000
FORMATS = {
    ".gpkg": "GPKG",
    ".geojson": "GeoJSON",
    ".fgb": "FlatGeobuf",
    ".shp": "ESRI Shapefile",
    ".parquet": "Parquet",
}
SHAPEFILE_NAMES = {"valid_fraction": "valid_frac", "touches_nodata": "touches_nd"}  # ten letters at most
RUN_COLUMNS = ("created", "geosiam_version", "inputs", "fingerprints", "model", "options", "threshold")


def write_polygons(
    frame: geopandas.GeoDataFrame | Iterable[geopandas.GeoDataFrame],
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object] | None = None,
) -> int:
    """Write polygons to a file that appears under its name when complete, or not at all.

    The suffix of the path says the format. ``.gpkg`` has the layer ``anomalies`` with a spatial index, described
    columns, its QGIS style, and a table ``runs`` with the provenance. ``.geojson`` is in EPSG:4326 as RFC 7946 wants
    it; ``.shp`` has the short names of :data:`SHAPEFILE_NAMES`; these, ``.fgb`` and ``.parquet`` hold the polygons
    and nothing else.

    Parameters
    ----------
    frame
        The table of :func:`~geosiam.vector.polygons.vectorize`, or pieces of one, at least one, possibly empty.
    path
        The file to make. An existing one is replaced on success only.
    provenance
        What made the polygons. ``inputs``, ``fingerprints``, ``model``, ``options`` and ``threshold`` get columns of
        their own, all of it is kept as JSON. ``created`` and ``geosiam_version`` are filled in where absent.

    Returns
    -------
    The number of polygons written.

    Raises
    ------
    OptionError
        The suffix names no format known here.
    OutputError
        The folder is missing, not writable or full.
    """
    target = Path(path)
    check_target(target)
    frames = iter([frame] if isinstance(frame, geopandas.GeoDataFrame) else frame)
    with _replacing(target) as partial:
        if target.suffix.lower() == ".gpkg":
            count = _append_all(frames, partial)
            _describe(partial, dict(provenance or {}))
        else:
            count = _write_other(frames, partial)
    return count


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that cannot be written to, before any work is done.

    Raises
    ------
    OptionError
        The suffix names no format known here, or one that this installation cannot write.
    OutputError
        The folder does not exist, or the name is too long.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise OptionError(target, f"has the suffix {suffix!r}", f"use one of {', '.join(FORMATS)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise OptionError(target, "needs pyarrow, which is not installed", "pip install pyarrow, or use .gpkg")
    check_place(target)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what a killed process left of writing this target; only for who is sure that nobody is at it."""
    target = Path(path)
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a path of the target's name in a hidden folder beside it; move what is there into place on success."""
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        yield folder / target.name
        # A shapefile is several files: the one that is opened goes last, when the others are in place.
        for made in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            made.replace(target.with_name(made.name))
    except GeosiamError:
        raise  # pieces may be computed while they are written: what went wrong there is not about this file
    except (OSError, sqlite3.Error, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        fact = f"cannot be written ({error})"
        raise OutputError(target, fact, "check the folder's permissions and the free disk space") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _gathered(frames: Iterator[geopandas.GeoDataFrame]) -> Iterator[geopandas.GeoDataFrame]:
    """Put small pieces together: a transaction costs as much as thousands of rows."""
    held: list[geopandas.GeoDataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= PIECE_ROWS:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(frames: list[geopandas.GeoDataFrame]) -> geopandas.GeoDataFrame:
    return (
        frames[0]
        if len(frames) == 1
        else geopandas.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=frames[0].crs)
    )


def _append_all(frames: Iterator[geopandas.GeoDataFrame], path: Path) -> int:
    """Write the pieces one after the other into a layer of a new GeoPackage; return the number of rows."""
    count = 0
    for piece in _gathered(frames):
        pyogrio.write_dataframe(
            piece,
            path,
            layer=LAYER,
            driver="GPKG",
            geometry_type="MultiPolygon",
            append=path.exists(),
            dataset_options={"VERSION": "1.2"},  # 1.4, GDAL's default, makes QGIS 3.22 warn
            layer_options={"GEOMETRY_NAME": "geom", "DESCRIPTION": "Anomalies between two scenes"},
        )
        count += len(piece)
    return count


def _write_other(frames: Iterator[geopandas.GeoDataFrame], path: Path) -> int:
    """Write all pieces to a format that takes them in one go; return the number of rows."""
    frame = _joined(list(frames))
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        frame.astype({"review": "string"}).to_parquet(path)
        return len(frame)
    options = {}
    if suffix == ".geojson":
        frame = frame.to_crs(4326)
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}  # the usual 7 digits are a centimetre
    elif suffix == ".shp":
        frame = frame.rename(columns=SHAPEFILE_NAMES)
        options = {"ENCODING": "UTF-8"}
    # A shapefile makes no difference between polygons and multipolygons.
    kind = "Polygon" if suffix == ".shp" else "MultiPolygon"
    pyogrio.write_dataframe(frame, path, driver=FORMATS[suffix], geometry_type=kind, layer_options=options)
    return len(frame)


def _describe(path: Path, provenance: dict[str, object]) -> None:
    """Add column descriptions, style and provenance to a GeoPackage."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"created": now, "geosiam_version": importlib.metadata.version("geosiam")} | provenance
    threshold = record.get("threshold")
    lowest = float(threshold) if isinstance(threshold, (int, float)) else 0.5
    style = (LAYER, polygon_qml(lowest, COLUMNS), polygon_sld(lowest, LAYER), now)
    # The connection's own context manager commits, it does not close.
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(_TABLES)
        db.executemany(
            "INSERT INTO gpkg_data_columns (table_name, column_name, description) VALUES (?, ?, ?)",
            [(LAYER, column, text) for column, text in COLUMNS.items()],
        )
        db.execute(_INSERT_STYLE, style)
        values = [_as_text(record.get(column)) for column in RUN_COLUMNS]
        db.execute(_INSERT_RUN, (*values, json.dumps(record, default=str)))


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
  ('layer_styles', 'attributes', 'layer_styles', 'How QGIS draws the layers'),
  ('runs', 'attributes', 'runs', 'What made the layers');
"""
_INSERT_STYLE = """
INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML,
  styleSLD, useAsDefault, description, owner, update_time)
VALUES ('', '', ?, 'geom', 'anomalies by score', ?, ?, 1, 'graduated by mean score', '', ?)
"""
_INSERT_RUN = f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}, provenance) VALUES ({', '.join('?' * 8)})"  # noqa: S608
