"""What was decided on the page, written into the ``review`` column of the GeoPackages it was made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import InputError, SceneNotFoundError
from geosiam.files import exists
from geosiam.polygons.geopackage import LAYER
from geosiam.polygons.schema import REVIEWS
from geosiam.report.content import FORMAT
from geosiam.report.inputs import MERGED, names_of, opened, read_result, results_at

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

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
        A word of :data:`geosiam.polygons.schema.REVIEWS` by the polygon's ``id``; None: not reviewed after all.
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
    merged
        It is that of a whole survey, and has verdicts which its pairs' own GeoPackages have too.
    """

    path: Path
    written: int
    missing: tuple[int, ...]
    merged: bool = False


def write_verdicts(
    verdicts: str | os.PathLike[str], results: Iterable[str | os.PathLike[str]]
) -> list[WrittenVerdicts]:
    """Write the verdicts that a page exported into GeoPackages.

    All GeoPackages are checked before the first is touched, and each is changed in one transaction: all of its
    verdicts are in it or none. Polygons the page says nothing of keep their review. The merged GeoPackage of a survey
    gets those of all its pairs.

    Parameters
    ----------
    verdicts
        The file that the page exported.
    results
        GeoPackages, or folders of them; what lies in a folder and is not on the page is left as it is.

    Raises
    ------
    InputError
        The file holds no verdicts, or a GeoPackage is of another run than the page, or not on the page at all.
    """
    pairs = read_verdicts(verdicts)
    places = [(place, _files_at(place)) for place in map(Path, results)]
    names = names_of(dict.fromkeys(file for _, files in places for file in files))
    plan = [change for place, files in places for change in _changes(place, files, names, pairs)]
    return [_write(change) for change in dict.fromkeys(plan)]


def read_verdicts(path: str | os.PathLike[str]) -> tuple[PairVerdicts, ...]:
    """Return what a page exported.

    Raises
    ------
    SceneNotFoundError, InputError
        There is no such file, or it holds something else.
    """
    if not exists(path):
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


@dataclass(frozen=True)
class _Change:
    """Verdicts to write into a GeoPackage: (pair, polygon's id, verdict), and whether pairs are told apart there."""

    file: Path
    reviews: tuple[tuple[str, int, str | None], ...]
    merged: bool


def _files_at(place: Path) -> list[Path]:
    """Return a GeoPackage, or those of pairs and of surveys in a folder."""
    return [*results_at(place), *(sorted(place.rglob(MERGED)) if place.is_dir() else [])]


def _changes(
    place: Path, files: Sequence[Path], names: Mapping[Path, str], pairs: tuple[PairVerdicts, ...]
) -> list[_Change]:
    """Return the changes to GeoPackages; those in a folder that are not on the page are left alone."""
    changes = [change for file in files if (change := _change(file, names[file], pairs)) is not None]
    if not changes:
        fact = (
            "holds nothing that is on the page" if place.is_dir() else "is not on the page that the verdicts come from"
        )
        raise InputError(place, fact, "name the GeoPackages that are, or their folder")
    return changes


def _change(file: Path, name: str, pairs: tuple[PairVerdicts, ...]) -> _Change | None:
    """Return the change to a GeoPackage; None if the page says nothing of it."""
    result = read_result(file)
    if result.merged:
        known = [pair for pair in pairs if result.merged.get(pair.name) == pair.run]
        reviews = tuple(review for pair in known for review in _reviews(pair))
        return _Change(file, reviews, merged=True) if known else None
    same = [pair for pair in pairs if pair.run == result.run]  # whatever it is called now
    if same:
        own = next((pair for pair in same if pair.name == name), same[0])
        return _Change(file, tuple(_reviews(own)), merged=False)
    if any(pair.name == name for pair in pairs):
        fact = f"is another run of {name!r} than the one on the page"
        raise InputError(file, fact, "make the page again with geosiam report, and decide there")
    return None


def _reviews(pair: PairVerdicts) -> list[tuple[str, int, str | None]]:
    return [(pair.name, polygon, verdict) for polygon, verdict in pair.verdicts.items()]


def _write(change: _Change) -> WrittenVerdicts:
    missing = []
    where = "id = :id AND pair = :pair" if change.merged else "id = :id"
    statement = f"UPDATE {LAYER} SET review = :review WHERE {where}"  # noqa: S608 - constants
    with opened(change.file, "rw") as db, db:  # the second one commits, or rolls back
        _allow_changes(db)
        for pair, polygon, verdict in change.reviews:
            if not db.execute(statement, {"review": verdict, "id": polygon, "pair": pair}).rowcount:
                missing.append(polygon)
        if change.reviews:
            now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
            db.execute(f"UPDATE gpkg_contents SET last_change = {now} WHERE table_name = ?", (LAYER,))  # noqa: S608
    return WrittenVerdicts(change.file, len(change.reviews) - len(missing), tuple(missing), change.merged)


def _allow_changes(db: sqlite3.Connection) -> None:
    """Give SQLite the functions that a GeoPackage's triggers name.

    They keep the spatial index up to date where a polygon moves. None does here, so none of them is ever called.
    """
    for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
        db.create_function(name, 1, _never)


def _never(geometry: bytes) -> None:
    raise AssertionError(f"a polygon of {len(geometry)} bytes was about to move")
