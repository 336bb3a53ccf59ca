"""A worker process: runs the pairs that are sent to its stdin, and writes events to what was its stdout.

Imports are paid for once per process, not once per pair. The process exits when its stdin closes, so it never outlives
the process that started it.
"""

from __future__ import annotations

import _thread
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

from geosiam.batch.pool import POLYGONS, SCORES, PairRequest, WorkerEvent
from geosiam.batch.resources import process_memory
from geosiam.batch.state import PairRecord, pair_metadata
from geosiam.errors import ClusterError, GeosiamError, SceneNotFoundError, SceneUnreadableError, redacted
from geosiam.pipeline import detect
from geosiam.runtime import tune_allocator

_PROGRESS_SECONDS = 0.2  # between two progress events
_INTERRUPT_SECONDS = 6.0  # for the block that is being scored when the process is interrupted


class _EventWriter:
    """Writes events about the current pair as lines; several threads may use it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.pair = ""

    def write(self, kind: str, /, **data: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(WorkerEvent(kind, self.pair, data).to_line() + "\n")
            self._file.flush()


class _LogHandler(logging.Handler):
    """Turns log records of the library into events."""

    def __init__(self, events: _EventWriter) -> None:
        super().__init__(logging.INFO)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._events.write("log", level=record.levelname.lower(), message=redacted(record.getMessage()))


def main() -> None:
    """Run pairs until stdin closes."""
    # The original stdout is for events only, so anything a library prints goes to stderr.
    events = _EventWriter(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    faulthandler.enable()
    tune_allocator()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    logging.getLogger("geosiam").addHandler(_LogHandler(events))
    logging.getLogger("geosiam").setLevel(logging.INFO)
    lines: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(lines,), daemon=True).start()
    events.write("ready", pid=os.getpid())
    try:
        while (line := lines.get()) is not None:
            completed = _run(PairRequest.from_line(line), events)
            _collect_garbage(completed=completed)
    except KeyboardInterrupt:
        pass
    os._exit(0)  # all files are closed; an orderly shutdown of the interpreter would take another second


def _read_requests(lines: SimpleQueue[str | None]) -> None:
    """Queue requests; when stdin closes, interrupt the pair that runs, and exit if that does not help."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes the main thread from any wait
    else:  # Windows
        _thread.interrupt_main()
    time.sleep(_INTERRUPT_SECONDS)
    os._exit(1)


def _run(request: PairRequest, events: _EventWriter) -> bool:
    """Run a pair and write its last event; return whether it has results."""
    events.pair = request.name
    try:
        record = _detect(request, events)
    except GeosiamError as error:
        events.write("failed", **_refusal(request, error))
    except Exception as error:  # noqa: BLE001 - any error fails this pair only
        events.write("failed", **_unexpected(error))
    else:
        events.write("done", record=record.to_dict(), **process_memory())
        return True
    finally:
        events.pair = ""
    return False


def _collect_garbage(*, completed: bool) -> None:
    """Free the reference cycles that a pair leaves, so that memory does not grow.

    What exists after the first complete pair is mostly imported modules, which stay: checking them again after every
    pair would take a third of the time of a small one, so they are frozen. A refused pair leaves little, and does not
    justify a check of everything before that.
    """
    is_frozen = gc.get_freeze_count() > 0
    if completed or is_frozen:
        gc.collect()
    if completed and not is_frozen:
        gc.freeze()


def _detect(request: PairRequest, events: _EventWriter) -> PairRecord:
    start = last_report = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal last_report
        now = time.perf_counter()
        if done == total or now - last_report >= _PROGRESS_SECONDS:
            last_report = now
            events.write("progress", done=done, total=total)

    polygons, scores = Path(request.folder, POLYGONS), Path(request.folder, SCORES)
    result = detect(request.before, request.after, polygons, scores=scores, options=request.options, on_progress=report)
    return pair_metadata(result, time.perf_counter() - start)


def _refusal(request: PairRequest, error: GeosiamError) -> dict[str, Any]:
    is_remote = "://" in request.before or "://" in request.after
    is_unreachable = isinstance(error, (SceneUnreadableError, SceneNotFoundError)) and is_remote
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "transient": is_unreachable or isinstance(error, ClusterError),
    }


def _unexpected(error: Exception) -> dict[str, Any]:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return {
        "kind": type(error).__name__,
        "message": f"unexpected error, please report it: {redacted(text)}",
        "transient": isinstance(error, (MemoryError, OSError)),
        "traceback": redacted(traceback.format_exc()),
    }


if __name__ == "__main__":
    main()
