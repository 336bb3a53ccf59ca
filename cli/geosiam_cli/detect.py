"""``geosiam detect``: the main job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output, progress

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
        "geosiam detect https://host/before.tif https://host/after.tif -o x.gpkg --scheduler tcp://host:8786",
    ),
)
@options.scenes
@options.output("Polygons to write; the suffix says the format (.gpkg, .geojson, .fgb, .parquet, .shp).")
@options.scores
@options.project
@options.library_options(*options.POLYGONS, *options.COMPARISON, *options.EXECUTION)
@options.progress
@options.json_output
def command(
    *, before: str, after: str, output_path: Path, scores: Path | None, project: Path | None, chosen: dict[str, Any]
) -> None:
    """Find what changed between two scenes and outline it.

    BEFORE and AFTER are georeferenced rasters of the same place: files, folders or "patterns" of tiles, or URLs that
    GDAL reads. AFTER is put on the grid of BEFORE, whatever its coordinate system; its pixels may be up to ten times
    smaller or larger. Each cell gets the probability that the two scenes
    differ there; cells from the threshold up become polygons. The paths of both results are printed.

    A run that is interrupted, by Ctrl-C or a power cut, keeps what it has scored: the same command goes on from there.
    """
    from geosiam.options import DetectOptions
    from geosiam.pipeline import detect

    with progress.progress_report("scoring") as on_progress:
        found = detect(
            before,
            after,
            output_path,
            scores=scores,
            project=project,
            options=DetectOptions(**chosen),
            on_progress=on_progress,
        )
    output.lines(found.warnings)
    paths = {"polygons": found.polygons_path, "scores": found.scores_path}
    paths |= {} if found.project_path is None else {"project": found.project_path}
    output.result(list(paths.values()), as_json=found.to_dict())
    output.remark(f"{found.count} polygons with a score of at least {found.threshold:.3g}")
    output.end_incomplete(found.scores_path, found.unreadable)
