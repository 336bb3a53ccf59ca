"""What the page is about: pairs, either handed over by who ran them or found in folders of results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyogrio

from geosiam.errors import OptionError, SceneNotFoundError, SceneUnreadableError
from geosiam.files import exists
from geosiam.imagery.normalization import FULL_BYTE, Stretch
from geosiam.polygons.geopackage import LAYER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import geopandas

Fact = str | int | float | bool | None

RESULT = "anomalies.gpkg"
"""What the polygons of a pair are called where each pair has a folder of its own, which then names the pair."""

MERGED = "survey.gpkg"
"""What the polygons of all pairs of a survey together are called."""

_SCORES = "scores.tif"


@dataclass(frozen=True)
class ReportPair:
    """A pair on the page: two scenes, and what was made of them.

    Parameters
    ----------
    name
        What the page and the verdicts call it; no two pairs of a page share a name.
    before, after
        The scenes, as paths or URLs; None where they are not known.
    scores
        The score raster; None where there is none.
    anomalies
        The GeoPackage of polygons; None where the pair failed.
    status
        How the run ended, in a word or two.
    facts
        What else is worth a line in the table of pairs, by its label.
    error
        Why the pair failed; None: it did not.
    """

    name: str
    before: str | Path | None
    after: str | Path | None
    scores: Path | None
    anomalies: Path | None
    status: str = "done"
    facts: Mapping[str, Fact] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        if self.anomalies is None and self.error is None:
            raise ValueError(f"pair {self.name!r} has neither polygons nor an error")


@dataclass(frozen=True)
class UnmatchedScene:
    """A scene that was compared with nothing, and why: it had no partner."""

    scene: str | Path
    reason: str


def find_pairs(paths: Iterable[str | os.PathLike[str]]) -> list[ReportPair]:
    """Return the pairs behind GeoPackages, and behind those inside folders, in the order of their names.

    The scenes are those that a GeoPackage says it was made of, wherever they lie now: under the recorded path, or
    under that path or name beside the GeoPackage.

    Raises
    ------
    SceneNotFoundError
        A path leads nowhere, or a folder holds no results.
    SceneUnreadableError
        A file is no GeoPackage that geosiam wrote.
    """
    files = list(dict.fromkeys(file for path in paths for file in results_at(Path(path))))
    return [_pair_of(file, name) for file, name in names_of(files).items()]


def results_at(path: Path) -> list[Path]:
    """Return the GeoPackage at a path, or those of the pairs inside a folder.

    Raises
    ------
    SceneNotFoundError
        There is none.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "give GeoPackages that geosiam detect wrote, or their folder")
    if not path.is_dir():
        return [path]
    named = sorted(path.rglob(RESULT))
    found = named or [file for file in sorted(path.rglob("*.gpkg")) if file.name != MERGED and is_result(file)]
    if not found:
        raise SceneNotFoundError(path, "holds no results", "give a folder with GeoPackages that geosiam detect wrote")
    return found


def names_of(files: Iterable[Path]) -> dict[Path, str]:
    """Return what pairs are called by the places of their GeoPackages: a short name where no two share it."""
    short = {file: _short_name(file) for file in files}
    count = Counter(short.values())
    return {file: name if count[name] == 1 else _long_name(file) for file, name in short.items()}


def _short_name(file: Path) -> str:
    absolute = file.absolute()
    return absolute.parent.name if absolute.name == RESULT and absolute.parent.name else file.stem


def _long_name(file: Path) -> str:
    return file.absolute().with_suffix("").as_posix()


def _pair_of(file: Path, name: str) -> ReportPair:
    if file.suffix.lower() != ".gpkg":
        raise SceneUnreadableError(file, "is no GeoPackage", "give one that geosiam detect wrote; other formats keep "
                                   "no record of the scenes")  # fmt: skip
    result = read_result(file)
    if result.merged:
        raise SceneUnreadableError(file, "holds the polygons of many pairs", "give the folder that it is in")
    scores = next((path for path in (file.with_suffix(".tif"), file.with_name(_SCORES)) if exists(path)), None)
    scenes = [_located(result.scene(which).name, file.parent) for which in ("before", "after")]
    return ReportPair(name, scenes[0], scenes[1], scores, file)


def _located(recorded: str | None, folder: Path) -> str | None:
    """Return where a scene lies now; the recorded name if it lies nowhere."""
    if not recorded or "://" in recorded:
        return recorded
    places = (recorded, folder / recorded, folder / Path(recorded).name)
    return next((os.fspath(place) for place in places if exists(place)), recorded)


def check_names(pairs: Iterable[ReportPair]) -> None:
    """Refuse pairs that share a name: nobody could tell their verdicts apart.

    Raises
    ------
    OptionError
        Some do.
    """
    twice = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if twice:
        raise OptionError(f"pair {twice[0]!r}", "is there twice", "give each pair a name of its own")


Which = Literal["before", "after"]


@dataclass(frozen=True)
class RecordedScene:
    """What a run recorded of one of its scenes.

    Parameters
    ----------
    name
        Path or URL, as it was given then.
    fingerprint
        See :func:`geosiam.imagery.scene_info.fingerprint`; empty where there is none.
    bands
        1-based bands that served as red, green and blue.
    scaling
        From its values to [0, 1].
    """

    name: str | None
    fingerprint: str
    bands: tuple[int, ...] | None
    scaling: Stretch


@dataclass(frozen=True)
class Result:
    """What a GeoPackage says of itself.

    Parameters
    ----------
    run
        What tells this run from any other: a digest of its provenance. Editing the polygons does not change it.
    record
        The provenance, as JSON had it.
    count, area_m2, strongest
        Number of polygons, their area together, and the highest mean score; None without polygons.
    reviews
        Number of polygons by verdict; those without one are not counted.
    """

    run: str
    record: Mapping[str, Any] = field(repr=False)
    count: int
    area_m2: float
    strongest: float | None
    reviews: Mapping[str, int]

    @property
    def threshold(self) -> float:
        """Anomaly probability that the polygons were cut at."""
        told = self.record.get("threshold")
        return float(told) if isinstance(told, (int, float)) else 0.5

    @property
    def _pair(self) -> Mapping[str, Any]:
        return _mapping(self.record.get("pair"))

    @property
    def merged(self) -> Mapping[str, str]:
        """The run of each pair whose polygons it holds, by the pair's name; empty where it is of one pair alone."""
        return {str(name): str(run) for name, run in _mapping(self.record.get("merged")).items()}

    @property
    def model(self) -> str | None:
        """Name of the model."""
        name = _mapping(self.record.get("model")).get("name")
        return None if name is None else str(name)

    @property
    def warnings(self) -> list[str]:
        """What the user should know of the run."""
        told = self.record.get("warnings")
        return [str(warning) for warning in told] if isinstance(told, list) else []

    @property
    def shift_px(self) -> float | None:
        """Misregistration left between the scenes."""
        told = self._pair.get("shift_px")
        return float(told) if isinstance(told, (int, float)) else None

    @property
    def corrected_shift(self) -> tuple[float, float]:
        """(rows, cols) in pixels by which the after-scene was moved before it was compared."""
        moved = self._pair.get("moved_px") or (0.0, 0.0)
        return float(moved[0]), float(moved[1])

    def scene(self, which: Which) -> RecordedScene:
        """Return what was recorded of a scene."""
        facts = _mapping(self._pair.get(which))
        bands = _mapping(self._pair.get(f"{which}_bands")).get("indexes")
        ends = _mapping(_mapping(self._pair.get("scaling")).get(which))
        scaling = Stretch(tuple(ends["low"]), tuple(ends["high"])) if {"low", "high"} <= set(ends) else FULL_BYTE
        name = facts.get("name")
        return RecordedScene(
            None if name is None else str(name),
            str(facts.get("fingerprint") or ""),
            tuple(bands) if isinstance(bands, list) else None,
            scaling,
        )


def is_result(path: Path) -> bool:
    """Return whether a file is a GeoPackage that geosiam wrote."""
    try:
        with opened(path) as db:
            return _has_tables(db)
    except SceneUnreadableError:
        return False


def read_result(path: Path) -> Result:
    """Return what a GeoPackage says of its run.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        There is none, or geosiam did not write it.
    """
    with opened(path) as db:
        if not _has_tables(db):
            remedy = "give one that geosiam detect or vectorize wrote"
            raise SceneUnreadableError(path, "holds no anomalies with the record of a run", remedy)
        records = [text for (text,) in db.execute("SELECT provenance FROM runs ORDER BY id")]
        count, area, strongest = db.execute(
            f"SELECT COUNT(*), TOTAL(area_m2), MAX(score_mean) FROM {LAYER}"  # noqa: S608 - a constant
        ).fetchone()
        grouped = f"SELECT review, COUNT(*) FROM {LAYER} GROUP BY review"  # noqa: S608 - a constant
        reviews = {str(review): number for review, number in db.execute(grouped) if review}
    return Result(run_of(records), _record(records), count, area, strongest, reviews)


def run_of(records: list[str]) -> str:
    """Return what tells runs with these provenance records from others."""
    return hashlib.sha256("\n".join(records).encode()).hexdigest()[:32]


def strongest_polygons(path: Path, most: int) -> geopandas.GeoDataFrame:
    """Return the polygons of the highest mean score, the larger ones first where scores are equal."""
    query = f"SELECT * FROM {LAYER} ORDER BY score_mean DESC, area_m2 DESC, id LIMIT {most}"  # noqa: S608 - ours
    return pyogrio.read_dataframe(path, sql=query)


@contextlib.contextmanager
def opened(path: Path, mode: Literal["ro", "rw"] = "ro") -> Iterator[sqlite3.Connection]:
    """Open a GeoPackage as the database it is; what is wrong with it becomes one line."""
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)) as db:
            yield db
    except sqlite3.OperationalError as error:
        remedy = "close whatever has it open, such as QGIS, and check the permissions"
        raise SceneUnreadableError(path, f"cannot be used ({error})", remedy) from error
    except sqlite3.DatabaseError as error:
        raise SceneUnreadableError(path, f"is no GeoPackage ({error})", "give one that geosiam detect wrote") from error


def _has_tables(db: sqlite3.Connection) -> bool:
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {LAYER, "runs"} <= there


def _record(records: list[str]) -> dict[str, Any]:
    """Return the newest record; an empty one where there is none."""
    try:
        return dict(_mapping(json.loads(records[-1]))) if records else {}
    except json.JSONDecodeError:
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
