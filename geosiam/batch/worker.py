"""A process of its own that runs pairs, one after the other: jobs come by stdin, events go to what was stdout.

The imports are paid for once. The process ends when its stdin does: so it never outlives the survey, however that ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from geosiam.batch.pool import POLYGONS, SCORES, Event, Job
from geosiam.batch.state import facts_of, memory_now
from geosiam.errors import ClusterError, GeosiamError, SceneNotFoundError, SceneUnreadableError
from geosiam.pipeline import detect
from geosiam.runtime import tune_allocator

_BETWEEN_REPORTS = 0.2
_GRACE_SECONDS = 6.0  # for the block that is being scored


class _Channel:
    """The way back; several threads may say something."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.pair = ""

    def say(self, kind: str, /, **data: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(Event(kind, self.pair, data).to_line() + "\n")
            self._file.flush()


class _Handler(logging.Handler):
    """Log lines of the library become events."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._channel.say("log", level=record.levelname.lower(), message=record.getMessage())


def main() -> None:
    """Run jobs until stdin ends."""
    # The way back is for events only: what a library prints must not get among them.
    back = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    tune_allocator()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of the shell's background has it ignored
    channel = _Channel(back)
    logging.getLogger("geosiam").addHandler(_Handler(channel))
    logging.getLogger("geosiam").setLevel(logging.INFO)
    jobs: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    channel.say("ready", pid=os.getpid())
    try:
        while (line := jobs.get()) is not None:
            _tidy_up(warm=_run(Job.of_line(line), channel))
    except KeyboardInterrupt:
        pass
    os._exit(0)  # everything is closed; taking the interpreter down in order would take a second more


def _listen(jobs: SimpleQueue[str | None]) -> None:
    """Hand on jobs; when stdin ends interrupt what is running, and end the process if that does not help."""
    for line in sys.stdin:
        jobs.put(line)
    jobs.put(None)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it up from any wait
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _run(job: Job, channel: _Channel) -> bool:
    """Run a pair; return whether it was run to its end."""
    channel.pair = job.name
    try:
        facts = _compared(job, channel)
    except GeosiamError as error:
        channel.say("failed", **_refusal(job, error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this pair's, and the next one is run
        channel.say("failed", **_surprise(error))
    else:
        channel.say("done", facts=facts, **memory_now())
        return True
    finally:
        channel.pair = ""
    return False


def _tidy_up(*, warm: bool) -> None:
    """Free what a pair leaves in cycles, so that memory stays where it is.

    What is there after the first pair that was run to its end, mostly what was imported, is there for good: to look
    through it after every pair would take a third of the time of a small one.
    """
    gc.collect()
    if warm and not gc.get_freeze_count():
        gc.freeze()


def _compared(job: Job, channel: _Channel) -> dict[str, Any]:
    start = time.perf_counter()
    said = start

    def report(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if done == total or now - said >= _BETWEEN_REPORTS:
            said = now
            channel.say("progress", done=done, total=total)

    polygons, scores = Path(job.folder, POLYGONS), Path(job.folder, SCORES)
    found = detect(job.before, job.after, polygons, scores=scores, options=job.options, on_progress=report)
    return facts_of(found, time.perf_counter() - start)


def _refusal(job: Job, error: GeosiamError) -> dict[str, Any]:
    remote = isinstance(error, (SceneUnreadableError, SceneNotFoundError)) and (
        "://" in job.before or "://" in job.after
    )
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "transient": remote or isinstance(error, ClusterError),
    }


def _surprise(error: Exception) -> dict[str, Any]:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return {
        "kind": type(error).__name__,
        "message": f"unexpected error, please report it: {text}",
        "transient": isinstance(error, (MemoryError, OSError)),
        "traceback": traceback.format_exc(),
    }


if __name__ == "__main__":
    main()
