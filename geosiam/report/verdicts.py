"""Write the verdicts that a page exported into the column ``review`` of its GeoPackages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import InputError, SceneNotFoundError
from geosiam.files import exists, is_folder, parse_json
from geosiam.polygons.geopackage import LAYER
from geosiam.polygons.results import open_geopackage, read_result
from geosiam.polygons.schema import REVIEWS
from geosiam.report.content import FORMAT
from geosiam.report.inputs import MERGED, find_results, pair_names

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

KIND = "geosiam verdicts"
_EXPORT_AGAIN = "export the verdicts from the page again"
_GIVE_EXPORT = "give the file that the page's Export verdicts saved"


@dataclass(frozen=True)
class PairVerdicts:
    """The verdicts on the polygons of a pair.

    Parameters
    ----------
    name, run
        Name of the pair on the page, and the digest of the run that the page shows.
    verdicts
        A word of :data:`geosiam.polygons.schema.REVIEWS` by the polygon's ``id``; None: not reviewed after all.
    """

    name: str
    run: str
    verdicts: Mapping[int, str | None]


@dataclass(frozen=True)
class WrittenVerdicts:
    """The verdicts that were written into one GeoPackage.

    Parameters
    ----------
    path
        The GeoPackage.
    written
        Number of polygons whose review was set.
    missing
        Polygons, by ``id``, that are not in the file any more.
    merged
        Whether it is the merged file of a batch, whose verdicts are in the pairs' own GeoPackages as well.
    """

    path: Path
    written: int
    missing: tuple[int, ...]
    merged: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"path": str(self.path), "missing": list(self.missing)}


def write_verdicts(
    verdicts: str | os.PathLike[str], results: Iterable[str | os.PathLike[str]]
) -> list[WrittenVerdicts]:
    """Write the verdicts that a page exported into GeoPackages.

    All GeoPackages are checked before the first is changed, and each is changed in one transaction: it gets all of its
    verdicts or none. Polygons without an entry keep their review. The merged GeoPackage of a batch gets the verdicts of
    all its pairs.

    Parameters
    ----------
    verdicts
        The file that the page exported.
    results
        GeoPackages, or folders of them. GeoPackages in a folder that are not on the page are left alone.

    Raises
    ------
    InputError
        The file holds no verdicts, or a GeoPackage is of another run than the page, or not on the page at all.
    """
    pairs = read_verdicts(verdicts)
    files = {Path(path): _files_at(path) for path in results}
    names = pair_names(dict.fromkeys(file for paths in files.values() for file in paths))
    changes = [change for path, paths in files.items() for change in _plan_changes(path, paths, names, pairs)]
    return [_write(change) for change in dict.fromkeys(changes)]


def read_verdicts(path: str | os.PathLike[str]) -> tuple[PairVerdicts, ...]:
    """Return the verdicts that a page exported.

    Raises
    ------
    SceneNotFoundError, InputError
        There is no such file, or it holds something else.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", _GIVE_EXPORT)
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", _EXPORT_AGAIN) from error
    if not isinstance(content, dict) or content.get("format") != KIND:
        raise InputError(path, "holds no verdicts", _GIVE_EXPORT)
    if content.get("version") != FORMAT:
        fact = f"is of version {content.get('version')!r}, not {FORMAT}"
        raise InputError(path, fact, "use the version of geosiam that made the page")
    try:
        return tuple(_pair_verdicts(entry) for entry in content["pairs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(path, f"is damaged ({error})", _EXPORT_AGAIN) from error


def _pair_verdicts(entry: Mapping[str, Any]) -> PairVerdicts:
    verdicts = {int(polygon): verdict for polygon, verdict in entry["verdicts"].items()}
    unknown = [verdict for verdict in verdicts.values() if verdict is not None and verdict not in REVIEWS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(REVIEWS)}")
    return PairVerdicts(str(entry["name"]), str(entry["run"]), verdicts)


@dataclass(frozen=True)
class _Change:
    """Verdicts to write into a GeoPackage.

    Parameters
    ----------
    file
        The GeoPackage.
    reviews
        Name of the pair, ``id`` of the polygon, and verdict.
    merged
        Whether the file holds the polygons of several pairs, which it names.
    """

    file: Path
    reviews: tuple[tuple[str, int, str | None], ...]
    merged: bool


def _files_at(path: str | os.PathLike[str]) -> list[Path]:
    """Return the GeoPackage at a path, or those of pairs and of batches in a folder."""
    return [*find_results(path), *(sorted(Path(path).rglob(MERGED)) if is_folder(path) else [])]


def _plan_changes(
    path: Path, files: Sequence[Path], names: Mapping[Path, str], pairs: Sequence[PairVerdicts]
) -> list[_Change]:
    """Return the changes to the GeoPackages at a path; at least one of them must be on the page."""
    changes = [change for file in files if (change := _plan_change(file, names[file], pairs)) is not None]
    if not changes:
        fact = "holds nothing that is on the page" if path.is_dir() else "is not on the page that the verdicts are from"
        raise InputError(path, fact, "give the GeoPackages of that page, or their folder")
    return changes


def _plan_change(file: Path, name: str, pairs: Sequence[PairVerdicts]) -> _Change | None:
    """Return the change to a GeoPackage; None if it is not on the page."""
    result = read_result(file)
    if merged := result.record.merged:
        included = [pair for pair in pairs if merged.get(pair.name) == pair.run]
        reviews = tuple(review for pair in included for review in _reviews(pair))
        return _Change(file, reviews, merged=True) if included else None
    same_run = [pair for pair in pairs if pair.run == result.run]  # whatever the pair is called now
    if same_run:
        pair = next((pair for pair in same_run if pair.name == name), same_run[0])
        return _Change(file, tuple(_reviews(pair)), merged=False)
    if any(pair.name == name for pair in pairs):
        fact = f"is from another run of {name!r} than the page"
        raise InputError(file, fact, "create the page again with geosiam report, and review there")
    return None


def _reviews(pair: PairVerdicts) -> list[tuple[str, int, str | None]]:
    return [(pair.name, polygon, verdict) for polygon, verdict in pair.verdicts.items()]


def _write(change: _Change) -> WrittenVerdicts:
    missing = []
    where = "id = :id AND pair = :pair" if change.merged else "id = :id"
    statement = f"UPDATE {LAYER} SET review = :review WHERE {where}"  # noqa: S608 - constants
    with open_geopackage(change.file, "rw") as db, db:  # the second one commits, or rolls back
        _define_geometry_functions(db)
        for pair, polygon, verdict in change.reviews:
            if not db.execute(statement, {"review": verdict, "id": polygon, "pair": pair}).rowcount:
                missing.append(polygon)
        if change.reviews:
            now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
            db.execute(f"UPDATE gpkg_contents SET last_change = {now} WHERE table_name = ?", (LAYER,))  # noqa: S608
    return WrittenVerdicts(change.file, len(change.reviews) - len(missing), tuple(missing), change.merged)


def _define_geometry_functions(db: sqlite3.Connection) -> None:
    """Define the SQL functions that a GeoPackage's triggers name, without which SQLite refuses any update.

    The triggers keep the spatial index up to date when a geometry changes. None changes here, so none is called.
    """
    for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
        db.create_function(name, 1, _refuse_geometry_change)


def _refuse_geometry_change(geometry: bytes) -> None:
    raise AssertionError(f"a geometry of {len(geometry)} bytes was about to change")
