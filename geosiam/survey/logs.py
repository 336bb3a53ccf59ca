"""Logs that machines read: one JSON object a line."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import OutputError

if TYPE_CHECKING:
    import os
    from types import TracebackType
    from typing import Self

    from geosiam.survey.results import SurveyEvent

_BETWEEN_REPORTS = 10.0


def append_line(path: Path, **entry: object) -> None:
    """Append an entry to a log, with its time; a log that cannot be written must not end what it is about."""
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(_line(entry))


class JsonLog:
    """The log of a whole survey: call it with each event.

    Parameters
    ----------
    path
        The file; lines are appended.

    Raises
    ------
    OutputError
        It cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by the context
        except OSError as error:
            raise OutputError(path, f"cannot be written ({error.strerror})", "choose another place") from error
        self._reported = 0.0

    def __call__(self, event: SurveyEvent) -> None:
        """Write an event; of progress, one in ten seconds."""
        now = time.monotonic()
        if event.kind == "progress" and now - self._reported < _BETWEEN_REPORTS:
            return
        self._reported = now if event.kind == "progress" else self._reported
        so_far = event.progress
        entry: dict[str, Any] = {
            "event": event.kind,
            "pair": event.pair or None,
            **event.data,
            "pairs": so_far.pairs,
            "finished": so_far.finished,
            "failed": so_far.failed,
            "anomalies": so_far.anomalies,
            "mpx_done": round(so_far.pixels_done / 1e6, 3),
            "mpx_per_s": round(so_far.speed / 1e6, 3),
            "seconds_left": so_far.seconds_left,
        }
        with contextlib.suppress(OSError):
            self._file.write(_line(entry))
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _line(entry: dict[str, Any]) -> str:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, **entry}, default=str) + "\n"
