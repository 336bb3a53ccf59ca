"""``geosiam demo``: a pair with known changes, and what the tool finds in it."""

from __future__ import annotations

from pathlib import Path

import click

from geosiam_cli import options, output, progress


@options.command(
    "demo",
    examples=(
        "geosiam demo",
        "geosiam demo survey --size 2048 --seed 7",
    ),
)
@click.argument("folder", metavar="[DIR]", type=options.PATH, default=Path("demo-output"))
@click.option(
    "--size",
    type=click.IntRange(min=256),
    metavar="PX",
    show_default="what a small machine does in seconds",
    help="Width and height of the scenes.",
)
@click.option("--seed", type=int, metavar="N", show_default="0", help="The same seed makes the same scenes.")
@options.json_output
def command(*, folder: Path, size: int | None, seed: int | None) -> None:
    """Make two scenes with known changes and find them.

    Writes into DIR (default: demo-output) a georeferenced survey at two dates, with other light and a slight shift on
    the second one; the truth as polygons; the score raster and the polygons of 'geosiam detect'; and a picture of all
    four. Prints the files, and recall and precision against the truth.
    """
    from geosiam.demo import run_demo

    chosen = options.given(size=size, seed=seed)
    with progress.progress_report("scoring") as on_progress:
        done = run_demo(folder, **chosen, on_progress=on_progress)
    output.result(done)
