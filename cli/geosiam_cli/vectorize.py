"""``geosiam vectorize``: polygons from a score raster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output

if TYPE_CHECKING:
    from pathlib import Path


@options.command(
    "vectorize",
    examples=(
        "geosiam vectorize scores.tif -o anomalies.gpkg",
        "geosiam vectorize scores.tif -o certain.gpkg --threshold 0.9",
        "geosiam vectorize scores.tif -o large.geojson --threshold 0.5 --min-area 20m2",
        "geosiam vectorize scores.tif -o drawn.gpkg --no-smooth --simplify 0.2m",
    ),
)
@options.argument("scores", metavar="SCORES")
@options.output(options.POLYGON_FORMATS)
@options.library_options(*options.POLYGONS)
@options.json_output
def command(*, scores: str, output_path: Path, given_values: dict[str, Any]) -> None:
    """Make polygons from a score raster, at any threshold.

    SCORES is a raster that 'geosiam detect' or 'geosiam score' wrote. Nothing is scored again, so trying another
    threshold takes seconds.
    """
    from geosiam.options import PolygonOptions
    from geosiam.pipeline import vectorize_to_file

    result = vectorize_to_file(scores, output_path, options=PolygonOptions(**given_values))
    output.warn(result.warnings)
    output.result(result.polygons_path, as_json=result.to_dict())
    output.note(f"{result.count} polygons with a score of at least {result.threshold:.3g}")
