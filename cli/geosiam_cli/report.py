"""``geosiam report``: one page to review the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import options, output
from geosiam_cli.progress import progress_report

if TYPE_CHECKING:
    from pathlib import Path

REPORT_OPTIONS: dict[str, options.Decorator] = {
    "title": options.option(
        "--title", metavar="TEXT", show_default="the folder's name", help="Heading of the page."
    ),
    "cards": options.option(
        "--cards",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="200",
        help="Number of anomalies with pictures, for review: the strongest of each pair, then of all pairs.",
    ),
    "mapped": options.option(
        "--mapped",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="10000",
        help="Number of anomalies drawn on the map, chosen in the same way.",
    ),
    "chip_px": options.option(
        "--chip-px",
        type=click.IntRange(min=1),
        metavar="PX",
        show_default="384",
        help="Longest side of a picture, at least 64.",
    ),
    "max_mb": options.option(
        "--max-mb",
        type=float,
        metavar="MB",
        show_default="20",
        help="Maximum size of the page, at least 4; pictures are compressed more or made smaller to fit.",
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
@options.argument("results", metavar="RESULT...", nargs=-1, required=True)
@options.output("Folder for the page, index.html; created if needed.", name="folder", metavar="DIR")
@options.library_options(*REPORT_OPTIONS, table=REPORT_OPTIONS)
@options.json_output
def command(*, results: tuple[str, ...], folder: Path, given_values: dict[str, Any]) -> None:
    """Make a page to review the anomalies.

    RESULT is a GeoPackage that 'geosiam detect' wrote, or a folder of them. The page is one file for any browser and
    needs no network. It has a map, a table of the pairs, and a card for each of the strongest anomalies, with pictures
    before and after and the scores, to confirm or reject it with a key. 'geosiam review' writes the verdicts back.
    """
    from geosiam.report import ReportOptions, find_pairs, write_report

    settings = ReportOptions(**given_values)
    pairs = find_pairs(results)
    with progress_report("pictures", unit="cards") as on_progress:
        page = write_report(pairs, folder, options=settings, on_progress=on_progress)
    output.result(page.path, as_json=page)
    text = f"{page.cards} of {page.anomalies} anomalies in {page.pairs} pair(s) have a card, {page.size / 1e6:.1f} MB"
    without_picture = page.cards - page.pictures
    output.note(
        text + (f"; {without_picture} without a picture, for the reason on the card" if without_picture else "")
    )
