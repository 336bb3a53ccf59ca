"""Switches of one call of the command line, and its logging."""

from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import dataclass

import click

from geosiam.errors import redacted
from geosiam_cli.messages import with_flags


@dataclass
class State:
    """Switches of the running command, which the entry point and every command share.

    Parameters
    ----------
    json
        Print results, and errors too, as one JSON object on stdout.
    verbosity
        Number of ``-v`` minus number of ``-q``.
    progress_json
        Print progress as one JSON object per line on stderr, for another program to read.
    command
        The running command.
    result_printed
        The one JSON object is on stdout already: whatever follows goes to stderr only.
    """

    json: bool = False
    verbosity: int = 0
    progress_json: bool = False
    command: click.Command | None = None
    result_printed: bool = False

    @property
    def quiet(self) -> bool:
        """Whether stderr is for errors only."""
        return self.verbosity < 0

    def with_flags(self, text: str) -> str:
        """Return a message of the library with the flags of the running command."""
        return with_flags(text, self.command)


def current() -> State:
    """Return the state of the running command; defaults where a command is called without the entry point."""
    context = click.get_current_context(silent=True)
    return State() if context is None else context.ensure_object(State)


def print_error(text: str) -> None:
    """Print a line on stderr; where it is full or gone, the run goes on without."""
    with contextlib.suppress(OSError):
        click.echo(redacted(text), err=True)


_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


def configure_logging(state: State) -> None:
    """Send log lines to stderr: warnings by default, more with each ``-v``, only errors with ``-q``.

    Other packages are limited to warnings: at INFO, GDAL and dask report much that does not concern the job. May be
    called repeatedly, for ``-v`` may stand before and after the command.
    """
    level = _LEVELS[max(-1, min(state.verbosity, 2))]
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(_LineFormatter(state))
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    for name in ("geosiam", "geosiam_cli"):
        logging.getLogger(name).setLevel(level)
    # GDAL repeats its warnings about a file's tags for every thread; what it cannot read raises an error anyway.
    logging.getLogger("rasterio").setLevel(logging.WARNING if state.verbosity > 0 else logging.ERROR)


class _StderrHandler(logging.Handler):
    """Write to whatever ``sys.stderr`` is at that moment: a progress bar replaces it to keep lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - logging must never stop the run; this is how logging itself reports it
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    """Format records as ``geosiam: warning: message``, with the level from warnings up.

    The state is kept rather than looked up: click's context exists in the main thread only, and workers log too.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        text = redacted(self._state.with_flags(super().format(record)))
        if record.levelno <= logging.INFO:
            return f"geosiam: {text}"
        return f"geosiam: {record.levelname.lower()}: {text}"
