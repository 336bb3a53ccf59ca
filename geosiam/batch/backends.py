"""Start the workers of a batch, and estimate what pairs cost."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import torch

from geosiam.batch.pool import LocalPool
from geosiam.batch.resources import CostModel
from geosiam.inference.cluster import connected
from geosiam.inference.scorer import BLOCK_PX, load_scorer
from geosiam.inspection import estimated_memory, seconds_per_pixel
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geosiam.batch.pool import WorkerPool
    from geosiam.batch.resources import Resources
    from geosiam.inference.scorer import Scorer
    from geosiam.options import DetectOptions

_PROCESSES_PER_GPU = 4  # enough that one computes while the others read and write


@contextlib.contextmanager
def start_pool(root: Path, detect: DetectOptions, budget: Resources, scheduler: str | None) -> Iterator[WorkerPool]:
    """Start the workers that run the pairs, and stop them in order however the batch ends.

    Parameters
    ----------
    root
        Folder of the batch, which the workers of a cluster must see.
    detect
        How pairs are compared, unless they have options of their own.
    budget
        Threads and memory of this machine.
    scheduler
        Address of a Dask scheduler; None: processes of this machine.

    Raises
    ------
    InputError
        The model, the device or the cluster cannot be used.
    """
    with connected(scheduler) as client:
        scorer = _scorer(detect, on_cluster=client is not None)
        pool: WorkerPool
        if client is None:
            gpus = _gpus(detect, scorer)
            pool = LocalPool(cost_model(detect), budget, gpus if len(gpus) > 1 else ())
        else:
            from geosiam.batch.dask_pool import DaskPool, check_shared  # noqa: PLC0415 - needs distributed, an extra

            check_shared(client, root)
            pool = DaskPool(client, cost_model(detect, on_cluster=True), budget.memory)
        try:
            yield pool
        finally:
            pool.close()


def cost_model(detect: DetectOptions, *, on_cluster: bool = False) -> CostModel:
    """Measure the speed of the network on this machine, unless a cluster does the work, and estimate its memory.

    Raises
    ------
    InputError
        The model or the device cannot be used.
    """
    scorer = _scorer(detect, on_cluster=on_cluster)
    one_thread, two_threads = estimated_memory(scorer, 1), estimated_memory(scorer, 2)
    gpus = [] if on_cluster else _gpus(detect, scorer)
    return CostModel(
        seconds_per_pixel=0.0 if on_cluster else seconds_per_pixel(scorer),
        process_bytes=2 * one_thread - two_threads,
        thread_bytes=two_threads - one_thread,
        block_px=BLOCK_PX // scorer.stride * scorer.stride,
        min_threads=max(1, default_workers() // (_PROCESSES_PER_GPU * len(gpus))) if gpus else 1,
    )


def _scorer(detect: DetectOptions, *, on_cluster: bool) -> Scorer:
    return load_scorer(detect.model, device=detect.device, precision=detect.precision, elsewhere=on_cluster)[1]


def _gpus(detect: DetectOptions, scorer: Scorer) -> list[str]:
    """Return the GPUs over which the work may be spread; empty if the CPU does it."""
    if scorer.device.type != "cuda":
        return []
    if detect.device not in ("auto", "cuda"):
        return [detect.device]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
