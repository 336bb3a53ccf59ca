"""What the page is about: pairs, either handed over by who ran them or found in folders of results."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.errors import OptionError, SceneNotFoundError, SceneUnreadableError
from geosiam.files import is_there
from geosiam.report.results import is_result, read_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
class LonelyScene:
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
    if not is_there(path):
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
    scores = next((path for path in (file.with_suffix(".tif"), file.with_name(_SCORES)) if is_there(path)), None)
    scenes = [_located(result.scene(which).name, file.parent) for which in ("before", "after")]
    return ReportPair(name, scenes[0], scenes[1], scores, file)


def _located(recorded: str | None, folder: Path) -> str | None:
    """Return where a scene lies now; the recorded name if it lies nowhere."""
    if not recorded or "://" in recorded:
        return recorded
    places = (recorded, folder / recorded, folder / Path(recorded).name)
    return next((os.fspath(place) for place in places if is_there(place)), recorded)


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
