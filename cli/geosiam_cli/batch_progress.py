"""How far a survey is, on stderr: bars where a person is watching, a line a pair where nobody is."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from geosiam_cli import state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geosiam.survey.results import OnEvent, Progress, SurveyEvent

_BETWEEN_LINES = 60.0
_AT_THE_END = {"collect": "all pairs have been run; putting the results together", "report": "drawing the page"}


@contextmanager
def survey_progress() -> Iterator[OnEvent]:
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

    def __call__(self, event: SurveyEvent) -> None:
        """Say what an event means, if anything."""
        text = told(event)
        if text is None and event.kind == "progress" and time.monotonic() - self._last > _BETWEEN_LINES:
            running = ", ".join(f"{name} {share:.0%}" for name, share in event.progress.running)
            text = f"running {running}; {rate(event.progress)}"
        if text is not None:
            self._last = time.monotonic()
            click.echo(f"geosiam: {text}", err=True)


def told(event: SurveyEvent) -> str | None:
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

        def show(event: SurveyEvent) -> None:
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
