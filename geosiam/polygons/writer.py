"""Write a table of polygons to a file in any of the formats, which appears complete or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
import sqlite3
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from pyogrio.raw import write_arrow

from geosiam import __version__
from geosiam.errors import GeosiamError, OutputError
from geosiam.files import close_database, companions, locked, plain_path, replace_durably
from geosiam.imagery.grid import authority_code
from geosiam.polygons.formats import FORMATS, check_target
from geosiam.polygons.geopackage import LAYER, add_footprint, describe
from geosiam.polygons.multipolygons import as_multipolygons
from geosiam.polygons.schema import COLUMNS, GEOMETRY, HEIGHT_COLUMNS, SCHEMA, SHAPEFILE_NAMES
from geosiam.polygons.table import PolygonTable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from geosiam.polygons.geopackage import DisplacementPoints

_PLAIN_STEM = "polygons"  # of a file that is being written: drivers and pyogrio read signs in a name in their own way
_LAYER_OPTIONS = {
    ".gpkg": {"GEOMETRY_NAME": "geom", "DESCRIPTION": "Anomalies between two scenes"},
    ".geojson": {"RFC7946": "YES", "COORDINATE_PRECISION": "9"},  # the usual 7 digits are a centimeter
    ".shp": {"ENCODING": "UTF-8"},
}


def write_polygons(
    polygons: geopandas.GeoDataFrame | PolygonTable,
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object] | None = None,
    more_columns: Mapping[str, str] | None = None,
    footprint: geopandas.GeoDataFrame | None = None,
    displacement: DisplacementPoints | None = None,
    before_commit: Callable[[], None] | None = None,
) -> int:
    """Write polygons to a file that appears under its name when complete, or not at all.

    The suffix of the path chooses the format. ``.gpkg`` has the layer ``anomalies`` with a spatial index, described
    columns and a QGIS style, the layers ``footprint`` and ``displacement`` where they are known, and a table ``runs``
    with the provenance. The other formats contain the polygons only: ``.geojson`` in EPSG:4326 as RFC 7946 requires,
    ``.shp`` with the short names of :data:`~geosiam.polygons.schema.SHAPEFILE_NAMES`, ``.fgb`` and ``.parquet``.

    Parameters
    ----------
    polygons
        Polygons with the columns :data:`~geosiam.polygons.schema.COLUMNS`; columns that a GeoDataFrame lacks are empty
        in the file. A :class:`~geosiam.polygons.table.PolygonTable` is computed while it is written.
    path
        Path of the file. An existing file is replaced on success only.
    provenance
        How the polygons came about. ``inputs``, ``fingerprints``, ``model``, ``options`` and ``threshold`` get columns
        of their own, all of it is stored as JSON. ``created`` and ``geosiam_version`` are filled in where absent.
    more_columns
        Further columns of a GeoDataFrame and their descriptions; they are written first.
    footprint
        The scored area with the columns :data:`~geosiam.polygons.schema.FOOTPRINT_COLUMNS`, for the layer
        ``footprint``; a :class:`~geosiam.polygons.table.PolygonTable` has its own.
    displacement
        The layer ``displacement``; None: the file has none.
    before_commit
        Called when everything is written, before the file takes its name: if it raises, the file does not appear.

    Returns
    -------
    The number of polygons written.

    Raises
    ------
    OptionError
        The suffix is not one of :data:`~geosiam.polygons.formats.FORMATS`.
    OutputError
        The folder is missing, not writable or full, or another process is writing this file.
    """
    target = Path(path)
    check_target(target)
    stream = _BatchStream(polygons, tuple(more_columns or ()))
    with (
        staged(target, before_commit=before_commit) as partial,
        stream.original_error(),
        as_output_error(target),
    ):
        _write(stream, partial, target.stem)
        if partial.suffix.lower() == ".gpkg":
            area = polygons.footprint_table() if isinstance(polygons, PolygonTable) else footprint
            heights = {name: text for name, text in HEIGHT_COLUMNS.items() if name in stream.schema.names}
            described = {**(more_columns or {}), **COLUMNS, **heights}
            _complete_geopackage(
                partial, stream.crs, provenance or {}, described, footprint=area, displacement=displacement
            )
    return stream.count


@contextlib.contextmanager
def staged(target: Path, *, before_commit: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the name of the target when the context ends without an error.

    Files that were written beside it, as those of a shapefile, go with it.

    Parameters
    ----------
    target
        The file; another process that writes it, too, is refused.
    before_commit
        See :func:`write_polygons`.

    Raises
    ------
    OutputError
        The folder is missing, not writable or full, or another process is writing this file.
    """
    with locked(target.with_name(f".{target.name}.partial.lock"), target), _staging_folder(target) as folder:
        yield folder / f"{_PLAIN_STEM}{target.suffix}"
        if before_commit is not None:
            before_commit()
        with as_output_error(target):
            _move_into_place(folder, target)


class _BatchStream:
    """The record batches of a table of polygons, counted as they are read.

    Parameters
    ----------
    polygons, more_columns
        As in :func:`write_polygons`.
    """

    def __init__(self, polygons: geopandas.GeoDataFrame | PolygonTable, more_columns: tuple[str, ...]) -> None:
        self.schema = SCHEMA
        if isinstance(polygons, geopandas.GeoDataFrame):
            table = _arrow_table(polygons, more_columns)
            self.schema, self._tables = table.schema, iter([table])
        else:
            self.schema, self._tables = polygons.schema, polygons.tables
        self.crs = pyproj.CRS.from_user_input(polygons.crs)
        self.count = 0
        self._error: BaseException | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches, which may be computed only now."""
        try:
            for table in self._tables:
                self.count += len(table)
                yield from table.to_batches()
        except BaseException as error:
            self._error = error
            raise

    @contextlib.contextmanager
    def original_error(self) -> Iterator[None]:
        """Raise the error of a batch itself instead of the error that GDAL makes of it.

        GDAL reads batches through Arrow's C stream interface, which passes on the text of an error only: its type,
        which says whether the user can do something about it, would be lost, and so would a KeyboardInterrupt.
        """
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise


def _arrow_table(frame: geopandas.GeoDataFrame, more_columns: tuple[str, ...]) -> pa.Table:
    more = [pa.Array.from_pandas(frame[name]) for name in more_columns]
    more = [array.cast(pa.string()) if pa.types.is_null(array.type) else array for array in more]
    more_fields = [pa.field(name, array.type) for name, array in zip(more_columns, more, strict=True)]
    columns = [
        pa.Array.from_pandas(frame[name], type=field.type) if name in frame else pa.nulls(len(frame), field.type)
        for name, field in zip(COLUMNS, SCHEMA, strict=False)
    ]
    geometry = pa.array(shapely.to_wkb(as_multipolygons(frame.geometry.to_numpy())), pa.large_binary())
    return pa.table([*more, *columns, geometry], schema=pa.schema([*more_fields, *SCHEMA]))


def _write(stream: _BatchStream, path: Path, name: str) -> None:
    """Write all polygons to a new file; formats that have no layers get a name instead."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        _write_parquet(stream, path)
        return
    reader = pa.RecordBatchReader.from_batches(stream.schema, stream.batches())
    if suffix == ".shp":
        reader = _with_short_names(reader, stream.schema)
    with _BULK_LOADING.applied(), plain_path(path) as plain:
        write_arrow(
            reader,
            plain,
            layer=LAYER if suffix == ".gpkg" else name,
            driver=FORMATS[suffix],
            geometry_name=GEOMETRY,
            # A shapefile does not distinguish polygons and multipolygons.
            geometry_type="Polygon" if suffix == ".shp" else "MultiPolygon",
            crs=_gdal_name(stream.crs),
            dataset_options={"VERSION": "1.2"} if suffix == ".gpkg" else {},  # 1.4, the default, makes QGIS 3.22 warn
            layer_options=_LAYER_OPTIONS.get(suffix, {}),
        )


def _with_short_names(reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    names = [SHAPEFILE_NAMES.get(name, name) for name in schema.names]
    short = pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])
    return pa.RecordBatchReader.from_batches(short, (batch.rename_columns(names) for batch in reader))


def _write_parquet(stream: _BatchStream, path: Path) -> None:
    """Write GeoParquet 1.0 batch by batch."""
    column = {"encoding": "WKB", "geometry_types": ["MultiPolygon"], "crs": stream.crs.to_json_dict()}
    geo = {"version": "1.0.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    schema = stream.schema.with_metadata({"geo": json.dumps(geo)})
    with pq.ParquetWriter(path.absolute(), schema) as writer:
        for batch in stream.batches():
            writer.write_batch(batch.cast(schema))


def _complete_geopackage(
    path: Path,
    crs: pyproj.CRS,
    provenance: Mapping[str, object],
    columns: Mapping[str, str],
    *,
    footprint: geopandas.GeoDataFrame | pa.Table | None,
    displacement: DisplacementPoints | None,
) -> None:
    """Add to a GeoPackage of polygons what the other formats cannot hold."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if footprint is not None:
        with _BULK_LOADING.applied(), plain_path(path) as plain:
            add_footprint(footprint, plain, _gdal_name(crs))
    if displacement is not None:
        with _BULK_LOADING.applied(), plain_path(path) as plain:
            displacement.add_to(plain, _gdal_name(crs))
    record = {"created": now, "geosiam_version": __version__, **provenance}
    describe(path, record, now, columns, footprint=footprint is not None, displacement=displacement)


def _gdal_name(crs: pyproj.CRS) -> str:
    """Return exactly this CRS in a form that GDAL parses; WKT 1 cannot say all of them."""
    return authority_code(crs) or str(crs.to_wkt("WKT2_2019"))


class _GdalOptions:
    """GDAL options that are set while at least one thread needs them, and then as the caller had them.

    pyogrio can set options for the whole process only. If each writer saved and restored them by itself, a writer that
    starts while another one is at work would take that one's options for the caller's and restore them at its end.

    Parameters
    ----------
    values
        Values by name.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._lock = threading.Lock()
        self._users = 0
        self._previous: dict[str, object] = {}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the options until the context ends."""
        with self._lock:
            if self._users == 0:
                self._previous = {name: pyogrio.get_gdal_config_option(name) for name in self._values}
                pyogrio.set_gdal_config_options(self._values)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._restore()

    def _restore(self) -> None:
        # Unset, an option has the value of an environment variable of its name: only other values have to be set again.
        pyogrio.set_gdal_config_options(dict.fromkeys(self._values))
        differing = {
            name: value for name, value in self._previous.items() if pyogrio.get_gdal_config_option(name) != value
        }
        pyogrio.set_gdal_config_options(differing)


_BULK_LOADING = _GdalOptions(
    {
        "OGR_SQLITE_SYNCHRONOUS": "OFF",  # the file is synced once, before it takes its name
        "OGR_GPKG_MAX_RAM_USAGE_RTREE": "100000000",  # bytes; by default up to a tenth of the machine's memory
    }
)


@contextlib.contextmanager
def as_output_error(target: Path) -> Iterator[None]:
    """Raise what goes wrong with files as an OutputError; errors of geosiam stay as they are."""
    try:
        yield
    except GeosiamError:
        raise
    except (OSError, sqlite3.Error, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        fact = f"cannot be written ({error})"
        raise OutputError(target, fact, "check the folder's permissions and the free disk space") from error


@contextlib.contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside a locked target, which is removed when the context ends.

    A folder, because a shapefile is several files and SQLite makes a journal beside a GeoPackage. Folders that killed
    processes left behind are removed first: the target's lock says that no other process is using them.
    """
    with as_output_error(target):
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, target: Path) -> None:
    """Move the files of a folder beside the target, the target itself last: when it appears, the others are there.

    What is beside the file that is replaced, and belongs to that one only, goes with it.
    """
    if target.suffix.lower() == ".gpkg":
        close_database(target)
    for companion in companions(target):
        companion.unlink(missing_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: file.suffix == target.suffix):
        replace_durably(file, target.with_name(f"{target.stem}{file.name.removeprefix(_PLAIN_STEM)}"))
