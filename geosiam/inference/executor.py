"""Run the block task over a scene, on threads or on a cluster, as one stream of results."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from dask import threaded
from dask.base import compute
from dask.delayed import delayed

from geosiam.errors import OptionError
from geosiam.inference.cluster import stream_on_cluster
from geosiam.inference.scorer import BlockTask
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future

    import numpy as np
    from distributed import Client
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Lattice, Stripes
    from geosiam.inference.scorer import BlockResult, Pair, Scorer
    from geosiam.inference.zonal_stats import ZonalStatsStore

_MAX_GRAPHS = 4
"""Graphs in flight: enough that no thread waits while the scores of one are written."""


def stream_scores(
    pair: Pair,
    scorer: Scorer,
    *,
    workers: int | None = None,
    client: Client | None = None,
    finished: NDArray[np.bool_] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    zonal_stats: ZonalStatsStore | None = None,
) -> Generator[BlockResult, None, None]:
    """Score the blocks of a scene and yield their results: in reading order, or as they are finished on a cluster.

    A bounded number of blocks is in flight at a time, so memory depends on the block size and the number of workers,
    not on the scene. The scores do not depend on where and in what order the blocks are run. A block where a
    scene cannot be read is a result as well; the caller decides whether to go on.

    Parameters
    ----------
    pair
        Scenes to score.
    scorer
        Network to score them with.
    workers
        Number of threads of this process that read and compute; None: one for each processor. With CUDA devices there
        are more threads, which wait for a device.
    client
        Dask client of the cluster that scores the blocks instead.
    finished
        bool (blocks of the lattice,), True = already scored, to be left out.
    on_progress
        Called with (pixels scored, total pixels) after each block, in the caller's thread.
    zonal_stats
        Store to fill with zonal statistics of the blocks, in the caller's thread.

    Raises
    ------
    OptionError
        The number of workers is less than 1.
    ClusterError
        The cluster fails.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise OptionError(f"`workers={workers}`", "is too few", "use 1 or more")
    lattice = scorer.lattice(pair.grid)
    order = _reading_order(pair, lattice)

    def pending(places: range) -> Iterator[Block]:
        blocks = map(order.__getitem__, places)
        return (block for block in blocks if finished is None or not finished[block.index])

    def wants_statistics() -> bool:
        return zonal_stats is not None and not zonal_stats.full

    count = 0 if finished is None else int(finished.sum())
    height, width = pair.grid.shape
    task = BlockTask(pair, scorer, None if zonal_stats is None else zonal_stats.statistics)
    if client is None:
        threads = workers + scorer.blocks_waiting
        results = _stream_on_threads(task, pending(range(len(order))), threads, wants_statistics)
    else:
        results = stream_on_cluster(client, task, pending, len(order), wants_statistics)
    with contextlib.closing(results):
        for result in results:
            if zonal_stats is not None and result.cell_statistics is not None:
                zonal_stats.add(result.cell_statistics)
            yield result
            count += 1
            if on_progress:
                on_progress(count * height * width // len(lattice), height * width)


def _reading_order(pair: Pair, lattice: Lattice) -> Stripes:
    """Order the blocks so that tiles decoded for one row of blocks are still cached for the next one."""
    columns, width = pair.columns_at_once, lattice.shape[1]
    if columns is None:
        return lattice.in_stripes(width)
    return lattice.in_stripes(max(1, columns * width // pair.grid.width))


def _stream_on_threads(
    task: BlockTask, blocks: Iterator[Block], workers: int, wants_statistics: Callable[[], bool]
) -> Generator[BlockResult, None, None]:
    """Run small graphs with Dask's threaded scheduler, several at a time on the same threads.

    A thread that finds no more work in one graph takes work of the next one, and further graphs are made while the
    caller writes: nothing ever waits for the slowest block.
    """
    stopped = threading.Event()

    def run_unless_stopped(block: Block, *, with_statistics: bool) -> BlockResult | None:
        return None if stopped.is_set() else task(block, with_statistics=with_statistics)

    graphs: deque[Future[list[BlockResult]]] = deque()
    with ThreadPoolExecutor(workers, "geosiam") as pool, ThreadPoolExecutor(_MAX_GRAPHS, "geosiam-graph") as schedulers:
        try:
            while group := list(itertools.islice(blocks, workers)):
                function = partial(run_unless_stopped, with_statistics=wants_statistics())
                graphs.append(schedulers.submit(_compute, function, group, pool))
                if len(graphs) == _MAX_GRAPHS:
                    yield from graphs.popleft().result()
            while graphs:
                yield from graphs.popleft().result()
        finally:
            stopped.set()


def _compute(
    function: Callable[[Block], BlockResult | None], blocks: list[Block], pool: ThreadPoolExecutor
) -> list[BlockResult]:
    calls = (delayed(function, pure=False)(block) for block in blocks)
    # The scheduler's own function: for its name, dask would import distributed to look for a client.
    return list(compute(*calls, scheduler=threaded.get, pool=pool))  # type: ignore[no-untyped-call]
