"""Score blocks on the workers of a Dask cluster; they open the scenes themselves and send back results only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import pickle
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from geosiam.errors import ClusterError, OptionError, SceneNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from distributed import Client, Future

    from geosiam.imagery.grid import Block
    from geosiam.inference.scorer import BlockResult, BlockTask

_log = logging.getLogger(__name__)

_BLOCKS_PER_TASK = 4
"""Blocks of one Dask task: on small clusters, client and scheduler take a tenth of the time of a block for a task."""

_TASKS_PER_THREAD = 2
"""Tasks in flight for each thread of the cluster: one that runs, and the next one."""

_MIN_TASKS = 16  # in flight, so that a cluster that grows with its queue sees one
_MIN_TASKS_PER_THREAD = 8  # of a whole run, so that no thread is left alone with a large last task
_ANY_WORKER = ""  # stands for the address of a worker while none is known
_COUNT_SECONDS = 5.0
_CONNECT_SECONDS = 15.0


@contextlib.contextmanager
def connected(scheduler: str | Client | None) -> Iterator[Client | None]:
    """Yield the client of a cluster: a new one for an address, the caller's own unchanged, None for None.

    Raises
    ------
    OptionError
        The package `distributed` is not installed.
    ClusterError
        No scheduler answers at this address.
    """
    if not isinstance(scheduler, str):
        yield scheduler
        return
    try:
        from distributed import Client  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        remedy = "pip install 'geosiam[cluster]'"
        raise OptionError(f"`scheduler={scheduler}`", "needs the package distributed", remedy) from error
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        remedy = "check the address, and that 'dask scheduler' runs there"
        raise ClusterError(f"scheduler {scheduler}", f"cannot be reached ({error})", remedy) from error
    with client:
        yield client


def stream_on_cluster(
    client: Client,
    task: BlockTask,
    pending: Callable[[range], Iterable[Block]],
    count: int,
    wants_statistics: Callable[[], bool] = lambda: False,
) -> Generator[BlockResult, None, None]:
    """Yield the results of blocks as they are finished, with a bounded number in flight.

    Workers get neighboring blocks, so that few tiles of a file are decoded by several of them. If a worker dies, the
    scheduler gives its blocks to another one, as it does when one worker is idle while another has a queue.

    Parameters
    ----------
    client
        Dask client of the cluster.
    task
        Function to run on each block.
    pending
        Returns the blocks at a range of places of the reading order, without those that need no scoring.
    count
        Number of places.
    wants_statistics
        Returns whether zonal statistics of the next blocks are wanted.

    Raises
    ------
    ClusterError
        The scheduler is lost, a block crashes one worker after the other, or the workers lack a package.
    SceneNotFoundError
        A worker does not find a scene.
    """
    from distributed import as_completed  # noqa: PLC0415 - an extra, and slow to import

    if not client.nthreads():
        _log.warning("the cluster has no workers yet; waiting for the first one")
    contents = _Payload.pack(task)
    workers = _Workers(client)
    in_flight = _InFlight(client, pending, WorkPartition(count, len(workers.capacities())), wants_statistics)
    blocks_per_task = min(_BLOCKS_PER_TASK, max(1, count // (_MIN_TASKS_PER_THREAD * workers.threads)))
    try:
        # Submitted as a task and not scattered: workers can make it again if the last one that holds it dies.
        payload = client.submit(_Payload, contents, pure=False)
        finished = as_completed(loop=client.loop)
        while True:
            for worker, capacity in workers.capacities().items():
                finished.update(in_flight.submit(payload, worker, capacity, blocks_per_task))
            if not in_flight.futures:
                return
            future = next(finished)
            results = future.result()
            in_flight.remove(future)
            yield from results
    except BaseException as error:
        user_error = _user_error(client, error)
        if user_error is None:
            raise
        raise user_error from error
    finally:
        for future in in_flight.futures:
            future.release()


class _InFlight:
    """The Dask tasks in flight, with the worker that each was submitted for."""

    def __init__(
        self,
        client: Client,
        pending: Callable[[range], Iterable[Block]],
        partition: WorkPartition,
        wants_statistics: Callable[[], bool],
    ) -> None:
        self._client, self._pending, self._partition = client, pending, partition
        self._wants_statistics = wants_statistics
        self._counts: Counter[str] = Counter()
        self.futures: dict[Future, str] = {}

    def submit(self, payload: Future, worker: str, capacity: int, blocks_per_task: int) -> list[Future]:
        """Submit tasks for a worker until it has as many as it takes or no blocks remain; return the submitted ones."""
        submitted = []
        placement = {} if worker == _ANY_WORKER else {"workers": [worker], "allow_other_workers": True}
        while self._counts[worker] < capacity and (blocks := self._next_blocks(worker, blocks_per_task)):
            options = {"with_statistics": self._wants_statistics(), "pure": False, **placement}
            future = self._client.submit(_run_task, payload, blocks, **options)
            self.futures[future] = worker
            self._counts[worker] += 1
            submitted.append(future)
        return submitted

    def remove(self, future: Future) -> None:
        """Remove a finished task."""
        self._counts[self.futures.pop(future)] -= 1

    def _next_blocks(self, worker: str, max_count: int) -> list[Block]:
        while places := self._partition.take(worker, max_count):
            if blocks := list(self._pending(places)):
                return blocks
        return []


class _Payload:
    """A block task on its way: pickled bytes that each worker unpacks and prepares for its own processor or device."""

    def __init__(self, contents: bytes) -> None:
        self._contents = contents
        self._task: BlockTask | None = None
        self._lock = threading.Lock()

    @staticmethod
    def pack(task: BlockTask) -> bytes:
        """Return the contents: bytes, so that the scheduler passes them on without importing PyTorch."""
        try:
            return pickle.dumps((task.pair, task.scorer, task.zonal_statistics))
        except TypeError as error:
            raise OptionError("`scheduler`", f"cannot be used: {error}", "use scenes that are files or URLs") from error

    def task(self) -> BlockTask:
        """Return the task, ready for this worker."""
        from geosiam.inference.scorer import BlockTask  # noqa: PLC0415 - imports PyTorch, which only workers need

        with self._lock:
            if self._task is None:
                pair, scorer, zonal_statistics = pickle.loads(self._contents)  # noqa: S301 - from our own client
                self._task = BlockTask(pair, scorer.to_device(), zonal_statistics)
            return self._task

    def __reduce__(self) -> tuple[type[_Payload], tuple[bytes]]:
        return _Payload, (self._contents,)


def _run_task(payload: _Payload, blocks: list[Block], *, with_statistics: bool) -> list[BlockResult]:
    task = payload.task()
    return [task(block, with_statistics=with_statistics) for block in blocks]


class _Workers:
    """The workers of a cluster, which join and leave, and the number of tasks in flight for each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._nthreads: dict[str, int] = {}
        self._counted_at = float("-inf")

    @property
    def threads(self) -> int:
        """Number of threads of all workers, at least one."""
        return max(1, sum(self._current().values()))

    def capacities(self) -> dict[str, int]:
        """Return the number of tasks for each worker by its address; while there is none, for the first to come."""
        nthreads = self._current()
        least = -(-_MIN_TASKS // max(1, len(nthreads)))
        capacities = {worker: max(least, _TASKS_PER_THREAD * count) for worker, count in nthreads.items()}
        return capacities or {_ANY_WORKER: least}

    def _current(self) -> dict[str, int]:
        if time.monotonic() - self._counted_at > _COUNT_SECONDS:
            self._nthreads = self._client.nthreads()
            self._counted_at = time.monotonic()
        return self._nthreads


def _user_error(client: Client, error: BaseException) -> Exception | None:
    """Translate an error on a cluster into one for the user; None if it is clear as it is."""
    from distributed import KilledWorker  # noqa: PLC0415 - an extra, and slow to import
    from distributed.comm import CommClosedError  # noqa: PLC0415

    subject = f"scheduler {client.scheduler.address if client.scheduler else ''}".strip()
    if isinstance(error, SceneNotFoundError):
        remedy = "name the scene by a path or URL that every worker can open"
        return SceneNotFoundError(error.subject, "does not exist on a worker of the cluster", remedy)
    if isinstance(error, KilledWorker):
        remedy = "give the workers more memory or fewer threads"
        return ClusterError(subject, "one block crashed several workers, one after the other", remedy)
    if isinstance(error, ImportError):
        return ClusterError(subject, f"its workers lack a package ({error})", "install the same geosiam on them")
    if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError, CommClosedError)):
        return ClusterError(subject, f"was lost ({error})", "restart the cluster, then run the same command again")
    return None


class WorkPartition:
    """Partition places in an order among workers so that a worker gets neighbors and none idles while places remain.

    Each worker goes through a range of its own, in order, so that what it decoded for one block serves the next ones.
    A worker that finishes its range takes one that nobody has begun, or else steals the second half of the longest
    remaining one.

    Parameters
    ----------
    count
        Number of places.
    workers
        Number of workers at the beginning; more may come, and the places of those that leave are stolen by others.
    """

    def __init__(self, count: int, workers: int) -> None:
        workers = max(1, min(workers, count))
        bounds = [count * number // workers for number in range(workers + 1)]
        self._unclaimed = [range(*bounds[number : number + 2]) for number in reversed(range(workers))]
        self._remaining: dict[str, range] = {}

    def take(self, worker: str, max_count: int) -> range:
        """Return the next places of a worker, at most `max_count`; an empty range if none remain for anybody."""
        places = self._remaining.get(worker) or self._next_range()
        self._remaining[worker] = places[max_count:]
        return places[:max_count]

    def _next_range(self) -> range:
        if self._unclaimed:
            return self._unclaimed.pop()
        slowest = max(self._remaining, key=lambda worker: len(self._remaining[worker]), default=None)
        if slowest is None:
            return range(0)
        places = self._remaining[slowest]
        self._remaining[slowest] = places[: len(places) // 2]
        return places[len(places) // 2 :]
