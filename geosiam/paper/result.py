"""What an experiment gives: findings beside the paper's claims, tables, pictures and all numbers, as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import stats

from geosiam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Finding:
    """One claim of the paper, and what we measured.

    Parameters
    ----------
    claim
        What the paper says, in our words.
    verdict
        "holds", "does not hold", or what else is true.
    evidence
        The measurement, in one sentence with its numbers.
    """

    claim: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Table:
    """Numbers as a reader wants them: a title, names of columns, rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row of {self.title!r} has {len(self.columns)} entries")

    def markdown(self) -> str:
        """Return it as a Markdown table."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        escaped = ([entry.replace("|", r"\|") for entry in line] for line in lines)
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


@dataclass(frozen=True)
class Picture:
    """A PNG beside the report, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Result:
    """All that one experiment found.

    Parameters
    ----------
    name
        Of the figure or claim, as `geosiam paper NAME` knows it.
    title
        Headline.
    setup
        What was done, in a few sentences.
    findings, tables, pictures, notes
        What the report shows.
    numbers
        Every single measurement, for other programs.
    """

    name: str
    title: str
    setup: str
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A result with how it came to be.

    Parameters
    ----------
    result
        The result.
    command
        The command line that makes it again.
    quick
        Whether it is a smoke run, whose numbers prove nothing.
    key
        Checksum of everything it depends on; another key means it must be made again.
    seconds, training_seconds
        Wall time of the experiment, and what the networks it uses took to train, whenever that was.
    machine
        Where it was made.
    """

    result: Result
    command: str
    quick: bool
    key: str
    seconds: float
    training_seconds: float
    machine: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it as JSON; the file is complete or the one before stays."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(asdict(self), indent=1, default=_plain, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            It cannot be read or is of another form.
        """
        try:
            values = json.loads(path.read_text("utf-8"))
            result = values.pop("result")
            result["findings"] = tuple(Finding(**finding) for finding in result["findings"])
            result["pictures"] = tuple(Picture(**picture) for picture in result["pictures"])
            result["notes"] = tuple(result["notes"])
            result["tables"] = tuple(
                Table(table["title"], tuple(table["columns"]), tuple(tuple(row) for row in table["rows"]))
                for table in result["tables"]
            )
            return cls(result=Result(**result), **values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(path, f"is no result of geosiam paper ({error})", "delete it to make it again") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} does not belong into a result")


def spread(values: Iterable[float], digits: int = 3, *, percent: bool = False) -> str:
    """Return mean and standard deviation over seeds as text: ``0.912 ± 0.004``."""
    numbers = np.asarray(list(values), np.float64) * (100 if percent else 1)
    deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    return f"{numbers.mean():.{digits}f} ± {deviation:.{digits}f}" + (" %" if percent else "")


def interval(values: Iterable[float]) -> float:
    """Return half the width of the mean's 95 % confidence interval (Student's t); infinite for a single value."""
    numbers = np.asarray(list(values), np.float64)
    if len(numbers) < 2:  # noqa: PLR2004 - one value has no spread
        return float("inf")
    return float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))


def median_worst(values: Sequence[float], digits: int = 3) -> str:
    """Return median and smallest over seeds as text: ``0.99 (0.97)``."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f})"
