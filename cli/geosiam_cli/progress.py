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
