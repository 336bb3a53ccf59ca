"""Who runs the pairs: worker processes of this machine, within its budget."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Protocol

import geosiam
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from geosiam.batch.resources import Budget, Cost, Need

STOP_SECONDS = 8.0
"""How long workers may take to end in order; those that take longer are killed."""

RECYCLE_PAIRS = 500
"""Pairs after which a worker is replaced: whatever a library leaks is given back."""


class Crew(Protocol):
    """Runs jobs somewhere and tells what becomes of them."""

    def need(self, shape: tuple[int, int] | None, *, waiting: int, times: float) -> Need:
        """Return what a pair of this shape is given; see :meth:`geosiam.batch.resources.Cost.need`."""
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


_TAIL_BYTES = 16_000
_MODULE = "geosiam.batch.worker"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Libraries that start a thread for each processor, in each of several processes, keep these from work by waiting."""


class Child:
    """A process that runs one pair at a time, and may die of it without harm to anything else.

    Parameters
    ----------
    tell
        Called with this child and each of its events, in a thread of its own; the last one is ``died``.
    environment
        Variables to set, besides those of this process.
    """

    def __init__(self, tell: Callable[[Child, Event], None], environment: Mapping[str, str] | None = None) -> None:
        self._tell = tell
        self.job: Job | None = None
        self.finished = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=_environment(environment or {}),
            start_new_session=True,  # Ctrl-C in a terminal is for who started it, who then ends it in order
        )
        threading.Thread(target=self._listen, name=f"geosiam-child-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, job: Job) -> None:
        """Give it a pair to run; a process that died in the meantime says so by its event."""
        self.job = job
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(job.to_line() + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Ask it to end: what it has done of a pair is kept for the next time."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that was cut when the process died
                    self._tell(self, Event.of_line(line))
        code = self._process.wait()
        self.stop()
        self._tell(self, Event("died", "", {"code": code, "reason": _reason(code), "stderr": self._last_words()}))

    def _last_words(self) -> str:
        with self._errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if line and not line.startswith("Extension modules:"))


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the process: it must find this very geosiam, and compute in the threads it is given."""
    home = str(Path(geosiam.__file__).parents[1])
    search = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    return {**_ONE_THREAD, **os.environ, "PYTHONPATH": search, **more}


def _reason(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


SCORES, POLYGONS = "scores.tif", "anomalies.gpkg"
"""Names of the results in a pair's folder."""


@dataclass(frozen=True)
class Job:
    """A pair as a worker runs it.

    Parameters
    ----------
    name
        Of the pair.
    before, after
        Its scenes.
    folder
        Where its results go; it exists.
    options
        How it is compared, with the threads and the scheduler that it is given.
    """

    name: str
    before: str
    after: str
    folder: str
    options: DetectOptions

    def to_line(self) -> str:
        """Return the job as a line of JSON."""
        return json.dumps({**asdict(self), "options": self.options.to_dict()})

    @classmethod
    def of_line(cls, line: str) -> Job:
        """Return the job in a line."""
        values: dict[str, Any] = json.loads(line)
        options = values.pop("options")
        options["bands"] = None if options["bands"] is None else tuple(options["bands"])
        return cls(**values, options=DetectOptions(**options))


@dataclass(frozen=True)
class Event:
    """What a worker says of the pair that it runs.

    Parameters
    ----------
    kind
        ``ready`` (for the first pair), ``progress``, ``log``, ``done``, ``failed``, or ``died``: the process ended.
    pair
        Its name; empty where none is run.
    data
        The details.
    """

    kind: str
    pair: str
    data: dict[str, Any]

    def to_line(self) -> str:
        """Return the event as a line of JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def of_line(cls, line: str) -> Event:
        """Return the event in a line.

        Raises
        ------
        ValueError
            There is none.
        """
        values = json.loads(line)
        if not isinstance(values, dict) or values.keys() != {"kind", "pair", "data"}:
            raise ValueError("not an event")
        return cls(**values)
