"""Inspect a pair: how it would be read and scored, with warnings, time and memory, without running it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.imagery.prepare import open_pair
from geosiam.imagery.reader import CACHE_BYTES
from geosiam.imagery.scene import GDAL_CACHE_BYTES
from geosiam.inference.scorer import BLOCK_PX, FORWARD_PX, BlockTask, load_scorer
from geosiam.options import ScoreOptions
from geosiam.results import write_displacement
from geosiam.runtime import default_workers
from geosiam.targets import check_displacement

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.pair_report import PairReport
    from geosiam.inference.scorer import Scorer

_LIBRARIES_BYTES = 450e6


@dataclass(frozen=True)
class PairInspection:
    """How `detect` would read and score a pair, with warnings and the estimated time and memory.

    Parameters
    ----------
    report
        How both scenes would be read, with warnings.
    model
        Name of the model.
    stride
        Pixels of the before scene along a cell's side.
    score_grid
        Rows and columns of cells.
    blocks
        Number of blocks to score.
    workers
        Number of threads that would score them.
    estimated_seconds
        Time of the whole run, extrapolated from one block that was read and scored on this machine.
    estimated_memory_mb
        Estimated peak memory in megabytes.
    displacement_path
        The raster of the displacement; None if none was requested, or there is no estimate.
    displacement_warning
        Warning to the user that it was not written; None: there is none.
    """

    report: PairReport
    model: str
    stride: int
    score_grid: tuple[int, int]
    blocks: int
    workers: int
    estimated_seconds: float
    estimated_memory_mb: int
    displacement_path: Path | None = None
    displacement_warning: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user."""
        return (*self.report.warnings, *([self.displacement_warning] if self.displacement_warning else []))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, those of the report among them."""
        rows, cols = self.score_grid
        names = ("model", "stride", "blocks", "workers", "estimated_seconds", "estimated_memory_mb")
        estimates = {name: getattr(self, name) for name in names}
        content = {**self.report.to_dict(), **estimates, "score_grid": {"rows": rows, "cols": cols}}
        path = {} if self.displacement_path is None else {"displacement_raster": str(self.displacement_path)}
        return content | path | {"warnings": list(self.warnings)}

    def in_words(self) -> dict[str, Any]:
        """Return the values of :meth:`to_dict` to be read, with the misregistration in words."""
        values = self.to_dict()
        registration = {"registration": self.report.registration()}
        return {
            name: value
            for key, content in values.items()
            for name, value in (registration if key == "shift" else {key: content}).items()
            if name not in {"moved_px", "shift_px", "displacement"}
        }


def inspect_pair(
    before: SceneLike,
    after: SceneLike,
    *,
    options: ScoreOptions = ScoreOptions(),
    displacement: str | Path | None = None,
) -> PairInspection:
    """Check a pair as `detect` would, and estimate time and memory, without running it.

    Parameters
    ----------
    before, after
        The scenes, as :func:`geosiam.detect` takes them.
    options
        Options that they would be scored with.
    displacement
        Raster of the displacement to write, as in :func:`geosiam.detect`; None: no such raster.

    Raises
    ------
    InputError
        The pair or an option would be refused.
    """
    field = check_displacement(displacement, options, [], (before, after), options.files)
    model, scorer = load_scorer(
        options.model, engine=options.engine, device=options.device, precision=options.precision
    )
    with open_pair(before, after, options=options) as pair:
        lattice = scorer.lattice(pair.grid)
        workers = options.workers or default_workers()
        missing = None if field is None else write_displacement(field, pair, workers=options.workers)
        return PairInspection(
            report=pair.report,
            model=model.card.name,
            stride=scorer.stride,
            score_grid=(lattice.rows, lattice.cols),
            blocks=len(lattice),
            workers=workers,
            estimated_seconds=round(_estimated_seconds(pair, scorer, workers), 1),
            estimated_memory_mb=round(estimated_memory(scorer, workers) / 1e6),
            displacement_path=None if missing else field,
            displacement_warning=missing,
        )


def _estimated_seconds(pair: ScenePair, scorer: Scorer, workers: int) -> float:
    """Extrapolate from reading and scoring a block in the middle of the overlap."""
    seconds_per_pixel(scorer)  # the first pass also sets the library up
    stride, lattice, overlap = scorer.stride, scorer.lattice(pair.grid), pair.overlap
    row = (overlap.row_start + overlap.row_stop) // 2 // stride
    col = (overlap.col_start + overlap.col_stop) // 2 // stride
    block = lattice[row // lattice.block_rows * lattice.shape[1] + col // lattice.block_cols]
    start = time.perf_counter()
    BlockTask(pair, scorer)(block)
    pixels = block.cells.shape[0] * block.cells.shape[1] * stride**2
    rows, cols = overlap.shape
    return (time.perf_counter() - start) * rows * cols / pixels / min(workers, default_workers())


def seconds_per_pixel(scorer: Scorer) -> float:
    """Measure the forward pass of one thread, which is most of the work where nothing has been read yet."""
    config = scorer.config
    side = FORWARD_PX + config.halo.leading + config.halo.trailing
    sample = np.zeros((config.channels, side, side), np.float32)
    scorer.probabilities(sample, sample)  # the first pass also sets the library up
    start = time.perf_counter()
    scorer.probabilities(sample, sample)
    return (time.perf_counter() - start) / FORWARD_PX**2


def estimated_memory(scorer: Scorer, workers: int) -> float:
    """Estimate the peak in bytes: the libraries, the caches of decoded files, and what each worker computes with."""
    config = scorer.config
    first = config.convolutions[0]
    block = (BLOCK_PX + config.receptive_field.size) ** 2
    part = (FORWARD_PX + config.receptive_field.size) ** 2
    scales = sum(1 / scale**2 for scale in config.scales)
    activations = scales * 2 * part / first.stride**2 * first.width * 4 * 2  # both scenes, input and output of a layer
    stored = block * 2 * 2 * (3 * 2 + 1)  # both scenes with their masks, 16 bits, assembled and mirrored
    return _LIBRARIES_BYTES + 2 * CACHE_BYTES + GDAL_CACHE_BYTES + workers * (activations + stored)
