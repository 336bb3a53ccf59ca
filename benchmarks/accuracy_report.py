"""Results of `accuracy.py` as tables and files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geosiam.network import DEFAULT_MODEL

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
    "E": ("recall", "precision", "alarms/Mpx", "error px", "error px, 95 %", "known"),
}  # fmt: skip
ALARM_RATES = (5, 20, 100)
LOWER_IS_BETTER = ("alarms/Mpx", "ECE", "error px", "error px, 95 %")
ALL_PAIRS = "all"
MOVED = "E moved things, "
MOVED_NOT_DISPLACED = f"{MOVED}not displaced"


@dataclass(frozen=True)
class Row:
    """Metrics of one method on one pair, or on all pairs of a group together."""

    method: str
    group: str
    scene: str
    seed: int
    figures: dict[str, float]


def median_worst(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the median and the least favorable value of a metric over the rows in which it is defined."""
    values = np.array([row.figures.get(name, np.nan) for row in rows if row.scene != ALL_PAIRS], float)
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    return float(np.median(values)), float(values.max() if name in LOWER_IS_BETTER else values.min())


def cell(rows: Sequence[Row], name: str) -> str:
    """Return a metric as text: over the pixels of all pairs if there is such a row, else the median and the worst."""
    total = [row.figures[name] for row in rows if row.scene == ALL_PAIRS and name in row.figures]
    if total:
        return f"{total[0]:.3f}"
    median, worst = median_worst(rows, name)
    digits = 1 if name == "alarms/Mpx" else 3
    return "-" if np.isnan(median) else f"{median:.{digits}f} ({worst:.{digits}f})"


def quick_table(rows: Sequence[Row]) -> str:
    """Return a table of one method on one protocol, with one line per group."""
    columns = COLUMNS[rows[0].group[0]]
    lines = [f"| group | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for group in dict.fromkeys(row.group for row in rows):
        of_group = [row for row in rows if row.group == group]
        lines.append(f"| {group} | {' | '.join(cell(of_group, name) for name in columns)} |")
    return "\n".join(lines)


def merged(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Return the rows saved in a folder with new rows, which replace those of the same method and group."""
    path = folder / "ACCURACY.json"
    saved = [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []
    saved = [replace(r, figures={k: np.nan if v is None else v for k, v in r.figures.items()}) for r in saved]
    new = {(row.method, row.group) for row in rows}
    return [row for row in saved if (row.method, row.group) not in new] + list(rows)


def save(folder: Path, rows: Sequence[Row]) -> None:
    """Save rows; NaN becomes null."""
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
    "E": ("recall", "precision", "alarms/Mpx"),
}
TITLES = {
    "A": "Objects inserted into a copy of the scene",
    "B": "Objects inserted into the second of two real dates",
    "C": "Real change with labels",
    "D": "No change, and real dates: false alarms",
    "E": "Two flights that do not fit",
}
INTRODUCTION = """# Accuracy

Made by `python benchmarks/accuracy.py --data DIR --model NAME... --baseline all --seeds N --out benchmarks`; the
metrics of every pair are in [ACCURACY.json](ACCURACY.json). Values are medians over scenes and seeds, with the least
favorable one in parentheses. Only the change class counts as positive.

- Models are evaluated by the results of `geosiam detect` with its defaults. Baselines get the same two images on one
  grid and report what exceeds Otsu's threshold, without removing speckle.
- **recall**: fraction of true objects that a polygon overlaps; **precision**: fraction of polygons that overlap a true
  object. **IoU>0.5**: the same for overlaps with an IoU above one half. **IoU**, **F1**: by pixel, at the method's own
  threshold. **best F1**, **AUROC**, **AP** (average precision): by pixel, over all thresholds, with each cell's score
  assigned to all its pixels.
- **recall at precision 0.9**, **recall at N/Mpx** (N alarms per million pixels): over 40 thresholds, excluding those at
  which more than a tenth of the unchanged ground is flagged, since one polygon over everything would find all objects;
  an alarm rate holds down to the first threshold that exceeds it. Neighboring cells (8-connected) form one object. An
  alarm rate may also be kept by reviewing the reported objects in the order of their mean score, until there are too
  many alarms; the better of the two counts, for every method.
- `:score_type=float32`: scores in full precision. `uint8` saturates above 0.998, which affects many cells if years lie
  between the dates.
- **ECE**: mean gap between score and fraction of changed pixels, 15 bins of equal mass.
- **A** inserts up to 100 rectangles, ellipses and polygons into the middle 1260 x 720 px of two aerial scenes, a
  drone orthophoto and a NAIP scene. Nuisance: gain 1.15, offset 8, gamma 1.1, one pixel of shift in both axes, blur
  of 0.7 px, noise of 4 gray levels. **B** inserts into NAIP 2012, 2014, 2017, Landsat 2000, 2015 and Joplin after the
  tornado, and compares with the date before; real changes there are not labeled, so not all alarms are false.
  **C**: 40 pairs of LEVIR-CD, whose labels are buildings only, and Beijing; AUROC, AP, best F1 and ECE are those of
  all pairs' pixels together. **D**: the scenes of A with nuisance alone, and the dates of B without insertions.
- **E** displaces the second of two flights over drone and aerial scenes by a smooth random field, named by its
  amplitude / wavelength in pixels and a shift for all; `geometry.py` has the formula. It adds 60 objects of 8-40 px,
  5 % of brightness and noise of 2 gray levels. The truth is where an object is on the ground as the first flight shows
  it. **error px**: distance of the estimated displacement from the true one in pixels where there is texture, median
  and 95th percentile of the pixels; **known**: share of that ground with an estimate. **Moved things** stand in both
  flights, some pixels apart. **Lean**: generated surveys of which nothing changed but the viewing angle.
"""


@dataclass(frozen=True)
class Target:
    """A target: a bound on the median of a metric in a group."""

    title: str
    group: str
    metric: str
    bound: float

    @property
    def lower_is_better(self) -> bool:
        """True if lower values are better."""
        return self.metric in LOWER_IS_BETTER


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
    *(
        Target(f"E, {bend}: object {metric}", f"E {bend}", metric, bound)
        for bend, bounds in (
            ("not displaced", (0.98, 0.98)), ("4/400", (0.98, 0.98)), ("8/400", (0.98, 0.98)), ("8/150", (0.98, 0.95)),
            ("16/600 + 25 px", (0.98, 0.96)), ("30/800 + 60 px", (0.97, 0.95)),
        )
        for metric, bound in zip(("recall", "precision"), bounds, strict=True)
    ),
    *(
        Target(f"E, {bend}: {metric}", f"E {bend}", metric, bound)
        for bend in ("not displaced", "4/400", "8/400", "16/600 + 25 px", "30/800 + 60 px")
        for metric, bound in (("error px", 0.3), ("error px, 95 %", 0.8))
    ),
)  # fmt: skip


def markdown(rows: Sequence[Row], baselines: Sequence[str], machine: str) -> str:
    """Return the report.

    Parameters
    ----------
    rows
        All results.
    baselines
        Names of the classical methods.
    machine
        Description of the machine.
    """
    rows = sorted(rows, key=lambda row: row.group[0])
    methods = sorted({row.method for row in rows}, key=lambda name: _rank(name, baselines))
    models = [method for method in methods if method not in baselines]
    seeds = {method: 1 + max(row.seed for row in rows if row.method == method) for method in methods}
    counts = ", ".join(f"{method} {count}" for method, count in seeds.items())
    parts = [
        INTRODUCTION,
        f"Seeds: {counts}. {machine}\n",
        *_targets(rows, [name for name in models if ":" not in name]),
    ]
    parts += _against_the_best(rows, models, [method for method in methods if method in baselines])
    for protocol, title in TITLES.items():
        of_protocol = [row for row in rows if row.group[0] == protocol]
        if not of_protocol:
            continue
        parts.append(f"## {protocol}. {title}\n")
        for metric in COMPARED[protocol]:
            parts += [f"### {metric}, all methods\n", _compared(of_protocol, methods, metric), ""]
        for model in models:
            of_model = [row for row in of_protocol if row.method == model]
            if of_model and protocol != "D":
                parts += [f"### `{model}`\n", quick_table(of_model), ""]
        if protocol == "E":
            parts += _moved_things(of_protocol, models)
    return "\n".join(parts)


def _moved_things(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    """Return the recall of things that moved, and how it compares with that of an unregistered pair that fits."""
    kinds = list(dict.fromkeys(name for row in rows for name in row.figures if name.startswith("recall, ")))
    lines = [
        "### Moved things\n",
        (
            "Mean recall over the pairs, and relative to the same model with `register=none` on the pair that is not "
            "displaced. A field that follows what moved would lower the IoU of the pixels first.\n"
        ),
        f"| method | pair | all | relative | IoU | {' | '.join(kind.removeprefix('recall, ') for kind in kinds)} |",
        "|---" * (5 + len(kinds)) + "|",
    ]
    for model in models:
        reference = [row for row in rows if (row.method, row.group) == (_unregistered(model), MOVED_NOT_DISPLACED)]
        for group in dict.fromkeys(row.group for row in rows if row.group.startswith(MOVED)):
            own = [row for row in rows if (row.method, row.group) == (model, group)]
            if own:
                values = [_mean(own, name) for name in ("recall", "IoU", *kinds)]
                relative = values[0] / _mean(reference, "recall") if reference else np.nan
                cells = " | ".join(
                    "-" if np.isnan(value) else f"{value:.3f}" for value in (values[0], relative, *values[1:])
                )
                lines.append(f"| {model} | {group.removeprefix(MOVED)} | {cells} |")
    return [*lines, ""] if len(lines) > 4 else []


def _unregistered(model: str) -> str:
    return f"{model.partition(':')[0]}:register=none"


def _mean(rows: Sequence[Row], name: str) -> float:
    """Return the mean of a metric over the rows in which it is defined."""
    values = np.array([row.figures.get(name, np.nan) for row in rows], float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _shared(rows: Sequence[Row], method: str, group: str, baselines: Sequence[str]) -> list[Row]:
    """Return the rows of a method on the pairs of a group on which classical methods were run as well."""
    pairs = {(row.scene, row.seed) for row in rows if row.group == group and row.method in baselines}
    return [row for row in rows if (row.method, row.group) == (method, group) and (row.scene, row.seed) in pairs]


def _rank(method: str, baselines: Sequence[str]) -> tuple[bool, bool, bool, str]:
    """Return the sort key of a method: models, the default first, then models with an option, then baselines."""
    return method in baselines, ":" in method, method.partition(":")[0] != DEFAULT_MODEL, method


def _targets(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    lines = [f"| target | bound | {' | '.join(models)} |", "|---" * (len(models) + 2) + "|"]
    for target in TARGETS:
        cells = []
        for model in models:
            of_model = [row for row in rows if row.method == model and row.group == target.group]
            value = _value(of_model, target.metric)
            met = value <= target.bound if target.lower_is_better else value >= target.bound
            cells.append("-" if np.isnan(value) else f"{value:.3f} {'met' if met else 'missed'}")
        lines.append(
            f"| {target.title} | {'≤' if target.lower_is_better else '≥'} {target.bound:g} | {' | '.join(cells)} |"
        )
    return ["## Targets\n", *lines, ""]


def _against_the_best(rows: Sequence[Row], models: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """Return AP and recall at alarm rates of each model beside the best classical method on the same pairs."""
    head = f"best classical method | {' | '.join(models)} |"
    by_ap = [f"| group | {head}", "|---" * (len(models) + 2) + "|"]
    by_recall = [f"| group | alarms per Mpx | {head}", "|---" * (len(models) + 3) + "|"]
    for group in dict.fromkeys(row.group for row in rows if row.group[0] != "D"):
        by_ap += [f"| {group} | {cells}" for cells in _ratios(rows, group, "AP", models, baselines)]
        if group[0] == "B":
            for rate in ALARM_RATES:
                lines = _ratios(rows, group, f"recall at {rate}/Mpx", models, baselines)
                by_recall += [f"| {group} | {rate} | {cells}" for cells in lines]
    target = (
        "Target: 1.5 times the best classical method, and never less than it; above two thirds, 1.5 times would exceed "
        "1. In B, where real changes are not labeled and count as wrong, see the recall at alarm rates below."
    )
    return [
        "## AP against the best classical method\n", f"{target}\n", *by_ap, "",
        "## Recall between real dates against the best classical method\n", *by_recall, "",
    ]  # fmt: skip


def _ratios(rows: Sequence[Row], group: str, metric: str, models: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """Return the cells of a line, the best classical method first; nothing if no such method was run."""
    values = {method: _value(_shared(rows, method, group, baselines), metric) for method in (*models, *baselines)}
    measured = [method for method in baselines if not np.isnan(values[method])]
    if not measured:
        return []
    best = max(measured, key=lambda method: values[method])
    cells = ["-" if np.isnan(values[m]) else f"{values[m]:.3f} ({_times(values[m], values[best])})" for m in models]
    return [f"{best} {values[best]:.3f} | {' | '.join(cells)} |"]


def _times(value: float, reference: float) -> str:
    return f"{value / reference:.2f}x" if reference else "-"


def _value(rows: Sequence[Row], metric: str) -> float:
    """Return a metric over the pixels of all pairs if there is such a row, else the median."""
    total = [row.figures[metric] for row in rows if row.scene == ALL_PAIRS and metric in row.figures]
    return total[0] if total else median_worst(rows, metric)[0]


def _compared(rows: Sequence[Row], methods: Sequence[str], metric: str) -> str:
    present = [method for method in methods if any(row.method == method for row in rows)]
    lines = [f"| group | {' | '.join(present)} |", "|---" * (len(present) + 1) + "|"]
    for group in dict.fromkeys(row.group for row in rows):
        cells = [cell([row for row in rows if row.method == m and row.group == group], metric) for m in present]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)
