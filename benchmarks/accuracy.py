"""How well models and classical methods find changes, on the protocols of `protocols.py`.

    python benchmarks/accuracy.py --data DIR --model survey --model mine.safetensors --quick
    python benchmarks/accuracy.py --data DIR --model survey --baseline all --seeds 3 --out benchmarks

A model is judged by what `geosiam detect` makes of a pair with its defaults: by its score raster at every threshold,
and by its polygons at the threshold it chose itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
from protocols import Case, cases
from rasterio.features import rasterize

from geosiam.detection.raster import ScoreRaster
from geosiam.evaluation.counts import ScoreCounts, in_cells
from geosiam.evaluation.metrics import object_scores_raster
from geosiam.evaluation.sweep import sweep_objects
from geosiam.pipeline import DetectOptions, detect
from geosiam.vector.geopackage import LAYER

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALARM_RATES = (5, 20, 100)


@dataclass(frozen=True)
class Prediction:
    """What a method says of a pair: scores by cell, and what it would report as objects, by pixel."""

    scores: NDArray[np.float32]
    stride: int
    threshold: float
    objects: NDArray[np.int32]


def predict(model: str, case: Case, folder: Path) -> Prediction:
    """Run `geosiam detect` with its defaults."""
    before, after = case.before.write(folder / "before.tif"), case.after.write(folder / "after.tif")
    options = DetectOptions(model=model, restart=True)
    done = detect(before, after, folder / "found.gpkg", options=options)
    raster = ScoreRaster.open(done.scores_path)
    scores = np.concatenate([strip for _, strip in raster.strips()])
    found = geopandas.read_file(done.polygons_path, layer=LAYER)
    shape = case.truth.shape
    shapes = [(geometry, number) for number, geometry in enumerate(found.geometry, 1)]
    t = case.before.transform
    objects = rasterize(shapes, out_shape=shape, transform=t, dtype="int32") if shapes else np.zeros(shape, np.int32)
    return Prediction(scores, raster.stride, done.threshold, objects)


def judge(case: Case, made: Prediction) -> tuple[dict[str, float], ScoreCounts]:
    """Return all figures of one pair, and its pixels by score."""
    counts = ScoreCounts.of(made.scores, *in_cells(case.truth > 0, made.stride))
    known = np.kron(~np.isnan(made.scores), np.ones((made.stride,) * 2, bool))[tuple(map(slice, case.truth.shape))]
    truth = np.where(known, case.truth, 0)
    met, close = (object_scores_raster(made.objects, truth, least) for least in (0.0, 0.5))
    sweep = sweep_objects(made.scores, truth, made.stride)
    fixed, flagged = counts.at(made.threshold), made.objects > 0
    alarms = met.predicted - met.correct
    figures = {
        "AUROC": counts.auroc,
        "AP": counts.average_precision,
        "best F1": counts.best.f1,
        "F1": fixed.f1,
        "IoU": float((flagged & (truth > 0)).sum() / max(1, (flagged | (truth > 0)).sum())),
        "recall": met.recall,
        "precision": met.precision,
        "recall IoU>0.5": close.recall,
        "precision IoU>0.5": close.precision,
        "recall at precision 0.9": sweep.recall_at_precision(0.9),
        **{f"recall at {rate}/Mpx": sweep.recall_at_alarms(rate) for rate in ALARM_RATES},
        "alarms/Mpx": alarms / max(1e-9, sweep.megapixels),
        "ECE": counts.calibration_error(),
    }
    return figures, counts


COLUMNS = {
    "A": ("recall", "precision", "recall IoU>0.5", "IoU", "best F1", "AUROC", "AP", "recall at precision 0.9", "alarms/Mpx", "ECE"),
    "B": ("AUROC", "AP", "recall at 5/Mpx", "recall at 20/Mpx", "recall at 100/Mpx", "recall", "alarms/Mpx"),
    "C": ("AUROC", "AP", "best F1", "F1", "IoU", "recall", "precision", "ECE"),
    "D": ("alarms/Mpx",),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Figures of one method on one pair."""

    method: str
    group: str
    scene: str
    seed: int
    figures: dict[str, float]


def summary(
    rows: list[Row], pooled: dict[str, ScoreCounts], columns: tuple[str, ...]
) -> list[tuple[str, dict[str, tuple[float, float]]]]:
    """Return for each group median and worst of each figure; C is judged by all its pixels together."""
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        chosen = [row for row in rows if row.group == group]
        line = {}
        for name in columns:
            values = np.array([row.figures[name] for row in chosen])
            values = values[~np.isnan(values)]
            worst = np.max if name in ("alarms/Mpx", "ECE") else np.min
            line[name] = (float(np.median(values)), float(worst(values))) if values.size else (np.nan, np.nan)
        if group.startswith("C"):
            counts = pooled[group]
            whole = {
                "AUROC": counts.auroc,
                "AP": counts.average_precision,
                "best F1": counts.best.f1,
                "ECE": counts.calibration_error(),
            }
            line.update({name: (value, line[name][1]) for name, value in whole.items()})
        lines.append((group, line))
    return lines


def run(model: str, data: Path, protocol: str, seeds: range) -> tuple[list[Row], dict[str, ScoreCounts]]:
    """Judge one method on one protocol."""
    rows: list[Row] = []
    pooled: dict[str, ScoreCounts] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(data, protocol, seeds):
            figures, counts = judge(case, predict(model, case, Path(folder)))
            rows.append(Row(Path(model).stem, case.group, case.scene, case.seed, figures))
            pooled[case.group] = pooled.get(case.group, ScoreCounts.none()) + counts
    return rows, pooled


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and change/")
    parser.add_argument("--model", action="append", default=[], help="bundled name or weights file; repeat for more")
    parser.add_argument("--protocol", nargs="+", default=["A", "B", "C", "D"], choices=["A", "B", "C", "D"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", type=Path, help="write every row there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(1 if args.quick else args.seeds)
    everything = []
    for model in args.model or ["survey"]:
        for protocol in args.protocol:
            start = time.perf_counter()
            rows, pooled = run(model, args.data, protocol, seeds)
            everything += rows
            columns = COLUMNS[protocol]
            print(
                f"\n{model}, protocol {protocol}: median (worst) of scenes and seeds, {time.perf_counter() - start:.0f} s"
            )
            print("| group | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
            for group, line in summary(rows, pooled, columns):
                print(f"| {group} | " + " | ".join(f"{m:.3g} ({w:.3g})" for m, w in line.values()) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in everything], indent=1))


if __name__ == "__main__":
    sys.exit(main())
