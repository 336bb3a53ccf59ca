"""From two scenes to polygons: the functions of the main job, each a list of its stages."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.heights.difference import difference_of
from geosiam.heights.surfaces import open_surfaces
from geosiam.imagery.prepare import open_pair
from geosiam.options import DetectOptions, PolygonOptions
from geosiam.polygons.attributes import AttributeReader
from geosiam.polygons.formats import check_crs, check_target
from geosiam.polygons.score_stream import as_scores
from geosiam.polygons.table import polygon_table
from geosiam.provenance import origin
from geosiam.qgis.project import write_project
from geosiam.results import DetectResult, VectorizeResult, write_polygons, write_rasters
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.threshold import choose_threshold
from geosiam.scores.working_file import StoredEstimates
from geosiam.scoring import scored_pair
from geosiam.targets import Targets, refuse_overwriting

if TYPE_CHECKING:
    import os

    import geopandas
    import xarray as xr

    from geosiam.heights.difference import HeightDifference
    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair import ScenePair
    from geosiam.scores.raster import ModelScores
    from geosiam.scores.threshold import Threshold
    from geosiam.scoring import Progress, ScoredPair


def detect(
    before: SceneLike,
    after: SceneLike,
    output: str | Path,
    *,
    options: DetectOptions = DetectOptions(),
    scores: str | Path | None = None,
    project: str | Path | None = None,
    displacement: str | Path | None = None,
    dz: str | Path | None = None,
    on_progress: Progress | None = None,
) -> DetectResult:
    """Find what changed between two georeferenced scenes.

    Parameters
    ----------
    before, after
        Paths, also of folders or patterns of tiles, URLs that GDAL reads, open rasterio datasets or georeferenced
        DataArrays.
    output
        Polygons to write; the suffix chooses the format.
    options
        How the pair is compared.
    scores
        Score raster to write; None: beside `output`, same stem, ``.tif``.
    project
        QGIS project (``.qgz``) to write, which shows scenes, scores and polygons; None: no project.
    displacement
        Raster to write of how far the after scene's content lies apart, from place to place, with the bands
        :data:`~geosiam.results.DISPLACEMENT_BANDS`; None: no such raster. It needs `register` ``"auto"`` or
        ``"field"``; if the scenes cannot be matched, it is not written, and a warning says so.
    dz
        Raster to write of the difference of the surface models `options.dsm`, in meters; None: no such raster.
    on_progress
        Called with (pixels scored, total pixels).

    Raises
    ------
    InputError
        A scene, an option or an output cannot be used; existing outputs are left as they are.
    """
    dsm, read = options.dsm or (), (before, after)
    targets = Targets.check(
        output, scores, project, read, options.files, options=options, dsm=dsm, displacement=displacement, dz=dz
    )
    with contextlib.ExitStack() as stack:
        surfaces = stack.enter_context(open_surfaces(dsm, options)) if dsm else None
        estimates = StoredEstimates(targets.scores, restart=options.restart)
        pair = stack.enter_context(open_pair(before, after, options=options, estimates=estimates.get))
        check_crs(targets.polygons, pair.grid.crs)
        scoring = scored_pair(
            pair, targets.scores, options, estimates=estimates, statistics_from=options.threshold,
            on_progress=on_progress,
        )  # fmt: skip
        scored = stack.enter_context(scoring)
        threshold = choose_threshold(scored.raster, options.threshold, options.seed_threshold)
        heights = None if surfaces is None else difference_of(surfaces, scored.raster, threshold.value, options.workers)
        count = _write_scored(pair, scored, threshold, targets, options, heights=heights)
        written = write_rasters(targets, pair, heights, workers=options.workers)
    if targets.project is not None:
        write_project(
            targets.project, before=before, after=after, scores=targets.scores, polygons=targets.polygons,
            threshold=threshold.value, report=scored.provenance.pair, dz=targets.dz,
        )  # fmt: skip
    polygons = (targets.polygons, count, threshold.value, targets.project, threshold.warning)
    return DetectResult(targets.scores, scored.provenance, *polygons, **written)


def vectorize(
    scores: str | os.PathLike[str] | ModelScores | xr.DataArray, *, options: PolygonOptions = PolygonOptions()
) -> geopandas.GeoDataFrame:
    """Return the polygons of all groups of connected cells at or above a threshold.

    Parameters
    ----------
    scores
        A score raster, or its path; or a georeferenced array such as :func:`score` returns: floats, NaN = not scored.
        A lazy array is computed strip by strip, an automatic threshold computes it once more before.
    options
        What becomes a polygon and how it is drawn. An automatic threshold is the one that :func:`detect` chooses.

    Returns
    -------
    One row a polygon with the columns :data:`~geosiam.polygons.schema.COLUMNS` and MultiPolygons in the CRS of the
    scores; rows are numbered in the raster order of their last cell. Without polygons the table is empty and has the
    same columns.

    Raises
    ------
    InputError
        The scores cannot be read, are no scores, or do not record the threshold of their model.
    """
    source = as_scores(scores)
    threshold = choose_threshold(source, options.threshold, options.seed_threshold)
    tags = source.tags if isinstance(source, ScoreRaster) else {}
    return polygon_table(source, options.at(threshold.value, threshold.seed), origin(tags)).frame()


def vectorize_to_file(
    scores: str | Path, output: str | Path, *, options: PolygonOptions = PolygonOptions()
) -> VectorizeResult:
    """Write the polygons of a score raster, without scoring anything again.

    Parameters
    ----------
    scores
        A raster that :func:`score_to_file` or :func:`detect` wrote.
    output
        Polygons to write; the suffix chooses the format.
    options
        As in :func:`vectorize`.

    Raises
    ------
    InputError
        The scores or the output cannot be used.
    """
    target = Path(output)
    check_target(target)
    refuse_overwriting([target], [scores])
    raster = ScoreRaster.open(scores)
    check_crs(target, raster.grid.crs)
    threshold = choose_threshold(raster, options.threshold, options.seed_threshold)
    count = write_polygons(raster, target, options.at(threshold.value, threshold.seed))
    warnings = () if threshold.warning is None else (threshold.warning,)
    return VectorizeResult(target, count, threshold.value, warnings)


def _write_scored(
    pair: ScenePair, scored: ScoredPair, threshold: Threshold, targets: Targets, options: DetectOptions, *,
    heights: HeightDifference | None,
) -> int:  # fmt: skip
    """Write the polygons of a pair that was scored, with what they show in both scenes; return their number."""
    from geosiam.polygons.geopackage import displacement_points  # noqa: PLC0415 - as below

    shown = targets.project is not None or (pair.displacement is not None and pair.displacement.applied)
    with AttributeReader(
        pair,
        scored.raster.stride,
        threshold.value,
        colored=pair.colored,
        displacement=pair.displacement,
        workers=options.workers,
        zonal_stats=scored.zonal_stats,
    ) as reader:
        return write_polygons(
            scored.raster,
            targets.polygons,
            options.at(threshold.value, threshold.seed),
            reader=reader,
            heights=heights,
            displacement=displacement_points(pair) if shown else None,
            before_commit=scored.wait,
        )
