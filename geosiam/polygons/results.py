"""Read a file of polygons: the polygons, the record of its run, and the verdicts of analysts."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists, parse_json, plain_path
from geosiam.imagery.normalization import FULL_BYTE, Stretch
from geosiam.polygons.geopackage import DISPLACEMENT_LAYER, LAYER

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_DEFAULT_THRESHOLD = 0.5  # of files whose record does not say
_DIGEST_LETTERS = 32


def read_polygons(path: str | os.PathLike[str], layer: str | None = None) -> geopandas.GeoDataFrame:
    """Read the polygons of a vector file, made valid, without empty ones; they may be none.

    Parameters
    ----------
    path
        The file.
    layer
        Its layer; None: ``anomalies`` if there is one, or else the first with geometries.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError, SceneRefusedError
        The file does not exist, is no vector file, has no CRS, or holds something else than polygons.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    try:
        with plain_path(path) as plain:
            if Path(path).suffix.lower() == ".parquet":
                frame = geopandas.read_parquet(plain)
            else:
                frame = geopandas.read_file(plain, layer=layer or _layer_of_polygons(plain))
    except (DataSourceError, DataLayerError, ValueError, OSError, IndexError, ImportError) as error:
        raise SceneUnreadableError(path, f"is not a readable vector file ({error})", "use a GeoPackage") from error
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise SceneRefusedError(path, "holds no polygons", "give a layer of polygons")
    if frame.crs is None:
        raise SceneRefusedError(path, "has no coordinate reference system", "assign one, for example in QGIS")
    other_types = set(frame.geom_type.dropna()) - {"Polygon", "MultiPolygon"}
    if other_types:
        fact = f"holds geometries of type {', '.join(sorted(other_types))}"
        raise SceneRefusedError(path, fact, "buffer them to polygons, such as 1 m wide")
    frame = frame[frame.geometry.notna() & ~frame.is_empty]
    return frame.set_geometry(shapely.make_valid(frame.geometry.values))


def _layer_of_polygons(file: str) -> str:
    """Return the name of the layer ``anomalies``, or else of the first one that has geometries, or of the first."""
    layers = geopandas.list_layers(file)
    if LAYER in set(layers.name):
        return LAYER
    return str([*layers.name[layers.geometry_type.notna()], *layers.name][0])


@dataclass(frozen=True)
class RecordedScene:
    """One of the two scenes of a run, as the run recorded it.

    Parameters
    ----------
    name
        Path or URL, as it was given to the run; None if not recorded.
    fingerprint
        Fingerprint at that time, see :func:`geosiam.imagery.scene.fingerprint`; empty if there is none.
    bands
        1-based bands that served as red, green and blue; None if not recorded.
    scaling
        Stretch of the stored values to [0, 1].
    """

    name: str | None
    fingerprint: str
    bands: tuple[int, ...] | None
    scaling: Stretch


@dataclass(frozen=True)
class RunRecord:
    """The provenance of a result, as far as it is read again.

    Parameters
    ----------
    before, after
        The two scenes.
    model
        Name of the model; None if not recorded.
    threshold
        Anomaly probability that the polygons were cut at.
    moved_px
        Shift (rows, cols) in pixels by which the after scene was moved before the comparison.
    shift_px
        Remaining misregistration in pixels; None if not known.
    warnings
        Warnings of the run.
    merged
        Digest of the run of each pair in a merged file, by the name of the pair; empty in the file of a single pair.
    field_applied
        Whether the after scene was read through a displacement field, which the layer ``displacement`` shows.
    """

    before: RecordedScene
    after: RecordedScene
    model: str | None
    threshold: float
    moved_px: tuple[float, float]
    shift_px: float | None
    warnings: tuple[str, ...]
    merged: Mapping[str, str]
    field_applied: bool = False

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> RunRecord:
        """Return the record in provenance of any age; missing or malformed entries get neutral values."""
        pair = _mapping(provenance.get("pair"))
        model = _mapping(provenance.get("model")).get("name")
        threshold, shift_px = _number(provenance.get("threshold")), _number(pair.get("shift_px"))
        rows, cols = pair.get("moved_px") or (0.0, 0.0)
        warnings = provenance.get("warnings")
        return cls(
            before=_recorded_scene(pair, "before"),
            after=_recorded_scene(pair, "after"),
            model=None if model is None else str(model),
            threshold=_DEFAULT_THRESHOLD if threshold is None else threshold,
            moved_px=(float(rows), float(cols)),
            shift_px=shift_px,
            warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
            merged={str(name): str(run) for name, run in _mapping(provenance.get("merged")).items()},
            field_applied=bool(_mapping(pair.get("displacement")).get("applied")),
        )


def _recorded_scene(pair: Mapping[str, Any], which: Literal["before", "after"]) -> RecordedScene:
    scene = _mapping(pair.get(which))
    name = scene.get("name")
    bands = _mapping(pair.get(f"{which}_bands")).get("indexes")
    ends = _mapping(_mapping(pair.get("scaling")).get(which))
    return RecordedScene(
        name=None if name is None else str(name),
        fingerprint=str(scene.get("fingerprint") or ""),
        bands=tuple(bands) if isinstance(bands, list) else None,
        scaling=Stretch(tuple(ends["low"]), tuple(ends["high"])) if {"low", "high"} <= set(ends) else FULL_BYTE,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class ResultSummary:
    """Summary of a GeoPackage of polygons: its run, and counts and areas of its polygons.

    Parameters
    ----------
    run
        Digest of the provenance, which identifies the run. Editing the polygons does not change it.
    record
        The provenance.
    count, area_m2, strongest
        Number of polygons, their total area, and their highest mean score (None without polygons).
    reviews
        Number of polygons by verdict, without the unreviewed ones.
    """

    run: str
    record: RunRecord
    count: int
    area_m2: float
    strongest: float | None
    reviews: Mapping[str, int]


def read_result(path: str | os.PathLike[str]) -> ResultSummary:
    """Read the run and the summary of the polygons of a GeoPackage.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        The file does not exist, or geosiam did not write it.
    """
    with open_geopackage(path) as db:
        provenance = _provenance(db, path)
        count, area, strongest = db.execute(
            f"SELECT COUNT(*), TOTAL(area_m2), MAX(score_mean) FROM {LAYER}"  # noqa: S608 - a constant
        ).fetchone()
        grouped = db.execute(f"SELECT review, COUNT(*) FROM {LAYER} GROUP BY review").fetchall()  # noqa: S608
    reviews: Counter[str] = Counter()
    for word, number in grouped:
        if (verdict := normalize_review(word)) is not None:
            reviews[verdict] += number
    return ResultSummary(
        run=hashlib.sha256("\n".join(provenance).encode()).hexdigest()[:_DIGEST_LETTERS],
        record=_newest(provenance),
        count=count,
        area_m2=area,
        strongest=strongest,
        reviews=reviews,
    )


def read_run_record(path: str | os.PathLike[str]) -> RunRecord:
    """Return the provenance of a GeoPackage.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        The file does not exist, or geosiam did not write it.
    """
    with open_geopackage(path) as db:
        return _newest(_provenance(db, path))


def read_displacement(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Return the displacement in a GeoPackage: float64 (n, 4) of x, y, ``dy_px`` and ``dx_px``; empty if it has none.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        The file does not exist, or is not a GeoPackage.
    """
    with open_geopackage(path) as db:
        row = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (DISPLACEMENT_LAYER,)).fetchone()
    if row is None:
        return np.empty((0, 4))
    with plain_path(path) as plain:
        points = pyogrio.read_dataframe(plain, layer=DISPLACEMENT_LAYER, columns=["dx_px", "dy_px"])
    return np.column_stack([points.geometry.x, points.geometry.y, points["dy_px"], points["dx_px"]])


def is_result(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a GeoPackage that geosiam wrote."""
    try:
        with open_geopackage(path) as db:
            return _has_tables(db)
    except (SceneNotFoundError, SceneUnreadableError):
        return False


def last_change(path: str | os.PathLike[str]) -> str:
    """Return when the polygons of a GeoPackage were last changed, ISO 8601; GDAL and QGIS keep this up to date."""
    with open_geopackage(path) as db:
        row = db.execute("SELECT last_change FROM gpkg_contents WHERE table_name = ?", (LAYER,)).fetchone()
    return str(row[0]) if row else ""


@contextlib.contextmanager
def open_geopackage(path: str | os.PathLike[str], mode: Literal["ro", "rw"] = "ro") -> Iterator[sqlite3.Connection]:
    """Open a GeoPackage as an SQLite database; errors inside the context are turned into one line.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        The file does not exist, is locked, or is not a database.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    address = f"{Path(path).resolve().as_uri()}?mode={mode}"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
            yield db
    except sqlite3.OperationalError as error:
        remedy = "close whatever has it open, such as QGIS, and check the permissions"
        raise SceneUnreadableError(path, f"cannot be used ({error})", remedy) from error
    except sqlite3.DatabaseError as error:
        remedy = "give one that geosiam detect wrote"
        raise SceneUnreadableError(path, f"is not a GeoPackage ({error})", remedy) from error


def _has_tables(db: sqlite3.Connection) -> bool:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {LAYER, "runs"} <= tables


def _provenance(db: sqlite3.Connection, path: str | os.PathLike[str]) -> list[str]:
    """Return the provenance of each run as JSON, the oldest first."""
    if not _has_tables(db):
        remedy = "give one that geosiam detect or vectorize wrote"
        raise SceneUnreadableError(path, "holds no anomalies with the record of a run", remedy)
    return [str(text) for (text,) in db.execute("SELECT provenance FROM runs ORDER BY id")]


def _newest(provenance: Sequence[str]) -> RunRecord:
    try:
        values = parse_json(provenance[-1]) if provenance else {}
    except ValueError:
        values = {}
    return RunRecord.from_provenance(_mapping(values))


_VERDICTS: Mapping[str, str | None] = {
    **dict.fromkeys(("confirmed", "confirm", "yes", "y", "true", "right", "correct", "ok", "1"), "confirmed"),
    **dict.fromkeys(("rejected", "reject", "no", "n", "false", "wrong", "0"), "rejected"),
    **dict.fromkeys(("unsure", "maybe", "?"), "unsure"),
    **dict.fromkeys(("", "unreviewed", "none", "nan", "null")),
}
"""The verdict that each word stands for; None: not reviewed."""


def normalize_review(value: object) -> str | None:
    """Return the verdict in a cell of the column ``review``.

    Returns
    -------
    One of :data:`geosiam.polygons.schema.REVIEWS`, also for their common synonyms; None for an unreviewed polygon; any
    other text as it is, without surrounding spaces.
    """
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return _VERDICTS.get(text.lower(), text)


def normalize_reviews(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return the verdicts in the column ``review``, see :func:`normalize_review`; dtype object."""
    verdicts = {value: normalize_review(value) for value in values.dropna().unique()}
    return pd.Series([verdicts.get(value) for value in values], index=values.index, dtype=object)


@overload
def read_reviews(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, geometry: Literal[True]
) -> geopandas.GeoDataFrame: ...


@overload
def read_reviews(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, geometry: Literal[False] = False
) -> pd.DataFrame: ...


def read_reviews(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, geometry: bool = False
) -> pd.DataFrame | geopandas.GeoDataFrame:
    """Read the verdicts on the polygons of a file.

    Parameters
    ----------
    path
        A vector file in any format that ``geosiam detect`` writes; a GeoPackage is read from its layer ``anomalies``.
    columns
        Other columns to read.
    geometry
        Whether to read the outlines as well.

    Returns
    -------
    One row per polygon with the columns asked for and ``review``, see :func:`normalize_review`

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        The file does not exist, or is not a vector file.
    SceneRefusedError
        A column is missing.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    names = list(dict.fromkeys((*columns, "review")))
    try:
        table = _read_table(path, names, geometry=geometry)
    except (DataSourceError, DataLayerError, ValueError, OSError, ImportError) as error:
        fact = f"has no layer of polygons that can be read ({error})"
        raise SceneUnreadableError(path, fact, "give polygons that geosiam detect wrote") from error
    for name in ("review", *columns):
        if name not in table.columns:
            remedy = "give polygons that geosiam detect wrote, with verdicts in the column review"
            raise SceneRefusedError(path, f"has no column {name}", remedy)
    table = table[[*names, table.geometry.name] if geometry else names].copy()
    table["review"] = normalize_reviews(table["review"])
    return table


def _read_table(
    path: str | os.PathLike[str], columns: list[str], *, geometry: bool
) -> pd.DataFrame | geopandas.GeoDataFrame:
    with plain_path(path) as plain:
        if Path(path).suffix.lower() == ".parquet":
            table = geopandas.read_parquet(plain)
            return table if geometry else pd.DataFrame(table)
        layers = [str(name) for name, _ in pyogrio.list_layers(plain)]
        if not layers:
            raise DataLayerError("no layer")
        layer = LAYER if LAYER in layers else layers[0]
        return pyogrio.read_dataframe(plain, layer=layer, columns=columns, read_geometry=geometry)
