"""``geosiam paper``: the seed paper's experiments, reproduced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from geosiam_cli import options, output
from geosiam_cli.progress import progress_report

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
@options.argument("names", metavar="FIGURE...", nargs=-1, required=True, type=click.Choice(NAMES))
@options.option(
    "--data",
    type=options.PATH,
    required=True,
    metavar="DIR",
    help="Folder with MNIST's idx files, CIFAR-10 (an archive) and scenes in folders such as aerial, naip and drone; "
    "searched at any depth.",
)
@options.option(
    "--out",
    type=options.PATH,
    required=True,
    metavar="DIR",
    help="Folder for the report, numbers, pictures and trained networks.",
)
@options.option("--quick", is_flag=True, help="A smoke test of a few minutes, whose numbers mean nothing.")
@options.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="5",
    help="Number of repetitions with different random seeds.",
)
@options.option(
    "--precision",
    **options.choice("fp32", "bf16"),
    show_default="fp32",
    help="Arithmetic of the training; bf16 is faster on processors with bf16 instructions.",
)
@options.option(
    "--scene",
    "scenes",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    show_default="those under --data",
    help="Scene to use as a template instead of those in the data; repeat for more.",
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
    'resolution' (by training chip), or 'all'. Writes pictures (PNG), numbers (JSON) and REPRODUCTION.md, which puts the
    paper's claims beside our measurements. Results that already exist are kept, and an interrupted training resumes.
    """
    from geosiam.paper.api import reproduce
    from geosiam.paper.workbench import PaperOptions

    values = options.given(seeds=seeds, precision=precision, scenes=tuple(str(scene) for scene in scenes) or None)
    settings = PaperOptions(data=data, out=out, quick=quick, **values)
    with progress_report("paper", unit="steps") as on_progress:
        report = reproduce(names, settings, on_progress=on_progress)
    output.result(report, as_json={"report": report})
