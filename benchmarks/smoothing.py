"""Do smooth outlines lie closer to the objects? MultiPolygons of each kind against the truth of generated surveys.

    python benchmarks/smoothing.py --model survey --model survey-fast --seeds 6

Each survey is scored once, with the defaults of `geosiam detect`, and its polygons are drawn in each way. Three
figures: IoU of the area of all polygons with that of all objects; mean IoU of each object that was met with the
polygons that meet it; corners of all outlines. Prints Markdown: means over the seeds, and how often a way was better
than without.
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

EXACT = "`--no-smooth`: along cells"
WAYS: dict[str, dict[str, Any]] = {
    EXACT: {"smooth": False},
    "smooth, the default": {},
    "`--no-smooth --simplify 2px`": {"smooth": False, "simplify": "2px"},
    "`--simplify 1px`": {"simplify": "1px"},
}
Figures = tuple[float, float, float]


def of_polygons(found: NDArray[np.object_], truth: NDArray[np.object_]) -> Figures:
    """Return IoU of all, mean IoU of the objects met, and the number of corners."""
    whole, changed = shapely.union_all(found), shapely.union_all(truth)
    tree, single = shapely.STRtree(found), []
    for item in truth:
        meeting = tree.query(item, predicate="intersects")
        if len(meeting):
            single.append(iou(shapely.union_all(found[meeting]), item))
    return iou(whole, changed), statistics.fmean(single or [0.0]), float(shapely.get_num_coordinates(found).sum())


def iou(one: Any, other: Any) -> float:  # noqa: ANN401 - shapely's geometries
    """Return area of the intersection by that of the union."""
    return float(one.intersection(other).area / max(one.union(other).area, 1e-12))


def survey(model: str, seed: int, size: int, folder: Path) -> dict[str, Figures]:
    """Score one survey and return the figures of each way."""
    paths = write_pair_tiles(varied_config(seed, size, size), folder / str(seed))
    options = DetectOptions(model=model, restart=True)
    done = detect(paths.before, paths.after, folder / "found.gpkg", options=options)
    truth = geopandas.read_file(paths.truth).geometry.to_numpy()
    return {
        name: of_polygons(
            vectorize(done.scores_path, options=PolygonOptions(threshold=done.threshold, **way)).geometry.to_numpy(),
            truth,
        )
        for name, way in WAYS.items()
    }


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="bundled name or weights file; repeat for more")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first", type=int, default=9000, help="first seed; training drew others")
    parser.add_argument("--size", type=int, default=1024)
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    for model in args.model or ["survey"]:
        with tempfile.TemporaryDirectory() as folder:
            made = [survey(model, seed, args.size, Path(folder)) for seed in seeds]
        print(f"\n`{model}`, {len(made)} surveys of {args.size} px (seeds {seeds.start} to {seeds.stop - 1})\n")
        print("| outlines | IoU of all | IoU of an object | corners | better than along cells (all, an object) |")
        print("|---|---|---|---|---|")
        for name in WAYS:
            whole, single, corners = (statistics.fmean(one[name][i] for one in made) for i in range(3))
            better = [sum(one[name][i] > one[EXACT][i] for one in made) for i in range(2)]
            print(f"| {name} | {whole:.3f} | {single:.3f} | {corners:.0f} | {better[0]}, {better[1]} of {len(made)} |")


if __name__ == "__main__":
    main()
