"""``geosiam paper``: the seed paper's experiments, made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from geosiam_cli import options, output, progress

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("all", "fig2", "fig3", "fig4", "fig5", "fig6", "position", "transfer", "resolution")


@options.command(
    "paper",
    examples=(
        "geosiam paper all --data DIR --out reproduction --quick",
        "geosiam paper fig5 --data DIR --out reproduction --seeds 3",
        "geosiam paper fig6 --data DIR --out reproduction --scene mine.tif",
    ),
)
@click.argument("names", metavar="FIGURE...", nargs=-1, required=True, type=click.Choice(NAMES))
@click.option(
    "--data",
    type=options.PATH,
    required=True,
    metavar="DIR",
    help="Folder that holds MNIST's idx files, CIFAR-10 (an archive) and scenes in folders such as aerial, naip and "
    "drone; searched at any depth.",
)
@click.option(
    "--out", type=options.PATH, required=True, metavar="DIR", help="Where report, numbers, pictures and networks go."
)
@click.option("--quick", is_flag=True, help="A smoke run of minutes, whose numbers prove nothing.")
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="N", show_default="5", help="Repetitions of whatever is random."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    show_default="fp32",
    help="Arithmetic while training; bf16 where the processor is fast at it.",
)
@click.option(
    "--scene",
    "scenes",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    show_default="those under --data",
    help="Scene to serve as a template in place of the data's own; repeat for more.",
)
@options.json_output
def command(
    *,
    names: tuple[str, ...],
    data: Path,
    out: Path,
    quick: bool,
    seeds: int | None,
    precision: str | None,
    scenes: tuple[Path, ...],
) -> None:
    """Reproduce the seed paper's figures and claims, with numbers.

    FIGURE is one or more of fig2 to fig6, the claims 'position' (invariance), 'transfer' (to new templates) and
    'resolution' (by training chip), or 'all'. Writes pictures (PNG), numbers (JSON) and REPRODUCTION.md, which shows
    side by side what the paper claims and what was measured. What is there already is not made again, and an
    interrupted training goes on where it stopped.
    """
    from geosiam.paper.api import reproduce
    from geosiam.paper.workbench import PaperOptions

    chosen = options.given(seeds=seeds, precision=precision, scenes=tuple(str(scene) for scene in scenes) or None)
    with progress.progress_report("paper", unit="steps") as report:
        written = reproduce(names, PaperOptions(data=data, out=out, quick=quick, **chosen), on_progress=report)
    output.result(written, as_json={"report": written})
