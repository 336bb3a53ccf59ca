"""``geosiam review``: verdicts from the page into the GeoPackages."""

from __future__ import annotations

from geosiam_cli import options, output


@options.command(
    "review",
    examples=(
        "geosiam review verdicts.json anomalies.gpkg",
        "geosiam review ~/Downloads/verdicts.json survey/",
    ),
)
@options.argument("verdicts", metavar="VERDICTS")
@options.argument("results", metavar="RESULT...", nargs=-1, required=True)
@options.json_output
def command(*, verdicts: str, results: tuple[str, ...]) -> None:
    """Write verdicts from the page into the GeoPackages.

    VERDICTS is the file that 'Export verdicts' on the page saved. RESULT is a GeoPackage that is on the page, or a
    folder of them, such as the results of a batch, whose survey.gpkg is updated too. The column 'review' is set to
    confirmed, rejected or unsure. If a GeoPackage is of another run than the one on the page, it is refused before any
    file is changed.
    """
    from geosiam.report import write_verdicts

    files = write_verdicts(verdicts, results)
    output.warn(
        f"{file.path} has no polygon {', '.join(map(str, file.missing))} any more" for file in files if file.missing
    )
    output.result([file.path for file in files], as_json=files)
    counted = [file for file in files if not file.merged] or files  # the merged file repeats the same verdicts
    output.note(f"{sum(file.written for file in counted)} verdicts in {len(files)} file(s)")
