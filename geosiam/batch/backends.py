"""Who runs the pairs of a survey, and what they take of this machine."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import torch

from geosiam.batch.dask_pool import DaskCrew, check_shared
from geosiam.batch.pool import LocalCrew
from geosiam.batch.resources import Cost
from geosiam.inference.cluster import connected
from geosiam.inference.scorer import BLOCK_PX, load_scorer
from geosiam.inspection import estimated_memory, seconds_per_pixel
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geosiam.batch.pool import Crew
    from geosiam.batch.resources import Budget
    from geosiam.inference.scorer import Scorer
    from geosiam.options import DetectOptions

_PROCESSES_PER_GPU = 4  # enough that one computes while others read and write


@contextlib.contextmanager
def engaged(root: Path, detect: DetectOptions, budget: Budget, scheduler: str | None) -> Iterator[Crew]:
    """Engage who runs the pairs, and end them in order, however the survey ends.

    Parameters
    ----------
    root
        Folder of the survey, which the workers of a cluster must find.
    detect
        How pairs are compared, where they do not say so themselves.
    budget
        Of this machine.
    scheduler
        Address of a Dask scheduler; None: processes of this machine.
    """
    with connected(scheduler) as client:
        scorer = _scorer(detect, elsewhere=client is not None)
        if client is None:
            gpus = _gpus(detect, scorer)
            crew: Crew = LocalCrew(cost_of(detect), budget, gpus if len(gpus) > 1 else ())
        else:
            check_shared(client, root)
            crew = DaskCrew(client, cost_of(detect, elsewhere=True), budget.memory)
        try:
            yield crew
        finally:
            crew.stop()


def cost_of(detect: DetectOptions, *, elsewhere: bool = False) -> Cost:
    """Return what work costs here: measured for the network, estimated for the memory.

    Raises
    ------
    InputError
        The model or the device cannot be used.
    """
    scorer = _scorer(detect, elsewhere=elsewhere)
    one, two = estimated_memory(scorer, 1), estimated_memory(scorer, 2)
    side = BLOCK_PX // scorer.stride * scorer.stride
    gpus = [] if elsewhere else _gpus(detect, scorer)
    least = max(1, default_workers() // (_PROCESSES_PER_GPU * len(gpus))) if gpus else 1
    speed = 0.0 if elsewhere else seconds_per_pixel(scorer)
    return Cost(speed, 2 * one - two, two - one, side, least)


def _scorer(detect: DetectOptions, *, elsewhere: bool) -> Scorer:
    return load_scorer(detect.model, device=detect.device, precision=detect.precision, elsewhere=elsewhere)[1]


def _gpus(detect: DetectOptions, scorer: Scorer) -> list[str]:
    """Return the GPUs that the work may be spread over; none where a certain one, or none, is asked for."""
    if scorer.device.type != "cuda":
        return []
    if detect.device not in ("auto", "cuda"):
        return [detect.device]
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
