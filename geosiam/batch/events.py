"""The result of a batch, and its progress events."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import OutputError, redacted

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from geosiam.batch.state import PairRecord
    from geosiam.report.inputs import UnmatchedScene

    OnEvent = Callable[["BatchEvent"], None]

_PROGRESS_ENTRY_SECONDS = 10.0  # between two progress entries in the log of a batch


@dataclass(frozen=True)
class PairResult:
    """The result of a pair, or the error that it failed with.

    Parameters
    ----------
    name, site, before, after, before_date, date
        As in :class:`~geosiam.batch.plan.BatchPair`.
    status
        ``done`` or ``failed``.
    ran
        Whether this call ran it; a pair that was up to date did not run.
    attempts
        Number of attempts in the call that ran it.
    scores, anomalies
        Paths of the score raster and the polygons; None unless it is done.
    record
        Metadata of the results; None unless it is done.
    error
        Why it failed, in one line; empty otherwise.
    identity
        Digest of everything the results depend on; empty if that is unknown.
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
    record: PairRecord | None = field(default=None, repr=False)
    error: str = ""
    identity: str = ""

    @property
    def done(self) -> bool:
        """True if the pair has results."""
        return self.status == "done"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        values = dict(vars(self))
        values["facts"] = {} if self.record is None else self.record.to_dict()
        del values["record"]
        files = {key: None if values[key] is None else str(values[key]) for key in ("scores", "anomalies")}
        return redacted(values | files)


@dataclass(frozen=True)
class BatchResult:
    """The results of a batch.

    Parameters
    ----------
    folder
        Folder of all results.
    pairs
        Results of the pairs in the order of the plan, then those that could not run.
    unmatched, notes
        As in the plan.
    files
        Paths of the results of the batch as a whole, by name: ``geopackage``, ``csv``, ``parquet``, ``stac``,
        ``summary``, ``page``.
    remarks
        What is missing in these files, and why.
    seconds
        Run time of this call in seconds.
    """

    folder: Path
    pairs: tuple[PairResult, ...]
    unmatched: tuple[UnmatchedScene, ...]
    notes: tuple[str, ...]
    files: dict[str, Path]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def failed(self) -> tuple[PairResult, ...]:
        """The pairs without results."""
        return tuple(pair for pair in self.pairs if not pair.done)

    @property
    def misfits(self) -> dict[str, str]:
        """Names of the pairs whose scenes do not fit, or may not, and why."""
        return {pair.name: pair.record.misfit for pair in self.pairs if pair.record and pair.record.misfit}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "folder": str(self.folder),
            "files": {name: str(path) for name, path in self.files.items()},
            "done": len(self.pairs) - len(self.failed),
            "failed": [{"name": pair.name, "error": pair.error} for pair in self.failed],
            "unpaired": [redacted(asdict(scene)) for scene in self.unmatched],
            "misfits": self.misfits,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


@dataclass(frozen=True)
class Progress:
    """The progress of a batch.

    Parameters
    ----------
    pairs, finished, failed, skipped
        Number of pairs to run, of those that have ended, of those that ended without results, and of pairs that were
        up to date.
    pixels, pixels_done
        Pixels of the before scenes of all pairs to run, and of the finished part of them.
    anomalies
        Number of polygons that this call has found so far.
    seconds
        Seconds since the first pair started.
    running
        Name and finished fraction, 0 to 1, of the pairs that run.
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
        """Pixels per second."""
        return self.pixels_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None if unknown."""
        return (self.pixels - self.pixels_done) / self.speed if self.speed > 0 else None


@dataclass(frozen=True)
class BatchEvent:
    """An event of a batch.

    Parameters
    ----------
    kind
        ``begin``, ``start``, ``ready``, ``progress``, ``log``, ``retry``, ``done``, ``failed``, ``collect``,
        ``report``, ``end``.
    pair
        Name of the pair; empty if the event is about the batch.
    data
        Details, as JSON can hold them.
    progress
        Progress of the batch.
    """

    kind: str
    pair: str
    data: dict[str, Any]
    progress: Progress


class JsonLog:
    """The log of a batch as JSON lines; call it with each event.

    Parameters
    ----------
    path
        Path of the file, to which lines are appended.

    Raises
    ------
    OutputError
        The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            _refuse_other_file(Path(path))
            self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by the context
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(path, f"cannot be written ({error.strerror})", "choose another path") from error
        self._last_progress = 0.0

    def __call__(self, event: BatchEvent) -> None:
        """Append an event; at most one progress event in ten seconds is written."""
        now = time.monotonic()
        if event.kind == "progress":
            if now - self._last_progress < _PROGRESS_ENTRY_SECONDS:
                return
            self._last_progress = now
        progress = event.progress
        entry: dict[str, Any] = {
            "event": event.kind,
            "pair": event.pair or None,
            **event.data,
            "pairs": progress.pairs,
            "finished": progress.finished,
            "failed": progress.failed,
            "anomalies": progress.anomalies,
            "mpx_done": round(progress.pixels_done / 1e6, 3),
            "mpx_per_s": round(progress.speed / 1e6, 3),
            "seconds_left": progress.seconds_left,
        }
        with contextlib.suppress(OSError):
            self._file.write(_json_line(entry))
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _refuse_other_file(path: Path) -> None:
    """Refuse to append to a file that is no log, such as a manifest or a scene."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(1)
        if start not in (b"", b"{"):
            raise OutputError(path, "is not a log, so nothing is appended to it", "name another file for the log")


def append_line(path: Path, **entry: object) -> None:
    """Append an entry with its time to a log; errors are ignored, because a full disk must not end the batch."""
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(_json_line(entry))


def _json_line(entry: dict[str, Any]) -> str:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps(redacted({"time": now, **entry}), default=str) + "\n"
