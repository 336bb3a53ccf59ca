"""What a survey has come to, and what is said while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from geosiam.survey.pairs import Unpaired

    OnEvent = Callable[["SurveyEvent"], None]


@dataclass(frozen=True)
class PairResult:
    """What became of a pair.

    Parameters
    ----------
    name, site, before, after, before_date, date
        As in :class:`~geosiam.survey.pairs.SurveyPair`.
    status
        ``done`` or ``failed``.
    ran
        Whether it was run by this call; one that needed nothing was not.
    attempts
        How often it was begun in the call that ran it.
    scores, anomalies
        Its results; None unless it is done.
    facts
        See :func:`geosiam.survey.facts.facts_of`; empty unless it is done.
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
class SurveyResult:
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
    unpaired: tuple[Unpaired, ...]
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
class SurveyEvent:
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
