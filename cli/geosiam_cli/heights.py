"""``geosiam heights``: heights and volumes from surface models, inside given polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output

if TYPE_CHECKING:
    from pathlib import Path


@options.command(
    "heights",
    examples=(
        "geosiam heights before_dsm.tif after_dsm.tif --polygons stockpiles.gpkg -o volumes.gpkg",
        "geosiam heights before_dsm.tif after_dsm.tif --polygons pits.gpkg -o volumes.gpkg --dz dz.tif",
        "geosiam heights dsm.tif --polygons stockpiles.gpkg -o volumes.gpkg",
        "geosiam heights before_dsm.tif after_dsm.tif -o dz.tif",
    ),
)
@options.argument("before", metavar="BEFORE_DSM")
@options.argument("after", metavar="[AFTER_DSM]", required=False)
@options.option(
    "--polygons",
    metavar="FILE",
    show_default="none",
    help="Polygons to measure (any vector file; FILE:LAYER names one of its layers), such as outlines of stockpiles.",
)
@options.output("Polygons with heights and volumes to write; without --polygons, the difference raster (.tif).")
@options.dz
@options.library_options("dsm_units")
@options.option(
    "--workers", type=int, metavar="N", show_default="one thread per core", help="Threads; results do not depend on it."
)
@options.json_output
def command(
    *,
    before: str,
    after: str | None,
    polygons: str | None,
    output_path: Path,
    dz: Path | None,
    workers: int | None,
    given_values: dict[str, Any],
) -> None:
    """Measure heights and volumes from surface models.

    BEFORE_DSM and AFTER_DSM are rasters of heights of the same place, on any grid. AFTER_DSM is brought onto
    BEFORE_DSM where the ground did not change: outside of the polygons, where it is not rough. With one surface model
    alone, volumes are those above and below a plane through the rim of each polygon. Prints the paths of the results.
    """
    from geosiam.heights.api import measure_heights
    from geosiam.heights.surfaces import HeightOptions

    settings = HeightOptions(**given_values)
    result = measure_heights(before, after, output_path, polygons=polygons, dz=dz, options=settings, workers=workers)
    output.warn(result.warnings)
    output.result([path for path in (result.polygons_path, result.dz_path) if path], as_json=result.to_dict())
    if result.polygons_path is not None:
        gain, loss = result.gain_m3, result.loss_m3
        output.note(f"{result.count} polygons, {gain:.1f} m3 gained, {loss:.1f} m3 lost")
