"""Run the blocks of a scene, here or on a cluster, and hand back one stream of (block, scores)."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from dask import threaded
from dask.base import compute
from dask.delayed import delayed

from geosiam.errors import OptionError, SceneUnreadableError
from geosiam.inference.cluster import stream_on_cluster
from geosiam.inference.scorer import Job
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

    import numpy as np
    from distributed import Client
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Lattice, Stripes
    from geosiam.inference.cluster import Task
    from geosiam.inference.scorer import Answer, Pair, Scorer, ZonalStatistics

    Stream = Generator[tuple[Block, Answer], None, None]

_GRAPHS = 4
"""Graphs in flight: enough that no thread waits while the scores of one are written."""


class Notebook(Protocol):
    """Who keeps what is noted of the pixels of blocks while they are scored."""

    @property
    def lookout(self) -> ZonalStatistics:
        """Who notes it, where the blocks are scored."""
        ...

    @property
    def wanted(self) -> bool:
        """Whether there is room for more."""
        ...

    def keep(self, notes: Any) -> None:  # noqa: ANN401 - whatever its lookout returns
        """Keep the notes of a block."""
        ...


def stream_scores(
    pair: Pair,
    scorer: Scorer,
    *,
    workers: int | None = None,
    client: Client | None = None,
    finished: NDArray[np.bool_] | None = None,
    on_unreadable: Callable[[Block, SceneUnreadableError], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    notebook: Notebook | None = None,
) -> Generator[tuple[Block, NDArray[np.float32]], None, None]:
    """Score the blocks of a scene and yield them: in the order they are read here, as they are finished on a cluster.

    A bounded number of blocks is in flight at a time, so memory depends on the block size and the number of workers,
    not on the scene. The scores do not depend on where and in what order the blocks are run.

    Parameters
    ----------
    pair, scorer
        What to score, and with what.
    workers
        Number of threads of this process that read and compute; None: as many as there are processors. Where a CUDA
        device computes, more of them wait for it.
    client
        Of the cluster whose workers do it instead.
    finished
        bool (blocks of the lattice,), True = scored before, to be left out.
    on_unreadable
        Called with a block that a scene cannot be read for, and why; it is left out. None: that ends the run.
    on_progress
        Called with (pixels done, pixels in all) after each block, in the caller's thread.
    notebook
        Gets what its lookout notes of the pixels of blocks, in the caller's thread.

    Raises
    ------
    SceneUnreadableError
        A scene cannot be read somewhere and `on_unreadable` is None; blocks before were yielded.
    ClusterError
        The cluster fails.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise OptionError(f"{workers} workers", "cannot do any work", "use 1 or more")
    lattice = scorer.lattice(pair.grid)
    order = _reading_order(pair, lattice)

    def tasks(places: Iterable[int]) -> Iterator[Task]:
        for block in map(order.__getitem__, places):
            if finished is None or not finished[block.index]:
                yield block, notebook is not None and notebook.wanted

    done = 0 if finished is None else int(finished.sum())
    height, width = pair.grid.shape
    job = Job(pair, scorer, None if notebook is None else notebook.lookout)
    running = (
        _on_threads(job, tasks(range(len(order))), workers + scorer.blocks_waiting)
        if client is None
        else stream_on_cluster(client, job, tasks, len(order))
    )
    with contextlib.closing(running):
        for block, answer in running:
            if notebook is not None and answer.notes is not None:
                notebook.keep(answer.notes)
            if not isinstance(answer.outcome, SceneUnreadableError):
                yield block, answer.outcome
            elif on_unreadable is None:
                raise answer.outcome
            else:
                on_unreadable(block, answer.outcome)
            done += 1
            if on_progress:
                on_progress(done * height * width // len(lattice), height * width)


def _reading_order(pair: Pair, lattice: Lattice) -> Stripes:
    """Order a lattice such that what is decoded for one row of blocks is still there for the next one."""
    columns, width = pair.columns_at_once, lattice.shape[1]
    if columns is None:
        return lattice.in_stripes(width)
    return lattice.in_stripes(max(1, columns * width // pair.grid.width))


def _on_threads(job: Job, tasks: Iterator[Task], workers: int) -> Stream:
    """Run small graphs with Dask's threaded scheduler, several at a time on the same threads.

    A thread that finds no more work in one graph takes the next one's, and those after are made while the caller
    writes: nothing ever waits for the slowest block.
    """
    stopped = threading.Event()

    def unless_stopped(task: Task) -> Answer | None:
        block, looking = task
        return None if stopped.is_set() else job(block, looking=looking)

    graphs: deque[Future[list[tuple[Block, Answer]]]] = deque()
    with ThreadPoolExecutor(workers, "geosiam") as pool, ThreadPoolExecutor(_GRAPHS, "geosiam-graph") as schedulers:
        try:
            while batch := list(itertools.islice(tasks, workers)):
                graphs.append(schedulers.submit(_computed, unless_stopped, batch, pool))
                if len(graphs) == _GRAPHS:
                    yield from graphs.popleft().result()
            while graphs:
                yield from graphs.popleft().result()
        finally:
            stopped.set()


def _computed(
    function: Callable[[Task], Answer | None], tasks: list[Task], pool: ThreadPoolExecutor
) -> list[tuple[Block, Answer]]:
    blocks = [block for block, _ in tasks]
    # The scheduler's own function: for its name, dask would import distributed to see whether a client is there.
    jobs = (delayed(function, pure=False)(task) for task in tasks)
    answers = compute(*jobs, scheduler=threaded.get, pool=pool)  # type: ignore[no-untyped-call]
    return list(zip(blocks, answers, strict=True))
