"""What a survey has come to, and what is said while it runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosiam.report.inputs import UnmatchedScene

    OnEvent = Callable[["BatchEvent"], None]
    import os
    from types import TracebackType
    from typing import Self


@dataclass(frozen=True)
class PairResult:
    """What became of a pair.

    Parameters
    ----------
    name, site, before, after, before_date, date
        As in :class:`~geosiam.batch.plan.BatchPair`.
    status
        ``done`` or ``failed``.
    ran
        Whether it was run by this call; one that needed nothing was not.
    attempts
        How often it was begun in the call that ran it.
    scores, anomalies
        Its results; None unless it is done.
    facts
        See :func:`geosiam.batch.state.facts_of`; empty unless it is done.
    error
        Why it failed, in one line; empty otherwise.
    identity
        Digest of what the results depend on.
    """

    name: str
    before: str
    after: str
    status: str
    site: str = ""
    before_date: str = ""
    date: str = ""
    ran: bool = False
    attempts: int = 0
    scores: Path | None = None
    anomalies: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    error: str = ""
    identity: str = ""

    @property
    def done(self) -> bool:
        """Whether there are results."""
        return self.status == "done"


@dataclass(frozen=True)
class BatchResult:
    """What a survey has come to.

    Parameters
    ----------
    folder
        Of all results.
    pairs
        In the order of the plan, those that could not be run last.
    unpaired, notes
        As in the plan.
    files
        The results of the survey as a whole, by name: ``geopackage``, ``csv``, ``parquet``, ``stac``, ``summary``,
        ``page``.
    remarks
        What is missing among these, and why.
    seconds
        What this call took.
    """

    folder: Path
    pairs: tuple[PairResult, ...]
    unpaired: tuple[UnmatchedScene, ...]
    notes: tuple[str, ...]
    files: dict[str, Path]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def failed(self) -> tuple[PairResult, ...]:
        """The pairs without results."""
        return tuple(pair for pair in self.pairs if not pair.done)


@dataclass(frozen=True)
class Progress:
    """How far a survey is.

    Parameters
    ----------
    pairs, finished, failed, skipped
        Pairs to run, those that came to an end, those of them without results, and those that needed nothing.
    pixels, pixels_done
        Of the before-scenes that are to be run.
    anomalies
        Polygons found so far by this call.
    seconds
        Since the first pair was begun.
    running
        Name and share done, 0 to 1, of the pairs that run.
    """

    pairs: int
    finished: int
    failed: int
    skipped: int
    pixels: int
    pixels_done: float
    anomalies: int
    seconds: float
    running: tuple[tuple[str, float], ...]

    @property
    def speed(self) -> float:
        """Pixels a second."""
        return self.pixels_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the end; None where nothing tells."""
        return (self.pixels - self.pixels_done) / self.speed if self.speed > 0 else None


@dataclass(frozen=True)
class BatchEvent:
    """Something that happened.

    Parameters
    ----------
    kind
        ``begin``, ``start``, ``progress``, ``log``, ``retry``, ``done``, ``failed``, ``collect``, ``report``,
        ``end``.
    pair
        Which pair it is about; empty: the survey.
    data
        Its details, as JSON can hold them.
    progress
        How far the survey is.
    """

    kind: str
    pair: str
    data: dict[str, Any]
    progress: Progress


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

    def __call__(self, event: BatchEvent) -> None:
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
