"""Worker processes of this machine that run pairs, and the messages that are exchanged with them.

Each message is one line of JSON: a :class:`PairRequest` goes to the worker's stdin, and :class:`WorkerEvent` objects
come back on what was its stdout. :mod:`geosiam.batch.worker` is the other side.

A ``dask.distributed.LocalCluster`` or pebble's ``ProcessPool`` would not do: a crash must fail no other pair and be
reported with signal and stderr, a running pair must be stoppable, workers must not outlive a killed parent, and a
script that starts a batch must not need ``if __name__ == "__main__"``. Each of the two lacks several of these.
"""

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
from geosiam.files import parse_json
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from geosiam.batch.resources import CostModel, Resources

SCORES, POLYGONS = "scores.tif", "anomalies.gpkg"
"""File names of the results in a pair's folder."""

STOP_SECONDS = 8.0
"""Time that workers get to stop in order; after that they are killed."""

RECYCLE_PAIRS = 500
"""Pairs after which a worker is replaced, which frees whatever a library leaks."""

LAST_EVENTS = ("done", "failed", "died")
"""Kinds of events that end a pair."""

_MODULE = "geosiam.batch.worker"
_STDERR_TAIL_BYTES = 16_000
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Math libraries start a thread per processor; in several processes at once, these would only wait for each other."""


@dataclass(frozen=True)
class PairRequest:
    """A request to a worker to run a pair.

    Parameters
    ----------
    name
        Name of the pair.
    before, after
        Paths or URLs of its scenes.
    folder
        Existing folder for its results.
    options
        How it is compared, with its threads and its scheduler.
    """

    name: str
    before: str
    after: str
    folder: str
    options: DetectOptions

    def to_line(self) -> str:
        """Return the request as a line of JSON."""
        return json.dumps({**asdict(self), "options": self.options.to_dict()})

    @classmethod
    def from_line(cls, line: str) -> PairRequest:
        """Parse a line that :meth:`to_line` returned."""
        values: dict[str, Any] = json.loads(line)
        return cls(**{**values, "options": DetectOptions(**values["options"])})


_EVENT_TYPES = {"kind": str, "pair": str, "data": dict}


@dataclass(frozen=True)
class WorkerEvent:
    """A message from a worker about the pair that it runs.

    Parameters
    ----------
    kind
        ``ready`` (the process has started), ``progress``, ``log``, ``done``, ``failed``, or ``died`` (the process has
        ended).
    pair
        Name of the pair; empty if none is running.
    data
        Details, as JSON can hold them.
    """

    kind: str
    pair: str
    data: dict[str, Any]

    def to_line(self) -> str:
        """Return the event as a line of JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_line(cls, line: str) -> WorkerEvent:
        """Parse a line that :meth:`to_line` returned.

        Raises
        ------
        ValueError
            The line is something else.
        """
        values = parse_json(line)
        if not isinstance(values, dict) or {k: type(v) for k, v in values.items()} != _EVENT_TYPES:
            raise ValueError("not an event")
        return cls(**values)


class WorkerPool(Protocol):
    """Workers that run pairs: those of this machine, or those of a Dask cluster."""

    def demand(self, shape: tuple[int, int] | None, *, waiting: int, memory_factor: float) -> Resources:
        """Return the resources of a pair; see :meth:`geosiam.batch.resources.CostModel.demand`."""
        ...

    def has_room(self, demand: Resources) -> bool:
        """Return whether a pair with these resources can start now."""
        ...

    def start(self, request: PairRequest, demand: Resources) -> int | None:
        """Start a pair; return the id of its process if that runs on this machine."""
        ...

    def next_event(self, seconds: float) -> WorkerEvent | None:
        """Wait for the next event, for a limited time; None if there is none. The last one of a pair ends it."""
        ...

    def kill(self, pair: str) -> None:
        """Kill the process of a pair, whose last event will be ``died``."""
        ...

    def close(self) -> None:
        """Stop all workers: in order if they manage in :data:`STOP_SECONDS`, else by force."""
        ...


class LocalPool:
    """Worker processes of this machine.

    Parameters
    ----------
    cost
        Time and memory that pairs cost.
    budget
        Resources of all pairs together.
    devices
        CUDA device numbers over which the processes are spread; if empty, all see the devices that this process sees.
    """

    def __init__(self, cost: CostModel, budget: Resources, devices: Sequence[str] = ()) -> None:
        self._cost = cost
        self._budget = budget
        self._devices = devices
        self._workers: dict[WorkerProcess, Resources | None] = {}  # None: idle
        self._events: SimpleQueue[tuple[WorkerProcess, WorkerEvent]] = SimpleQueue()

    def demand(self, shape: tuple[int, int] | None, *, waiting: int, memory_factor: float) -> Resources:
        """Return the resources of a pair out of the budget."""
        return self._cost.demand(shape, self._budget.threads, waiting=waiting, memory_factor=memory_factor)

    def has_room(self, demand: Resources) -> bool:
        """Return whether the budget has room for a pair."""
        return self._budget.has_room([running for running in self._workers.values() if running], demand)

    def start(self, request: PairRequest, demand: Resources) -> int:
        """Send a pair to an idle process or to a new one."""
        idle = [worker for worker, running in self._workers.items() if running is None]
        worker = idle[0] if idle else self._new_worker()
        self._workers[worker] = demand
        worker.send(request)
        return worker.pid

    def next_event(self, seconds: float) -> WorkerEvent | None:
        """Wait for the next event of any process."""
        try:
            worker, event = self._events.get(timeout=seconds)
        except Empty:
            return None
        if worker not in self._workers:  # it was replaced
            return None
        pair = event.pair or (worker.request.name if worker.request else "")
        if event.kind == "died":
            del self._workers[worker]
            return WorkerEvent("died", pair, event.data)
        if event.kind in LAST_EVENTS:
            self._release(worker)
        return WorkerEvent(event.kind, pair, {**event.data, "pid": worker.pid})

    def kill(self, pair: str) -> None:
        """Kill the process that runs a pair."""
        for worker in self._workers:
            if worker.request is not None and worker.request.name == pair:
                worker.kill()

    def close(self) -> None:
        """Stop all processes."""
        workers = list(self._workers)
        self._workers.clear()
        stop_workers(workers)

    def _new_worker(self) -> WorkerProcess:
        environment = {}
        if self._devices:
            devices = [worker.environment.get("CUDA_VISIBLE_DEVICES") for worker in self._workers]
            environment["CUDA_VISIBLE_DEVICES"] = min(self._devices, key=devices.count)
        worker = WorkerProcess(lambda worker, event: self._events.put((worker, event)), environment)
        self._workers[worker] = None
        return worker

    def _release(self, worker: WorkerProcess) -> None:
        """Keep a process for the next pair, or retire it."""
        self._workers[worker] = None
        if not worker.finish_pair():
            del self._workers[worker]


class WorkerProcess:
    """A process that runs one pair at a time; if it crashes, nothing else is affected.

    Parameters
    ----------
    on_event
        Called with this object and each of its events, in a separate thread; the last event is ``died``.
    environment
        Environment variables to set, in addition to those of this process.
    """

    def __init__(
        self, on_event: Callable[[WorkerProcess, WorkerEvent], None], environment: Mapping[str, str] | None = None
    ) -> None:
        self._on_event = on_event
        self.environment = environment or {}
        self.request: PairRequest | None = None
        self._pairs_run = 0
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=_process_environment(self.environment),
            # Ctrl-C in a terminal must reach only the main process, which then stops the workers in order.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        threading.Thread(target=self._listen, name=f"geosiam-worker-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def send(self, request: PairRequest) -> None:
        """Send a pair to run; if the process has died in the meantime, its last event is ``died``."""
        self.request = request
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(request.to_line() + "\n")
            self._process.stdin.flush()

    def finish_pair(self) -> bool:
        """Record the end of a pair; return False and stop the process after :data:`RECYCLE_PAIRS` pairs."""
        self.request = None
        self._pairs_run += 1
        if self._pairs_run < RECYCLE_PAIRS:
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """Ask the process to stop; the finished part of its pair is kept for the next run."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the process; return whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that was cut off when the process died
                    self._on_event(self, WorkerEvent.from_line(line))
        code = self._process.wait()
        self.stop()
        data = {"code": code, "reason": _exit_reason(code), "stderr": self._stderr_tail()}
        self._on_event(self, WorkerEvent("died", "", data))

    def _stderr_tail(self) -> str:
        with self._stderr as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if line and not line.startswith("Extension modules:"))


def stop_workers(workers: Sequence[WorkerProcess]) -> None:
    """Stop processes together, and kill those that still run after :data:`STOP_SECONDS`."""
    for worker in workers:
        worker.stop()
    deadline = time.monotonic() + STOP_SECONDS
    for worker in workers:
        if not worker.wait(max(0.0, deadline - time.monotonic())):
            worker.kill()
            worker.wait(STOP_SECONDS)


def _process_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker, which must import this very geosiam and use only the threads it is given."""
    home = str(Path(geosiam.__file__).parents[1])
    search_path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    return {**_ONE_THREAD, **os.environ, "PYTHONPATH": search_path, **extra}


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
