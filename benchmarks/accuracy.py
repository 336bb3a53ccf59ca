"""Measure the accuracy of models and classical methods on the protocols of `protocols.py`.

    python benchmarks/accuracy.py --data DIR --model survey --model mine.safetensors --quick
    python benchmarks/accuracy.py --data DIR --model survey --baseline all --seeds 3 --out benchmarks

Models are evaluated by the results of `geosiam detect` with its defaults: the score raster at every threshold, and
the polygons at the threshold that detect chose itself. Baselines get the same two images on one grid and report the
connected pixels (8-connected) above Otsu's threshold. With --out, results of methods that are not run now are kept.
A model may be named with an option of detect, as in ``survey:radiometry=none`` or ``survey:register=field``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
from accuracy_report import ALARM_RATES, ALL_PAIRS, Row, markdown, merged, quick_table, save
from geometry import displacement_errors, read_displacement
from protocols import PROTOCOLS, cases
from rasterio.features import rasterize
from scipy import ndimage
from sweep import EIGHT_CONNECTED, ObjectSweep, match_labels, object_scores_raster, recall_of_strongest, sweep_objects

from geosiam.evaluation.baselines import BASELINES, baseline
from geosiam.evaluation.counts import ScoreCounts, in_cells
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.polygons.geopackage import LAYER
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.working_file import FINE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from protocols import Case

DISPLACEMENT = "displacement.tif"


@dataclass(frozen=True)
class Prediction:
    """Result of a method on a pair.

    Parameters
    ----------
    scores
        float32 (cell rows, cell cols), NaN = not scored.
    stride
        Side of a cell in pixels.
    threshold
        Threshold that the method chose.
    objects
        int32 (rows, cols) of pixels: number of the reported object, counted from 1; 0 = none.
    strength
        Mean score of each object, shape (objects,).
    displacement
        Displacement of the after scene that the method estimated, float32 (2, rows, cols) in pixels to the right and
        down; None if it says nothing about it.
    """

    scores: NDArray[np.float32]
    stride: int
    threshold: float
    objects: NDArray[np.int32]
    strength: NDArray[np.floating[Any]]
    displacement: NDArray[np.float32] | None = None


def predict(method: str, case: Case, folder: Path) -> Prediction:
    """Run a method on a pair."""
    before, after = case.before.write(folder / "before.tif"), case.after.write(folder / "after.tif")
    if method in BASELINES:
        return predict_by_baseline(method, before, after)
    prediction = predict_by_model(method, before, after, folder / "found.gpkg")
    if (folder / DISPLACEMENT).exists():
        field = read_displacement(folder / DISPLACEMENT, case.before)
        (folder / DISPLACEMENT).unlink()
        return replace(prediction, displacement=field)
    return prediction


def predict_by_model(method: str, before: Path, after: Path, target: Path) -> Prediction:
    """Run `geosiam detect` with its defaults and the option in the name of the method."""
    model, _, option = method.partition(":")
    name, _, value = option.partition("=")
    settings: dict[str, Any] = {name: value} if option else {}
    local = settings.get("register", "auto") in ("auto", "field")
    result = detect(
        before,
        after,
        target,
        options=DetectOptions(model=model, restart=True, **settings),
        displacement=target.with_name(DISPLACEMENT) if local else None,
    )
    raster = ScoreRaster.open(result.scores_path)
    scores = np.concatenate([strip for _, strip in raster.strips()])
    rows, cols = (round(cells * raster.stride) for cells in raster.extent)
    polygons = geopandas.read_file(result.polygons_path, layer=LAYER)
    objects = np.zeros((rows, cols), np.int32)
    if len(polygons):
        transform = raster.grid.transform @ raster.grid.transform.scale(1 / raster.stride)
        numbered = list(zip(polygons.geometry, range(1, len(polygons) + 1), strict=True))
        rasterize(numbered, out=objects, transform=transform)
    return Prediction(scores, raster.stride, result.threshold, objects, polygons.score_mean.to_numpy(float))


def predict_by_baseline(name: str, before: Path, after: Path) -> Prediction:
    """Run a classical method on the pair as `geosiam detect` would align it."""
    method = baseline(name)
    with open_pair(before, after, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(Window(0, pair.grid.height, 0, pair.grid.width))
    scores = method.scores(block.before, block.after, block.valid)
    threshold = method.choose_threshold(scores)
    objects, count = ndimage.label(scores >= threshold, EIGHT_CONNECTED)
    strength = np.atleast_1d(ndimage.mean(scores, objects, range(1, count + 1)))
    return Prediction(scores, 1, threshold, objects, strength)


def compare(case: Case, prediction: Prediction) -> tuple[dict[str, float], ScoreCounts]:
    """Return all metrics of one pair, and its pixels by score."""
    stride = prediction.stride
    counts = ScoreCounts.of(prediction.scores, *in_cells(case.truth > 0, stride), steps=FINE_STEPS)
    is_scored = np.kron(~np.isnan(prediction.scores), np.ones((stride, stride), bool))
    truth = np.where(is_scored[tuple(map(slice, case.truth.shape))], case.truth, 0)
    any_overlap, iou50 = (object_scores_raster(prediction.objects, truth, min_iou) for min_iou in (0.0, 0.5))
    objects = {}
    if stride > 1 or case.group.startswith("B"):  # slow for every pixel, and only B is compared by it
        sweep = sweep_objects(prediction.scores, truth, stride)
        objects = {f"recall at {rate}/Mpx": recall_at_rate(prediction, truth, sweep, rate) for rate in ALARM_RATES}
        objects["recall at precision 0.9"] = sweep.recall_at_precision(0.9)
    flagged, changed = prediction.objects > 0, truth > 0
    metrics = {
        **pixel_metrics(counts),
        "F1": 2 * float((flagged & changed).sum()) / max(1, int(flagged.sum() + changed.sum())),
        "IoU": float((flagged & changed).sum()) / max(1, int((flagged | changed).sum())),
        "recall": any_overlap.recall,
        "precision": any_overlap.precision,
        "recall IoU>0.5": iou50.recall,
        "precision IoU>0.5": iou50.precision,
        **objects,
        "alarms/Mpx": (any_overlap.predicted - any_overlap.correct) / max(1, counts.pixels) * 1e6,
    }
    if case.displacement is not None and prediction.displacement is not None:
        metrics |= displacement_errors(case, prediction.displacement)
    if case.kinds:
        metrics |= recall_of_kinds(prediction.objects, truth, case.kinds)
    return metrics, counts


def recall_of_kinds(
    objects: NDArray[np.int32], truth: NDArray[np.int32], kinds: Mapping[str, range]
) -> dict[str, float]:
    """Return the recall of each kind of object."""
    _, is_found = match_labels(objects, truth)
    numbers = np.unique(truth[truth > 0])
    of_kind = {kind: is_found[np.isin(numbers, span)] for kind, span in kinds.items()}
    return {f"recall, {kind}": float(found.mean()) if found.size else np.nan for kind, found in of_kind.items()}


def recall_at_rate(prediction: Prediction, truth: NDArray[np.int32], sweep: ObjectSweep, rate: float) -> float:
    """Return the recall at a number of alarms per million pixels: by a threshold, or from the strongest object down."""
    max_alarms = rate * sweep.megapixels
    ranked = recall_of_strongest(prediction.objects, prediction.strength, truth, max_alarms)
    return max(sweep.recall_at_alarms(rate), ranked)


def pixel_metrics(counts: ScoreCounts) -> dict[str, float]:
    """Return the metrics that depend only on the scores of the pixels."""
    return {
        "AUROC": counts.auroc,
        "AP": counts.average_precision,
        "best F1": counts.best.f1,
        "ECE": counts.calibration_error(),
    }


def rows_of(method: str, data: Path, protocol: str, seeds: range, part: str = "") -> Iterator[Row]:
    """Evaluate one method on one protocol; for LEVIR also over all pairs together, as is usual."""
    totals: dict[str, ScoreCounts] = {}
    name = method.removesuffix(".safetensors").rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(data, protocol, seeds, part):
            metrics, counts = compare(case, predict(method, case, Path(folder)))
            yield Row(name, case.group, case.scene, case.seed, metrics)
            if protocol == "C":
                totals[case.group] = totals.get(case.group, ScoreCounts.none()) + counts
    for group, counts in totals.items():
        yield Row(name, group, ALL_PAIRS, 0, pixel_metrics(counts))


def main() -> None:
    """Evaluate, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/, change/ and train/")
    parser.add_argument("--model", action="append", default=[], help="bundled name or weights file; repeat for more")
    parser.add_argument("--baseline", action="append", default=[], choices=["all", *BASELINES], help="repeat for more")
    parser.add_argument("--protocol", nargs="+", default=list(PROTOCOLS), choices=PROTOCOLS)
    parser.add_argument("--group", default="", help="only groups whose name contains this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--out", type=Path, help="folder of ACCURACY.md and ACCURACY.json")
    parser.add_argument("--machine", default="", help="a sentence about the machine, for the report")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(1 if args.quick else args.seeds)
    methods = [*args.model, *(BASELINES if "all" in args.baseline else args.baseline)]
    for method in methods:
        for protocol in args.protocol:
            start = time.perf_counter()
            rows = list(rows_of(method, args.data, protocol, seeds, args.group))
            print(
                f"\n{method}, protocol {protocol}, {time.perf_counter() - start:.0f} s\n{quick_table(rows)}", flush=True
            )
            if args.out:
                save(args.out, merged(args.out, rows))
    if args.out:
        report = markdown(merged(args.out, []), list(BASELINES), args.machine)
        (args.out / "ACCURACY.md").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
