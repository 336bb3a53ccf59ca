"""What `accuracy.py` found, as tables and files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geosiam.network.default import DEFAULT_MODEL

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
ALARM_RATES = (5, 20, 100)
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


COMPARED = {
    "A": ("AP", "AUROC"),
    "B": ("AP", "AUROC", "recall at 5/Mpx", "recall at 20/Mpx", "recall at 100/Mpx"),
    "C": ("AP", "AUROC"),
    "D": ("alarms/Mpx",),
}
TITLES = {
    "A": "Objects inserted into a copy of the scene",
    "B": "Objects inserted into the second of two real dates",
    "C": "Real change with labels",
    "D": "No change, and real dates: false alarms",
}
INTRODUCTION = """# Accuracy

Made by `python benchmarks/accuracy.py --data DIR --model NAME... --baseline all --seeds N --out benchmarks`; every
pair's figures are in [ACCURACY.json](ACCURACY.json). Figures are the median over scenes and seeds, and in brackets
the least favourable of them; the positive class is the change, alone.

- A model is judged by what `geosiam detect` makes of a pair with its defaults. A baseline sees the same two images on
  one grid and reports what Otsu's threshold leaves, with no speckle removed.
- **recall**: true objects that a polygon meets; **precision**: polygons that meet a true object. **IoU>0.5**: the
  same where both overlap by more than half. **IoU**, **F1**: of pixels, at the method's own threshold. **best F1**,
  **AUROC**, **AP** (average precision): of pixels, over all thresholds, each cell's score standing for all its
  pixels.
- **recall at precision 0.9**, **recall at N/Mpx** (N alarms per million pixels): over 40 thresholds, without those at
  which more than a tenth of the unchanged ground is flagged, since one polygon over everything would find all; an
  alarm rate holds down to the first threshold that exceeds it. Neighboring cells (8-connected) are one object. An
  alarm rate may also be kept by looking at the reported objects by their mean score, the highest first, until there
  are too many alarms; the better of both ways counts, for every method.
- `:score_type=float32`: scores stored as they are. As bytes all above 0.998 are one, and where years lie between the
  dates much is.
- **ECE**: mean gap between score and share of changed pixels, 15 bins of equal mass.
- **A** inserts up to 100 rectangles, ellipses and polygons into the middle 1260 x 720 px of two aerial scenes, a
  drone orthophoto and a NAIP scene. Nuisance: gain 1.15, offset 8, gamma 1.1, one pixel of shift in both axes, blur
  of 0.7 px, noise of 4 gray levels. **B** inserts into NAIP 2012, 2014, 2017, Landsat 2000, 2015 and Joplin after the
  tornado, and compares with the date before; what really changed there is not labelled, so alarms are not all false.
  **C**: 40 pairs of LEVIR-CD, whose labels are buildings only, and Beijing; AUROC, AP, best F1 and ECE are those of
  all pairs' pixels together. **D**: the scenes of A with nuisance alone, and the dates of B without insertions.
"""


@dataclass(frozen=True)
class Target:
    """A figure that is wanted: of which groups' median, at least (or at most) what."""

    what: str
    group: str
    figure: str
    bound: float

    @property
    def lowest(self) -> bool:
        """Whether less is better."""
        return self.figure in LOWER_IS_BETTER


TARGETS = (
    Target("A, flat colors of 5-15 px, clean: object recall", "A 5-15 px, flat, clean", "recall", 0.99),
    Target("A, flat colors of 5-15 px, clean: object precision", "A 5-15 px, flat, clean", "precision", 0.98),
    Target("A, flat colors of 5-15 px, nuisance: object recall", "A 5-15 px, flat, nuisance", "recall", 0.97),
    Target("A, flat colors of 5-15 px, nuisance: object precision", "A 5-15 px, flat, nuisance", "precision", 0.93),
    Target(
        "A, foreign texture of 5-15 px, nuisance: recall at precision 0.9",
        "A 5-15 px, foreign texture, nuisance", "recall at precision 0.9", 0.8,
    ),
    Target(
        "A, own texture of 5-15 px, nuisance: recall at precision 0.9",
        "A 5-15 px, own texture, nuisance", "recall at precision 0.9", 0.8,
    ),
    Target("A, flat colors of 5-15 px, clean: pixel IoU", "A 5-15 px, flat, clean", "IoU", 0.8),
    Target("A, flat colors of 16-64 px, clean: pixel IoU", "A 16-64 px, flat, clean", "IoU", 0.8),
    Target("C, LEVIR: pixel AUROC", "C LEVIR", "AUROC", 0.72),
    Target("D, nuisance only: alarms per Mpx", "D nuisance only", "alarms/Mpx", 1.0),
)  # fmt: skip


def markdown(rows: Sequence[Row], baselines: Sequence[str], machine: str) -> str:
    """Return the report.

    Parameters
    ----------
    rows
        All that was measured.
    baselines
        Which methods are none of ours.
    machine
        What it was measured on.
    """
    rows = sorted(rows, key=lambda row: row.group[0])
    methods = sorted({row.method for row in rows}, key=lambda name: _rank(name, baselines))
    models = [method for method in methods if method not in baselines]
    seeds = {method: 1 + max(row.seed for row in rows if row.method == method) for method in methods}
    told = ", ".join(f"{method} {count}" for method, count in seeds.items())
    parts = [INTRODUCTION, f"Seeds: {told}. {machine}\n", *_targets(rows, [name for name in models if ":" not in name])]
    parts += _against_the_best(rows, models, [method for method in methods if method in baselines])
    for protocol, title in TITLES.items():
        parts.append(f"## {protocol}. {title}\n")
        chosen = [row for row in rows if row.group[0] == protocol]
        for figure in COMPARED[protocol]:
            parts += [f"### {figure}, all methods\n", _compared(chosen, methods, figure), ""]
        for model in models:
            mine = [row for row in chosen if row.method == model]
            if mine and protocol != "D":
                parts += [f"### `{model}`\n", quick_table(mine), ""]
    return "\n".join(parts)


def _shared(rows: Sequence[Row], method: str, group: str, baselines: Sequence[str]) -> list[Row]:
    """Return what is known of a method on the pairs of a group that the classical methods saw as well."""
    seen = {(row.scene, row.seed) for row in rows if row.group == group and row.method in baselines}
    return [row for row in rows if (row.method, row.group) == (method, group) and (row.scene, row.seed) in seen]


def _rank(method: str, baselines: Sequence[str]) -> tuple[bool, bool, bool, str]:
    """Return what methods are sorted by: models as they are, the default first, models with an option, baselines."""
    return method in baselines, ":" in method, method.partition(":")[0] != DEFAULT_MODEL, method


def _targets(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    lines = [f"| target | wanted | {' | '.join(models)} |", "|---" * (len(models) + 2) + "|"]
    for target in TARGETS:
        cells = []
        for model in models:
            mine = [row for row in rows if row.method == model and row.group == target.group]
            value = _value(mine, target.figure)
            met = value <= target.bound if target.lowest else value >= target.bound
            cells.append("-" if np.isnan(value) else f"{value:.3f} {'met' if met else 'missed'}")
        lines.append(f"| {target.what} | {'≤' if target.lowest else '≥'} {target.bound:g} | {' | '.join(cells)} |")
    return ["## Targets\n", *lines, ""]


def _against_the_best(rows: Sequence[Row], models: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """Return AP, and recall at alarm rates, of each model beside the best classical method on the same pairs."""
    head = f"best classical method | {' | '.join(models)} |"
    by_ap = [f"| group | {head}", "|---" * (len(models) + 2) + "|"]
    by_recall = [f"| group | alarms per Mpx | {head}", "|---" * (len(models) + 3) + "|"]
    for group in dict.fromkeys(row.group for row in rows if row.group[0] != "D"):
        by_ap += [f"| {group} | {cells}" for cells in _ratios(rows, group, "AP", models, baselines)]
        if group[0] == "B":
            for rate in ALARM_RATES:
                found = _ratios(rows, group, f"recall at {rate}/Mpx", models, baselines)
                by_recall += [f"| {group} | {rate} | {cells}" for cells in found]
    wanted = (
        "Wanted: 1.5 times as much, and never less; where it has more than two thirds, 1.5 times would be beyond 1. "
        "In B, where real change is not labelled and counts as wrong, see the recall at alarm rates below."
    )
    return [
        "## AP against the best classical method\n", f"{wanted}\n", *by_ap, "",
        "## Recall between real dates against the best classical method\n", *by_recall, "",
    ]  # fmt: skip


def _ratios(rows: Sequence[Row], group: str, figure: str, models: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """Return the cells of a line, the best classical method's first; none where no such method was run."""
    found = {method: _value(_shared(rows, method, group, baselines), figure) for method in (*models, *baselines)}
    known = [method for method in baselines if not np.isnan(found[method])]
    if not known:
        return []
    best = max(known, key=lambda method: found[method])
    cells = ["-" if np.isnan(found[m]) else f"{found[m]:.3f} ({_times(found[m], found[best])})" for m in models]
    return [f"{best} {found[best]:.3f} | {' | '.join(cells)} |"]


def _times(mine: float, other: float) -> str:
    return f"{mine / other:.2f}x" if other else "-"


def _value(rows: Sequence[Row], figure: str) -> float:
    """Return a figure of all pixels together where there is one, else the median."""
    pooled = [row.figures[figure] for row in rows if row.scene == POOLED and figure in row.figures]
    return pooled[0] if pooled else median_worst(rows, figure)[0]


def _compared(rows: Sequence[Row], methods: Sequence[str], figure: str) -> str:
    shown = [method for method in methods if any(row.method == method for row in rows)]
    lines = [f"| group | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for group in dict.fromkeys(row.group for row in rows):
        cells = [cell([row for row in rows if row.method == m and row.group == group], figure) for m in shown]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)
