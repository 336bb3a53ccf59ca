"""What holds for one call of the command line, whichever command it runs."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

import click


@dataclass
class State:
    """Switches that the entry point and every command share.

    Parameters
    ----------
    json
        Results, and errors too, are printed as one JSON object on stdout.
    verbosity
        How often ``-v`` was given, minus how often ``-q`` was.
    answered
        The one JSON object is on stdout: what comes after goes to stderr only.
    progress_json
        Progress is a JSON object a line on stderr, for another program to read.
    """

    json: bool = False
    verbosity: int = 0
    answered: bool = False
    progress_json: bool = False

    @property
    def quiet(self) -> bool:
        """Nothing but errors on stderr."""
        return self.verbosity < 0


def current() -> State:
    """Return the state of the running command; defaults where a command is called without the entry point."""
    context = click.get_current_context(silent=True)
    return State() if context is None else context.ensure_object(State)


_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class _StderrHandler(logging.Handler):
    """Write to what ``sys.stderr`` is at that moment: a progress bar replaces it to keep lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - logging must never stop the run; this is how logging itself reports it
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return ``geosiam: warning: message``, without the level where it says nothing."""
        text = super().format(record)
        if record.levelno <= logging.INFO:
            return f"geosiam: {text}"
        return f"geosiam: {record.levelname.lower()}: {text}"


def configure(verbosity: int) -> None:
    """Send log lines to stderr: warnings by default, more with each ``-v``, errors only with ``-q``.

    Other packages keep to warnings: at INFO GDAL and dask say much that is no news of the job. May be called again,
    as ``-v`` may stand before and after the command.
    """
    level = _LEVELS[max(-1, min(verbosity, 2))]
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(_LineFormatter())
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    for name in ("geosiam", "geosiam_cli"):
        logging.getLogger(name).setLevel(level)
    # GDAL repeats its remarks on a file's tags for every thread; what it cannot read comes as an error anyway.
    logging.getLogger("rasterio").setLevel(logging.WARNING if verbosity > 0 else logging.ERROR)
