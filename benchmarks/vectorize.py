"""Speckle to polygons: speed and memory of labeling and writing, compared with rasterio.features.shapes and geopandas.

Run with ``python benchmarks/vectorize.py`` (a smaller raster: ``--size 5000``). Each method runs in its own process,
whose peak memory is measured. The raster is random, with a fixed seed: about 0.027 components per cell. The rival holds
each polygon as a Python object and is run on a raster of at most ``--rival-size``, with geosiam on the same one. With
``--output`` the table is written to a file, in which the lines of methods that are not run now are kept; with
``--folder`` the rasters are kept for the next run.

Targets for 20,000 x 20,000 cells: at most 1 GB, 20 Mcells/s labeled, 50,000 polygons/s written.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

INTRODUCTION = """\
# Speckle to polygons

Made by `python benchmarks/vectorize.py --output benchmarks/VECTORIZE.md`: random speckle, 3.5 % of the cells, one run
of each method in its own process. Times include imports and closing the file.

- `label`: find components only
- `everything`: a GeoPackage of all polygons with all columns, footprint and style
- `along_cells`: the same with `--no-smooth`: outlines along cell edges
- `large_ones`: the same with `--min-area`, which keeps components of six cells or more
- `shapes`: the usual script: `rasterio.features.shapes`, shapely, geopandas; geometry and area only

Targets for 20,000 x 20,000 cells: at most 1 GB, 20 Mcells/s labeled, 50,000 polygons/s written.
"""
SHARE, SEED, THRESHOLD = 0.035, 0, 0.5
STEPS, TILE = 254, 512


def generate(path: Path, size: int) -> None:
    """Write a score raster of speckle, strip by strip."""
    import rasterio
    from affine import Affine

    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "width": size, "height": size, "nodata": 255, "tiled": True,
        "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "crs": "EPSG:32633",
        "transform": Affine(0.8, 0, 389_000, 0, -0.8, 5_820_000),
    }  # fmt: skip
    rng = np.random.default_rng(SEED)
    with rasterio.open(path, "w", **profile) as raster:
        raster.scales = (1 / STEPS,)
        for start in range(0, size, TILE):
            draw = rng.random((min(TILE, size - start), size), np.float32)
            scores = np.where(draw < SHARE, STEPS // 2 + draw / SHARE * (STEPS // 2), 10).astype(np.uint8)
            raster.write(scores, 1, window=((start, start + len(scores)), (0, size)))


def label(raster: Path, _out: Path) -> int:
    """Find components only."""
    from geosiam.polygons.components import component_batches
    from geosiam.polygons.score_stream import strip_rows
    from geosiam.scores.raster import ScoreRaster

    scores = ScoreRaster.open(raster)
    strips = (strip for _, strip in scores.strips(strip_rows(scores.grid.width)))
    return sum(len(batch) for batch in component_batches(strips, THRESHOLD))


def everything(raster: Path, out: Path) -> int:
    """Write all polygons with all columns."""
    from geosiam.options import PolygonOptions
    from geosiam.pipeline import vectorize_to_file

    return vectorize_to_file(raster, out, options=PolygonOptions(threshold=THRESHOLD)).count


def along_cells(raster: Path, out: Path) -> int:
    """Write all polygons with outlines along cell edges."""
    from geosiam.options import PolygonOptions
    from geosiam.pipeline import vectorize_to_file

    return vectorize_to_file(raster, out, options=PolygonOptions(threshold=THRESHOLD, smooth=False)).count


def large_ones(raster: Path, out: Path) -> int:
    """Write the components of six cells or more."""
    from geosiam.options import PolygonOptions
    from geosiam.pipeline import vectorize_to_file

    return vectorize_to_file(raster, out, options=PolygonOptions(threshold=THRESHOLD, min_area="6px")).count


def shapes(raster: Path, out: Path) -> int:
    """Run the usual script: GDAL's polygonizer, shapely, geopandas; geometry and area only."""
    import geopandas
    import rasterio
    import rasterio.features
    import shapely.geometry

    with rasterio.open(raster) as source:
        mask = source.read(1) * source.scales[0] >= THRESHOLD
        polygons = rasterio.features.shapes(
            mask.astype(np.uint8), mask=mask, connectivity=8, transform=source.transform
        )
        geometry = [shapely.geometry.shape(polygon) for polygon, _ in polygons]
        frame = geopandas.GeoDataFrame({"area_m2": [g.area for g in geometry]}, geometry=geometry, crs=source.crs)
    frame.to_file(out, layer="anomalies", driver="GPKG")
    return len(frame)


METHODS = {method.__name__: method for method in (label, everything, along_cells, large_ones, shapes)}


def measure(method: str, raster: Path, folder: Path) -> dict[str, float]:
    """Run one method in its own process."""
    out = folder / f"{method}.gpkg"
    process = subprocess.run([sys.executable, __file__, "--run", method, raster, out], check=True, capture_output=True)
    out.unlink(missing_ok=True)
    result: dict[str, float] = json.loads(process.stdout)
    return result


def row(method: str, size: int, result: dict[str, float]) -> str:
    """Return a line of the table."""
    cells = size * size / result["wall_s"] / 1e6
    return (
        f"| {method} | {size} | {result['count']:,.0f} | {result['wall_s']:.1f} | {result['cpu_s']:.1f} | {cells:.1f} "
        f"| {result['count'] / result['wall_s']:,.0f} | {result['count'] / result['cpu_s']:,.0f} "
        f"| {result['peak_mb']:.0f} |"
    )


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rival-size", type=int, default=5_000)
    parser.add_argument("--methods", nargs="*", default=["label", "everything", "along_cells", "large_ones"])
    parser.add_argument("--output", type=Path, help="Markdown file to write, or to add lines to")
    parser.add_argument("--folder", type=Path, help="folder that keeps the rasters")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        method, raster, out = args.run
        start, cpu = time.perf_counter(), time.process_time()
        count = METHODS[method](Path(raster), Path(out))
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"count": count, "wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        rows = {} if args.output is None or not args.output.exists() else lines_of(args.output)
        for size, methods in ((args.size, args.methods), (args.rival_size, ["along_cells", "shapes"])):
            raster = folder / f"{size}.tif"
            if methods and size and not raster.exists():
                generate(raster, size)
            for method in methods if size else []:
                rows[method, size] = row(method, size, measure(method, raster, folder))
                print(rows[method, size], flush=True)
                if args.output is not None:
                    args.output.write_text(document(rows), encoding="utf-8")


def lines_of(report: Path) -> dict[tuple[str, int], str]:
    """Return the lines of an earlier table by method and size."""
    lines = [line for line in report.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {(method, int(size)): line for line, (method, size, *_) in zip(lines, cells, strict=True)}


def document(rows: dict[tuple[str, int], str]) -> str:
    """Return the report."""
    from _measure import machine

    heading = (
        "| method | side in cells | polygons | wall s | CPU s | Mcells/s | polygons/s | polygons/CPU s | peak MB |"
    )
    table = [
        heading,
        "|---|---|---|---|---|---|---|---|---|",
        *(rows[key] for key in sorted(rows, key=lambda k: -k[1])),
    ]
    return "\n".join([INTRODUCTION, f"{machine()}.\n", *table, *comparisons(rows), ""])


def comparisons(rows: dict[tuple[str, int], str]) -> list[str]:
    """Return comparisons of geosiam with its rival on the same raster."""

    def time_and_memory(line: str) -> tuple[float, float]:
        cells = line.strip("| ").split(" | ")
        return float(cells[3]), float(cells[-1])

    lines = []
    for (method, size), line in rows.items():
        if method == "shapes" and ("along_cells", size) in rows:
            rival, ours = time_and_memory(line), time_and_memory(rows["along_cells", size])
            longer, more = (a / b for a, b in zip(rival, ours, strict=True))
            ratio = f"takes {longer:.1f} times as long as `along_cells` and {more:.1f} times the memory"
            lines.append(f"\nOn {size} x {size} cells `shapes` {ratio}.")
    return lines


if __name__ == "__main__":
    main()
