"""The whole way from two scenes to polygons; the only module that knows all rooms."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geosiam import __version__
from geosiam.detection.execution import stream_scores
from geosiam.detection.raster import SCENE_TAG, STRIDE_TAG, ScoreRaster, ScoreRasterWriter
from geosiam.detection.scoring import BLOCK_PX, Scorer, default_workers, lazy_scores
from geosiam.errors import OptionError, OutputError
from geosiam.files import check_place, is_there
from geosiam.imagery.grid import apply_affine
from geosiam.imagery.pair import ScenePair, open_pair
from geosiam.imagery.scene import files_of
from geosiam.network.weights import DEFAULT_MODEL, Model, load_model
from geosiam.vector.geopackage import check_target, write_polygons
from geosiam.vector.polygons import iter_polygons, vectorize

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray

    from geosiam.imagery.pair import Scene

    Progress = Callable[[int, int], None]

__all__ = [
    "DetectOptions",
    "DetectResult",
    "ScoreResult",
    "VectorizeResult",
    "detect",
    "preflight",
    "score",
    "score_to_raster",
    "vectorize",
    "vectorize_raster",
]

_LIBRARIES_BYTES = 450e6


@dataclass(frozen=True)
class DetectOptions:
    """How a pair is compared; every default serves most pairs.

    Parameters
    ----------
    model
        Name of bundled weights or path of a weights file.
    threshold
        Anomaly probability from which on a cell belongs to a polygon; ``"auto"``: what the model's card suggests.
    min_area
        Smallest polygon, such as ``"1.5m2"`` or ``"20px"``; None keeps all.
    bands
        One or three 1-based band numbers for both scenes; None chooses by colour interpretation.
    valid_area
        Vector file outside of whose polygons nothing is looked at.
    register
        Correct the misregistration of the after-scene where it can be estimated reliably.
    radiometry
        Relative normalisation: ``"auto"``, ``"none"``, ``"linear"`` or ``"histogram"``.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    precision
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    workers
        Threads; None: one a processor. The result does not depend on it.
    """

    model: str = DEFAULT_MODEL
    threshold: float | Literal["auto"] = "auto"
    min_area: str | None = None
    bands: tuple[int, ...] | None = None
    valid_area: str | None = None
    register: bool = False
    radiometry: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.threshold != "auto" and not 0 < self.threshold <= 1:
            raise OptionError(f"threshold {self.threshold}", "is no probability", "use auto or a number in (0, 1]")


@dataclass(frozen=True)
class ScoreResult:
    """What `score_to_raster` left behind.

    Parameters
    ----------
    scores_path
        The score raster.
    summary
        Facts about the pair and the run, as JSON can hold them; ``warnings`` is what the user should know.
    """

    scores_path: Path
    summary: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class VectorizeResult:
    """What `vectorize_raster` left behind: the polygons, their number and the probability they were cut at."""

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
    """

    polygons_path: Path
    scores_path: Path
    count: int
    threshold: float
    summary: dict[str, Any] = field(repr=False)


def detect(
    before: Scene,
    after: Scene,
    output: str | Path,
    *,
    scores: str | Path | None = None,
    options: DetectOptions = DetectOptions(),
    on_progress: Progress | None = None,
) -> DetectResult:
    """Find what changed between two georeferenced scenes.

    Parameters
    ----------
    before, after
        Paths, also of folders or patterns of tiles, URLs that GDAL reads, open rasterio datasets or georeferenced DataArrays.
    output
        Target of the polygons; the suffix chooses the format.
    scores
        Target of the score raster; None: beside ``output``, same stem, ``.tif``.
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
    _spare_inputs(output, before, after)
    raster = Path(scores) if scores is not None else Path(output).with_suffix(".tif")
    check_place(raster)
    scored = score_to_raster(before, after, raster, options=options, on_progress=on_progress)
    cut = vectorize_raster(
        raster,
        output,
        threshold=options.threshold,
        min_area=options.min_area,
    )
    return DetectResult(cut.polygons_path, raster, cut.count, cut.threshold, scored.summary)


def score_to_raster(
    before: Scene,
    after: Scene,
    output: str | Path,
    *,
    options: DetectOptions = DetectOptions(),
    on_progress: Progress | None = None,
) -> ScoreResult:
    """Score a pair into a raster of anomaly probabilities; see :func:`detect`."""
    _spare_inputs(output, before, after)
    model = load_model(options.model)
    scorer = Scorer.of_model(model, device=options.device, precision=options.precision)
    with _open(before, after, options) as pair:
        summary = _provenance(pair, model, options)
        with ScoreRasterWriter(output, pair.grid.coarsened(scorer.stride), tags=_tags(pair, summary, model)) as raster:
            for block, scores in stream_scores(pair, scorer, workers=options.workers, on_progress=on_progress):
                raster.write(block.cells, scores)
    return ScoreResult(Path(output), summary)


def vectorize_raster(
    scores: str | Path,
    output: str | Path,
    *,
    threshold: float | Literal["auto"] = "auto",
    min_area: str | None = None,
) -> VectorizeResult:
    """Cut polygons out of a score raster, without scoring anything again.

    Parameters
    ----------
    scores
        A raster that :func:`score_to_raster` or :func:`detect` wrote.
    output
        Target of the polygons; the suffix chooses the format.
    threshold, min_area
        As in :class:`DetectOptions`; ``"auto"`` is what the raster itself records.
    """
    check_target(output)
    _spare_inputs(output, scores)
    raster = ScoreRaster.open(scores)
    chosen = _recorded_threshold(raster) if threshold == "auto" else threshold
    shift = raster.tags.get("GEOSIAM_SHIFT_PX")
    pieces = iter_polygons(
        raster, threshold=chosen, min_area=min_area, shift_px=float(shift) if shift is not None else None
    )
    provenance = json.loads(raster.tags.get("GEOSIAM_PROVENANCE", "{}"))
    count = write_polygons(pieces, output, provenance={**provenance, "threshold": chosen, "min_area": min_area})
    return VectorizeResult(Path(output), count, chosen)


def score(
    before: Scene,
    after: Scene,
    *,
    options: DetectOptions = DetectOptions(),
) -> xarray.DataArray:
    """Return the anomaly scores of a pair as a lazy, georeferenced array.

    Returns
    -------
    scores
        float32 (y, x) on cells of ``stride x stride`` pixels of the before-scene, NaN = not scored, dask-backed: a
        block is read and scored when it is computed. Coordinates are the centres of the cells; ``scores.rio`` knows
        CRS and geotransform.
    """
    import rioxarray  # noqa: F401, PLC0415 - slow to import, and only an array needs it
    import xarray  # noqa: PLC0415 - likewise

    model = load_model(options.model)
    scorer = Scorer.of_model(model, device=options.device, precision=options.precision)
    pair = _open(before, after, options)  # its handles close when the array is garbage
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


def preflight(
    before: Scene,
    after: Scene,
    *,
    options: DetectOptions = DetectOptions(),
) -> dict[str, Any]:
    """Say what `detect` would do with a pair, what is wrong with it, how long it takes and how much memory.

    The time is an extrapolation of one small block scored on this machine. Values are such that JSON can hold them.
    """
    model = load_model(options.model)
    scorer = Scorer.of_model(model, device=options.device, precision=options.precision)
    with _open(before, after, options) as pair:
        report = pair.report().to_dict()
        lattice = scorer.lattice(pair.grid)
        workers = options.workers or default_workers()
        return {
            **report,
            "model": model.card.name,
            "stride": scorer.stride,
            "score_grid": {"rows": lattice.rows, "cols": lattice.cols},
            "blocks": len(lattice),
            "workers": workers,
            "estimated_seconds": round(_estimated_seconds(pair, scorer, workers), 1),
            "estimated_memory_mb": round(_estimated_memory(scorer, workers) / 1e6),
        }


def _spare_inputs(target: str | Path, *inputs: Scene) -> None:
    """Refuse to write over what is read: `-o after.gpkg` would otherwise put the scores where after.tif lies."""
    if not is_there(target):
        return
    for name in (name for scene in inputs for name in files_of(scene)):
        if is_there(name) and Path(target).samefile(name):
            raise OutputError(target, "is an input too and would be overwritten", "choose another output")


def _open(before: Scene, after: Scene, options: DetectOptions) -> ScenePair:
    return open_pair(
        before,
        after,
        bands=options.bands,
        radiometry=options.radiometry,
        register=options.register,
        valid_area=options.valid_area,
    )


def _provenance(pair: ScenePair, model: Model, options: DetectOptions) -> dict[str, Any]:
    """Return everything that says how a result came about, as JSON can hold it."""
    return {
        "geosiam_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "pair": pair.report().to_dict(),
        "model": {"source": model.source, "name": model.card.name, "checksum": model.card.checksum},
        "options": asdict(options),
        "warnings": list(pair.report().warnings),
    }


def _tags(pair: ScenePair, provenance: dict[str, Any], model: Model) -> dict[str, str]:
    shift = provenance["pair"].get("shift_px")
    tags = {
        "GEOSIAM_VERSION": __version__,
        STRIDE_TAG: str(model.card.stride),
        SCENE_TAG: f"{pair.grid.height} {pair.grid.width}",
        "GEOSIAM_MODEL": model.card.name,
        "GEOSIAM_THRESHOLD": str(model.card.threshold),
        "GEOSIAM_PROVENANCE": json.dumps(provenance, sort_keys=True),
    }
    return tags if shift is None else {**tags, "GEOSIAM_SHIFT_PX": str(shift)}


def _recorded_threshold(raster: ScoreRaster) -> float:
    try:
        return float(raster.tags["GEOSIAM_THRESHOLD"])
    except (KeyError, ValueError) as error:
        raise OptionError(raster.path, "does not record a threshold", "pass --threshold, such as 0.5") from error


def _estimated_seconds(pair: ScenePair, scorer: Scorer, workers: int) -> float:
    """Extrapolate from the forward pass over one block's share of pixels."""
    config = scorer.network.config
    side = 256 + config.halo.before + config.halo.after
    sample = np.zeros((config.channels, side, side), np.float32)
    scorer.probabilities(sample, sample)  # the first pass also sets the library up
    start = time.perf_counter()
    scorer.probabilities(sample, sample)
    per_pixel = (time.perf_counter() - start) / 256**2
    rows, cols = pair.overlap.shape
    return per_pixel * rows * cols / min(workers, default_workers())


def _estimated_memory(scorer: Scorer, workers: int) -> float:
    """Estimate the peak in bytes: the interpreter with its libraries, and the widest layer of a block a worker."""
    config = scorer.network.config
    first = config.convolutions[0]
    pixels = (BLOCK_PX + config.receptive_field.size) ** 2
    activations = 2 * pixels / first.stride**2 * first.width * 4 * 2  # both scenes, input and output of the ReLU
    blocks = pixels * 3 * 4 * 2 * 3  # both scenes as float32: as read, normalised, and laid out for the network
    return _LIBRARIES_BYTES + workers * (activations + blocks)
