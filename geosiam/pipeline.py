"""The whole way from two scenes to polygons; the only module that knows all rooms."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geosiam.errors import OptionError, OutputError
from geosiam.files import check_writable, exists
from geosiam.imagery.grid import apply_affine
from geosiam.imagery.pair import open_pair
from geosiam.imagery.scene import files_of
from geosiam.inference.zonal_stats import ZonalStatistics, ZonalStatsStore
from geosiam.options import DetectOptions
from geosiam.polygons.attributes import AttributeReader
from geosiam.polygons.formats import check_target
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_pieces, vectorize
from geosiam.provenance import identity, origin, provenance, raster_tags
from geosiam.qgis.project import check_project, write_project
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.threshold import threshold_of_pair
from geosiam.scores.writer import ScoreRasterWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    import xarray

    from geosiam.errors import SceneUnreadableError
    from geosiam.imagery.grid import Block, Grid
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.scene import SceneLike
    from geosiam.inference.scorer import Scorer
    from geosiam.network.weights import Model
    from geosiam.scores.writer import PendingScoreRaster

    Progress = Callable[[int, int], None]

__all__ = [
    "DetectOptions",
    "DetectResult",
    "ScoreResult",
    "UnreadableBlock",
    "VectorizeResult",
    "detect",
    "score",
    "score_to_file",
    "vectorize",
    "vectorize_to_file",
]


@dataclass(frozen=True)
class UnreadableBlock:
    """A block that was left without scores because a scene cannot be decoded there.

    Parameters
    ----------
    rows, cols
        Its pixels of the before-scene, half-open.
    reason
        What the reader said.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    reason: str


@dataclass(frozen=True)
class _Chosen:
    """The thresholds of polygons, and what the user should know of them."""

    threshold: float
    seed: float | None
    remark: str | None = None


@dataclass(frozen=True)
class ScoreResult:
    """What `score_to_file` left behind.

    Parameters
    ----------
    scores_path
        The score raster.
    summary
        Facts about the pair and the run, as JSON can hold them; ``warnings`` is what the user should know.
    holes
        Where a scene cannot be decoded and nothing was scored; none unless the options say to skip such blocks.
    """

    scores_path: Path
    summary: dict[str, Any] = field(repr=False)
    holes: tuple[UnreadableBlock, ...] = ()


@dataclass(frozen=True)
class VectorizeResult:
    """What `vectorize_to_file` left behind: the polygons, their number and the probability they were cut at."""

    polygons_path: Path
    count: int
    threshold: float


@dataclass(frozen=True)
class DetectResult:
    """What `detect` left behind.

    Parameters
    ----------
    polygons_path, scores_path
        The polygons and the score raster.
    count
        Number of polygons.
    threshold
        Anomaly probability they were cut at.
    summary
        Facts about the pair and the run, as JSON can hold them; ``warnings`` is what the user should know.
    holes
        Where a scene cannot be decoded and nothing was scored; none unless the options say to skip such blocks.
    project_path
        The QGIS project; None unless it was asked for.
    """

    polygons_path: Path
    scores_path: Path
    count: int
    threshold: float
    summary: dict[str, Any] = field(repr=False)
    holes: tuple[UnreadableBlock, ...] = ()
    project_path: Path | None = None


def detect(
    before: SceneLike,
    after: SceneLike,
    output: str | Path,
    *,
    scores: str | Path | None = None,
    project: str | Path | None = None,
    options: DetectOptions = DetectOptions(),
    on_progress: Progress | None = None,
) -> DetectResult:
    """Find what changed between two georeferenced scenes.

    Parameters
    ----------
    before, after
        Paths, also of folders or patterns of tiles, URLs that GDAL reads, open rasterio datasets or georeferenced
        DataArrays.
    output
        Target of the polygons; the suffix chooses the format.
    scores
        Target of the score raster; None: beside ``output``, same stem, ``.tif``.
    project
        Target of a QGIS project (``.qgz``) that shows scenes, scores and polygons; None: there is none.
    options
        See :class:`DetectOptions`.
    on_progress
        Called with (pixels scored, pixels in all).

    Raises
    ------
    InputError
        Something that was given cannot be used; existing outputs are left as they are.
    """
    check_target(output)
    _refuse_overwriting_inputs(output, before, after)
    raster = Path(scores) if scores is not None else Path(output).with_suffix(".tif")
    check_writable(raster)
    if project is not None:
        check_project(project)
    with _scored(before, after, raster, options, on_progress, sighting=True) as scoring:
        pair, scored, scores_made = scoring.pair, scoring.result, ScoreRaster.open(scoring.pending.path)
        chosen = _threshold(scores_made, options.threshold, options.seed_threshold)
        with AttributeReader(
            pair,
            scores_made.stride,
            chosen.threshold,
            colored=pair.colored,
            workers=options.workers,
            zonal_stats=scoring.zonal_stats,
        ) as reader:
            wanted = options.at(chosen.threshold, chosen.seed)
            cut = _cut(scores_made, output, wanted, reader, last=scoring.pending.wait)
        if project is not None:
            write_project(
                project,
                before=before,
                after=after,
                scores=raster,
                polygons=cut.polygons_path,
                threshold=cut.threshold,
                report=scored.summary["pair"],
            )
    made = None if project is None else Path(project)
    remarks = [chosen.remark] if chosen.remark else []
    summary = {**scored.summary, "warnings": [*scored.summary["warnings"], *remarks]}
    return DetectResult(cut.polygons_path, raster, cut.count, cut.threshold, summary, scored.holes, made)


def score_to_file(
    before: SceneLike,
    after: SceneLike,
    output: str | Path,
    *,
    options: DetectOptions = DetectOptions(),
    on_progress: Progress | None = None,
) -> ScoreResult:
    """Score a pair into a raster of anomaly probabilities; see :func:`detect`."""
    with _scored(before, after, output, options, on_progress) as scoring:
        return scoring.result


@dataclass(frozen=True)
class _Scoring:
    """Scores that are all there, while their raster is still being made, and the scenes are open."""

    result: ScoreResult
    pair: ScenePair
    pending: PendingScoreRaster
    zonal_stats: ZonalStatsStore | None


@contextlib.contextmanager
def _scored(
    before: SceneLike,
    after: SceneLike,
    output: str | Path,
    options: DetectOptions,
    on_progress: Progress | None,
    *,
    sighting: bool = False,
) -> Iterator[_Scoring]:
    """Make the score raster; until this is left, an interruption costs none of it.

    With `sighting`, what the pixels of likely polygons show is noted on the way.
    """
    _refuse_overwriting_inputs(output, before, after)
    holes: list[UnreadableBlock] = []
    with open_pair(before, after, options) as pair:
        from geosiam.inference.cluster import connected  # noqa: PLC0415 - brings asyncio: not before it is needed
        from geosiam.inference.executor import stream_scores  # noqa: PLC0415 - brings PyTorch: likewise

        model, scorer = _ready(options)
        record = provenance(pair, model, scorer, options)
        raster = ScoreRasterWriter(
            output,
            pair.grid.coarsened(scorer.stride),
            dtype=options.score_type,
            tags=raster_tags(pair, model, record),
            lattice=scorer.lattice(pair.grid),
            identity=identity(pair, model, scorer, options),
            restart=options.restart,
            workers=options.workers,
        )
        zonal_stats = None
        if sighting:
            least = model.card.threshold if options.threshold == "auto" else options.threshold
            zonal_stats = ZonalStatsStore(
                ZonalStatistics(pair.grid.coarsened(scorer.stride).shape, scorer.stride, least)
            )
        with (
            contextlib.closing(scorer),
            connected(options.scheduler) as client,
            raster,
        ):
            stream = stream_scores(
                pair,
                scorer,
                workers=options.workers,
                client=client,
                finished=raster.finished,
                on_progress=on_progress,
                zonal_stats=zonal_stats,
            )
            with contextlib.closing(stream):
                for result in stream:
                    if result.error is not None and options.on_error == "skip":
                        holes.append(_hole(result.block, scorer.stride, pair.grid, result.error))
                    else:
                        raster.write(result.block, result.scores)
            pair.clear_cache()
            record["holes"] = [asdict(hole) for hole in holes]
            pending = raster.finish(raster_tags(pair, model, record))
            yield _Scoring(ScoreResult(Path(output), record, tuple(holes)), pair, pending, zonal_stats)


def _ready(options: DetectOptions) -> tuple[Model, Scorer]:
    """Return the model and what scores with it; on a cluster it is the workers that have the device."""
    from geosiam.inference.scorer import load_scorer  # noqa: PLC0415 - brings PyTorch

    elsewhere = options.scheduler is not None
    return load_scorer(options.model, device=options.device, precision=options.precision, elsewhere=elsewhere)


def _hole(block: Block, stride: int, grid: Grid, error: SceneUnreadableError) -> UnreadableBlock:
    c, (height, width) = block.cells, grid.shape
    rows = c.row_start * stride, min(c.row_stop * stride, height)
    cols = c.col_start * stride, min(c.col_stop * stride, width)
    return UnreadableBlock(rows, cols, str(error))


def vectorize_to_file(
    scores: str | Path,
    output: str | Path,
    *,
    threshold: float | Literal["auto"] = "auto",
    seed_threshold: float | None = None,
    min_area: str | None = None,
    connectivity: int = PolygonOptions.connectivity,
    smooth: bool = PolygonOptions.smooth,
    simplify: str | None = None,
) -> VectorizeResult:
    """Cut polygons out of a score raster, without scoring anything again.

    Parameters
    ----------
    scores
        A raster that :func:`score_to_file` or :func:`detect` wrote.
    output
        Target of the polygons; the suffix chooses the format.
    threshold, seed_threshold, min_area, connectivity, smooth, simplify
        As in :class:`DetectOptions`; a threshold of ``"auto"`` is that of :func:`threshold_of_pair`, as in
        :func:`detect`.
    """
    check_target(output)
    _refuse_overwriting_inputs(output, scores)
    raster = ScoreRaster.open(scores)
    chosen = _threshold(raster, threshold, seed_threshold)
    options = PolygonOptions(
        threshold=chosen.threshold,
        seed_threshold=chosen.seed,
        min_area=min_area,
        connectivity=connectivity,
        smooth=smooth,
        simplify=simplify,
    )
    return _cut(raster, output, options)


def _cut(
    raster: ScoreRaster,
    output: str | Path,
    options: PolygonOptions,
    reader: AttributeReader | None = None,
    last: Callable[[], None] = lambda: None,
) -> VectorizeResult:
    """Make polygons of a score raster; a reader, where the scenes are at hand, determines what their pixels show.

    `last` is called when all of them are made: if it raises, the file does not appear.
    """
    from geosiam.polygons.writer import write_polygons  # noqa: PLC0415 - brings pandas, which `score` does without

    record = json.loads(raster.tags.get("GEOSIAM_PROVENANCE", "{}"))
    made = polygon_pieces(raster, options, origin(record, raster.tags), reader)
    pieces = replace(made, tables=_then(made.tables, last))
    count = write_polygons(pieces, output, provenance={**record, **asdict(options)})
    assert options.threshold != "auto"
    return VectorizeResult(Path(output), count, options.threshold)


def _then(pieces: Iterator[pa.Table], last: Callable[[], None]) -> Iterator[pa.Table]:
    yield from pieces
    last()


def score(
    before: SceneLike,
    after: SceneLike,
    *,
    options: DetectOptions = DetectOptions(),
) -> xarray.DataArray:
    """Return the anomaly scores of a pair as a lazy, georeferenced array.

    Returns
    -------
    scores
        float32 (y, x) on cells of ``stride x stride`` pixels of the before-scene, NaN = not scored, dask-backed: a
        block is read and scored when it is computed. Coordinates are the centers of the cells; ``scores.rio`` knows
        CRS and geotransform.
    """
    import rioxarray  # noqa: F401, PLC0415 - slow to import, and only an array needs it
    import xarray  # noqa: PLC0415 - likewise

    from geosiam.inference.scorer import lazy_scores, load_scorer  # noqa: PLC0415 - brings PyTorch

    model, scorer = load_scorer(options.model, device=options.device, precision=options.precision)
    pair = open_pair(before, after, options)  # its handles close when the array is garbage
    cells = pair.grid.coarsened(scorer.stride)
    scene_px = f"{pair.grid.height} {pair.grid.width}"
    scores = xarray.DataArray(
        lazy_scores(pair, scorer),
        dims=("y", "x"),
        name="anomaly_score",
        attrs={
            "long_name": "anomaly probability",
            "stride": scorer.stride,
            "scene_px": scene_px,
            "model": model.card.name,
        },
    )
    transform = cells.transform
    if transform.is_rectilinear:
        x, _ = apply_affine(transform, np.arange(0.5, cells.width), np.zeros(cells.width))
        _, y = apply_affine(transform, np.zeros(cells.height), np.arange(0.5, cells.height))
        scores = scores.assign_coords(x=x, y=y)
    return scores.rio.write_crs(cells.crs).rio.write_transform(transform)  # type: ignore[no-any-return]


def _refuse_overwriting_inputs(target: str | Path, *inputs: SceneLike) -> None:
    """Refuse to write over what is read: `-o after.gpkg` would otherwise put the scores where after.tif lies."""
    if not exists(target):
        return
    for name in (name for scene in inputs for name in files_of(scene)):
        if exists(name) and Path(target).samefile(name):
            raise OutputError(target, "is an input too and would be overwritten", "choose another output")


def _threshold(raster: ScoreRaster, asked: float | Literal["auto"], seed: float | None) -> _Chosen:
    """Choose what was left to us: with an automatic threshold goes a seed, where none was asked for."""
    if asked != "auto":
        return _Chosen(asked, seed)
    found = threshold_of_pair(raster, _recorded_threshold(raster))
    return _Chosen(found.value, found.seed_or(seed), found.remark)


def _recorded_threshold(raster: ScoreRaster) -> float:
    try:
        return float(raster.tags["GEOSIAM_THRESHOLD"])
    except (KeyError, ValueError) as error:
        raise OptionError(raster.path, "does not record a threshold", "pass --threshold, such as 0.5") from error
