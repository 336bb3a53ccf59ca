"""The table of polygons as a file, in any of the formats, which appears complete or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import sqlite3
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from pyogrio.raw import write_arrow

from geosiam import __version__
from geosiam.errors import GeosiamError, OutputError
from geosiam.files import FileLock
from geosiam.polygons.formats import FORMATS, check_target
from geosiam.polygons.geopackage import LAYER, add_footprint, describe
from geosiam.polygons.schema import COLUMNS, GEOMETRY, SCHEMA, SHAPEFILE_NAMES
from geosiam.polygons.table import PolygonPieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_LAYER_OPTIONS = {
    ".gpkg": {"GEOMETRY_NAME": "geom", "DESCRIPTION": "Anomalies between two scenes"},
    ".geojson": {"RFC7946": "YES", "COORDINATE_PRECISION": "9"},  # the usual 7 digits are a centimetre
    ".shp": {"ENCODING": "UTF-8"},
}

_INDEX_BYTES = 100_000_000


def write_polygons(
    polygons: geopandas.GeoDataFrame | PolygonPieces,
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object] | None = None,
    more_columns: Mapping[str, str] | None = None,
    footprint: geopandas.GeoDataFrame | None = None,
    before_commit: Callable[[], None] | None = None,
) -> int:
    """Write polygons to a file that appears under its name when complete, or not at all.

    The suffix of the path says the format. ``.gpkg`` has the layer ``anomalies`` with a spatial index, described
    columns, its QGIS style, the layer ``footprint`` where it is known, and a table ``runs`` with the provenance.
    ``.geojson`` is in EPSG:4326 as RFC 7946 wants it; ``.shp`` has the short names of
    :data:`~geosiam.polygons.schema.SHAPEFILE_NAMES`; these, ``.fgb`` and ``.parquet`` hold the polygons and nothing
    else.

    Parameters
    ----------
    polygons
        The table of :func:`~geosiam.polygons.table.vectorize`, or the pieces of one, which are written as they come.
        Columns that a table lacks are empty in the file.
    path
        The file to make. An existing one is replaced on success only.
    provenance
        What made the polygons. ``inputs``, ``fingerprints``, ``model``, ``options`` and ``threshold`` get columns of
        their own, all of it is kept as JSON. ``created`` and ``geosiam_version`` are filled in where absent.
    more_columns
        Columns of a table beyond :data:`~geosiam.polygons.schema.COLUMNS`, and what they mean; written first.
    footprint
        What was looked at, in the columns of :data:`~geosiam.polygons.score_stream.FOOTPRINT_COLUMNS`, for the layer
        ``footprint`` beside a table; pieces bring their own.
    before_commit
        Called when everything is written, before the file takes its name: if it raises, the file does not appear.

    Returns
    -------
    The number of polygons written.

    Raises
    ------
    OptionError
        The suffix names no format known here.
    OutputError
        The folder is missing, not writable or full, or another process is writing this file.
    """
    target = Path(path)
    check_target(target)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"created": now, "geosiam_version": __version__, **(provenance or {})}
    with _replacing(target) as partial:
        stream = _Counted(polygons, tuple(more_columns or ()))
        try:
            _write(stream, partial)
        except Exception:
            if stream.failure is not None:
                raise stream.failure from None
            raise
        if partial.suffix.lower() == ".gpkg":
            looked_at = polygons.footprint_table() if isinstance(polygons, PolygonPieces) else footprint
            if looked_at is not None:
                with _bulk_loading():
                    add_footprint(looked_at, partial, _named(stream.crs))
            columns = {**(more_columns or {}), **COLUMNS}
            describe(partial, record, now, columns, footprint=looked_at is not None)
        if before_commit is not None:
            before_commit()
    return stream.count


class _Counted:
    """The pieces of a table, and how many rows have gone by."""

    def __init__(self, polygons: geopandas.GeoDataFrame | PolygonPieces, more_columns: tuple[str, ...]) -> None:
        self.schema = SCHEMA
        if isinstance(polygons, geopandas.GeoDataFrame):
            table = _table(polygons, more_columns)
            self.schema, self._tables = table.schema, iter([table])
        else:
            self._tables = polygons.tables
        self.crs = pyproj.CRS.from_user_input(polygons.crs)
        self.count = 0
        self.failure: BaseException | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the pieces; what goes wrong with one is kept, for C code between here and the caller forgets it."""
        try:
            for table in self._tables:
                self.count += len(table)
                yield from table.to_batches()
        except BaseException as error:
            self.failure = error
            raise


def _table(frame: geopandas.GeoDataFrame, more_columns: tuple[str, ...]) -> pa.Table:
    own = [pa.Array.from_pandas(frame[name]) for name in more_columns]
    texts = [array.cast(pa.string()) if pa.types.is_null(array.type) else array for array in own]
    more = pa.schema([pa.field(name, array.type) for name, array in zip(more_columns, texts, strict=True)])
    known = [
        pa.Array.from_pandas(frame[name], type=field.type) if name in frame else pa.nulls(len(frame), field.type)
        for name, field in zip(COLUMNS, SCHEMA, strict=False)
    ]
    geometry = pa.array(shapely.to_wkb(_as_multipolygons(frame.geometry.to_numpy())), pa.binary())
    return pa.table([*texts, *known, geometry], schema=pa.schema([*more, *SCHEMA]))


def _as_multipolygons(geometry: NDArray[np.object_]) -> NDArray[np.object_]:
    single = shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON
    result = geometry.copy()
    result[single] = shapely.multipolygons(geometry[single], indices=np.arange(single.sum()))
    return result


def _write(stream: _Counted, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        _write_parquet(stream, path, stream.crs)
        return
    reader = pa.RecordBatchReader.from_batches(stream.schema, stream.batches())
    if suffix == ".shp":
        reader = _renamed(reader, stream.schema)
    with _bulk_loading():
        write_arrow(
            reader,
            path,
            layer=LAYER if suffix == ".gpkg" else path.stem,
            driver=FORMATS[suffix],
            geometry_name=GEOMETRY,
            # A shapefile makes no difference between polygons and multipolygons.
            geometry_type="Polygon" if suffix == ".shp" else "MultiPolygon",
            crs=_named(stream.crs),
            dataset_options={"VERSION": "1.2"} if suffix == ".gpkg" else {},  # 1.4, the default, makes QGIS 3.22 warn
            layer_options=_LAYER_OPTIONS.get(suffix, {}),
        )


def _named(crs: pyproj.CRS) -> str:
    """Return a CRS as GDAL takes it."""
    epsg = crs.to_epsg()
    return str(crs.to_wkt("WKT1_GDAL")) if epsg is None else f"EPSG:{epsg}"


def _renamed(reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    names = [SHAPEFILE_NAMES.get(name, name) for name in schema.names]
    short = pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])
    return pa.RecordBatchReader.from_batches(short, (batch.rename_columns(names) for batch in reader))


def _write_parquet(stream: _Counted, path: Path, crs: pyproj.CRS) -> None:
    """Write GeoParquet 1.0 piece by piece."""
    column = {"encoding": "WKB", "geometry_types": ["MultiPolygon"], "crs": crs.to_json_dict()}
    geo = {"version": "1.0.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    schema = stream.schema.with_metadata({"geo": json.dumps(geo)})
    with pq.ParquetWriter(path, schema) as writer:
        for batch in stream.batches():
            writer.write_batch(batch.cast(schema))


@contextlib.contextmanager
def _bulk_loading() -> Iterator[None]:
    """Let SQLite leave to the end what must be on disk, for until then nobody knows the file; and bound its index.

    By itself GDAL builds the spatial index in up to a tenth of the machine's memory.
    """
    wanted = {"OGR_SQLITE_SYNCHRONOUS": "OFF", "OGR_GPKG_MAX_RAM_USAGE_RTREE": str(_INDEX_BYTES)}
    before = {option: pyogrio.get_gdal_config_option(option) for option in wanted}
    pyogrio.set_gdal_config_options(wanted)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a path of the target's name in a hidden folder beside it; move what is there into place on success."""
    folder: Path | None = None
    lock = FileLock(target.with_name(f".{target.name}.partial.lock"))
    try:
        if not lock.acquire():
            raise OutputError(target, "is being written by another run", "wait for it or choose another output")
        _remove_leftovers(target)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        yield folder / target.name
        # A shapefile is several files: the one that is opened goes last, when the others are in place.
        for made in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            _synchronise(made)
            made.replace(target.with_name(made.name))
    except GeosiamError:
        raise  # pieces may be computed while they are written: what went wrong there is not about this file
    except (OSError, sqlite3.Error, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        fact = f"cannot be written ({error})"
        raise OutputError(target, fact, "check the folder's permissions and the free disk space") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left of writing this target; the lock says that nobody else is at it."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        shutil.rmtree(folder, ignore_errors=True)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
