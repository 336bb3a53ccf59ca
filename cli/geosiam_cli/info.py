"""``geosiam info``: check a pair without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output

if TYPE_CHECKING:
    from pathlib import Path


@options.command(
    "info",
    examples=(
        "geosiam info before.tif after.tif",
        "geosiam info before.tif after.tif --bands 4,3,2 --json",
    ),
)
@options.scenes
@options.displacement
@options.library_options(*options.COMPARISON)
@options.json_output
def command(*, before: str, after: str, displacement: Path | None, given_values: dict[str, Any]) -> None:
    """Show what detect would do with two scenes, without doing it.

    Opens both scenes and prints their grids, the overlap, the bands, how AFTER would be resampled and its colors
    matched, how far the scenes are shifted and bend apart and what would be done about it, warnings about the pair, and
    the estimated time and memory of a run. The exit code is 3 if detect would refuse the pair.
    """
    from geosiam.inspection import inspect_pair
    from geosiam.options import ScoreOptions

    inspection = inspect_pair(before, after, options=ScoreOptions(**given_values), displacement=displacement)
    output.result(inspection.in_words(), as_json=inspection.to_dict())
