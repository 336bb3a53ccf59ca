"""What would be done with a pair, and at what cost, without doing it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.detection.hardware import default_workers
from geosiam.detection.scoring import BLOCK_PX, Scorer
from geosiam.imagery.pair import open_pair
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from geosiam.imagery.pair import Scene, ScenePair

_LIBRARIES_BYTES = 450e6


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
    with open_pair(before, after, **options.of_pair()) as pair:
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
            "estimated_memory_mb": round(estimated_memory(scorer, workers) / 1e6),
        }


def _estimated_seconds(pair: ScenePair, scorer: Scorer, workers: int) -> float:
    rows, cols = pair.overlap.shape
    return seconds_per_pixel(scorer) * rows * cols / min(workers, default_workers())


def seconds_per_pixel(scorer: Scorer) -> float:
    """Measure the forward pass of one thread over one block's share of pixels."""
    config = scorer.network.config
    side = 256 + config.halo.before + config.halo.after
    sample = np.zeros((config.channels, side, side), np.float32)
    scorer.probabilities(sample, sample)  # the first pass also sets the library up
    start = time.perf_counter()
    scorer.probabilities(sample, sample)
    return (time.perf_counter() - start) / 256**2


def estimated_memory(scorer: Scorer, workers: int) -> float:
    """Estimate the peak in bytes: the interpreter with its libraries, and the widest layer of a block a worker."""
    config = scorer.network.config
    first = config.convolutions[0]
    pixels = (BLOCK_PX + config.receptive_field.size) ** 2
    activations = 2 * pixels / first.stride**2 * first.width * 4 * 2  # both scenes, input and output of the ReLU
    blocks = pixels * 3 * 4 * 2 * 3  # both scenes as float32: as read, normalised, and laid out for the network
    return _LIBRARIES_BYTES + workers * (activations + blocks)
