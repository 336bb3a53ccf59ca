"""Results of experiments as JSON, and one page of them all: the paper's claims beside our measurements."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import stats

from geosiam.errors import InputError
from geosiam.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REPORT = "REPRODUCTION.md"

_HEAD = """# The seed paper, reproduced

Hirokawa, "Anomaly Detections using Deep Learning (VI)", proposes a fully convolutional Siamese network: one encoder of
convolutions, a discriminator of two 1x1 convolutions over both features and their distance. The paper shows pictures;
this page shows numbers. Each section gives the command that reproduces it; `DIR` holds MNIST's idx files, CIFAR-10
and the scenes. All numbers of all runs are in the JSON files beside this page. "(ours)" marks claims of this project,
not the paper's. Wall times include other load on the machine.
"""


@dataclass(frozen=True)
class Finding:
    """One claim of the paper, and what we measured.

    Parameters
    ----------
    claim
        The paper's claim, in our words.
    verdict
        "holds", "does not hold", or a qualification.
    evidence
        The measurement, as a sentence with numbers.
    """

    claim: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Table:
    """A table of text with a title and column names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row of {self.title!r} has {len(self.columns)} entries")

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        escaped = ([entry.replace("|", r"\|") for entry in line] for line in lines)
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


@dataclass(frozen=True)
class Picture:
    """A PNG beside the report, and its caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Result:
    """Result of one experiment.

    Parameters
    ----------
    name
        Name of the figure or claim, as in `geosiam paper NAME`.
    title
        Headline.
    setup
        Description of the experiment in a few sentences.
    findings, tables, pictures, notes
        Content of the report.
    numbers
        All measurements, for other programs.
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
    """A result with its origin.

    Parameters
    ----------
    result
        The result.
    command
        Command line that reproduces it.
    quick
        Whether it is a smoke test, whose numbers mean nothing.
    key
        Checksum of everything that the result depends on; if it differs, the experiment must be run again.
    seconds, training_seconds
        Wall time of the experiment, and of training its networks, whenever they were trained.
    machine
        Description of the machine.
    """

    result: Result
    command: str
    quick: bool
    key: str
    seconds: float
    training_seconds: float
    machine: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the record as JSON."""
        text = json.dumps(asdict(self), indent=1, default=_to_json, ensure_ascii=False) + "\n"
        with atomic_write(path) as partial:
            partial.write_text(text, "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record that :meth:`save` wrote.

        Raises
        ------
        InputError
            The file cannot be read or is not a record.
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
            raise InputError(
                path, f"is not a result of geosiam paper ({error})", "delete it to run the experiment again"
            ) from error


def _to_json(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"a value of type {type(value).__name__} does not belong in a result")


def spread(values: Iterable[float], digits: int = 3, *, percent: bool = False) -> str:
    """Return the mean and standard deviation over seeds as text: ``0.912 ± 0.004``."""
    numbers = np.asarray(list(values), np.float64) * (100 if percent else 1)
    deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    return f"{numbers.mean():.{digits}f} ± {deviation:.{digits}f}" + (" %" if percent else "")


def interval(values: Iterable[float]) -> float:
    """Return half the width of the 95 % confidence interval of the mean (Student's t); infinite for a single value."""
    numbers = np.asarray(list(values), np.float64)
    if len(numbers) < 2:  # noqa: PLR2004 - one value has no spread
        return float("inf")
    return float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))


def median_worst(values: Sequence[float], digits: int = 3) -> str:
    """Return the median and the smallest value over seeds as text: ``0.99 (0.97)``."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f})"


def write_report(records: list[Record], path: Path) -> None:
    """Write the page of all experiments."""
    parts = [_HEAD, _summary(records), *(_section(record) for record in records)]
    with atomic_write(path) as partial:
        partial.write_text("\n".join(parts), "utf-8")


def _summary(records: list[Record]) -> str:
    lines = ["## At a glance", "", "| experiment | claim | finding |", "|---|---|---|"]
    for record in records:
        for finding in record.result.findings:
            anchor = _anchor(record.result.title)
            lines.append(f"| [{record.result.name}](#{anchor}) | {_cell(finding.claim)} | **{finding.verdict}** |")
    if any(record.quick for record in records):
        lines += ["", "**A smoke test: few epochs, seeds and pairs. Its numbers mean nothing.**"]
    return "\n".join([*lines, ""])


def _section(record: Record) -> str:
    result = record.result
    lines = [f"## {result.title}", "", f"`{record.command}`", "", result.setup, ""]
    lines += [f"- {finding.claim}: **{finding.verdict}.** {finding.evidence}" for finding in result.findings]
    for table in result.tables:
        lines += ["", f"### {table.title}", "", table.markdown()]
    for picture in result.pictures:
        lines += ["", f"![{picture.caption}]({picture.file})", "", f"*{picture.caption}*"]
    if result.notes:
        lines += ["", *(f"- {note}" for note in result.notes)]
    return "\n".join([*lines, "", _origin(record), ""])


def _origin(record: Record) -> str:
    machine, numbers = record.machine, f"{record.result.name}.json"
    trained = f", plus {_time(record.training_seconds)} of training" if record.training_seconds >= 1 else ""
    return (
        f"<sub>{_time(record.seconds)}{trained}; {machine['processor']}, {machine['cores']} cores, "
        f"Python {machine['python']}, torch {machine['torch']}; numbers: [{numbers}]({numbers}).</sub>"
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"  # noqa: PLR2004 - two minutes


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
