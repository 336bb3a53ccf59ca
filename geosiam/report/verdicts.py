"""What was decided on the page, written into the ``review`` column of the GeoPackages it was made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import InputError, SceneNotFoundError
from geosiam.files import is_there
from geosiam.report.content import FORMAT
from geosiam.report.pairs import find_pairs
from geosiam.report.results import opened, read_result
from geosiam.vector.columns import REVIEWS
from geosiam.vector.geopackage import LAYER

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable, Mapping

KIND = "geosiam verdicts"
_EXPORT = "export the verdicts from the page again"


@dataclass(frozen=True)
class PairVerdicts:
    """What was decided about a pair.

    Parameters
    ----------
    name, run
        The pair as the page calls it, and the run it shows.
    verdicts
        A word of :data:`geosiam.vector.style.REVIEWS` by the polygon's ``id``; None: not reviewed after all.
    """

    name: str
    run: str
    verdicts: Mapping[int, str | None]


@dataclass(frozen=True)
class WrittenVerdicts:
    """What became of the verdicts on one GeoPackage.

    Parameters
    ----------
    path
        The GeoPackage.
    written
        Number of polygons whose review was set.
    missing
        Polygons, by ``id``, that are not there any more.
    """

    path: Path
    written: int
    missing: tuple[int, ...]


def write_verdicts(
    verdicts: str | os.PathLike[str], results: Iterable[str | os.PathLike[str]]
) -> list[WrittenVerdicts]:
    """Write the verdicts that a page exported into GeoPackages.

    All GeoPackages are checked before the first is touched, and each is changed in one transaction: all of its
    verdicts are in it or none. Polygons the page says nothing of keep their review.

    Parameters
    ----------
    verdicts
        The file that the page exported.
    results
        GeoPackages, or folders of them.

    Raises
    ------
    InputError
        The file holds no verdicts, or a GeoPackage is of another run than the page, or not on the page at all.
    """
    pairs = read_verdicts(verdicts)
    files = [(pair.name, pair.anomalies) for pair in find_pairs(results) if pair.anomalies is not None]
    plan = [(file, _of(file, name, pairs, verdicts)) for name, file in files]
    return [_write(file, decided) for file, decided in plan]


def read_verdicts(path: str | os.PathLike[str]) -> tuple[PairVerdicts, ...]:
    """Return what a page exported.

    Raises
    ------
    SceneNotFoundError, InputError
        There is no such file, or it holds something else.
    """
    if not is_there(path):
        raise SceneNotFoundError(path, "does not exist", "give the file that the page's Export verdicts saved")
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", _EXPORT) from error
    if not isinstance(told, dict) or told.get("format") != KIND:
        raise InputError(path, "holds no verdicts", "give the file that the page's Export verdicts saved")
    if told.get("version") != FORMAT:
        raise InputError(path, f"is of version {told.get('version')!r}, not {FORMAT}", "use geosiam of the same age")
    try:
        return tuple(_pair(entry) for entry in told["pairs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(path, f"is damaged ({error})", _EXPORT) from error


def _pair(entry: Mapping[str, Any]) -> PairVerdicts:
    verdicts = {int(polygon): verdict for polygon, verdict in entry["verdicts"].items()}
    strange = [verdict for verdict in verdicts.values() if verdict is not None and verdict not in REVIEWS]
    if strange:
        raise ValueError(f"{strange[0]!r} is none of {', '.join(REVIEWS)}")
    return PairVerdicts(str(entry["name"]), str(entry["run"]), verdicts)


def _of(file: Path, name: str, pairs: tuple[PairVerdicts, ...], verdicts: str | os.PathLike[str]) -> PairVerdicts:
    """Return the verdicts on a GeoPackage: those on its run, whatever it is called now."""
    run = read_result(file).run
    same = [pair for pair in pairs if pair.run == run]
    if same:
        return next((pair for pair in same if pair.name == name), same[0])
    if any(pair.name == name for pair in pairs):
        fact = f"is another run of {name!r} than the one on the page"
        raise InputError(file, fact, "make the page again with geosiam report, and decide there")
    raise InputError(file, f"is not on the page that {verdicts} comes from", "name the GeoPackages that are")


def _write(file: Path, decided: PairVerdicts) -> WrittenVerdicts:
    missing = []
    with opened(file, "rw") as db, db:  # the second one commits, or rolls back
        _allow_changes(db)
        for polygon, verdict in decided.verdicts.items():
            change = f"UPDATE {LAYER} SET review = ? WHERE id = ?"  # noqa: S608 - a constant
            if not db.execute(change, (verdict, polygon)).rowcount:
                missing.append(polygon)
        if decided.verdicts:
            now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
            db.execute(f"UPDATE gpkg_contents SET last_change = {now} WHERE table_name = ?", (LAYER,))  # noqa: S608
    return WrittenVerdicts(file, len(decided.verdicts) - len(missing), tuple(missing))


def _allow_changes(db: sqlite3.Connection) -> None:
    """Give SQLite the functions that a GeoPackage's triggers name.

    They keep the spatial index up to date where a polygon moves. None does here, so none of them is ever called.
    """
    for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
        db.create_function(name, 1, _never)


def _never(geometry: bytes) -> None:
    raise AssertionError(f"a polygon of {len(geometry)} bytes was about to move")
