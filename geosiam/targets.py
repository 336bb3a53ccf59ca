"""Name and check the files that a run writes, before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from geosiam.errors import OptionError, OutputError
from geosiam.files import check_writable, exists
from geosiam.imagery.open_scene import files_of
from geosiam.polygons.formats import check_target
from geosiam.qgis.project import check_project

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.options import PairOptions


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
    """

    polygons: Path
    scores: Path
    project: Path | None

    @classmethod
    def check(
        cls, polygons: str | Path, scores: str | Path | None, project: str | Path | None, inputs: Sequence[SceneLike]
    ) -> Self:
        """Check the files and return them; by default the score raster is beside the polygons.

        Raises
        ------
        OptionError
            A suffix names no format.
        OutputError
            A folder does not exist, a name is too long, a file is an input, or two files are the same.
        """
        check_target(polygons)
        refuse_overwriting_inputs(polygons, *inputs)
        raster = Path(polygons).with_suffix(".tif") if scores is None else Path(scores)
        check_writable(raster)
        if project is not None:
            check_project(project)
        refuse_overwriting_inputs(raster, *inputs)
        if Path(polygons).resolve() == raster.resolve():
            raise OutputError(raster, "cannot hold both the polygons and the scores", "choose another file for one")
        return cls(Path(polygons), raster, None if project is None else Path(project))


def check_displacement(
    displacement: str | Path | None, options: PairOptions, outputs: Sequence[Path], inputs: Sequence[SceneLike]
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
    refuse_overwriting_inputs(displacement, *inputs)
    if Path(displacement).resolve() in [output.resolve() for output in outputs]:
        raise OutputError(displacement, "is another output too", "choose another file for the displacement")
    return Path(displacement)


def refuse_overwriting_inputs(target: str | Path, *inputs: SceneLike) -> None:
    """Refuse to write over what is read: `-o after.gpkg` would otherwise put the scores where after.tif lies.

    Raises
    ------
    OutputError
        The target is a file of an input.
    """
    if not exists(target):
        return
    for name in (name for scene in inputs for name in files_of(scene)):
        if exists(name) and Path(target).samefile(name):
            raise OutputError(target, "is an input too and would be overwritten", "choose another output")
