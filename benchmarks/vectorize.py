"""Speckle to polygons: speed and memory of labelling and writing, against rasterio.features.shapes with geopandas.

Run with ``python benchmarks/vectorize.py`` (a smaller raster: ``--size 5000``). Each way runs in a process of its own,
whose peak memory is taken. The raster is random, with a fixed seed: about 0.027 components a cell. The rival holds
every polygon as Python objects and is run on a raster of at most ``--rival-size``, with geosiam on the same one.

Targets for 20,000 x 20,000 cells: at most 1 GB, 20 Mcells/s labelled, 50,000 polygons/s written.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

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
    """Find the components and nothing else."""
    from geosiam.detection.raster import ScoreRaster
    from geosiam.vector.components import component_batches
    from geosiam.vector.field import strip_rows

    scores = ScoreRaster.open(raster)
    strips = (strip for _, strip in scores.strips(strip_rows(scores.grid.width)))
    return sum(len(batch) for batch in component_batches(strips, THRESHOLD))


def everything(raster: Path, out: Path) -> int:
    """Write every polygon with all its columns."""
    from geosiam.pipeline import vectorize_raster

    return vectorize_raster(raster, out, threshold=THRESHOLD).count


def smooth(raster: Path, out: Path) -> int:
    """Write every polygon with a smooth outline."""
    from geosiam.pipeline import vectorize_raster

    return vectorize_raster(raster, out, threshold=THRESHOLD, smooth=True).count


def large_ones(raster: Path, out: Path) -> int:
    """Write the components of six cells or more."""
    from geosiam.pipeline import vectorize_raster

    return vectorize_raster(raster, out, threshold=THRESHOLD, min_area="6px").count


def shapes(raster: Path, out: Path) -> int:
    """Do what a script would: GDAL's polygoniser, shapely, geopandas; geometry and area only."""
    import geopandas
    import rasterio
    import rasterio.features
    import shapely.geometry

    with rasterio.open(raster) as source:
        mask = source.read(1) * source.scales[0] >= THRESHOLD
        found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=8, transform=source.transform)
        geometry = [shapely.geometry.shape(polygon) for polygon, _ in found]
        frame = geopandas.GeoDataFrame({"area_m2": [g.area for g in geometry]}, geometry=geometry, crs=source.crs)
    frame.to_file(out, layer="anomalies", driver="GPKG")
    return len(frame)


WAYS = {way.__name__: way for way in (label, everything, smooth, large_ones, shapes)}


def measured(way: str, raster: Path, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own."""
    out = folder / f"{way}.gpkg"
    done = subprocess.run([sys.executable, __file__, "--way", way, raster, out], check=True, capture_output=True)
    out.unlink(missing_ok=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def row(way: str, size: int, result: dict[str, float]) -> str:
    """Return a line of the table."""
    cells = size * size / result["wall_s"] / 1e6
    return (
        f"| {way} | {size} | {result['count']:,.0f} | {result['wall_s']:.1f} | {result['cpu_s']:.1f} | {cells:.1f} "
        f"| {result['count'] / result['wall_s']:,.0f} | {result['count'] / result['cpu_s']:,.0f} "
        f"| {result['peak_mb']:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rival-size", type=int, default=5_000)
    parser.add_argument("--ways", nargs="*", default=["label", "everything", "smooth", "large_ones"])
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        way, raster, out = args.way
        start, cpu = time.perf_counter(), time.process_time()
        count = WAYS[way](Path(raster), Path(out))
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"count": count, "wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb}))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}\n")
    print("| way | side in cells | polygons | wall s | CPU s | Mcells/s | polygons/s | polygons/CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {args.size: args.ways}
        if args.rival_size:
            sizes[min(args.size, args.rival_size)] = ["everything", "shapes"]
        for size, ways in sizes.items():
            generate(folder / f"{size}.tif", size)
            for way in ways:
                print(row(way, size, measured(way, folder / f"{size}.tif", folder)), flush=True)


if __name__ == "__main__":
    main()
