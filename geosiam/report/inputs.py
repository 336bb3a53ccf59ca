"""Find the pairs of a report: handed over by the caller, or read from folders of results."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyogrio

from geosiam.errors import OptionError, SceneNotFoundError, SceneUnreadableError
from geosiam.files import exists, plain_path
from geosiam.polygons.geopackage import LAYER
from geosiam.polygons.results import is_result, read_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import geopandas

Fact = str | int | float | bool | None
"""A value in the table of pairs."""

RESULT = "anomalies.gpkg"
"""File name of the polygons where each pair has a folder of its own, which then names the pair."""

MERGED = "survey.gpkg"
"""File name of the polygons of all pairs of a batch."""

_SCORES = "scores.tif"


@dataclass(frozen=True)
class ReportPair:
    """A pair of scenes on the page, with its result.

    Parameters
    ----------
    name
        Name on the page and in exported verdicts; no two pairs of a page share a name.
    before, after
        The scenes, as paths or URLs; None if not known.
    scores
        The score raster; None if there is none.
    anomalies
        The GeoPackage of polygons; None if the pair failed.
    status
        How the run ended, in a word or two.
    facts
        Further rows for the pair's details, by label.
    error
        Why the pair failed; None if it did not.
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
    """A scene for which no partner was found, and why.

    Parameters
    ----------
    scene
        Path or URL.
    reason
        Why it has no partner, in one line.
    """

    scene: str
    reason: str


def find_pairs(paths: Iterable[str | os.PathLike[str]]) -> list[ReportPair]:
    """Return the pairs of GeoPackages and of folders of GeoPackages, in the order of their names.

    The scenes are those in the provenance of each GeoPackage. A scene that is no longer at its recorded path is looked
    for under that path or name beside the GeoPackage.

    Raises
    ------
    SceneNotFoundError
        A path does not exist, or a folder holds no results.
    SceneUnreadableError
        A file is not a GeoPackage that geosiam wrote.
    """
    files = list(dict.fromkeys(file for path in paths for file in find_results(path)))
    return [_read_pair(file, name) for file, name in pair_names(files).items()]


def find_results(path: str | os.PathLike[str]) -> list[Path]:
    """Return the GeoPackage at a path, or those of the pairs in a folder.

    Raises
    ------
    SceneNotFoundError
        There is none.
    """
    if not exists(path):
        remedy = "give GeoPackages that geosiam detect wrote, or their folder"
        raise SceneNotFoundError(path or "the name of a result", "does not exist", remedy)
    path = Path(path)
    if not path.is_dir():
        return [path]
    results = sorted(path.rglob(RESULT)) or [
        file for file in sorted(path.rglob("*.gpkg")) if file.name != MERGED and is_result(file)
    ]
    if not results:
        raise SceneNotFoundError(path, "holds no results", "give a folder with GeoPackages that geosiam detect wrote")
    return results


def pair_names(files: Iterable[Path]) -> dict[Path, str]:
    """Return a name for the pair of each GeoPackage: its folder or stem, or its whole path where two share that."""
    short = {file: _short_name(file) for file in files}
    count = Counter(short.values())
    return {file: name if count[name] == 1 else _long_name(file) for file, name in short.items()}


def check_unique_names(pairs: Iterable[ReportPair]) -> None:
    """Refuse pairs with the same name, whose verdicts could not be distinguished.

    Raises
    ------
    OptionError
        Two pairs have the same name.
    """
    repeated = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if repeated:
        raise OptionError(f"pair {repeated[0]!r}", "occurs more than once", "give each pair a unique name")


def strongest_polygons(path: Path, limit: int) -> geopandas.GeoDataFrame:
    """Return the polygons with the highest mean scores, the larger ones first where scores are equal."""
    query = f"SELECT * FROM {LAYER} ORDER BY score_mean DESC, area_m2 DESC, id LIMIT {limit}"  # noqa: S608 - ours
    with plain_path(path) as plain:
        return pyogrio.read_dataframe(plain, sql=query)


def _short_name(file: Path) -> str:
    absolute = file.absolute()
    return absolute.parent.name if absolute.name == RESULT and absolute.parent.name else file.stem


def _long_name(file: Path) -> str:
    return file.absolute().with_suffix("").as_posix()


def _read_pair(file: Path, name: str) -> ReportPair:
    if file.suffix.lower() != ".gpkg":
        remedy = "give one that geosiam detect wrote; other formats keep no record of the scenes"
        raise SceneUnreadableError(file, "is not a GeoPackage", remedy)
    record = read_result(file).record
    if record.merged:
        raise SceneUnreadableError(file, "holds the polygons of many pairs", "give the folder that it is in")
    scores = next((path for path in (file.with_suffix(".tif"), file.with_name(_SCORES)) if exists(path)), None)
    before, after = (_locate(scene.name, file.parent) for scene in (record.before, record.after))
    return ReportPair(name, before, after, scores, file)


def _locate(recorded: str | None, folder: Path) -> str | None:
    """Return the present path of a scene; the recorded name if the scene is not found."""
    if not recorded or "://" in recorded:
        return recorded
    candidates = (recorded, folder / recorded, folder / Path(recorded).name)
    return next((os.fspath(path) for path in candidates if exists(path)), recorded)
