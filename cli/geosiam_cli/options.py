"""Arguments and options that several commands share.

An option of the library is handed on only if the user gave it, so each default has one home: the library. The help
states that default in words, and a test compares the two.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import state as logs
from geosiam_cli.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Function = Callable[..., Any]
    Decorator = Callable[[Function], Function]

PATH = click.Path(path_type=Path)  # never checked here: the library refuses with the remedy and exit code 3


def bands(text: str) -> tuple[int, ...]:
    """Return ``1,2,3`` as (1, 2, 3): bands counted from 1, as GDAL does."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{text!r} is no list of band numbers from 1 up, such as 4,3,2")
    return numbers


def threshold(text: str) -> str | float:
    """Return ``auto``, or an anomaly score greater than 0 and not greater than 1."""
    if text == "auto":
        return text
    try:
        score = float(text)
    except ValueError:
        score = 0.0
    if not 0 < score <= 1:
        raise click.BadParameter(f"{text!r} is neither 'auto' nor a score in (0, 1], such as 0.7")
    return score


def command(name: str, examples: Sequence[str]) -> Callable[[Function], click.Command]:
    """Make a command of a function whose docstring is the help, and whose help ends with examples."""
    epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)

    def decorate(function: Function) -> click.Command:
        return click.command(name, epilog=epilog)(verbosity(function))

    return decorate


def verbosity(function: Function) -> Function:
    """Add ``-v`` and ``-q``, which may stand before the command and after it."""

    def change(context: click.Context, param: click.Parameter, value: int) -> None:
        state = context.ensure_object(State)
        state.verbosity += -value if param.name == "quiet" else value
        logs.configure(state.verbosity)

    shared: dict[str, Any] = {"count": True, "expose_value": False, "is_eager": True, "callback": change}
    quiet = click.option("-q", "--quiet", help="Say nothing on stderr but errors.", **shared)
    return click.option("-v", "--verbose", help="Say more on stderr; -vv says all.", **shared)(quiet(function))


def _remember_json(context: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    context.ensure_object(State).json = value


json_output = click.option(
    "--json",
    is_flag=True,
    is_eager=True,  # known before any other option is refused
    expose_value=False,
    callback=_remember_json,
    help="Print the result, or the error, as one JSON object on stdout.",
)


def _remember_progress(context: click.Context, _param: click.Parameter, value: str) -> None:
    context.ensure_object(State).progress_json = value == "json"


progress = click.option(
    "--progress",
    type=click.Choice(["auto", "json"]),
    default="auto",
    show_default="a bar where stderr is a terminal",
    expose_value=False,
    callback=_remember_progress,
    help="How progress is shown on stderr; json gives another program an object a line.",
)


def scenes(function: Function) -> Function:
    """Add the two scenes. They are text, not paths: whatever GDAL reads is fine, URLs too."""
    after = click.argument("after", metavar="AFTER")
    return click.argument("before", metavar="BEFORE")(after(function))


def output(help_text: str) -> Decorator:
    """Add ``-o``, which no command guesses."""
    return click.option("-o", "--output", "output_path", type=PATH, required=True, metavar="FILE", help=help_text)


scores = click.option(
    "--scores",
    type=PATH,
    metavar="FILE",
    show_default="beside the output, as .tif",
    help="Where the score raster goes.",
)

project = click.option(
    "--qgz",
    "project",
    type=PATH,
    metavar="FILE",
    show_default="none",
    help="QGIS project to write (.qgz), which shows both scenes, the scores and the polygons.",
)

LIBRARY_OPTIONS: dict[str, Decorator] = {
    "model": click.option(
        "--model",
        metavar="NAME|FILE",
        show_default="survey",
        help="Weights to score with: a name that 'geosiam models' lists, or a safetensors file.",
    ),
    "threshold": click.option(
        "--threshold",
        type=threshold,
        metavar="auto|P",
        show_default="auto",
        help="Score from which a cell belongs to a polygon; auto: the model's own, or higher where all differs.",
    ),
    "min_area": click.option(
        "--min-area",
        metavar="AREA",
        show_default="none",
        help="Leave out polygons smaller than this, in square metres or pixels: 1.5m2, 20px.",
    ),
    "seed_threshold": click.option(
        "--seed-threshold",
        type=float,
        metavar="P",
        show_default="chosen with an automatic threshold",
        help="Each polygon needs at least one cell of this score; --threshold then only says how far it reaches.",
    ),
    "connectivity": click.option(
        "--connectivity",
        type=int,
        metavar="4|8",
        show_default="8",
        help="Cells that share a corner belong to one polygon (8), or only those that share a side (4).",
    ),
    "smooth": click.option(
        "--smooth/--no-smooth",
        default=None,
        show_default="smooth",
        help="Draw outlines between cells, where the score crosses the threshold, or along the sides of cells.",
    ),
    "simplify": click.option(
        "--simplify",
        metavar="DISTANCE",
        show_default="none",
        help="Leave out points that change outlines by less than this, in metres or pixels: 0.5m, 4px.",
    ),
    "bands": click.option(
        "--bands",
        type=bands,
        metavar="N,N,N",
        show_default="by color interpretation",
        help="Bands of both scenes that stand for red, green and blue, counted from 1.",
    ),
    "aoi": click.option(
        "--valid-area",
        "--aoi",
        "aoi",
        metavar="FILE",
        show_default="the whole overlap",
        help="Polygons (any vector file) to stay inside of.",
    ),
    "register": click.option(
        "--register/--no-register",
        default=None,
        show_default="by whole pixels",
        help="Estimate the shift between the scenes and correct it, to a fraction of a pixel or not at all.",
    ),
    "radiometry": click.option(
        "--radiometry",
        metavar="auto|none|...",
        show_default="auto",
        help="How the brightness and color of AFTER are matched to BEFORE, once for the whole pair.",
    ),
    "device": click.option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        show_default="auto",
        help="Where the network runs; auto takes a GPU where there is one.",
    ),
    "precision": click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
        show_default="auto",
        help="Arithmetic of the network; fp32 is the reference, the others are faster.",
    ),
    "workers": click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one a core",
        help="Threads that read and score; the result does not depend on it.",
    ),
    "scheduler": click.option(
        "--scheduler",
        metavar="ADDRESS",
        show_default="none, this machine does the work",
        help="Dask scheduler whose workers read and score, such as tcp://host:8786; they must find both scenes.",
    ),
    "restart": click.option(
        "--restart/--resume",
        default=None,
        show_default="resume",
        help="Begin again, or go on where an interrupted run of the same output stopped.",
    ),
    "on_error": click.option(
        "--on-error",
        type=click.Choice(["stop", "skip"]),
        show_default="stop",
        help="What to do where a scene cannot be decoded; skip leaves nodata there, and the exit code is 4.",
    ),
    "score_type": click.option(
        "--score-type",
        type=click.Choice(["uint8", "float32"]),
        show_default="uint8",
        help="How scores are stored; float32 tells the strongest apart where much has changed, and is far larger.",
    ),
}
POLYGONS = ("threshold", "seed_threshold", "min_area", "connectivity", "smooth", "simplify")
EXECUTION = ("scheduler", "restart", "on_error", "score_type")
COMPARISON = ("model", "bands", "aoi", "register", "radiometry", "device", "precision", "workers")


def given(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - options are of any type
    """Return the options the user gave; click has None for the others, and () where they may be repeated."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def library_options(*names: str, table: Mapping[str, Decorator] = LIBRARY_OPTIONS) -> Decorator:
    """Add options of the library and hand on those the user gave, as one dict ``chosen``.

    Parameters
    ----------
    names
        Keys of the table, in the order in which the help shows them. They are the library's own names.
    table
        The options by name.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def packed(**values: Any) -> Any:  # noqa: ANN401 - whatever the command takes and returns
            chosen = given(**{name: values.pop(name) for name in names})
            return function(chosen=chosen, **values)

        command_function: Function = packed
        for name in reversed(names):
            command_function = table[name](command_function)
        return command_function

    return decorate
