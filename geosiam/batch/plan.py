"""What a survey consists of: its pairs, and what is no pair and why."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from geosiam.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from geosiam.options import DetectOptions
    from geosiam.report.inputs import UnmatchedScene

RESERVED = frozenset({"report"})
"""Names in the output folder that are not for a pair."""

PER_PAIR = (
    "model", "threshold", "seed_threshold", "min_area", "connectivity", "smooth", "simplify", "bands", "aoi",
    "register", "radiometry", "device", "precision", "on_error", "score_type",
)  # fmt: skip
"""The options of :class:`~geosiam.options.DetectOptions` that a pair may have of its own."""

_LONGEST_NAME = 120
_REMEDY_NAME = "give it a name of its own in a manifest, in the column 'name'"


@dataclass(frozen=True)
class BatchPair:
    """Two scenes to compare, and how.

    Parameters
    ----------
    name
        Unique in its survey; names the folder of its results.
    before, after
        Absolute paths, also of folders or patterns of tiles, or URLs.
    site
        The place, where it has a name: the same for all dates of it.
    before_date, date
        When the two scenes were taken, in ISO 8601 as precisely as it is known, such as ``2017-08-27`` or ``1985``;
        empty where nothing says so.
    overrides
        Options of this pair alone, by their names in :data:`PER_PAIR`.
    shape
        (height, width) of the before-scene in pixels; None where it could not be opened.
    """

    name: str
    before: str
    after: str
    site: str = ""
    before_date: str = ""
    date: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, int] | None = None

    def options(self, shared: DetectOptions) -> DetectOptions:
        """Return the survey's options with those of this pair.

        Raises
        ------
        OptionError
            One of them makes no sense.
        """
        return replace(shared, **self.overrides)

    @property
    def pixels(self) -> int:
        """Pixels of the before-scene; 0 where it could not be opened."""
        return self.shape[0] * self.shape[1] if self.shape else 0


@dataclass(frozen=True)
class Fault:
    """A pair that was asked for and cannot be run: its name, its scenes and why, in one line."""

    name: str
    before: str
    after: str
    error: str


@dataclass(frozen=True)
class BatchPlan:
    """What will be run, and what will not.

    Parameters
    ----------
    pairs
        In the order in which they were named or found.
    faults
        Pairs that cannot be run.
    unpaired
        Scenes without a partner.
    notes
        What was decided where there was something to decide.
    """

    pairs: tuple[BatchPair, ...]
    faults: tuple[Fault, ...] = ()
    unpaired: tuple[UnmatchedScene, ...] = ()
    notes: tuple[str, ...] = ()


def checked_plan(
    pairs: Iterable[BatchPair],
    *,
    faults: Iterable[Fault] = (),
    unpaired: Iterable[UnmatchedScene] = (),
    notes: Iterable[str] = (),
) -> BatchPlan:
    """Return the plan, with pairs whose names cannot name their folders, or name the same one, among the faults."""
    named = defaultdict(list)
    listed = list(pairs)
    for pair in listed:
        named[pair.name.casefold()].append(pair)  # some file systems do not tell A from a
    found = list(faults)
    good = []
    for pair in listed:
        problem = _problem(pair, len(named[pair.name.casefold()]))
        if problem is None:
            good.append(pair)
        else:
            found.append(Fault(pair.name, pair.before, pair.after, problem))
    return BatchPlan(tuple(good), tuple(found), tuple(unpaired), tuple(notes))


def _problem(pair: BatchPair, same: int) -> str | None:
    if same > 1:
        return str(OptionError(pair.name, f"is the name of {same} pairs", _REMEDY_NAME))
    if not re.fullmatch(r"[^./\\\x00-\x1f:][^/\\\x00-\x1f:]*", pair.name) or len(pair.name.encode()) > _LONGEST_NAME:
        return str(OptionError(repr(pair.name), "cannot be the name of a folder of results", _REMEDY_NAME))
    if pair.name.casefold() in RESERVED:
        return str(OptionError(pair.name, "is a name that the survey itself uses", _REMEDY_NAME))
    return None
