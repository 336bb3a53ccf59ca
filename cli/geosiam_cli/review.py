"""``geosiam review``: verdicts from the page into the GeoPackages."""

from __future__ import annotations

import logging

import click

from geosiam_cli import options, output

_log = logging.getLogger(__name__)


@options.command(
    "review",
    examples=(
        "geosiam review verdicts.json anomalies.gpkg",
        "geosiam review ~/Downloads/verdicts.json survey/",
    ),
)
@click.argument("verdicts", metavar="VERDICTS")
@click.argument("results", metavar="RESULT...", nargs=-1, required=True)
@options.json_output
def command(*, verdicts: str, results: tuple[str, ...]) -> None:
    """Write verdicts from the page into the GeoPackages.

    VERDICTS is the file that the page's 'Export verdicts' saved, RESULT a GeoPackage that the page was made of, or a
    folder of them, such as that of a survey, whose survey.gpkg then has them too. The column 'review' becomes
    confirmed, rejected or unsure where the page says so. GeoPackages of another run than the page's are refused, before
    any is changed.
    """
    from geosiam.report import write_verdicts

    done = write_verdicts(verdicts, results)
    for each in done:
        if each.missing:
            _log.warning("%s has no polygon %s any more", each.path, ", ".join(map(str, each.missing)))
    output.result([each.path for each in done], as_json=done)
    own = [each for each in done if not each.merged] or done  # a survey's file has the same verdicts once more
    output.remark(f"{sum(each.written for each in own)} verdicts in {len(done)} file(s)")
