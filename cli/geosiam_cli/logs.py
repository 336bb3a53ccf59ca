"""Log lines of the library on stderr."""

from __future__ import annotations

import logging
import sys

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
