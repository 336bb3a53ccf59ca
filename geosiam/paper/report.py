"""One readable page of all results: what the paper claims beside what we measured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.paper.result import Record

REPORT = "REPRODUCTION.md"

_HEAD = """# The seed paper, reproduced

Hirokawa, "Anomaly Detections using Deep Learning (VI)", proposes a fully convolutional Siamese network: one encoder of
convolutions, a discriminator of two 1x1 convolutions over both features and their distance. The paper shows pictures;
this page shows numbers. Every section names the command that makes it again; `DIR` holds MNIST's idx files, CIFAR-10
and the scenes. All numbers, run by run, lie beside this page as JSON. "(ours)" marks claims of this project, not the
paper's. Wall times include whatever else the machine did meanwhile.
"""


def write_report(records: list[Record], path: Path) -> None:
    """Write the page; it is complete or the one before stays."""
    parts = [_HEAD, _summary(records), *(_section(record) for record in records)]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text("\n".join(parts), "utf-8")
    partial.replace(path)


def _summary(records: list[Record]) -> str:
    lines = ["## At a glance", "", "| experiment | claim | what we found |", "|---|---|---|"]
    for record in records:
        for finding in record.result.findings:
            anchor = _anchor(record.result.title)
            lines.append(f"| [{record.result.name}](#{anchor}) | {_cell(finding.claim)} | **{finding.verdict}** |")
    if any(record.quick for record in records):
        lines += ["", "**A smoke run: few epochs, seeds and pairs. Its numbers prove nothing.**"]
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
    m = record.machine
    trained = f", plus {_time(record.training_seconds)} of training" if record.training_seconds >= 1 else ""
    return (
        f"<sub>{_time(record.seconds)}{trained}; {m['processor']}, {m['cores']} cores, Python {m['python']}, torch "
        f"{m['torch']}; numbers: [{record.result.name}.json]({record.result.name}.json).</sub>"
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"  # noqa: PLR2004 - two minutes


def _anchor(title: str) -> str:
    kept = (c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")
    return "".join(kept)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
