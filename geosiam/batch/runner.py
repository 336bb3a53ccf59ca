"""Run all pairs of a batch to the end, even if some of them fail or crash."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from geosiam.batch.events import BatchEvent, Progress, append_line
from geosiam.batch.pool import PairRequest
from geosiam.batch.state import LOG, PairRecord, PairState, save_state
from geosiam.errors import redacted

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.batch.events import OnEvent
    from geosiam.batch.plan import BatchPair
    from geosiam.batch.pool import WorkerEvent, WorkerPool
    from geosiam.batch.resources import Resources
    from geosiam.options import DetectOptions

MAX_ATTEMPTS = 2
_TICK_SECONDS = 0.25  # between two progress events, and between two checks of the time limit
_DETAILS_OF_DONE = ("count", "area_m2", "seconds", "pixels", "shift_px", "bend_px", "warnings")


@dataclass
class PairTask:
    """A pair to run, and how far it is.

    Parameters
    ----------
    pair
        The pair.
    folder
        Folder of its results.
    identity
        Digest of everything the results depend on; empty if that is unknown.
    options
        How it is compared.
    restart
        Whether to discard what an interrupted run left in the folder, because it had another identity.
    attempts
        Number of attempts so far.
    start
        When the present attempt started, on the monotonic clock.
    fraction
        Finished fraction of the present attempt, 0 to 1.
    timed_out
        Whether it was killed because of the time limit.
    memory_factor
        Factor on the memory that is reserved for it.
    """

    pair: BatchPair
    folder: Path
    identity: str
    options: DetectOptions
    restart: bool = False
    attempts: int = 0
    start: float = 0.0
    fraction: float = 0.0
    timed_out: bool = False
    memory_factor: float = 1.0


class Runner:
    """Runs tasks in a pool of workers, and saves the state of each pair.

    Parameters
    ----------
    pool
        The workers.
    tasks
        The pairs to run.
    skipped
        Number of pairs that are up to date.
    time_limit
        Seconds that a pair may take; None: no limit.
    on_event
        Called with every event.
    """

    def __init__(
        self,
        pool: WorkerPool,
        tasks: list[PairTask],
        *,
        skipped: int,
        time_limit: float | None,
        on_event: OnEvent | None,
    ) -> None:
        self._pool = pool
        self._skipped = skipped
        self._time_limit = time_limit
        self._on_event = on_event
        self._tasks = tasks
        self._pixels = sum(task.pair.pixels for task in tasks)
        # The largest pairs first, so that no large one runs alone at the end.
        self._waiting = deque(sorted(tasks, key=lambda task: -task.pair.pixels))
        self._running: dict[str, PairTask] = {}
        self._start = time.monotonic()
        self._end: float | None = None  # merging the results is not part of the pairs' speed
        self._last_progress = 0.0
        self._pixels_done = 0
        self._anomalies = 0
        self._finished = 0
        self._failed = 0
        self.states: dict[str, PairState] = {}

    def run(self) -> dict[str, PairState]:
        """Run all tasks; return the final state of each pair by its name."""
        self._emit("begin", "", {"to_run": len(self._tasks), "skipped": self._skipped})
        while self._waiting or self._running:
            self._start_waiting()
            event = self._pool.next_event(_TICK_SECONDS if self._running else 0.0)
            if event is not None and (task := self._running.get(event.pair)) is not None:
                self._handle(task, event)
            self._kill_timed_out()
            self._emit_progress()
        self._end = time.monotonic()
        return self.states

    def progress(self) -> Progress:
        """Return the progress of the batch."""
        running = tuple((name, task.fraction) for name, task in self._running.items())
        partly = sum(task.fraction * task.pair.pixels for task in self._running.values())
        return Progress(
            pairs=len(self._tasks),
            finished=self._finished,
            failed=self._failed,
            skipped=self._skipped,
            pixels=self._pixels,
            pixels_done=self._pixels_done + partly,
            anomalies=self._anomalies,
            seconds=(self._end or time.monotonic()) - self._start,
            running=running,
        )

    def _start_waiting(self) -> None:
        while self._waiting:
            task = self._waiting[0]
            demand = self._pool.demand(task.pair.shape, waiting=len(self._waiting), memory_factor=task.memory_factor)
            if not self._pool.has_room(demand):
                return
            self._waiting.popleft()
            self._start_task(task, demand)

    def _start_task(self, task: PairTask, demand: Resources) -> None:
        task.attempts += 1
        task.start = time.monotonic()
        log = task.folder / LOG
        try:
            task.folder.mkdir(exist_ok=True)
            if task.attempts == 1:
                log.unlink(missing_ok=True)
            save_state(task.folder, PairState("started", task.identity, task.attempts))
        except OSError as error:
            self._fail(task, f"{task.folder}: cannot be written ({error.strerror}); check permissions and free space")
            return
        pair = task.pair
        options = replace(task.options, workers=demand.threads, scheduler=None, restart=task.restart)
        self._running[pair.name] = task
        pid = self._pool.start(PairRequest(pair.name, pair.before, pair.after, str(task.folder), options), demand)
        details = {
            "before": pair.before,
            "after": pair.after,
            "attempt": task.attempts,
            "threads": demand.threads,
            "pid": pid,
        }
        self._log(task, "start", {**details, "options": options.to_dict()})
        self._emit("start", pair.name, details)

    def _handle(self, task: PairTask, event: WorkerEvent) -> None:
        data = event.data
        if event.kind == "progress":
            task.fraction = data["done"] / data["total"] if data["total"] else 1.0
            task.restart = False  # a second attempt resumes this one
        elif event.kind == "log":
            self._log(task, "log", data)
            self._emit("log", task.pair.name, data)
        elif event.kind == "ready":
            self._emit("ready", task.pair.name, data)
        elif event.kind == "done":
            self._complete(task, data)
        elif event.kind == "failed":
            self._log(task, "failed", data)
            self._retry_or_fail(task, data["message"], transient=data["transient"])
        elif event.kind == "died":
            self._log(task, "died", data)
            task.memory_factor *= 2  # memory may have run out, so fewer pairs should run beside the second attempt
            self._retry_or_fail(task, self._death_message(task, data), transient=not task.timed_out)

    def _complete(self, task: PairTask, data: dict[str, Any]) -> None:
        record = replace(PairRecord.from_dict(data["record"]), memory_mb=data["peak_mb"])
        state = PairState("done", task.identity, task.attempts, record)
        try:
            save_state(task.folder, state)
        except OSError as error:
            self._retry_or_fail(task, f"{task.folder}: cannot be written ({error.strerror})", transient=False)
            return
        details = record.to_dict()
        self._log(task, "done", details)
        self._anomalies += record.count
        self._finish(task, state)
        process = {key: data[key] for key in ("held_mb", "peak_mb", "pid") if key in data}
        self._emit("done", task.pair.name, {key: details[key] for key in _DETAILS_OF_DONE} | process)

    def _death_message(self, task: PairTask, data: dict[str, Any]) -> str:
        if task.timed_out:
            return f"{task.pair.name}: took longer than {self._time_limit:.0f} s; raise `time_limit`, or check its log"
        lines = (data.get("stderr") or "").splitlines()
        fatal = [line for line in lines if line.startswith("Fatal")] or lines[-1:]
        quoted = f" ({fatal[0]})" if fatal else ""
        return f"{task.pair.name}: {data['reason']}{quoted}; check its log, or run it alone with geosiam detect"

    def _retry_or_fail(self, task: PairTask, message: str, *, transient: bool) -> None:
        if not transient or task.attempts >= MAX_ATTEMPTS:
            self._fail(task, message + (f" (tried {task.attempts} times)" if task.attempts > 1 else ""))
            return
        del self._running[task.pair.name]
        task.fraction = 0.0
        self._waiting.append(task)
        self._emit("retry", task.pair.name, {"reason": message})

    def _fail(self, task: PairTask, message: str) -> None:
        message = redacted(message)
        state = PairState("failed", task.identity, task.attempts, error=message)
        with contextlib.suppress(OSError):
            save_state(task.folder, state)
        self._failed += 1
        self._finish(task, state)
        self._emit("failed", task.pair.name, {"error": message, "attempts": task.attempts})

    def _finish(self, task: PairTask, state: PairState) -> None:
        self._running.pop(task.pair.name, None)
        self._pixels_done += task.pair.pixels
        self._finished += 1
        self.states[task.pair.name] = state

    def _kill_timed_out(self) -> None:
        if self._time_limit is None:
            return
        now = time.monotonic()
        for task in self._running.values():
            if not task.timed_out and now - task.start > self._time_limit:
                task.timed_out = True
                self._pool.kill(task.pair.name)

    def _log(self, task: PairTask, event: str, data: dict[str, Any]) -> None:
        append_line(task.folder / LOG, event=event, pair=task.pair.name, **data)

    def _emit_progress(self) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _TICK_SECONDS:
            self._last_progress = now
            self._emit("progress", "", {})

    def _emit(self, kind: str, pair: str, data: dict[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(BatchEvent(kind, pair, data, self.progress()))
