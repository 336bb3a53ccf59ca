"""Arguments and options that several commands share.

An option of the library is passed on only if the user gave it, so each default has one home: the library. The help
states that default in words, and a test compares the two.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from geosiam.imagery.options import RADIOMETRY_MODES, REGISTER_MODES
from geosiam.network import DEFAULT_MODEL
from geosiam_cli.state import State, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Function = Callable[..., Any]
    Decorator = Callable[[Function], Function]

PATH = click.Path(path_type=Path)  # never checked here: the library refuses with the remedy and exit code 3


class _NotEmpty(click.Parameter):
    """A parameter whose values are not empty, and are text that files and messages can hold."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401 - click's signature
        """Refuse ``""``, as of a shell variable that is not set: as a path it would be the current folder."""
        for text in value if isinstance(value, tuple | list) else (value,):
            if not isinstance(text, str):
                continue
            if not text:
                raise click.BadParameter("is empty, like a variable that is not set", ctx=ctx, param=self)
            try:
                text.encode()
            except UnicodeEncodeError as error:
                fact = "is no UTF-8; rename the file or its folder"
                raise click.BadParameter(fact, ctx=ctx, param=self) from error
        return super().type_cast_value(ctx, value)


class Argument(_NotEmpty, click.Argument):
    """An argument that is not empty."""


class Option(_NotEmpty, click.Option):
    """An option whose help shows its default in words.

    Where click prints ``[default: (one thread per core); x>=1]``, this prints ``[default: one thread per core]``; the
    help text states the range of values.

    Parameters
    ----------
    also
        Further spellings, which work but do not appear in the help.
    """

    def __init__(self, declarations: Sequence[str], *, also: Sequence[str] = (), **settings: Any) -> None:  # noqa: ANN401 - click's settings
        super().__init__([*declarations, *also], **settings)
        self._also = tuple(also)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the two columns of the help."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        names = functools.reduce(lambda names, spelling: names.replace(f", {spelling}", ""), self._also, record[0])
        notes = ["required"] if self.required else []
        notes += [f"default: {self.show_default}"] if isinstance(self.show_default, str) else []
        return names, "  ".join([self.help or "", *(f"[{note}]" for note in notes)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the words that the help lists, also where the library, not click, checks the value."""
        words = [word for word in (self.metavar or "").split("|") if word.islower() and word.startswith(incomplete)]
        if "|" in (self.metavar or ""):
            return [CompletionItem(word) for word in words]
        return super().shell_complete(ctx, incomplete)


option = functools.partial(click.option, cls=Option)
argument = functools.partial(click.argument, cls=Argument)


def choice(*values: str) -> dict[str, Any]:
    """Return the settings of an option that takes one of these values."""
    return {"type": click.Choice(values), "metavar": "|".join(values)}


def bands(text: str) -> tuple[int, ...]:
    """Return ``1,2,3`` as (1, 2, 3): bands counted from 1, as GDAL does."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{text!r} is not a list of band numbers from 1, such as 4,3,2")
    return numbers


def nodata(text: str) -> float | str | tuple[float | str, ...]:
    """Return ``0`` or ``none``, or one of these for each scene: ``0,none`` as (0.0, "none")."""
    try:
        values = tuple(part if part == "none" else float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 2):
        raise click.BadParameter(f"{text!r} is neither a number nor none, nor two of them such as 0,none")
    return values[0] if len(values) == 1 else values


def threshold(text: str) -> str | float:
    """Return ``auto``, or an anomaly probability above 0, up to 1."""
    if text == "auto":
        return text
    try:
        probability = float(text)
    except ValueError:
        probability = 0.0
    if not 0 < probability <= 1:
        raise click.BadParameter(f"{text!r} is neither 'auto' nor a probability above 0, up to 1, such as 0.7")
    return probability


def command(name: str, examples: Sequence[str]) -> Callable[[Function], click.Command]:
    """Make a command of a function: its docstring is the help, which ends with the examples."""
    epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)

    def decorate(function: Function) -> click.Command:
        return click.command(name, epilog=epilog)(verbosity(function))

    return decorate


def verbosity(function: Function) -> Function:
    """Add ``-v`` and ``-q``, which may stand before the command and after it.

    As they are evaluated first, given or not, they also record which command is running.
    """

    def change(context: click.Context, param: click.Parameter, value: int) -> None:
        state = context.ensure_object(State)
        state.command = context.command
        state.verbosity += -value if param.name == "quiet" else value
        configure_logging(state)

    shared: dict[str, Any] = {"count": True, "expose_value": False, "is_eager": True, "callback": change}
    quiet = option("-q", "--quiet", help="Print only errors on stderr.", **shared)
    return option("-v", "--verbose", help="Print more on stderr; -vv prints everything.", **shared)(quiet(function))


def _remember_json(context: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    context.ensure_object(State).json = value


json_output = option(
    "--json",
    is_flag=True,
    is_eager=True,  # known before any other option is refused
    expose_value=False,
    callback=_remember_json,
    help="Print the result, or the error, as one JSON object on stdout.",
)


def _remember_progress(context: click.Context, _param: click.Parameter, value: str | None) -> None:
    context.ensure_object(State).progress_json = value == "json"


progress = option(
    "--progress",
    **choice("auto", "json"),
    expose_value=False,
    callback=_remember_progress,
    show_default="auto",
    help="How progress appears on stderr. auto: a bar if stderr is a terminal; json: one object per line, for other "
    "programs.",
)


def scenes(function: Function) -> Function:
    """Add the arguments BEFORE and AFTER."""
    after = argument("after", metavar="AFTER")
    return argument("before", metavar="BEFORE")(after(function))


def output(help_text: str, *, name: str = "output_path", metavar: str = "FILE") -> Decorator:
    """Return the required option ``-o``; the command gets its path under the name."""
    return option("-o", "--output", name, type=PATH, required=True, metavar=metavar, help=help_text)


POLYGON_FORMATS = "Polygons to write; the suffix chooses the format: .gpkg, .geojson, .fgb, .parquet or .shp."

score_raster = option(
    "--scores",
    type=PATH,
    metavar="FILE",
    show_default="beside the output, with the suffix .tif",
    help="Score raster to write (GeoTIFF).",
)

project = option(
    "--qgz",
    "project",
    type=PATH,
    metavar="FILE",
    show_default="none",
    help="QGIS project to write (.qgz), with both scenes, the scores and the polygons.",
)

displacement = option(
    "--displacement",
    type=PATH,
    metavar="FILE",
    show_default="none",
    help="Raster to write (GeoTIFF) of how far the content of AFTER lies too far right and down from place to place, "
    "in pixels and meters.",
)

dz = option(
    "--dz",
    type=PATH,
    metavar="FILE",
    show_default="none",
    help="Raster to write (GeoTIFF) of the difference of the surface models in meters, with a QGIS style beside it.",
)

LIBRARY_OPTIONS: dict[str, Decorator] = {
    "threshold": option(
        "--threshold",
        type=threshold,
        metavar="auto|P",
        show_default="auto",
        help="Minimum anomaly probability for a cell to be part of a polygon, above 0, up to 1. auto: the model's own, "
        "raised if the scenes differ almost everywhere.",
    ),
    "seed_threshold": option(
        "--seed-threshold",
        type=float,
        metavar="P",
        show_default="twice the odds of an automatic threshold, none with a given one",
        help="Each polygon needs at least one cell of this probability; --threshold then only sets how far the polygon "
        "extends.",
    ),
    "min_area": option(
        "--min-area",
        metavar="AREA",
        show_default="none",
        help="Drop smaller polygons: 1.5m2 for square meters, 20px for pixels of the before scene.",
    ),
    "connectivity": option(
        "--connectivity",
        type=int,
        metavar="4|8",
        show_default="8",
        help="8: cells that share a side or a corner belong to one polygon; 4: only cells that share a side.",
    ),
    "smooth": option(
        "--smooth/--no-smooth",
        default=None,
        show_default="smooth",
        help="Draw outlines where the score crosses the threshold between cell centers, or along cell edges.",
    ),
    "simplify": option(
        "--simplify",
        metavar="DISTANCE",
        show_default="none",
        help="Drop points that change an outline by less: 0.5m for meters, 4px for pixels of the before scene.",
    ),
    "model": option(
        "--model",
        metavar="NAME|FILE",
        show_default=DEFAULT_MODEL,
        help="Weights: survey, survey-fast, tarp or paper ('geosiam models' describes them), or a .safetensors file; "
        "or an .onnx file that 'geosiam export' wrote.",
    ),
    "engine": option(
        "--engine",
        **choice("auto", "torch", "onnx"),
        show_default="auto",
        help="What computes the network. torch: PyTorch; onnx: onnxruntime, which starts faster, but on the CPU and in "
        "fp32 only; auto: PyTorch, or onnxruntime for an .onnx file and where PyTorch is not installed.",
    ),
    "bands": option(
        "--bands",
        type=bands,
        metavar="N|N,N,N",
        show_default="by color interpretation",
        help="One band, or the red, green and blue bands of both scenes, counted from 1.",
    ),
    "after_bands": option(
        "--after-bands",
        type=bands,
        metavar="N|N,N,N",
        show_default="as --bands",
        help="The bands of AFTER, if they are others than those of BEFORE.",
    ),
    "nodata": option(
        "--nodata",
        type=nodata,
        metavar="V|BEFORE,AFTER",
        show_default="as declared, or recognized where certain",
        help="Value of pixels without data, for both scenes or for each; none: as the file declares, and nothing else.",
    ),
    "aoi": option(
        "--valid-area",
        "aoi",
        also=["--aoi"],
        metavar="FILE",
        show_default="the whole overlap",
        help="Score only inside these polygons (any vector file; FILE:LAYER names one of its layers).",
    ),
    "register": option(
        "--register",
        metavar="|".join(REGISTER_MODES),
        is_flag=False,
        flag_value="shift",  # the option had no value once
        show_default="auto",
        help="How the misregistration of the after scene is corrected, once for the whole pair. none: not at all; "
        "shift: by one shift, to a fraction of a pixel; field: by a displacement that varies over the scene; auto: by "
        "whole pixels, which changes no pixel value, or by a field if the scenes bend apart, if they fit better then.",
    ),
    "radiometry": option(
        "--radiometry",
        metavar="|".join(RADIOMETRY_MODES),
        show_default="auto",
        help="How brightness and color of the after scene are matched to the before scene, once for the whole pair. "
        "none: not at all; linear: gain and offset per channel; histogram: quantile matching; auto: linear if the "
        "scenes are correlated and gain or offset differ noticeably, else none.",
    ),
    "device": option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        show_default="auto",
        help="Where the network runs. auto: on a GPU if there is one; cuda: on all GPUs; cuda:N: on one.",
    ),
    "precision": option(
        "--precision",
        **choice("auto", "fp32", "bf16", "fp16", "int8"),
        show_default="auto",
        help="Arithmetic of the network. fp32 is the reference; bf16, fp16 (GPU) and int8 (CPU) are faster where the "
        "hardware supports them; auto: the fastest that it supports.",
    ),
    "dsm": option(
        "--dsm",
        nargs=2,
        metavar="BEFORE AFTER",
        show_default="none",
        help="Surface models of both dates, on any grid: polygons get heights and volumes.",
    ),
    "dsm_units": option(
        "--dsm-units",
        **choice("auto", "m", "ft", "us-ft"),
        show_default="auto",
        help="Unit of the heights of surface models: meters, international or US survey feet. auto: as they declare.",
    ),
    "workers": option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one thread per core",
        help="Threads that read and score; the result does not depend on it.",
    ),
    "scheduler": option(
        "--scheduler",
        metavar="ADDRESS",
        show_default="this machine",
        help="Dask scheduler whose workers read and score, such as tcp://host:8786; they must find both scenes under "
        "the same paths.",
    ),
    "restart": option(
        "--restart/--resume",
        default=None,
        show_default="resume",
        help="Start from scratch, or continue an interrupted run of the same output.",
    ),
    "on_error": option(
        "--on-error",
        **choice("stop", "skip"),
        show_default="stop",
        help="If a scene cannot be decoded: stop ends the run; skip leaves the block without scores, and the exit code "
        "is 4.",
    ),
    "score_type": option(
        "--score-type",
        **choice("uint8", "float32"),
        show_default="uint8",
        help="How scores are stored: uint8 saturates above 0.998; float32 keeps full precision and is 3 to 30 times "
        "as large.",
    ),
}
POLYGONS = ("threshold", "seed_threshold", "min_area", "connectivity", "smooth", "simplify")
COMPARISON = (
    "model", "bands", "after_bands", "nodata", "aoi", "register", "radiometry", "engine", "device", "precision",
    "workers",
)  # fmt: skip
HEIGHTS = ("dsm", "dsm_units")
EXECUTION = ("scheduler", "restart", "on_error", "score_type")


def given(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - options are of any type
    """Return the options that the user gave; click has None for the others, and () for those that may be repeated."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def library_options(*names: str, table: Mapping[str, Decorator] = LIBRARY_OPTIONS) -> Decorator:
    """Add options of the library, and pass those that the user gave to the command as one dict ``given_values``.

    Parameters
    ----------
    names
        Keys of the table, in the order of the help. They are the names of the library's fields.
    table
        The options by name.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def packed(**values: Any) -> Any:  # noqa: ANN401 - whatever the command takes and returns
            no_register = values.pop("no_register", None)
            given_values = given(**{name: values.pop(name) for name in names})
            if no_register:
                given_values["register"] = "none"
            return function(given_values=given_values, **values)

        command_function: Function = packed
        for name in reversed(names):
            command_function = table[name](command_function)
        if "register" in names:  # an option of earlier versions
            command_function = option("--no-register", is_flag=True, default=None, hidden=True)(command_function)
        return command_function

    return decorate
