"""``geosiam demo``: detect the changes of a generated pair, and measure how many are found."""

from __future__ import annotations

from pathlib import Path

import click

from geosiam_cli import options, output
from geosiam_cli.progress import progress_report


@options.command(
    "demo",
    examples=(
        "geosiam demo",
        "geosiam demo survey --size 2048 --seed 7",
    ),
)
@options.argument("folder", metavar="[DIR]", type=options.PATH, default=Path("demo-output"))
@options.option(
    "--size",
    type=click.IntRange(min=256),
    metavar="PX",
    show_default="what a small machine computes in seconds",
    help="Width and height of the scenes, at least 256.",
)
@options.option(
    "--seed", type=int, metavar="N", show_default="0", help="Random seed; the same seed makes the same scenes."
)
@options.json_output
def command(*, folder: Path, size: int | None, seed: int | None) -> None:
    """Make two scenes with known changes and find them.

    Writes to DIR (default: demo-output): georeferenced scenes of one place at two dates, the second in other light and
    slightly shifted; the true changes as polygons; the score raster and the polygons of 'geosiam detect'; and a picture
    of all four. Prints the paths, and the recall and precision.
    """
    from geosiam.demo import run_demo

    values = options.given(size=size, seed=seed)
    with progress_report("scoring") as on_progress:
        result = run_demo(folder, **values, on_progress=on_progress)
    output.result(result)
