"""``geosiam score``: the score raster alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output, progress

if TYPE_CHECKING:
    from pathlib import Path


@options.command(
    "score",
    examples=(
        "geosiam score before.tif after.tif -o scores.tif",
        "geosiam score before.tif after.tif -o scores.tif --model my-weights.safetensors --device cuda",
    ),
)
@options.scenes
@options.output("Score raster to write (GeoTIFF).")
@options.library_options(*options.COMPARISON, *options.EXECUTION)
@options.progress
@options.json_output
def command(*, before: str, after: str, output_path: Path, chosen: dict[str, Any]) -> None:
    """Score how much two scenes differ, without making polygons.

    Writes a one-band GeoTIFF of anomaly probabilities on the grid of BEFORE, one cell for every block of pixels that
    the network sees at a time. 'geosiam vectorize' makes polygons of it, as often as wanted and without the network.
    """
    from geosiam.options import ScoreOptions
    from geosiam.scoring import score_to_file

    with progress.progress_report("scoring") as on_progress:
        scored = score_to_file(before, after, output_path, options=ScoreOptions(**chosen), on_progress=on_progress)
    output.lines(scored.warnings)
    output.result(scored.scores_path, as_json=scored.to_dict())
    output.end_incomplete(scored.scores_path, scored.unreadable)
