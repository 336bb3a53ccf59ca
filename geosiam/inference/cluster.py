"""Score blocks on the workers of a Dask cluster; they open the scenes themselves and send back scores only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
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
    from geosiam.inference.scorer import Answer, Job

    Task = tuple[Block, bool]  # and whether the lookout is wanted

_BLOCKS_AT_ONCE = 4
"""Blocks of one task: what client and scheduler need for a task is a tenth of what a block needs, on small clusters."""

_TASKS_PER_THREAD = 2
"""Tasks in flight for each thread of the cluster: one that runs, and one to go on with at once."""

_LEAST_TASKS = 16  # so that a cluster that grows with its queue sees one
_SHARES = 8  # of the work for each thread, at least, so that none is left alone with the last of it
_ANYBODY = ""  # while no worker is known
_COUNT_SECONDS = 5.0
_CONNECT_SECONDS = 15.0


@contextlib.contextmanager
def connected(scheduler: str | Client | None) -> Iterator[Client | None]:
    """Give the client of a cluster: a new one for an address, the caller's own as it is, None for none.

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
        raise OptionError(f"scheduler {scheduler}", "needs the package distributed", remedy) from error
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        remedy = "check the address, and that 'dask scheduler' runs there"
        raise ClusterError(f"scheduler {scheduler}", f"cannot be reached ({error})", remedy) from error
    with client:
        yield client


def stream_on_cluster(
    client: Client, job: Job, tasks: Callable[[range], Iterable[Task]], count: int
) -> Generator[tuple[Block, Answer], None, None]:
    """Yield the blocks with their answers as they are finished, a bounded number in flight.

    Workers are given neighbors, so that few of a file's tiles are decoded by several of them. A worker that dies is no
    loss: the scheduler gives its blocks to another one, as it does where one waits and another has too much.

    Parameters
    ----------
    client
        Of the cluster.
    job
        What is done with a block.
    tasks
        Gives the blocks at some places of the reading order, those that are left to do, each with whether the job's
        lookout is wanted.
    count
        Number of places.

    Raises
    ------
    ClusterError
        The scheduler goes away, a block ends one worker after the other, or the workers lack something.
    SceneNotFoundError
        A worker does not find a scene.
    """
    from distributed import as_completed  # noqa: PLC0415 - an extra, and slow to import

    contents = _Parcel.packed(job)
    crew = _Crew(client)
    flight = _Flight(client, tasks, Shares(count, len(crew.rooms())))
    at_once = min(_BLOCKS_AT_ONCE, max(1, count // (_SHARES * crew.threads)))
    try:
        # A result that workers hold and can make again, not data that would be gone with the last one who had it.
        held = client.submit(_Parcel, contents, pure=False)
        finished = as_completed(loop=client.loop)
        while True:
            for worker, room in crew.rooms().items():
                finished.update(flight.give(held, worker, room, at_once))
            if not flight.running:
                return
            future = next(finished)
            answers = future.result()
            yield from zip(flight.land(future), answers, strict=True)
    except BaseException as error:
        reported = _reported(client, error)
        if reported is None:
            raise
        raise reported from error
    finally:
        for future in flight.running:
            future.release()


class _Flight:
    """The tasks that are in flight: which worker each was given to, and its blocks."""

    def __init__(self, client: Client, tasks: Callable[[range], Iterable[Task]], shares: Shares) -> None:
        self._client, self._tasks, self._shares = client, tasks, shares
        self._counts: Counter[str] = Counter()
        self.running: dict[Future, tuple[str, list[Block]]] = {}

    def give(self, held: Future, worker: str, room: int, at_once: int) -> list[Future]:
        """Give a worker tasks of so many blocks, until it has enough or nothing is left; return the new ones."""
        new = []
        place = {} if worker == _ANYBODY else {"workers": [worker], "allow_other_workers": True}
        while self._counts[worker] < room and (some := self._next(worker, at_once)):
            future = self._client.submit(_scored, held, some, pure=False, **place)
            self.running[future] = worker, [block for block, _ in some]
            self._counts[worker] += 1
            new.append(future)
        return new

    def land(self, future: Future) -> list[Block]:
        """Return the blocks of a task that is finished, and forget it."""
        worker, blocks = self.running.pop(future)
        self._counts[worker] -= 1
        return blocks

    def _next(self, worker: str, at_once: int) -> list[Task]:
        while places := self._shares.take(worker, at_once):
            if some := list(self._tasks(places)):
                return some
        return []


class _Parcel:
    """A job on its way: it goes as bytes, and each worker makes it ready for its own processor or device."""

    def __init__(self, contents: bytes) -> None:
        self._contents = contents
        self._job: Job | None = None
        self._lock = threading.Lock()

    @staticmethod
    def packed(job: Job) -> bytes:
        """Return the contents: bytes, so that the scheduler passes them on without PyTorch."""
        try:
            return pickle.dumps((job.pair, job.scorer, job.lookout))
        except TypeError as error:
            raise OptionError("scheduler", f"was given, but {error}", "use scenes that are files or URLs") from error

    def job(self) -> Job:
        """Return the job, ready for this worker."""
        from geosiam.inference.scorer import Job  # noqa: PLC0415 - brings PyTorch, which is for the workers alone

        with self._lock:
            if self._job is None:
                pair, scorer, lookout = pickle.loads(self._contents)  # noqa: S301 - from our own client
                self._job = Job(pair, scorer.to_device(), lookout)
            return self._job

    def __reduce__(self) -> tuple[type[_Parcel], tuple[bytes]]:
        return _Parcel, (self._contents,)


def _scored(parcel: _Parcel, blocks: list[Task]) -> list[Answer]:
    job = parcel.job()
    return [job(block, looking=looking) for block, looking in blocks]


class _Crew:
    """The workers of a cluster, which come and go, and how many tasks each takes at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._threads: dict[str, int] = {}
        self._counted = float("-inf")

    @property
    def threads(self) -> int:
        """How many threads all of them have, at least one."""
        return max(1, sum(self._found().values()))

    def rooms(self) -> dict[str, int]:
        """Return the number of tasks for each worker by its address; while there is none, for whoever comes first."""
        threads = self._found()
        least = -(-_LEAST_TASKS // max(1, len(threads)))
        return {worker: max(least, _TASKS_PER_THREAD * count) for worker, count in threads.items()} or {_ANYBODY: least}

    def _found(self) -> dict[str, int]:
        if time.monotonic() - self._counted > _COUNT_SECONDS:
            self._threads = self._client.nthreads()
            self._counted = time.monotonic()
        return self._threads


def _reported(client: Client, error: BaseException) -> Exception | None:
    """Return what an error on the cluster means to the user, or None if it speaks for itself."""
    from distributed import KilledWorker  # noqa: PLC0415 - an extra, and slow to import
    from distributed.comm import CommClosedError  # noqa: PLC0415

    subject = f"scheduler {client.scheduler.address if client.scheduler else ''}".strip()
    if isinstance(error, SceneNotFoundError):
        remedy = "name the scene by a path or URL that every worker can open"
        return SceneNotFoundError(error.subject, "does not exist on a worker of the cluster", remedy)
    if isinstance(error, KilledWorker):
        remedy = "give the workers more memory or fewer threads"
        return ClusterError(subject, "one block ended several workers, one after the other", remedy)
    if isinstance(error, ImportError):
        return ClusterError(subject, f"its workers lack something ({error})", "install the same geosiam on them")
    if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError, CommClosedError)):
        return ClusterError(subject, f"went away ({error})", "start it again, and then the same command")
    return None


class Shares:
    """Places in an order, shared out such that a worker gets neighbors, and none is idle while others have some left.

    Each worker goes through a share of its own, in order: what it has decoded for one block is there for the next ones.
    Who has done with it takes the share that nobody has begun, or else the second half of the longest one left.

    Parameters
    ----------
    count
        Number of places.
    workers
        How many there are to begin with; any number may come, and those that leave leave theirs to the others.
    """

    def __init__(self, count: int, workers: int) -> None:
        workers = max(1, min(workers, count))
        bounds = [count * number // workers for number in range(workers + 1)]
        self._free = [range(*bounds[number : number + 2]) for number in reversed(range(workers))]
        self._left: dict[str, range] = {}

    def take(self, worker: str, most: int) -> range:
        """Return the next places of a worker, at most so many; an empty range if there is nothing left for anybody."""
        left = self._left.get(worker) or self._another()
        self._left[worker] = left[most:]
        return left[:most]

    def _another(self) -> range:
        if self._free:
            return self._free.pop()
        longest = max(self._left, key=lambda worker: len(self._left[worker]), default=None)
        if longest is None:
            return range(0)
        left = self._left[longest]
        self._left[longest] = left[: len(left) // 2]
        return left[len(left) // 2 :]
