"""``geosiam report``: one page to look through the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import options, output, progress

if TYPE_CHECKING:
    from pathlib import Path

REPORT_OPTIONS = {
    "title": click.option(
        "--title", metavar="TEXT", show_default="the folder's name", help="Heading of the page."
    ),
    "cards": click.option(
        "--cards",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="200",
        help="Anomalies to show in pictures and to judge: the strongest of each pair, then of all.",
    ),
    "mapped": click.option(
        "--mapped",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="10000",
        help="Anomalies to draw on the map, chosen likewise.",
    ),
    "chip_px": click.option(
        "--chip-px",
        type=click.IntRange(min=1),
        metavar="PX",
        show_default="384",
        help="Largest side of a picture.",
    ),
    "max_mb": click.option(
        "--max-mb",
        type=float,
        metavar="MB",
        show_default="20",
        help="How large the page may get; pictures give way.",
    ),
}  # fmt: skip


@options.command(
    "report",
    examples=(
        "geosiam report anomalies.gpkg -o report",
        "geosiam report survey/ -o survey/report --cards 500",
        'geosiam report monday.gpkg tuesday.gpkg -o week --title "Week 47"',
    ),
)
@click.argument("results", metavar="RESULT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "folder",
    type=options.PATH,
    required=True,
    metavar="DIR",
    help="Folder for the page, index.html; made if it is absent.",
)
@options.library_options(*REPORT_OPTIONS, table=REPORT_OPTIONS)
@options.json_output
def command(*, results: tuple[str, ...], folder: Path, chosen: dict[str, Any]) -> None:
    """Make a page to look through the anomalies and judge them.

    RESULT is a GeoPackage that 'geosiam detect' wrote, or a folder of them. The page is one file for any browser and
    needs no network: a map, a table of pairs, and a card with before, after and scores for each of the strongest
    anomalies, to be confirmed or rejected with a key. 'geosiam review' writes the verdicts back.
    """
    from geosiam.report import ReportOptions, find_pairs, write_report

    settings = ReportOptions(**chosen)
    pairs = find_pairs(results)
    with progress.progress_report("pictures", unit="cards") as on_progress:
        made = write_report(pairs, folder, options=settings, on_progress=on_progress)
    output.result(made.path, as_json=made)
    without = made.cards - made.pictures
    output.remark(
        f"{made.cards} of {made.anomalies} anomalies in {made.pairs} pair(s) have a card, {made.size / 1e6:.1f} MB"
        + (f"; {without} without a picture, as the card says why" if without else "")
    )
