"""Who runs the pairs: worker processes of this machine, within its budget."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from geosiam.survey.child import Child
from geosiam.survey.jobs import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geosiam.survey.budget import Budget, Cost, Need
    from geosiam.survey.jobs import Job

STOP_SECONDS = 8.0
"""How long workers may take to end in order; those that take longer are killed."""

RECYCLE_PAIRS = 500
"""Pairs after which a worker is replaced: whatever a library leaks is given back."""


class Crew(Protocol):
    """Runs jobs somewhere and tells what becomes of them."""

    def need(self, shape: tuple[int, int] | None, *, waiting: int, times: float) -> Need:
        """Return what a pair of this shape is given; see :meth:`geosiam.survey.budget.Cost.need`."""
        ...

    def has_room(self, need: Need) -> bool:
        """Return whether a pair may start now."""
        ...

    def start(self, job: Job, need: Need) -> int | None:
        """Begin a pair; return the id of its process on this machine, if it has one."""
        ...

    def next(self, seconds: float) -> Event | None:
        """Return what happened next, or None if nothing does for so long; every pair ends with one last event."""
        ...

    def end(self, pair: str) -> None:
        """End a pair by force: its last event will be ``died``."""
        ...

    def stop(self) -> None:
        """End everything in order, within seconds."""
        ...


@dataclass
class _Post:
    """A worker process of the crew, and what the pair it runs takes."""

    child: Child
    environment: Mapping[str, str]
    need: Need | None = None


class LocalCrew:
    """Worker processes of this machine.

    Parameters
    ----------
    cost
        What pairs take.
    budget
        What they may take together.
    devices
        The GPUs that processes are spread over, by their numbers; none: all see what this process sees.
    """

    def __init__(self, cost: Cost, budget: Budget, devices: Sequence[str] = ()) -> None:
        self._cost = cost
        self._budget = budget
        self._devices = devices
        self._posts: dict[Child, _Post] = {}
        self._events: SimpleQueue[tuple[Child, Event]] = SimpleQueue()

    def need(self, shape: tuple[int, int] | None, *, waiting: int, times: float) -> Need:
        """Return what a pair is given of the budget."""
        return self._cost.need(shape, self._budget.threads, waiting=waiting, times=times)

    def has_room(self, need: Need) -> bool:
        """Return whether the budget has room for a pair."""
        return self._budget.has_room([post.need for post in self._posts.values() if post.need], need)

    def start(self, job: Job, need: Need) -> int:
        """Give a pair to a process that waits, or to a new one."""
        idle = [post for post in self._posts.values() if post.need is None]
        post = idle[0] if idle else self._engage()
        post.need = need
        post.child.run(job)
        return post.child.pid

    def next(self, seconds: float) -> Event | None:
        """Return what happened next."""
        try:
            child, event = self._events.get(timeout=seconds)
        except Empty:
            return None
        post = self._posts.get(child)
        if post is None:  # one that was replaced
            return None
        if event.kind == "died":
            del self._posts[child]
            return Event("died", child.job.name if child.job else "", event.data)
        if event.kind in ("done", "failed"):
            self._release(post)
        pid = {"pid": child.pid}
        return Event(event.kind, event.pair or (child.job.name if child.job else ""), {**event.data, **pid})

    def end(self, pair: str) -> None:
        """Kill the process that runs a pair."""
        for child in self._posts:
            if child.job is not None and child.job.name == pair:
                child.kill()

    def stop(self) -> None:
        """End all processes: in order if they manage within seconds, by force if not."""
        children = list(self._posts)
        self._posts.clear()
        for child in children:
            child.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            if not child.wait(max(0.0, deadline - time.monotonic())):
                child.kill()
                child.wait(STOP_SECONDS)

    def _engage(self) -> _Post:
        environment = {}
        if self._devices:
            busy = [post.environment.get("CUDA_VISIBLE_DEVICES") for post in self._posts.values()]
            environment["CUDA_VISIBLE_DEVICES"] = min(self._devices, key=busy.count)
        child = Child(lambda child, event: self._events.put((child, event)), environment)
        self._posts[child] = _Post(child, environment)
        return self._posts[child]

    def _release(self, post: _Post) -> None:
        post.need = None
        post.child.job = None
        post.child.finished += 1
        if post.child.finished >= RECYCLE_PAIRS:
            del self._posts[post.child]
            with contextlib.suppress(OSError):
                post.child.stop()
