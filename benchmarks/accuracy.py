"""How well models and classical methods find changes, on the protocols of `protocols.py`.

    python benchmarks/accuracy.py --data DIR --model survey --model mine.safetensors --quick
    python benchmarks/accuracy.py --data DIR --model survey --baseline all --seeds 3 --out benchmarks

A model is judged by what `geosiam detect` makes of a pair with its defaults: by its score raster at every threshold,
and by its polygons at the threshold it chose itself. A baseline sees the same two images on one grid, and reports the
neighboring pixels (8-connected) from Otsu's threshold up. With --out, figures of methods not run now are kept.
A model may be named with an option of detect, as in ``survey:radiometry=none`` or ``survey:register=yes``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
from accuracy_report import ALARM_RATES, Row, markdown, merged, quick_table, save
from protocols import PROTOCOLS, cases
from rasterio.features import rasterize
from scipy import ndimage

from geosiam.evaluation.baselines import BASELINES, baseline
from geosiam.evaluation.counts import ScoreCounts, in_cells
from geosiam.evaluation.metrics import object_scores_raster
from geosiam.evaluation.sweep import ObjectSweep, recall_of_strongest, sweep_objects
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.polygons.geopackage import LAYER
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.working_file import FINE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from protocols import Case

_EIGHT = np.ones((3, 3), int)


class Prediction:
    """What a method says of a pair.

    Parameters
    ----------
    scores
        float32 (cell rows, cell cols), NaN = not scored.
    stride
        Pixels along a cell's side.
    threshold
        What the method cuts at.
    objects
        int32 (rows, cols) of pixels: what it would report, numbered from 1.
    strength
        Mean score of each of them.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        stride: int,
        threshold: float,
        objects: NDArray[np.int32],
        strength: NDArray[np.floating[Any]],
    ) -> None:
        self.scores, self.stride, self.threshold = scores, stride, threshold
        self.objects, self.strength = objects, strength


def predict(method: str, case: Case, folder: Path) -> Prediction:
    """Run a method on a pair."""
    before, after = case.before.write(folder / "before.tif"), case.after.write(folder / "after.tif")
    run = by_baseline if method in BASELINES else by_model
    return run(method, before, after, folder / "found.gpkg")


def by_model(method: str, before: Path, after: Path, target: Path) -> Prediction:
    """Run `geosiam detect` with its defaults, but for what the method names."""
    model, _, option = method.partition(":")
    name, _, value = option.partition("=")
    chosen: dict[str, Any] = {name: value == "yes" if name == "register" else value} if option else {}
    done = detect(before, after, target, options=DetectOptions(model=model, restart=True, **chosen))
    raster = ScoreRaster.open(done.scores_path)
    scores = np.concatenate([strip for _, strip in raster.strips()])
    rows, cols = (round(cells * raster.stride) for cells in raster.extent)
    polygons = geopandas.read_file(done.polygons_path, layer=LAYER)
    found = polygons.geometry
    objects = np.zeros((rows, cols), np.int32)
    if len(found):
        pixels = raster.grid.transform @ raster.grid.transform.scale(1 / raster.stride)
        rasterize(list(zip(found, range(1, len(found) + 1), strict=True)), out=objects, transform=pixels)
    return Prediction(scores, raster.stride, done.threshold, objects, polygons.score_mean.to_numpy(float))


def by_baseline(name: str, before: Path, after: Path, _target: Path) -> Prediction:
    """Run a classical method on the pair as `geosiam detect` would align it."""
    method = baseline(name)
    with open_pair(before, after, PairOptions(radiometry="none")) as pair:
        both = pair.read(Window(0, pair.grid.height, 0, pair.grid.width))
    scores = method.scores(both.before, both.after, both.valid)
    threshold = method.cut(scores)
    objects, count = ndimage.label(scores >= threshold, _EIGHT)
    strength = np.atleast_1d(ndimage.mean(scores, objects, range(1, count + 1)))
    return Prediction(scores, 1, threshold, objects, strength)


def judge(case: Case, made: Prediction) -> tuple[dict[str, float], ScoreCounts]:
    """Return all figures of one pair, and its pixels by score."""
    counts = ScoreCounts.of(made.scores, *in_cells(case.truth > 0, made.stride), steps=FINE_STEPS)
    known = np.kron(~np.isnan(made.scores), np.ones((made.stride,) * 2, bool))[tuple(map(slice, case.truth.shape))]
    truth = np.where(known, case.truth, 0)
    met, close = (object_scores_raster(made.objects, truth, least) for least in (0.0, 0.5))
    objects = {}
    if made.stride > 1 or case.group.startswith("B"):  # for every pixel it takes long, and only B compares by it
        sweep = sweep_objects(made.scores, truth, made.stride)
        objects = {f"recall at {rate}/Mpx": recall_at_rate(made, truth, sweep, rate) for rate in ALARM_RATES}
        objects["recall at precision 0.9"] = sweep.recall_at_precision(0.9)
    flagged, changed = made.objects > 0, truth > 0
    figures = {
        **pixel_figures(counts),
        "F1": 2 * float((flagged & changed).sum()) / max(1, int(flagged.sum() + changed.sum())),
        "IoU": float((flagged & changed).sum()) / max(1, int((flagged | changed).sum())),
        "recall": met.recall,
        "precision": met.precision,
        "recall IoU>0.5": close.recall,
        "precision IoU>0.5": close.precision,
        **objects,
        "alarms/Mpx": (met.predicted - met.correct) / max(1, counts.pixels) * 1e6,
    }
    return figures, counts


def recall_at_rate(made: Prediction, truth: NDArray[np.int32], sweep: ObjectSweep, rate: float) -> float:
    """Return the recall at so many alarms per million pixels: by a threshold, or by looking at the strongest first."""
    ranked = recall_of_strongest(made.objects, made.strength, truth, rate * sweep.megapixels)
    return max(sweep.recall_at_alarms(rate), ranked)


def pixel_figures(counts: ScoreCounts) -> dict[str, float]:
    """Return what depends on the pixels alone, at every threshold."""
    return {
        "AUROC": counts.auroc,
        "AP": counts.average_precision,
        "best F1": counts.best.f1,
        "ECE": counts.calibration_error(),
    }


def rows_of(method: str, data: Path, protocol: str, seeds: range) -> Iterator[Row]:
    """Judge one method on one protocol; of LEVIR also all pairs together, as the field does."""
    pooled: dict[str, ScoreCounts] = {}
    name = method.removesuffix(".safetensors").rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(data, protocol, seeds):
            figures, counts = judge(case, predict(method, case, Path(folder)))
            yield Row(name, case.group, case.scene, case.seed, figures)
            if protocol == "C":
                pooled[case.group] = pooled.get(case.group, ScoreCounts.none()) + counts
    for group, counts in pooled.items():
        yield Row(name, group, "all", 0, pixel_figures(counts))


def main() -> None:
    """Judge, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and change/")
    parser.add_argument("--model", action="append", default=[], help="bundled name or weights file; repeat for more")
    parser.add_argument("--baseline", action="append", default=[], choices=["all", *BASELINES], help="repeat for more")
    parser.add_argument("--protocol", nargs="+", default=list(PROTOCOLS), choices=PROTOCOLS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--out", type=Path, help="folder of ACCURACY.md and ACCURACY.json")
    parser.add_argument("--machine", default="", help="a sentence on the machine, for the report")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(1 if args.quick else args.seeds)
    methods = [*args.model, *(BASELINES if "all" in args.baseline else args.baseline)]
    for method in methods:
        for protocol in args.protocol:
            start = time.perf_counter()
            rows = list(rows_of(method, args.data, protocol, seeds))
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
