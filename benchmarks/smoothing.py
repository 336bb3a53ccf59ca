"""Compare smooth outlines and outlines along cell edges with the true objects of generated pairs.

    python benchmarks/smoothing.py --model survey --model survey-fast --seeds 6

Each survey is scored once, with the defaults of `geosiam detect`, and its polygons are drawn with each method. Three
metrics: IoU of the area of all polygons and of all objects; mean IoU of each found object and the polygons that overlap
it; number of corners of all outlines. Prints Markdown: means over the seeds, and how often a method was better than
outlines along cell edges.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import shapely

from geosiam.options import DetectOptions, PolygonOptions
from geosiam.pipeline import detect, vectorize
from geosiam.synthesis.pairs import varied_config, write_pair_tiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALONG_CELLS = "`--no-smooth`: along cells"
METHODS: dict[str, dict[str, Any]] = {
    ALONG_CELLS: {"smooth": False},
    "smooth, the default": {},
    "`--no-smooth --simplify 2px`": {"smooth": False, "simplify": "2px"},
    "`--simplify 1px`": {"simplify": "1px"},
}
Metrics = tuple[float, float, float]


def compare(polygons: NDArray[np.object_], truth: NDArray[np.object_]) -> Metrics:
    """Return the IoU of all, the mean IoU of the found objects, and the number of corners."""
    tree, ious = shapely.STRtree(polygons), []
    for item in truth:
        overlapping = tree.query(item, predicate="intersects")
        if len(overlapping):
            ious.append(iou(shapely.union_all(polygons[overlapping]), item))
    total = iou(shapely.union_all(polygons), shapely.union_all(truth))
    return total, statistics.fmean(ious or [0.0]), float(shapely.get_num_coordinates(polygons).sum())


def iou(first: Any, second: Any) -> float:  # noqa: ANN401 - shapely's geometries
    """Return the intersection over union of two areas."""
    return float(first.intersection(second).area / max(first.union(second).area, 1e-12))


def score_pair(model: str, seed: int, size: int, folder: Path) -> dict[str, Metrics]:
    """Score one generated pair and return the metrics of each method."""
    paths = write_pair_tiles(varied_config(seed, size, size), folder / str(seed))
    options = DetectOptions(model=model, restart=True)
    result = detect(paths.before, paths.after, folder / "found.gpkg", options=options)
    truth = geopandas.read_file(paths.truth).geometry.to_numpy()
    return {
        name: compare(
            vectorize(
                result.scores_path, options=PolygonOptions(threshold=result.threshold, **method)
            ).geometry.to_numpy(),
            truth,
        )
        for name, method in METHODS.items()
    }


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="bundled name or weights file; repeat for more")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first", type=int, default=9000, help="first seed; not used in training")
    parser.add_argument("--size", type=int, default=1024)
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    for model in args.model or ["survey"]:
        with tempfile.TemporaryDirectory() as folder:
            metrics = [score_pair(model, seed, args.size, Path(folder)) for seed in seeds]
        print(f"\n`{model}`, {len(metrics)} surveys of {args.size} px (seeds {seeds.start} to {seeds.stop - 1})\n")
        print("| outlines | IoU of all | IoU of an object | corners | better than along cells (all, an object) |")
        print("|---|---|---|---|---|")
        for name in METHODS:
            total, single, corners = (statistics.fmean(each[name][i] for each in metrics) for i in range(3))
            better = [sum(each[name][i] > each[ALONG_CELLS][i] for each in metrics) for i in range(2)]
            print(
                f"| {name} | {total:.3f} | {single:.3f} | {corners:.0f} | {better[0]}, {better[1]} of {len(metrics)} |"
            )


if __name__ == "__main__":
    main()
