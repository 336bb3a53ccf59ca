"""Measure how well weights of recipe target find blue sheets on damaged roofs, compared with other models.

    python benchmarks/tarp.py --data DIR                         # tarp; survey and paper, which look for any change
    python benchmarks/tarp.py --data DIR --model mine.safetensors

`geosiam detect` with its defaults on the Joplin scenes, before and after the tornado, against sheets digitized by eye
(benchmarks/data/joplin_sheets.geojson). A sheet is found if a polygon intersects it, a polygon is correct if it
intersects a sheet. Objects that could not be identified by eye are marked as doubtful and do not count: polygons that
intersect only these are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import geopandas

from geosiam.evaluation.metrics import ObjectScores, object_scores
from geosiam.options import DetectOptions
from geosiam.pipeline import detect

TRUTH = Path(__file__).parent / "data" / "joplin_sheets.geojson"


@dataclass(frozen=True)
class Scores:
    """Scores of one model.

    Parameters
    ----------
    overlapping, half
        Scores with objects matched if they share any area, and if their intersection over union is more than a half.
    doubtful
        Number of polygons left out because they intersect doubtful objects only.
    """

    overlapping: ObjectScores
    half: ObjectScores
    doubtful: int


def judge(polygons: geopandas.GeoDataFrame) -> Scores:
    """Compare polygons with the sheets."""
    truth = geopandas.read_file(TRUTH).to_crs(polygons.crs)
    sheets = truth[truth.kind == "sheet"].geometry
    doubtful = truth[truth.kind == "doubtful"].geometry.union_all()
    left_out = polygons.intersects(doubtful) & ~polygons.intersects(sheets.union_all())
    counted = polygons[~left_out].geometry
    return Scores(object_scores(counted, sheets), object_scores(counted, sheets, 0.5), int(left_out.sum()))


def detected(data: Path, model: str, folder: Path) -> geopandas.GeoDataFrame:
    """Return the polygons that a model detects between the two dates."""
    scenes = data / "scenes" / "joplin"
    result = detect(scenes / "pre", scenes / "post", folder / "polygons.gpkg", options=DetectOptions(model=model))
    return geopandas.read_file(result.polygons_path, layer="anomalies")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with real scenes")
    parser.add_argument("--model", action="append", help="models to compare; default: tarp, survey, paper")
    parser.add_argument("--keep", type=Path, help="folder for the polygons and score rasters")
    args = parser.parse_args()
    print("| model | sheets found | recall | polygons right | precision | recall, precision at IoU > 0.5 | left out |")
    print("|---|---|---|---|---|---|---|")
    for model in args.model or ["tarp", "survey", "paper"]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = args.keep / Path(model).stem if args.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            scores = judge(detected(args.data, model, folder))
        any_, half = scores.overlapping, scores.half
        print(
            f"| {Path(model).stem} | {any_.found} of {any_.truth} | {any_.recall:.3f} | {any_.correct} of "
            f"{any_.predicted} | {any_.precision:.3f} | {half.recall:.3f}, {half.precision:.3f} | {scores.doubtful} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
