"""The plan of a batch: pairs to run, pairs that cannot run, and scenes without a partner."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from geosiam.errors import OptionError, redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from geosiam.options import DetectOptions
    from geosiam.report.inputs import UnmatchedScene

RESERVED_NAMES = frozenset({"report"})
"""Names in the output folder that no pair may have."""

PAIR_OPTIONS = (
    "model", "threshold", "seed_threshold", "min_area", "connectivity", "smooth", "simplify", "bands",
    "after_bands", "nodata", "aoi", "register", "radiometry", "engine", "device", "precision", "on_error",
    "score_type",
)  # fmt: skip
"""The options of :class:`~geosiam.options.DetectOptions` that may differ between the pairs of a batch."""

_MAX_NAME_BYTES = 120
_NAME_REMEDY = "give the pair another name in the column 'name' of a manifest"


@dataclass(frozen=True)
class BatchPair:
    """Two scenes to compare, with the options of this pair.

    Parameters
    ----------
    name
        Name of the pair and of the folder of its results, unique in its batch.
    before, after
        Absolute paths, also of folders or patterns of tiles, or URLs.
    site
        Name of the place, the same for all dates; empty if it has none.
    before_date, date
        Dates of the two scenes in ISO 8601, as precise as they are known, such as ``2017-08-27`` or ``1985``; empty if
        unknown.
    overrides
        Options of this pair alone, by their names in :data:`PAIR_OPTIONS`.
    shape
        (height, width) of the before scene in pixels; None if it could not be opened.
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
        """Return the options of the batch, with those of this pair in their place.

        Raises
        ------
        OptionError
            An option of this pair is invalid.
        """
        return replace(shared, **self.overrides)

    @property
    def pixels(self) -> int:
        """Pixels of the before scene; 0 if it could not be opened."""
        return self.shape[0] * self.shape[1] if self.shape else 0


@dataclass(frozen=True)
class Fault:
    """A requested pair that cannot run: its name, its scenes, and the reason in one line."""

    name: str
    before: str
    after: str
    error: str


@dataclass(frozen=True)
class BatchPlan:
    """The pairs of a batch.

    Parameters
    ----------
    pairs
        The pairs to run, in the order in which they were listed or found.
    faults
        Pairs that cannot run.
    unmatched
        Scenes without a partner.
    notes
        Decisions that the user should know about.
    source
        The manifest or document that the pairs are from; empty for folders.
    """

    pairs: tuple[BatchPair, ...]
    faults: tuple[Fault, ...] = ()
    unmatched: tuple[UnmatchedScene, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return redacted(
            {
                "pairs": [asdict(pair) for pair in self.pairs],
                "faults": [asdict(fault) for fault in self.faults],
                "unpaired": [asdict(scene) for scene in self.unmatched],
                "notes": list(self.notes),
            }
        )


def checked_plan(
    pairs: Iterable[BatchPair],
    *,
    faults: Iterable[Fault] = (),
    unmatched: Iterable[UnmatchedScene] = (),
    notes: Iterable[str] = (),
) -> BatchPlan:
    """Return a plan in which pairs whose names are duplicate, or cannot name a folder, are faults."""
    candidates = list(pairs)
    groups = defaultdict(list)
    for pair in candidates:
        groups[pair.name.casefold()].append(pair)  # some file systems do not distinguish A from a
    valid: list[BatchPair] = []
    invalid = list(faults)
    for pair in candidates:
        problem = _name_problem(pair, len(groups[pair.name.casefold()]))
        if problem is None:
            valid.append(pair)
        else:
            invalid.append(Fault(pair.name, pair.before, pair.after, problem))
    return BatchPlan(tuple(valid), tuple(invalid), tuple(unmatched), tuple(notes))


def _name_problem(pair: BatchPair, count: int) -> str | None:
    if count > 1:
        return str(OptionError(pair.name, f"is the name of {count} pairs", _NAME_REMEDY))
    if not re.fullmatch(r"[^./\\\x00-\x1f:][^/\\\x00-\x1f:]*", pair.name) or len(pair.name.encode()) > _MAX_NAME_BYTES:
        return str(OptionError(repr(pair.name), "cannot be the name of a folder of results", _NAME_REMEDY))
    if pair.name.casefold() in RESERVED_NAMES:
        return str(OptionError(pair.name, "is a name that the batch itself uses", _NAME_REMEDY))
    return None
