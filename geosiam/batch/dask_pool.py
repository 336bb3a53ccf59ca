"""Pairs on a Dask cluster: small ones run whole on its workers, large ones block by block on all of them.

A Dask worker runs a pair in a separate process, which it keeps for the next one. So a crash of that process does not
take the Dask worker with it, and is reported and retried as on one machine. Processes write results straight to the
output folder, which must therefore be shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from uuid import uuid4

from distributed import WorkerPlugin, get_worker

from geosiam.batch.pool import LAST_EVENTS, LocalPool, PairRequest, WorkerEvent, WorkerProcess, stop_workers
from geosiam.batch.resources import Resources
from geosiam.errors import ClusterError, OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distributed import Client, Future, Worker

    from geosiam.batch.resources import CostModel

PLUGIN = "geosiam-batch"
"""Name under which Dask workers know :class:`PairProcesses`."""

_THREAD_COUNT_SECONDS = 1.0  # for which the number of the cluster's threads is cached
_PAIRS_PER_THREAD = 2  # pairs in flight for each thread of the cluster: the running one and the next one
_POLL_SECONDS = 0.1  # between looks at the events of local processes and of the cluster


class DaskPool:
    """The workers of a Dask cluster.

    Parameters
    ----------
    client
        Dask client of the cluster; the caller closes it.
    cost
        Time and memory that pairs cost.
    memory
        Bytes that a process of this machine may take while it leads the work on a large pair.
    """

    def __init__(self, client: Client, cost: CostModel, memory: float) -> None:
        self._client = client
        self._cost = cost
        self._topic = f"geosiam-{uuid4().hex}"
        self._events: SimpleQueue[WorkerEvent] = SimpleQueue()
        self._futures: dict[str, Future] = {}
        self._leaders = LocalPool(cost, Resources(1, memory))
        self._large_pairs: set[str] = set()
        self._thread_count = -math.inf, 1  # when it was asked for, and the answer
        client.register_plugin(PairProcesses(), name=PLUGIN)
        client.subscribe_topic(self._topic, self._receive)

    def demand(self, shape: tuple[int, int] | None, *, waiting: int, memory_factor: float) -> Resources:
        """Return the resources of a pair; the threads of a large one are threads of the cluster."""
        del waiting  # the scheduler distributes the cluster's threads
        return self._cost.demand(shape, self._threads(), memory_factor=memory_factor)

    def has_room(self, demand: Resources) -> bool:
        """Return whether the cluster can queue another pair, or this machine lead another large one."""
        if demand.threads > 1:
            return not self._large_pairs
        return len(self._futures) < _PAIRS_PER_THREAD * self._threads()

    def start(self, request: PairRequest, demand: Resources) -> int | None:
        """Send a small pair to the cluster; start a process here that sends the blocks of a large one."""
        if demand.threads > 1:
            self._large_pairs.add(request.name)
            address = str(self._client.scheduler_info()["address"])
            request = replace(request, options=replace(request.options, scheduler=address))
            return self._leaders.start(request, replace(demand, threads=1))
        future = self._client.submit(run_pair, request.to_line(), self._topic, pure=False, retries=0)
        self._futures[request.name] = future
        future.add_done_callback(lambda finished: self._take_last_event(request.name, finished))
        return None

    def next_event(self, seconds: float) -> WorkerEvent | None:
        """Wait for the next event of the cluster or of this machine."""
        if self._large_pairs and (event := self._leaders.next_event(0.0 if self._futures else seconds)):
            if event.kind in LAST_EVENTS:
                self._large_pairs.discard(event.pair)
            return event
        try:
            event = self._events.get(timeout=min(seconds, _POLL_SECONDS) if self._large_pairs else seconds)
        except Empty:
            return None
        if event.kind in LAST_EVENTS:
            self._futures.pop(event.pair, None)
        return event

    def kill(self, pair: str) -> None:
        """Kill the process of a pair, wherever it runs."""
        if pair in self._large_pairs:
            self._leaders.kill(pair)
        else:
            self._client.run(kill_pair, pair, self._topic)

    def close(self) -> None:
        """Stop all processes that run pairs of this batch."""
        futures, self._futures = list(self._futures.values()), {}
        with contextlib.suppress(Exception):  # a cluster that is gone has stopped them
            self._client.cancel(futures, force=True)
            self._client.run(stop_batch, self._topic)
        with contextlib.suppress(Exception):
            self._client.unsubscribe_topic(self._topic)
        self._leaders.close()

    def _threads(self) -> int:
        if time.monotonic() - self._thread_count[0] > _THREAD_COUNT_SECONDS:  # asking takes longer than most events
            self._thread_count = time.monotonic(), max(1, sum(self._client.nthreads().values()))
        return self._thread_count[1]

    def _receive(self, event: tuple[float, str]) -> None:
        with contextlib.suppress(ValueError):
            self._events.put(WorkerEvent.from_line(event[1]))

    def _take_last_event(self, name: str, future: Future) -> None:
        """Queue the last event of a pair: the one that its task returned, or the reason why there is none."""
        if future.status == "finished":
            self._events.put(WorkerEvent.from_line(future.result()))
            return
        error = future.exception() if future.status == "error" else None
        reason = f"the cluster lost the pair ({type(error).__name__ if error else future.status})"
        self._events.put(WorkerEvent("died", name, {"code": None, "reason": reason, "stderr": str(error or "")}))


def check_shared(client: Client, folder: Path) -> None:
    """Refuse an output folder that a worker of the cluster does not see.

    Raises
    ------
    ClusterError
        A worker has no such folder, or the cluster has no workers.
    """
    answers = client.run(_is_folder, str(folder))
    if not answers:
        raise ClusterError("the cluster", "has no workers", "start some: dask worker ADDRESS")
    for worker, exists in answers.items():
        if not exists:
            raise ClusterError(folder, f"does not exist on the worker {worker}", "use a folder that all workers share")


def _is_folder(folder: str) -> bool:
    return Path(folder).is_dir()


# --- on a worker of the cluster -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _PairProcess:
    """A process on a Dask worker, the queue of its events, and the topic of the batch that used it last."""

    process: WorkerProcess
    events: SimpleQueue[WorkerEvent]
    topic: str

    @classmethod
    def start(cls, topic: str) -> _PairProcess:
        events: SimpleQueue[WorkerEvent] = SimpleQueue()
        return cls(WorkerProcess(lambda _process, event: events.put(event)), events, topic)


@dataclass(eq=False)
class PairProcesses(WorkerPlugin):  # type: ignore[misc] # distributed is an extra
    """The processes in which a Dask worker runs pairs, shared by all batches of the cluster.

    They end with the batch that used them last. If its client was killed, the next batch takes them over.
    """

    idempotent = True  # a second batch must not replace the processes of the first
    processes: list[_PairProcess] = field(default_factory=list)

    def setup(self, worker: Worker) -> None:
        """Prepare for the tasks of a Dask worker, which run in several threads."""
        self._worker = worker
        self._lock = threading.Lock()

    async def teardown(self, worker: Worker) -> None:
        """Stop all processes when the Dask worker closes."""
        del worker
        await asyncio.to_thread(stop_workers, [each.process for each in self._take(self.processes)])

    def run(self, request: PairRequest, topic: str) -> WorkerEvent:
        """Run a pair in an idle process or a new one; publish its events, and return the last one."""
        used = self._acquire(request, topic)
        while (event := used.events.get()).kind not in LAST_EVENTS:
            if event.kind == "ready" or event.pair:
                data = {**event.data, "pid": used.process.pid}
                self._worker.log_event(topic, WorkerEvent(event.kind, request.name, data).to_line())
        with self._lock:
            is_reusable = used.process.finish_pair() and event.kind != "died"
            if not is_reusable and used in self.processes:
                self.processes.remove(used)
        return WorkerEvent(event.kind, request.name, event.data)

    def kill(self, pair: str, topic: str) -> None:
        """Kill the process that runs a pair of a batch, if it is one of these."""
        with self._lock:
            for each in self.processes:
                request = each.process.request
                if each.topic == topic and request is not None and request.name == pair:
                    each.process.kill()

    def stop(self, topic: str) -> None:
        """Stop the processes of a batch."""
        stop_workers([each.process for each in self._take(each for each in self.processes if each.topic == topic)])

    def _acquire(self, request: PairRequest, topic: str) -> _PairProcess:
        with self._lock:
            self.processes = [each for each in self.processes if each.process.alive or each.process.request]
            idle = next((each for each in self.processes if each.process.request is None), None)
            used = _PairProcess.start(topic) if idle is None else replace(idle, topic=topic)
            self.processes = [*(each for each in self.processes if each is not idle), used]
            used.process.send(request)
        return used

    def _take(self, processes: Iterable[_PairProcess]) -> list[_PairProcess]:
        with self._lock:
            removed = list(processes)
            self.processes = [each for each in self.processes if each not in removed]
        return removed


def run_pair(line: str, topic: str) -> str:
    """Run a pair on the machine of this Dask worker; return its last event as a line."""
    request = PairRequest.from_line(line)
    if not Path(request.folder).is_dir():
        error = OptionError(request.folder, "does not exist on a worker of the cluster", "use a folder that all share")
        data = {"kind": "OptionError", "message": str(error), "transient": False}
        return WorkerEvent("failed", request.name, data).to_line()
    return _pair_processes(get_worker()).run(request, topic).to_line()


def kill_pair(pair: str, topic: str, dask_worker: Worker) -> None:
    """Kill the process that runs a pair of a batch, if it is one of this Dask worker."""
    _pair_processes(dask_worker).kill(pair, topic)


async def stop_batch(topic: str, dask_worker: Worker) -> None:
    """Stop the processes that a Dask worker has for a batch."""
    await asyncio.to_thread(_pair_processes(dask_worker).stop, topic)


def _pair_processes(worker: Worker) -> PairProcesses:
    plugin = worker.plugins[PLUGIN]
    assert isinstance(plugin, PairProcesses)
    return plugin
