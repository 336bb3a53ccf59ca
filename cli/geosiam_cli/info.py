"""``geosiam info``: the preflight."""

from __future__ import annotations

from typing import Any

from geosiam_cli import options, output


@options.command(
    "info",
    examples=(
        "geosiam info before.tif after.tif",
        "geosiam info before.tif after.tif --bands 4,3,2 --json",
    ),
)
@options.scenes
@options.library_options(*options.COMPARISON)
@options.json_output
def command(*, before: str, after: str, chosen: dict[str, Any]) -> None:
    """Say what detect would do with two scenes, without doing it.

    Opens both scenes and reports their grids, the overlap, the bands, how AFTER would be warped and matched, what is
    wrong with the pair, and how long and how much memory the run would take. Ends with exit code 3 if the pair would
    be refused.
    """
    from geosiam.inspection import inspect_pair
    from geosiam.options import ScoreOptions

    output.result(inspect_pair(before, after, options=ScoreOptions(**chosen)).to_dict())
