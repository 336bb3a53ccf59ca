"""``geosiam detect``: find what changed between two scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output
from geosiam_cli.progress import progress_report

if TYPE_CHECKING:
    from pathlib import Path


@options.command(
    "detect",
    examples=(
        "geosiam detect before.tif after.tif -o anomalies.gpkg",
        "geosiam detect before.tif after.tif -o anomalies.gpkg --threshold 0.8 --min-area 1.5m2",
        "geosiam detect before.tif after.tif -o anomalies.gpkg --threshold 0.5 --seed-threshold 0.9 --no-smooth",
        "geosiam detect 2009.tif 2017.tif -o changes.gpkg --bands 4,1,2 --valid-area aoi.gpkg",
        "geosiam detect before.tif after.tif -o anomalies.gpkg --register --json",
        "geosiam detect before.tif after.tif -o anomalies.gpkg --qgz anomalies.qgz",
        "geosiam detect before.tif after.tif -o a.gpkg --dsm before_dsm.tif after_dsm.tif --dz dz.tif",
        "geosiam detect https://host/before.tif https://host/after.tif -o x.gpkg --scheduler tcp://host:8786",
    ),
)
@options.scenes
@options.output(options.POLYGON_FORMATS)
@options.score_raster
@options.project
@options.displacement
@options.dz
@options.library_options(*options.POLYGONS, *options.COMPARISON, *options.HEIGHTS, *options.EXECUTION)
@options.progress
@options.json_output
def command(
    *,
    before: str,
    after: str,
    output_path: Path,
    scores: Path | None,
    project: Path | None,
    displacement: Path | None,
    dz: Path | None,
    given_values: dict[str, Any],
) -> None:
    """Find what changed between two scenes and outline it.

    BEFORE and AFTER are georeferenced rasters of the same place: files, folders or patterns of tiles ("pre/*.tif"), or
    URLs that GDAL reads. AFTER is resampled to the grid of BEFORE if its coordinate system or pixel size differs; its
    pixels may be up to ten times smaller or larger. Each cell gets the probability that the two scenes differ there.
    Connected cells above the threshold become polygons. Prints the paths of the results.

    A run that is interrupted, by Ctrl-C or a power cut, keeps the scores computed so far: the same command resumes.
    """
    from geosiam.options import DetectOptions
    from geosiam.pipeline import detect

    settings = DetectOptions(**given_values)
    with progress_report("scoring") as on_progress:
        result = detect(
            before,
            after,
            output_path,
            options=settings,
            scores=scores,
            project=project,
            displacement=displacement,
            dz=dz,
            on_progress=on_progress,
        )
    output.warn(result.warnings)
    paths = (result.polygons_path, result.scores_path, result.project_path, result.displacement_path, result.dz_path)
    output.result([path for path in paths if path is not None], as_json=result.to_dict())
    output.note(f"{result.count} polygons with a score of at least {result.threshold:.3g}")
    output.require_complete(result.scores_path, result.unreadable)
