"""Score blocks on the workers of a Dask cluster; they open the scenes themselves and send back scores only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import pickle
import time
from typing import TYPE_CHECKING

from geosiam.detection.scoring import Job
from geosiam.errors import ClusterError, OptionError, SceneNotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from distributed import Client, Future

    from geosiam.detection.scoring import Answer, Lookout, Pair, Scorer
    from geosiam.imagery.grid import Block

_BLOCKS_AT_ONCE = 4
"""Blocks of one task: what client and scheduler need for a task is a tenth of what a block needs, on small clusters."""

_TASKS_PER_THREAD = 2
"""Tasks in flight for each thread of the cluster: one that runs, and one to go on with at once."""

_LEAST_TASKS = 16  # so that a cluster that grows with its queue sees one
_SHARES = 8  # of the work for each thread, at least, so that none is left alone with the last of it
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
    client: Client, job: Job, blocks: Iterator[tuple[Block, bool]], count: int
) -> Generator[tuple[Block, Answer], None, None]:
    """Yield the blocks with their answers as they are finished, a bounded number in flight.

    A worker that dies is no loss: the scheduler gives its blocks to another one.

    Parameters
    ----------
    client
        Of the cluster.
    job
        What is done with a block.
    blocks
        Each with whether the job's lookout is wanted. Neighbours are best next to each other: a worker takes several.
    count
        How many blocks there are.

    Raises
    ------
    ClusterError
        The scheduler goes away, a block ends one worker after the other, or the workers lack something.
    SceneNotFoundError
        A worker does not find a scene.
    """
    from distributed import as_completed  # noqa: PLC0415 - an extra, and slow to import

    _check_sendable(job.pair)
    crew = _Crew(client)
    at_once = min(_BLOCKS_AT_ONCE, max(1, count // (_SHARES * crew.threads())))
    running: dict[Future, list[Block]] = {}
    try:
        # A result that workers hold and can make again, not data that would be gone with the last one who had it.
        held = client.submit(_unpacked, job.pair, job.scorer, job.lookout, pure=False)
        finished = as_completed(loop=client.loop)
        while True:
            while len(running) < crew.room() and (some := list(itertools.islice(blocks, at_once))):
                future = client.submit(_scored, held, some, pure=False)
                running[future] = [block for block, _ in some]
                finished.add(future)
            if not running:
                return
            future = next(finished)
            answers = future.result()
            yield from zip(running.pop(future), answers, strict=True)
    except BaseException as error:
        reported = _reported(client, error)
        if reported is None:
            raise
        raise reported from error
    finally:
        for future in running:
            future.release()


def _check_sendable(pair: Pair) -> None:
    try:
        pickle.dumps(pair)
    except TypeError as error:
        raise OptionError("scheduler", f"was given, but {error}", "use scenes that are files or URLs") from error


def _unpacked(pair: Pair, scorer: Scorer, lookout: Lookout | None) -> Job:
    return Job(pair, scorer.arrived(), lookout)


def _scored(job: Job, blocks: list[tuple[Block, bool]]) -> list[Answer]:
    return [job(block, looking=looking) for block, looking in blocks]


class _Crew:
    """How many tasks a cluster takes at a time; its workers come and go."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._threads = 1
        self._counted = float("-inf")

    def threads(self) -> int:
        if time.monotonic() - self._counted > _COUNT_SECONDS:
            self._threads = max(1, sum(self._client.nthreads().values()))
            self._counted = time.monotonic()
        return self._threads

    def room(self) -> int:
        return max(_LEAST_TASKS, _TASKS_PER_THREAD * self.threads())


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
