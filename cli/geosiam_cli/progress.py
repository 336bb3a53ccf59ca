"""A progress bar on stderr, where a person is watching; log lines where nobody is; JSON lines where a program is."""

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
    from collections.abc import Callable, Iterator

    from rich.progress import Task

    from geosiam.batch.events import BatchEvent, OnEvent, Progress


class Report(Protocol):
    """What a job calls as it goes on: the shape of the library's ``on_progress``."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take how many units are done altogether, how many there are, and what else is worth showing."""


_log = logging.getLogger(__name__)


@contextmanager
def progress_callback(description: str, total: int, unit: str = "px") -> Iterator[Callable[[int], None]]:
    """Show progress towards a known total.

    Parameters
    ----------
    description
        What is going on, such as "scoring".
    total
        How many units there are.
    unit
        What is counted; "px" is shown as megapixels a second.

    Yields
    ------
    a function that takes how many units were done *since it was called last*
    """
    done = 0
    with progress_report(description, unit) as report:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total)

        yield advance


@contextmanager
def progress_report(description: str, unit: str = "px") -> Iterator[Report]:
    """Show progress of a job that knows its own total.

    Parameters
    ----------
    description, unit
        As in :func:`progress_callback`.
    """
    if state.current().progress_json:
        shown = _json_lines(description, unit)
    elif sys.stderr.isatty() and not state.current().quiet:
        shown = _bar(description, unit)
    else:
        shown = _log_lines(description, unit)
    with shown as report:
        yield report


@contextmanager
def _json_lines(description: str, unit: str) -> Iterator[Report]:
    """Write ``{"progress": {"stage": ..., "done": ..., "total": ..., "unit": ...}}`` for every per mille at most."""
    reported = -1

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal reported
        part = 1000 * done // total if total else 1000
        if part > reported:
            reported = part
            said = {"stage": description, "done": done, "total": total, "unit": unit, "note": note}
            click.echo(json.dumps({"progress": said}), err=True)

    yield report


@contextmanager
def _bar(description: str, unit: str) -> Iterator[Report]:
    # rich takes a tenth of a second to import, which --help should not spend.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            """Return how fast it went so far."""
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

        def report(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{description} {note}".rstrip())

        yield report


@contextmanager
def _log_lines(description: str, unit: str) -> Iterator[Report]:
    start = time.monotonic()
    reported = 0

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal reported
        tenth = 10 * done // total if total else 10
        if tenth > reported:
            reported = tenth
            remarks = ", ".join(filter(None, [_speed(done, time.monotonic() - start, unit), note]))
            _log.info("%s: %d %% (%s)", description, 10 * tenth, remarks)

    yield report


def _speed(done: float, seconds: float, unit: str) -> str:
    rate = done / seconds if seconds > 0 else 0.0
    return f"{rate / 1e6:.1f} Mpx/s" if unit == "px" else f"{rate:.1f} {unit}/s"


_BETWEEN_LINES = 60.0
_AT_THE_END = {"collect": "all pairs have been run; putting the results together", "report": "drawing the page"}


@contextmanager
def batch_progress() -> Iterator[OnEvent]:
    """Give what a survey calls with its events."""
    if state.current().quiet:
        yield lambda _event: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield Lines()


class Lines:
    """A line for each pair that ends, and one a minute while none does."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: BatchEvent) -> None:
        """Say what an event means, if anything."""
        text = told(event)
        if text is None and event.kind == "progress" and time.monotonic() - self._last > _BETWEEN_LINES:
            running = ", ".join(f"{name} {share:.0%}" for name, share in event.progress.running)
            text = f"running {running}; {rate(event.progress)}"
        if text is not None:
            self._last = time.monotonic()
            click.echo(f"geosiam: {text}", err=True)


def told(event: BatchEvent) -> str | None:
    """Return an event as a line; None for those that only move a bar."""
    so_far = event.progress
    count = f"[{so_far.finished:>{len(str(so_far.pairs))}}/{so_far.pairs}]"
    if event.kind == "begin":
        done = f", {so_far.skipped} are done already" if so_far.skipped else ""
        return f"{so_far.pairs} pairs to run{done}"
    if event.kind == "done":
        data = event.data
        found = f"{data['count']} anomalies, {data['pixels'] / 1e6:.1f} Mpx in {data['seconds']:.1f} s"
        return f"{count} {event.pair}: {found}; {rate(so_far)}"
    if event.kind == "failed":
        return f"{count} {event.pair}: failed: {event.data['error']}"
    if event.kind == "retry":
        return f"{count} {event.pair}: tried again later: {event.data['reason']}"
    last = _AT_THE_END.get(event.kind)
    return None if last is None else f"{count} {last}"


def rate(so_far: Progress) -> str:
    """Return speed, time left and anomalies so far."""
    left = "unknown" if so_far.seconds_left is None else clock(so_far.seconds_left)
    return f"{so_far.speed / 1e6:.1f} Mpx/s, {so_far.anomalies} anomalies so far, {left} left"


def clock(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@contextmanager
def _bars() -> Iterator[OnEvent]:
    # rich takes a tenth of a second to import, which --help should not spend.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}")]
    # stdout is for results and stays as it is; lines about pairs appear above the bars.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bars:
        whole = bars.add_task("survey", total=None, note="")
        tasks: dict[str, TaskID] = {}

        def show(event: BatchEvent) -> None:
            so_far = event.progress
            counts = f"{so_far.finished}/{so_far.pairs} pairs, {so_far.failed} failed, {rate(so_far)}"
            bars.update(whole, completed=so_far.pixels_done, total=so_far.pixels or None, note=counts)
            running = dict(so_far.running)
            for name in tasks.keys() - running.keys():
                bars.remove_task(tasks.pop(name))
            for name, share in running.items():
                if name not in tasks:
                    tasks[name] = bars.add_task(f"  {name}", total=1.0, note="")
                bars.update(tasks[name], completed=share)
            if event.kind in ("failed", "retry"):
                bars.console.print(told(event), markup=False, highlight=False)

        yield show
