"""What `accuracy.py` found, as tables and files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = {
    "A": (
        "recall", "precision", "recall IoU>0.5", "IoU", "recall at precision 0.9", "best F1", "AUROC", "AP", "ECE",
    ),
    "B": ("AUROC", "AP", "recall at 5/Mpx", "recall at 20/Mpx", "recall at 100/Mpx", "recall", "alarms/Mpx"),
    "C": ("AUROC", "AP", "best F1", "F1", "IoU", "recall", "precision", "ECE"),
    "D": ("alarms/Mpx",),
}  # fmt: skip
LOWER_IS_BETTER = ("alarms/Mpx", "ECE")
POOLED = "all"


@dataclass(frozen=True)
class Row:
    """Figures of one method on one pair."""

    method: str
    group: str
    scene: str
    seed: int
    figures: dict[str, float]


def median_worst(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return median and least favourable value of a figure, over those rows in which it is defined."""
    values = np.array([row.figures.get(name, np.nan) for row in rows if row.scene != POOLED], float)
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    return float(np.median(values)), float(values.max() if name in LOWER_IS_BETTER else values.min())


def cell(rows: Sequence[Row], name: str) -> str:
    """Return a figure as text: of all pairs' pixels together where these were pooled, else median and worst."""
    pooled = [row.figures[name] for row in rows if row.scene == POOLED and name in row.figures]
    if pooled:
        return f"{pooled[0]:.3f}"
    median, worst = median_worst(rows, name)
    digits = 1 if name == "alarms/Mpx" else 3
    return "-" if np.isnan(median) else f"{median:.{digits}f} ({worst:.{digits}f})"


def quick_table(rows: Sequence[Row]) -> str:
    """Return one method on one protocol, a line a group."""
    columns = COLUMNS[rows[0].group[0]]
    lines = [f"| group | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for group in dict.fromkeys(row.group for row in rows):
        chosen = [row for row in rows if row.group == group]
        lines.append(f"| {group} | {' | '.join(cell(chosen, name) for name in columns)} |")
    return "\n".join(lines)


def merged(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Return the rows together with those kept in a folder, of which they replace their own method and protocol."""
    path = folder / "ACCURACY.json"
    kept = [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []
    kept = [replace(r, figures={k: np.nan if v is None else v for k, v in r.figures.items()}) for r in kept]
    new = {(row.method, row.group[0]) for row in rows}
    return [row for row in kept if (row.method, row.group[0]) not in new] + list(rows)


def save(folder: Path, rows: Sequence[Row]) -> None:
    """Keep rows; NaN becomes null."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [
        asdict(row) | {"figures": {k: None if np.isnan(v) else round(v, 5) for k, v in row.figures.items()}}
        for row in rows
    ]
    lines = ",\n".join(json.dumps(row) for row in plain)
    (folder / "ACCURACY.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def markdown(rows: Sequence[Row]) -> str:
    """Return the report."""
    raise NotImplementedError
