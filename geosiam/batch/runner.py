"""Run all pairs of a batch to the end, even if some of them fail or crash."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from geosiam.batch.events import BatchEvent, Progress, append_line
from geosiam.batch.pool import LocalPool, PairRequest
from geosiam.batch.resources import CostModel
from geosiam.batch.state import LOG, PairRecord, PairState, save_state
from geosiam.errors import redacted
from geosiam.inference.cluster import connected
from geosiam.inference.scorer import BLOCK_PX, load_scorer
from geosiam.inspection import estimated_memory, seconds_per_pixel
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geosiam.batch.events import OnEvent
    from geosiam.batch.plan import BatchPair
    from geosiam.batch.pool import WorkerEvent, WorkerPool
    from geosiam.batch.resources import Resources
    from geosiam.inference.scorer import Scorer
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


# -- workers ----------------------------------------------------------------------------------------------------------

_PROCESSES_PER_GPU = 4  # enough that one computes while the others read and write


@contextlib.contextmanager
def start_pool(root: Path, detect: DetectOptions, budget: Resources, scheduler: str | None) -> Iterator[WorkerPool]:
    """Start the workers that run the pairs, and stop them in order however the batch ends.

    Parameters
    ----------
    root
        Folder of the batch, which the workers of a cluster must see.
    detect
        How pairs are compared, unless they have options of their own.
    budget
        Threads and memory of this machine.
    scheduler
        Address of a Dask scheduler; None: processes of this machine.

    Raises
    ------
    InputError
        The model, the device or the cluster cannot be used.
    """
    with connected(scheduler) as client:
        scorer = _scorer(detect, on_cluster=client is not None)
        pool: WorkerPool
        if client is None:
            gpus = _gpus(detect, scorer)
            pool = LocalPool(cost_model(detect), budget, gpus if len(gpus) > 1 else ())
        else:
            from geosiam.batch.dask_pool import DaskPool, check_shared  # noqa: PLC0415 - needs distributed, an extra

            check_shared(client, root)
            pool = DaskPool(client, cost_model(detect, on_cluster=True), budget.memory)
        try:
            yield pool
        finally:
            pool.close()


def cost_model(detect: DetectOptions, *, on_cluster: bool = False) -> CostModel:
    """Measure the speed of the network on this machine, unless a cluster does the work, and estimate its memory.

    Raises
    ------
    InputError
        The model or the device cannot be used.
    """
    scorer = _scorer(detect, on_cluster=on_cluster)
    one_thread, two_threads = estimated_memory(scorer, 1), estimated_memory(scorer, 2)
    gpus = [] if on_cluster else _gpus(detect, scorer)
    return CostModel(
        seconds_per_pixel=0.0 if on_cluster else seconds_per_pixel(scorer),
        process_bytes=2 * one_thread - two_threads,
        thread_bytes=two_threads - one_thread,
        block_px=BLOCK_PX // scorer.stride * scorer.stride,
        min_threads=max(1, default_workers() // (_PROCESSES_PER_GPU * len(gpus))) if gpus else 1,
    )


def _scorer(detect: DetectOptions, *, on_cluster: bool) -> Scorer:
    return load_scorer(
        detect.model, engine=detect.engine, device=detect.device, precision=detect.precision, elsewhere=on_cluster
    )[1]


def _gpus(detect: DetectOptions, scorer: Scorer) -> list[str]:
    """Return the GPUs over which the work may be spread; empty if the CPU does it."""
    if scorer.engine.device_type != "cuda":
        return []
    if detect.device not in ("auto", "cuda"):
        return [detect.device]
    from geosiam.inference.torch_engine import choose_device, cuda_devices  # noqa: PLC0415 - brings PyTorch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(index) for index in range(len(cuda_devices(choose_device("cuda"))))]
