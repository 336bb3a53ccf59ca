"""Score a pair: as a lazy array, or block by block into a raster, which resumes an interrupted run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geosiam.files import check_writable
from geosiam.imagery.grid import apply_affine
from geosiam.imagery.prepare import open_pair
from geosiam.options import ScoreOptions
from geosiam.provenance import Provenance, UnreadableBlock, identity
from geosiam.results import ScoreResult, write_displacement
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.working_file import StoredEstimates
from geosiam.scores.writer import ScoreRasterWriter
from geosiam.targets import check_displacement, refuse_overwriting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr
    from distributed import Client
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair import ScenePair
    from geosiam.inference.scorer import Scorer
    from geosiam.inference.zonal_stats import ZonalStatsStore

    Progress = Callable[[int, int], None]


def score_to_file(
    before: SceneLike,
    after: SceneLike,
    output: str | Path,
    *,
    options: ScoreOptions = ScoreOptions(),
    displacement: str | Path | None = None,
    on_progress: Progress | None = None,
) -> ScoreResult:
    """Score a pair into a raster of anomaly probabilities: in parallel, in bounded memory, resumable.

    Parameters
    ----------
    before, after, displacement, on_progress
        As in :func:`~geosiam.pipeline.detect`.
    output
        Score raster to write.
    options
        How the pair is scored.

    Raises
    ------
    InputError
        As in :func:`~geosiam.pipeline.detect`.
    """
    target = Path(output)
    check_writable(target)
    refuse_overwriting([target], [before, after], options.files)
    field = check_displacement(displacement, options, [target], [before, after], options.files)
    estimates = StoredEstimates(target, restart=options.restart)
    with (
        open_pair(before, after, options=options, estimates=estimates.get) as pair,
        scored_pair(pair, target, options, estimates=estimates, on_progress=on_progress) as scored,
    ):
        missing = None if field is None else write_displacement(field, pair, workers=options.workers)
    written = None if missing else field
    return ScoreResult(target, scored.provenance, displacement_path=written, displacement_warning=missing)


def score(before: SceneLike, after: SceneLike, *, options: ScoreOptions = ScoreOptions()) -> xr.DataArray:
    """Return the anomaly scores of a pair as a lazy, georeferenced array, which is a context manager.

    Both scenes stay open until the context ends or the array is closed.

    Parameters
    ----------
    before, after
        As in :func:`~geosiam.pipeline.detect`.
    options
        How the pair is scored; those of a run (`scheduler`, `restart`, `score_type`) do not apply.

    Returns
    -------
    scores
        float32 (y, x) on cells of ``stride x stride`` pixels of the before scene, NaN = not scored, dask-backed: a
        block is read and scored when it is computed. Coordinates are the centers of the cells; ``scores.rio`` knows
        CRS and geotransform.

    Raises
    ------
    InputError
        As in :func:`~geosiam.pipeline.detect`.
    """
    import rioxarray  # noqa: F401, PLC0415 - slow to import, and only an array needs it
    import xarray as xr  # noqa: PLC0415 - likewise

    from geosiam.inference.scorer import lazy_scores, load_scorer  # noqa: PLC0415 - slow to import

    model, scorer = load_scorer(
        options.model, engine=options.engine, device=options.device, precision=options.precision
    )
    with contextlib.ExitStack() as opened:  # closes what is open if anything fails
        opened.callback(scorer.close)
        pair = opened.enter_context(open_pair(before, after, options=options))
        cells = pair.grid.coarsened(scorer.stride)
        scores = xr.DataArray(
            lazy_scores(pair, scorer),
            dims=("y", "x"),
            coords=_cell_centers(cells),
            name="anomaly_score",
            attrs={
                "long_name": "anomaly probability",
                "stride": scorer.stride,
                "scene_px": f"{pair.grid.height} {pair.grid.width}",
                "model": model.card.name,
                "threshold": model.card.threshold,
            },
        )
        located: xr.DataArray = scores.rio.write_crs(cells.crs).rio.write_transform(cells.transform)
        located.set_close(opened.pop_all().close)
    return located


def _cell_centers(cells: Grid) -> dict[str, NDArray[np.float64]]:
    """Return the coordinates of the cells of a grid along both axes; none where these are not those of the CRS."""
    transform = cells.transform
    if transform.b or transform.d:  # not `is_rectilinear`, for which pixels of 1e-5 degrees are too small to be turned
        return {}
    x, _ = apply_affine(transform, np.arange(0.5, cells.width), np.zeros(cells.width))
    _, y = apply_affine(transform, np.zeros(cells.height), np.arange(0.5, cells.height))
    return {"x": x, "y": y}


@dataclass(frozen=True)
class ScoredPair:
    """All scores of a pair, while the score raster is still being completed in a thread.

    Parameters
    ----------
    raster
        The scores with their tags, to be read until the run's context ends.
    provenance
        Provenance of the scores.
    zonal_stats
        Zonal statistics that were collected while blocks were scored; None if they were not requested.
    wait
        Returns when the score raster has appeared under its name, or raises why it cannot.
    """

    raster: ScoreRaster
    provenance: Provenance
    zonal_stats: ZonalStatsStore | None
    wait: Callable[[], None]


@contextlib.contextmanager
def scored_pair(
    pair: ScenePair,
    output: Path,
    options: ScoreOptions,
    *,
    estimates: StoredEstimates | None = None,
    statistics_from: float | Literal["auto"] | None = None,
    on_progress: Progress | None = None,
) -> Iterator[ScoredPair]:
    """Score a pair into a raster; after an interruption inside the context, the next run resumes with all scores.

    Parameters
    ----------
    pair
        The pair of scenes.
    output
        Score raster to write. It appears when it is complete, at the end of the context at the latest.
    options
        How the pair is scored.
    estimates
        Estimates that the pair was opened with, kept for a run that resumes.
    statistics_from
        Collect per-cell statistics of the pixels of all cells with this score or more, which may become polygons;
        ``"auto"``: from the model's own threshold; None: collect none.
    on_progress
        Called with (pixels scored, total pixels).
    """
    from geosiam.inference.cluster import connected  # noqa: PLC0415 - brings asyncio: not before it is needed
    from geosiam.inference.scorer import load_scorer  # noqa: PLC0415 - slow to import: likewise
    from geosiam.inference.zonal_stats import ZonalStatistics, ZonalStatsStore  # noqa: PLC0415 - likewise

    on_cluster = options.scheduler is not None
    model, scorer = load_scorer(
        options.model,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        elsewhere=on_cluster,
    )
    provenance = Provenance.of(pair, model, scorer, options)
    cells = pair.grid.coarsened(scorer.stride)
    zonal_stats = None
    if statistics_from is not None:
        threshold = model.card.threshold if statistics_from == "auto" else statistics_from
        zonal_stats = ZonalStatsStore(ZonalStatistics(cells.shape, scorer.stride, threshold))
    writer = ScoreRasterWriter(
        output,
        cells,
        dtype=options.score_type,
        tags=provenance.tags(model, pair.grid),
        lattice=scorer.lattice(pair.grid),
        identity=identity(pair, model, scorer, options),
        restart=options.restart,
        estimates=estimates,
        workers=options.workers,
    )
    with contextlib.closing(scorer), connected(options.scheduler) as client, writer:
        unreadable = _write_scores(
            pair, scorer, writer, options=options, client=client, zonal_stats=zonal_stats, on_progress=on_progress
        )
        pair.clear_cache()
        provenance = replace(provenance, unreadable=unreadable)
        pending = writer.finish(provenance.tags(model, pair.grid))
        yield ScoredPair(ScoreRaster.open(pending.path), provenance, zonal_stats, pending.wait)


def _write_scores(
    pair: ScenePair,
    scorer: Scorer,
    writer: ScoreRasterWriter,
    *,
    options: ScoreOptions,
    client: Client | None,
    zonal_stats: ZonalStatsStore | None,
    on_progress: Progress | None,
) -> tuple[UnreadableBlock, ...]:
    """Score and write the remaining blocks; return those that cannot be read, if they may be skipped."""
    from geosiam.inference.executor import stream_scores  # noqa: PLC0415 - brings dask

    unreadable = []
    results = stream_scores(
        pair,
        scorer,
        workers=options.workers,
        client=client,
        finished=writer.finished,
        on_progress=on_progress,
        zonal_stats=zonal_stats,
    )
    with contextlib.closing(results):
        for result in results:
            if result.error is not None and options.on_error == "skip":
                unreadable.append(UnreadableBlock.of(result.block, scorer.stride, pair.grid, result.error))
            else:
                writer.write(result.block, result.scores)
    return tuple(unreadable)
