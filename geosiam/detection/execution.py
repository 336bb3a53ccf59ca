"""Run the blocks of a scene and hand back one stream of (block, scores)."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from dask.base import compute
from dask.delayed import delayed

from geosiam.detection.scoring import default_workers
from geosiam.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from dask.delayed import Delayed
    from numpy.typing import NDArray

    from geosiam.detection.scoring import Pair, Scorer
    from geosiam.imagery.grid import Block

_BLOCKS_PER_WORKER = 8


def stream_scores(
    pair: Pair,
    scorer: Scorer,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Score all blocks with Dask's threaded scheduler and yield them in raster order.

    The graph of only a few blocks a worker exists at a time, so memory depends on the block size and the number of
    workers, not on the scene.

    Parameters
    ----------
    pair, scorer
        What to score, and with what.
    workers
        Number of threads; None: as many as there are processors. The scores do not depend on it.
    on_progress
        Called with (pixels done, pixels in all) after each block, in the caller's thread.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise OptionError(f"{workers} workers", "cannot do any work", "use 1 or more")
    lattice = scorer.lattice(pair.grid)
    height, width = pair.grid.shape
    with ThreadPoolExecutor(workers, "geosiam") as pool:
        for batch in _batches(iter(lattice), workers * _BLOCKS_PER_WORKER):
            tasks = [delayed(partial(scorer.block, pair, block), pure=False)() for block in batch]
            for block, scores in zip(batch, _computed(tasks, pool), strict=True):
                yield block, scores
                if on_progress:
                    on_progress((block.index + 1) * height * width // len(lattice), height * width)


def _computed(tasks: list[Delayed], pool: ThreadPoolExecutor) -> tuple[NDArray[np.float32], ...]:
    scores: tuple[NDArray[np.float32], ...] = compute(  # type: ignore[no-untyped-call]
        *tasks, scheduler="threads", pool=pool
    )
    return scores


def _batches(blocks: Iterator[Block], size: int) -> Iterator[list[Block]]:
    while batch := list(itertools.islice(blocks, size)):
        yield batch
