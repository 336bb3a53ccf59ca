"""Figure 6 of the paper as a figure of merit: 100 rectangles of 5-15 px in real scenes the weights never saw.

    python benchmarks/insertions.py --data DIR --seeds 5

DIR holds georeferenced aerial scenes (searched recursively for .tif). Of each the middle 1260 x 720 px serve as the
template; rectangles are inserted into a copy of it, and ``geosiam detect`` compares the two with its defaults. Reported
are the median and the worst of all seeds: object recall and precision of the polygons, the AUROC of cells against
windows (a window is positive if more than 1 % of it is anomalous, the smallest anomaly of the paper's training; also
if any pixel is), and the pixel IoU of the polygons.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from rasterio.features import rasterize

from geosiam.evaluation.metrics import object_scores, window_auroc
from geosiam.network.weights import load_model
from geosiam.pipeline import DetectOptions, detect, score
from geosiam.synthesis.insertion import insert_anomalies, nuisance

HEIGHT, WIDTH = 720, 1260
FIGURES = ("recall", "precision", "AUROC >1 %", "AUROC any", "pixel IoU")


def template(path: Path, folder: Path) -> Path | None:
    """Write the middle of a scene, three bands; None if the scene is smaller than that."""
    with rasterio.open(path) as scene:
        if scene.height < HEIGHT or scene.width < WIDTH:
            return None
        row, col = (scene.height - HEIGHT) // 2, (scene.width - WIDTH) // 2
        window = rasterio.windows.Window(col, row, WIDTH, HEIGHT)
        image = scene.read((1, 2, 3), window=window)
        target = folder / f"{path.stem}.tif"
        write(target, image, scene.crs, scene.window_transform(window))
    return target


def write(path: Path, image: np.ndarray, crs: object, transform: object) -> None:
    """Write a three-band scene."""
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": HEIGHT, "width": WIDTH}
    with rasterio.open(path, "w", crs=crs, transform=transform, photometric="rgb", **profile) as target:
        target.write(image)


def measure(before: Path, model: str, fill: str, seed: int, *, disturbed: bool) -> dict[str, float]:
    """Insert, detect, compare: the figures of one run."""
    with rasterio.open(before) as scene:
        image, crs, transform = scene.read(), scene.crs, scene.transform
    inserted = insert_anomalies(image, count=100, size_px=(5, 15), shape="rectangle", fill=fill, seed=seed)
    second = nuisance(inserted.image, seed=seed) if disturbed else inserted.image
    after, polygons = before.with_name("after.tif"), before.with_name("found.gpkg")
    write(after, second, crs, transform)
    detect(before, after, polygons, options=DetectOptions(model=model))
    found = geopandas.read_file(polygons, layer="anomalies")
    matrix = [transform.a, transform.b, transform.d, transform.e, transform.c, transform.f]
    truth = geopandas.GeoSeries([item.geometry for item in inserted.truth], crs=crs).affine_transform(matrix)
    objects = object_scores(found, truth)
    # Ranks need the scores themselves: the 254 steps of the score raster tie what an AUROC would tell apart.
    scores = score(before, after, options=DetectOptions(model=model)).to_numpy()
    mask = inserted.mask > 0
    card = load_model(model).card
    drawn = rasterize(found.geometry, out_shape=mask.shape, transform=transform) if len(found) else np.zeros(mask.shape)
    windows = {"receptive_field": card.receptive_field, "stride": card.stride}
    return dict(
        zip(
            FIGURES,
            (
                objects.recall,
                objects.precision,
                window_auroc(scores, mask, min_share=0.01, **windows),
                window_auroc(scores, mask, **windows),
                float((mask & (drawn > 0)).sum() / (mask | (drawn > 0)).sum()),
            ),
            strict=True,
        )
    )


def main() -> None:
    """Run all combinations and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scenes/aerial"), help="folder of scenes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["paper", "survey"])
    parser.add_argument("--json", type=Path, help="also write all runs here")
    options = parser.parse_args()
    scenes = sorted(options.data.rglob("*.tif"))
    if not scenes:
        parser.exit(0, f"no scenes under {options.data}: nothing measured\n")
    runs = []
    print(f"{platform.machine()}, {options.seeds} seeds, median (worst)\n")
    print("| model | scene | fill | nuisance |", " | ".join(FIGURES), "|")
    print("|---" * (4 + len(FIGURES)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        templates = [made for path in scenes if (made := template(path, Path(folder)))]
        for model in options.models:
            for scene in templates:
                for fill in ("blue", "flat"):
                    for disturbed in (False, True):
                        figures = [
                            measure(scene, model, fill, seed, disturbed=disturbed) for seed in range(options.seeds)
                        ]
                        row = [
                            f"{np.median([f[n] for f in figures]):.3f} ({min(f[n] for f in figures):.3f})"
                            for n in FIGURES
                        ]
                        label = "gain, offset, shift, noise" if disturbed else "none"
                        print(f"| {model} | {scene.stem} | {fill} | {label} |", " | ".join(row), "|", flush=True)
                        runs += [
                            {"model": model, "scene": scene.stem, "fill": fill, "nuisance": disturbed, "seed": s, **f}
                            for s, f in enumerate(figures)
                        ]
    if options.json:
        options.json.write_text(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
