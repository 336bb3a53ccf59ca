"""``geosiam score``: the score raster alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output
from geosiam_cli.progress import progress_report

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
@options.displacement
@options.library_options(*options.COMPARISON, *options.EXECUTION)
@options.progress
@options.json_output
def command(
    *, before: str, after: str, output_path: Path, displacement: Path | None, given_values: dict[str, Any]
) -> None:
    """Compute the score raster alone.

    Writes a GeoTIFF with one band of anomaly probabilities, aligned to the grid of BEFORE. A cell covers 2 x 2 or more
    pixels, depending on the weights ('geosiam models'). 'geosiam vectorize' makes polygons from it, at any threshold
    and without the network.
    """
    from geosiam.options import ScoreOptions
    from geosiam.scoring import score_to_file

    settings = ScoreOptions(**given_values)
    with progress_report("scoring") as on_progress:
        result = score_to_file(
            before, after, output_path, options=settings, displacement=displacement, on_progress=on_progress
        )
    output.warn(result.warnings)
    paths = [path for path in (result.scores_path, result.displacement_path) if path is not None]
    output.result(paths, as_json=result.to_dict())
    output.require_complete(result.scores_path, result.unreadable)
