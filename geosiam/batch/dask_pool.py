"""Pairs on a Dask cluster: small ones as a whole on its workers, large ones block by block over all of them.

A worker of the cluster runs a pair in a process of its own too, which it keeps for the next one: a crash of that
process is no crash of the worker, and is told and retried as on one machine. Results go to the output folder by the
worker's own hand, so that folder must be shared.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from uuid import uuid4

from geosiam.batch.pool import RECYCLE_PAIRS, STOP_SECONDS, Child, Event, Job, LocalCrew
from geosiam.batch.resources import Budget
from geosiam.errors import ClusterError, OptionError

if TYPE_CHECKING:
    from distributed import Client, Future

    from geosiam.batch.resources import Cost, Need

_ENDINGS = ("done", "failed", "died")
_COUNTED_SECONDS = 1.0  # for which the number of the cluster's threads is taken to be the same
_LATER_DISTURBANCE = 2  # pairs in flight for each thread: one that runs, and the next one


class DaskCrew:
    """The workers of a Dask cluster.

    Parameters
    ----------
    client
        Of the cluster; its owner closes it.
    cost
        What pairs take.
    memory
        Bytes that a process of this machine may take, which leads the work on a large pair.
    """

    def __init__(self, client: Client, cost: Cost, memory: float) -> None:
        self._client = client
        self._cost = cost
        self._topic = f"geosiam-{uuid4().hex}"
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._running: dict[str, Future] = {}
        self._ended: set[str] = set()
        self._leaders = LocalCrew(cost, Budget(1, memory))
        self._led: set[str] = set()
        self._counted = -math.inf, 1
        client.subscribe_topic(self._topic, self._heard)

    def need(self, shape: tuple[int, int] | None, *, waiting: int, times: float) -> Need:
        """Return what a pair takes; the threads of a large one are those of the cluster that it is worth."""
        del waiting  # the scheduler shares the cluster out
        return self._cost.need(shape, self._threads(), times=times)

    def has_room(self, need: Need) -> bool:
        """Return whether the cluster has use for another pair, or this machine for another large one."""
        if need.threads > 1:
            return not self._led
        return len(self._running) < _LATER_DISTURBANCE * self._threads()

    def start(self, job: Job, need: Need) -> int | None:
        """Send a small pair to the cluster; let a process here send the blocks of a large one."""
        if need.threads > 1:
            self._led.add(job.name)
            address = str(self._client.scheduler_info()["address"])
            led = replace(job, options=replace(job.options, scheduler=address))
            return self._leaders.start(led, replace(need, threads=1))
        future = self._client.submit(run_here, job.to_line(), self._topic, pure=False, retries=0)
        self._running[job.name] = future
        future.add_done_callback(lambda done: self._finished(job.name, done))
        return None

    def next(self, seconds: float) -> Event | None:
        """Return what happened next, on the cluster or here."""
        if self._led and (event := self._leaders.next(0.0 if self._running else seconds)):
            if event.kind in _ENDINGS:
                self._led.discard(event.pair)
            return event
        try:
            event = self._events.get(timeout=min(seconds, 0.1) if self._led else seconds)
        except Empty:
            return None
        if event.kind in _ENDINGS:
            self._running.pop(event.pair, None)
        return event

    def end(self, pair: str) -> None:
        """Kill the process that runs a pair, wherever it is."""
        if pair in self._led:
            self._leaders.end(pair)
        else:
            self._client.run(end_here, pair)

    def stop(self) -> None:
        """End all processes that run pairs of this survey."""
        running, self._running = list(self._running.values()), {}
        with contextlib.suppress(Exception):  # a cluster that went away has ended them
            self._client.cancel(running, force=True)
            self._client.run(stop_here, self._topic)
        with contextlib.suppress(Exception):
            self._client.unsubscribe_topic(self._topic)
        self._leaders.stop()

    def _threads(self) -> int:
        if time.monotonic() - self._counted[0] > _COUNTED_SECONDS:  # asking takes longer than most events
            self._counted = time.monotonic(), max(1, sum(self._client.nthreads().values()))
        return self._counted[1]

    def _heard(self, event: tuple[float, str]) -> None:
        with contextlib.suppress(ValueError):
            self._events.put(Event.of_line(event[1]))

    def _finished(self, name: str, future: Future) -> None:
        """Take the last event of a pair: what its task returned, or why there is none."""
        if future.status == "finished":
            self._events.put(Event.of_line(future.result()))
            return
        error = future.exception() if future.status == "error" else None
        reason = f"the cluster lost it ({type(error).__name__ if error else future.status})"
        self._events.put(Event("died", name, {"code": None, "reason": reason, "stderr": str(error or "")}))


def check_shared(client: Client, folder: Path) -> None:
    """Refuse an output folder that a worker of the cluster does not find.

    Raises
    ------
    ClusterError
        It is not there, or the cluster has no workers.
    """
    places = client.run(_is_folder, str(folder))
    if not places:
        raise ClusterError("the cluster", "has no workers", "start some: dask worker ADDRESS")
    for worker, there in places.items():
        if not there:
            raise ClusterError(folder, f"is not there on the worker {worker}", "use a folder that all workers share")


def _is_folder(folder: str) -> bool:
    return Path(folder).is_dir()


# --- on a worker of the cluster -------------------------------------------------------------------------------------

_lock = threading.Lock()
_idle: list[Child] = []
_busy: dict[Child, SimpleQueue[Event]] = {}
_topics: dict[Child, str] = {}


def run_here(line: str, topic: str) -> str:
    """Run a pair in a process of its own on the machine of this worker; return its last event as a line."""
    from distributed import get_worker  # noqa: PLC0415 - an extra, and slow to import

    job = Job.of_line(line)
    if not Path(job.folder).is_dir():
        error = OptionError(job.folder, "is not there on a worker of the cluster", "use a folder that all share")
        data = {"kind": "OptionError", "message": str(error), "transient": False}
        return Event("failed", job.name, data).to_line()
    events: SimpleQueue[Event] = SimpleQueue()
    with _lock:
        child = _idle.pop() if _idle else Child(_tell)
        _busy[child], _topics[child] = events, topic
    child.run(job)
    while (event := events.get()).kind not in _ENDINGS:
        get_worker().log_event(topic, Event(event.kind, job.name, {**event.data, "pid": child.pid}).to_line())
    with _lock:
        _busy.pop(child, None)
        child.job = None
        child.finished += 1
        if event.kind == "died":
            pass
        elif child.finished < RECYCLE_PAIRS:
            _idle.append(child)
        else:
            child.stop()
    return Event(event.kind, job.name, event.data).to_line()


def end_here(pair: str) -> None:
    """Kill the process that runs a pair, if it is one of this worker."""
    with _lock:
        for child in _busy:
            if child.job is not None and child.job.name == pair:
                child.kill()


def stop_here(topic: str) -> None:
    """End the processes that this worker had for a survey."""
    with _lock:
        children = [child for child, survey in _topics.items() if survey == topic]
        for child in children:
            child.stop()
            _topics.pop(child)
            if child in _idle:
                _idle.remove(child)
    for child in children:
        if not child.wait(STOP_SECONDS):
            child.kill()


def _tell(child: Child, event: Event) -> None:
    with _lock:
        events = _busy.get(child)
        if event.kind == "died" and child in _idle:
            _idle.remove(child)
    if events is not None:
        events.put(event)
