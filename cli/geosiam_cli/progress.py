"""Progress on stderr: a bar on a terminal, log lines elsewhere, JSON lines for another program."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from geosiam_cli import state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Task

    from geosiam.batch.events import BatchEvent, OnEvent, Progress

_log = logging.getLogger(__name__)

_LINE_INTERVAL_S = 60.0
"""A batch without a terminal prints a line at least this often."""

_FINAL_STAGES = {"collect": "all pairs have been run; merging the results", "report": "writing the page"}


class OnProgress(Protocol):
    """The library's ``on_progress``: what a job calls while it runs."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take the number of units done so far, the total, and a note to show beside them."""


@contextmanager
def progress_report(description: str, unit: str = "px") -> Iterator[OnProgress]:
    """Show the progress of one job.

    Parameters
    ----------
    description
        Name of the job, such as "scoring".
    unit
        What is counted; "px" is shown as megapixels per second.
    """
    current = state.current()
    if current.progress_json:
        display = _json_lines(description, unit)
    elif sys.stderr.isatty() and not current.quiet:
        display = _bar(description, unit)
    else:
        display = _log_lines(description, unit)
    with display as on_progress:
        yield on_progress


@contextmanager
def _json_lines(description: str, unit: str) -> Iterator[OnProgress]:
    """Print ``{"progress": {"stage": ..., "done": ..., "total": ..., "unit": ...}}``, at most once per mille."""
    reported = -1

    def on_progress(done: int, total: int, note: str = "") -> None:
        nonlocal reported
        per_mille = 1000 * done // total if total else 1000
        if per_mille > reported:
            reported = per_mille
            entry = {"stage": description, "done": done, "total": total, "unit": unit, "note": note}
            state.print_error(json.dumps({"progress": entry}))

    yield on_progress


@contextmanager
def _bar(description: str, unit: str) -> Iterator[OnProgress]:
    # rich takes a tenth of a second to import, which --help should not spend.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            """Return the mean speed so far."""
            return Text(_speed(task.completed, task.elapsed or 0.0, unit))

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        SpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ]
    # stdout is for results and stays as it is; log lines on stderr are moved above the bar.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(description, total=None)

        def on_progress(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{description} {note}".rstrip())

        yield on_progress


@contextmanager
def _log_lines(description: str, unit: str) -> Iterator[OnProgress]:
    """Log a line at INFO for every tenth of the job."""
    start = time.monotonic()
    reported = 0

    def on_progress(done: int, total: int, note: str = "") -> None:
        nonlocal reported
        tenths = 10 * done // total if total else 10
        if tenths > reported:
            reported = tenths
            details = ", ".join(filter(None, [_speed(done, time.monotonic() - start, unit), note]))
            _log.info("%s: %d %% (%s)", description, 10 * tenths, details)

    yield on_progress


def _speed(done: float, seconds: float, unit: str) -> str:
    speed = done / seconds if seconds > 0 else 0.0
    return f"{speed / 1e6:.1f} Mpx/s" if unit == "px" else f"{speed:.1f} {unit}/s"


@contextmanager
def batch_progress() -> Iterator[OnEvent]:
    """Show the events of a batch."""
    if state.current().quiet:
        yield lambda _event: None
    elif sys.stderr.isatty():
        with _batch_bars() as on_event:
            yield on_event
    else:
        yield BatchLines()


class BatchLines:
    """Print a line for each pair that ends, and one a minute while none does."""

    def __init__(self) -> None:
        self._last_line_s = time.monotonic()

    def __call__(self, event: BatchEvent) -> None:
        """Print the line of an event, if it has one."""
        text = event_line(event)
        if text is None and event.kind == "progress" and time.monotonic() - self._last_line_s > _LINE_INTERVAL_S:
            running = ", ".join(f"{name} {fraction:.0%}" for name, fraction in event.progress.running)
            text = f"running {running}; {batch_rate(event.progress)}"
        if text is not None:
            self._last_line_s = time.monotonic()
            click.echo(f"geosiam: {text}", err=True)


@contextmanager
def _batch_bars() -> Iterator[OnEvent]:
    # rich takes a tenth of a second to import, which --help should not spend.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}")]
    # stdout is for results and stays as it is; lines about pairs appear above the bars.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bars:
        whole_batch = bars.add_task("batch", total=None, note="")
        tasks: dict[str, TaskID] = {}

        def on_event(event: BatchEvent) -> None:
            progress = event.progress
            counts = f"{progress.finished}/{progress.pairs} pairs, {progress.failed} failed, {batch_rate(progress)}"
            bars.update(whole_batch, completed=progress.pixels_done, total=progress.pixels or None, note=counts)
            running = dict(progress.running)
            for name in tasks.keys() - running.keys():
                bars.remove_task(tasks.pop(name))
            for name, fraction in running.items():
                if name not in tasks:
                    tasks[name] = bars.add_task(f"  {name}", total=1.0, note="")
                bars.update(tasks[name], completed=fraction)
            if event.kind in ("failed", "retry"):
                bars.console.print(event_line(event), markup=False, highlight=False)

        yield on_event


def event_line(event: BatchEvent) -> str | None:
    """Return the line of an event; None for one that only moves a bar."""
    progress, data = event.progress, event.data
    count = f"[{progress.finished:>{len(str(progress.pairs))}}/{progress.pairs}]"
    match event.kind:
        case "begin":
            skipped = f", {progress.skipped} already done" if progress.skipped else ""
            return f"{progress.pairs} pairs to run{skipped}"
        case "done":
            counts = f"{data['count']} anomalies, {data['pixels'] / 1e6:.1f} Mpx in {data['seconds']:.1f} s"
            return f"{count} {event.pair}: {counts}; {batch_rate(progress)}"
        case "failed":
            return f"{count} {event.pair}: failed: {state.current().with_flags(data['error'])}"
        case "retry":
            return f"{count} {event.pair}: will be retried: {state.current().with_flags(data['reason'])}"
        case kind if kind in _FINAL_STAGES:
            return f"{count} {_FINAL_STAGES[kind]}"
    return None


def batch_rate(progress: Progress) -> str:
    """Return the speed, the anomalies so far and the remaining time."""
    remaining = "unknown" if progress.seconds_left is None else format_duration(progress.seconds_left)
    return f"{progress.speed / 1e6:.1f} Mpx/s, {progress.anomalies} anomalies so far, {remaining} left"


def format_duration(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02}:{total % 60:02}"
