"""Name and check the files that a run writes, before any work is done."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from glob import has_magic
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Self

from geosiam.errors import OptionError, OutputError, SceneNotFoundError
from geosiam.files import check_writable, companions, exists, is_folder
from geosiam.imagery.mosaic import TILE_SUFFIXES, find_tiles
from geosiam.imagery.open_scene import files_of
from geosiam.imagery.options import PairOptions
from geosiam.polygons.formats import check_target
from geosiam.qgis.layers import virtual_name
from geosiam.qgis.project import SUFFIX as PROJECT_SUFFIX
from geosiam.qgis.project import check_project

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from geosiam.imagery.open_scene import SceneLike

_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_OGR_SOURCE = re.compile(rb"<SrcDataSource[^>]*>([^<]+)<")
_OGR_VRT_BYTES = 2**20  # of a virtual vector file that are searched for its sources


@dataclass(frozen=True)
class Targets:
    """The files that `detect` writes.

    Parameters
    ----------
    polygons
        The polygons.
    scores
        The score raster.
    project
        The QGIS project; None: no project.
    displacement
        The raster of the displacement; None: no such raster.
    dz
        The raster of the difference of heights; None: no such raster.
    """

    polygons: Path
    scores: Path
    project: Path | None
    displacement: Path | None = None
    dz: Path | None = None

    @classmethod
    def check(
        cls,
        polygons: str | Path,
        scores: str | Path | None,
        project: str | Path | None,
        inputs: Sequence[SceneLike],
        files: Iterable[str | os.PathLike[str]] = (),
        *,
        options: PairOptions = PairOptions(),
        dsm: Sequence[SceneLike] = (),
        displacement: str | Path | None = None,
        dz: str | Path | None = None,
    ) -> Self:
        """Check the files and return them; by default the score raster is beside the polygons.

        Parameters
        ----------
        polygons, scores, project
            As the user named them.
        inputs
            The scenes.
        files
            Other files that the run reads.
        options
            How the scenes are read.
        dsm
            The surface models.
        displacement, dz
            The rasters of the displacement and of the difference of heights; None: not requested.

        Raises
        ------
        OptionError
            A suffix names no format, or an option excludes a file.
        OutputError
            A file cannot be written, is an input, or two of them are the same.
        """
        check_target(polygons)
        raster = Path(polygons).with_suffix(".tif") if scores is None else Path(scores)
        check_writable(raster)
        if project is not None:
            check_project(project)
        if dz is not None:
            if not dsm:
                raise OptionError(dz, "is the difference of two surface models, and none are given", "name them: `dsm`")
            check_writable(dz)
        named = {"polygons": polygons, "scores": raster, "project": project, "difference of heights": dz}
        outputs = {role: Path(path) for role, path in named.items() if path is not None}
        refuse_same(outputs)
        read, files = [*inputs, *dsm], list(files)
        refuse_overwriting(outputs.values(), read, files)
        field = check_displacement(displacement, options, list(outputs.values()), read, files)
        paths = (None if path is None else Path(path) for path in (project, field, dz))
        return cls(Path(polygons), raster, *paths)


def check_displacement(
    displacement: str | Path | None,
    options: PairOptions,
    outputs: Sequence[Path],
    inputs: Sequence[SceneLike],
    files: Iterable[str | os.PathLike[str]],
) -> Path | None:
    """Check the raster of the displacement before any work is done, and return its path; None: none is requested.

    Raises
    ------
    OptionError
        The displacement is not estimated at all.
    OutputError
        A folder does not exist, a name is too long, or the file is an input or another output.
    """
    if displacement is None:
        return None
    if options.register not in ("auto", "field"):
        remedy = "use `register=auto` or `register=field`, or leave `displacement` out"
        raise OptionError(
            displacement, f"cannot be written, because `register={options.register}` estimates none", remedy
        )
    check_writable(displacement)
    others = {f"result {number}": output for number, output in enumerate(outputs, 1)}
    refuse_same(others | {"displacement": Path(displacement)})
    refuse_overwriting([displacement], inputs, files)
    return Path(displacement)


def refuse_overwriting(
    targets: Iterable[str | Path], scenes: Iterable[SceneLike] = (), files: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Refuse to write over what is read: `-o after.gpkg` would otherwise put the scores where after.tif lies.

    Parameters
    ----------
    targets
        Files to write.
    scenes
        Scenes that are read; all their files count, see :func:`~geosiam.imagery.open_scene.files_of`.
    files
        Other files that are read, or names of something else, such as bundled weights; a shapefile's parts count, and
        so do the sources of a virtual vector file.

    Raises
    ------
    OutputError
        A target, or a file that is written beside it, is a file of an input.
    """
    outputs, scenes = [Path(target) for target in targets], list(scenes)
    _refuse_new_tiles(outputs, scenes)
    written = {_identity(file): target for target in outputs for file in _written(target) if exists(file)}
    if not written:
        return
    folders = {target.resolve().parent for target in outputs}
    read: list[Path] = []
    for scene in scenes:
        with contextlib.suppress(SceneNotFoundError):  # which the run itself reports
            read += files_of(scene, folders)
    read += [part for name in files for part in _parts(name)]
    for file in read:
        if exists(file) and (target := written.get(_identity(file))) is not None:
            fact = "is an input too and would be overwritten"
            if not exists(target) or not target.samefile(file):
                fact = f"is written with {file}, which is read and would be overwritten"
            raise OutputError(target, fact, "choose another output")


def _refuse_new_tiles(targets: Iterable[Path], scenes: Iterable[SceneLike]) -> None:
    """Refuse a raster in the folder or pattern of a scene of tiles: the next run would take it for a tile."""
    new = [target.absolute() for target in targets if target.suffix.lower() in TILE_SUFFIXES and not exists(target)]
    by_folder = {target.resolve().parent: target for target in new}
    for scene in scenes if new else ():
        if not isinstance(scene, str | os.PathLike):
            continue
        name, tile = os.fspath(scene), None
        if is_folder(name):
            tile = by_folder.get(Path(name).resolve())
            if tile is not None and find_tiles(name) is None:  # GDAL opens this folder as one raster
                tile = None
        elif has_magic(name) and not exists(name):
            tile = next((target for target in new if target.match(os.path.abspath(name))), None)  # noqa: PTH100
        if tile is not None:
            raise OutputError(tile, f"would be a tile of {name}", "choose an output in another folder")


def refuse_same(outputs: Mapping[str, Path]) -> None:
    """Refuse outputs, by their role, of which two are one file.

    Raises
    ------
    OutputError
        Two of them are the same.
    """
    for (role, output), (other_role, other) in combinations(outputs.items(), 2):
        if output.resolve() == other.resolve() or (exists(output) and exists(other) and output.samefile(other)):
            fact = f"cannot hold both the {role} and the {other_role}"
            raise OutputError(output, fact, "choose another file for one")


def _written(target: Path) -> Iterator[Path]:
    """Yield a file to write, and those that are written or removed with it."""
    yield target
    yield from companions(target)
    if target.suffix.lower() == ".shp":
        yield from map(target.with_suffix, _SHAPEFILE)
    if target.suffix.lower() == PROJECT_SUFFIX:
        yield from (target.with_name(virtual_name(target, date)) for date in ("before", "after"))


def _parts(name: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a file that is read, and those that are read with it; a layer of it may be named after a colon."""
    text = os.fspath(name)
    text = text if exists(text) else text.rpartition(":")[0]
    if not text or not exists(text):
        return
    file = Path(text)
    yield file
    yield from companions(file)
    if file.suffix.lower() in _SHAPEFILE:
        yield from map(file.with_suffix, _SHAPEFILE)
    if file.is_dir():
        yield from (part for part in file.iterdir() if part.is_file())
    elif file.is_file():
        with file.open("rb") as opened:
            start = opened.read(_OGR_VRT_BYTES)
        if start.lstrip().startswith(b"<OGRVRT"):
            for source in _OGR_SOURCE.findall(start):
                name = Path(source.decode(errors="surrogateescape"))
                yield from (name, file.parent / name)


def _identity(file: Path) -> tuple[int, int]:
    """Return what two names of one file share, hard links included."""
    status = file.stat()
    return status.st_dev, status.st_ino
