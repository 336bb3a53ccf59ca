"""Heights and volumes on generated surveys, whose exact heights are known: benchmarks/HEIGHTS.md.

    python benchmarks/heights.py                      # all of it, and the page
    python benchmarks/heights.py --part volumes       # prints one part
    python benchmarks/heights.py --xdem python        # with an interpreter that has xdem

50 heaps and pits on uneven ground among houses and trees, in five surveys; surface models with the errors of
photogrammetry, 1 m beside each other, 10 cm too high and tilted. The same with xdem by hand: its Nuth and Kääb
co-registration and deramping, ground inside the outlines left out, and its errors of volumes from a variogram.
Then pairs of leaning flights: which polygons on nothing are marked as likely geometry, and which new roofs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from rasterio.features import geometry_mask

import geosiam as gs
from geosiam.imagery.grid import Window
from geosiam.synthesis import materials
from geosiam.synthesis.changes import Change
from geosiam.synthesis.light import Flight
from geosiam.synthesis.pairs import SurfaceErrors, SyntheticConfig, make_pair, make_surfaces, write_pair
from geosiam.synthesis.pairs import _scene as synthetic_scene
from geosiam.synthesis.things import Thing, outline

PAGE = Path(__file__).parent / "HEIGHTS.md"
GSD, SIDE, PIXELS = 0.1, 1600, 2
HEAPS, SURVEYS = 10, 5
TOE_M = 0.6  # outlines are drawn this far outside of the foot, as surveyors draw them
ERRORS = (
    SurfaceErrors(seed=1),
    SurfaceErrors(bias_m=0.10, tilt_m=(0.15, -0.10), shift_m=(0.8, -0.6), seed=2),
)


def heaps(seed: int) -> SyntheticConfig:
    """Return a survey with ten heaps and pits of 4 to 14 m, on either date, clear of each other and of houses."""
    rng = np.random.default_rng([seed, 77])
    base = SyntheticConfig(height=SIDE, width=SIDE, seed=seed, gsd=GSD, changes=(), landscape="rural")
    ground = synthetic_scene(base).heights(Window(0, SIDE, 0, SIDE))[0]
    changes: list[Change] = []
    while len(changes) < HEAPS:
        length = float(rng.uniform(4, 14))
        x, y = rng.uniform(12, SIDE * GSD - 12, 2)
        apart = [np.hypot(x - c.thing.x, y - c.thing.y) > (length + c.thing.length) / 2 + 4 for c in changes]
        reach = int((length / 2 + 2) / GSD)
        row, col = int(y / GSD), int(x / GSD)
        around = ground[max(0, row - reach) : row + reach, max(0, col - reach) : col + reach]
        if not all(apart) or np.mean(around > 0.5) > 0.02:
            continue
        kind, height = ("pile", 0.22) if rng.random() < 0.6 else ("pit", 0.12)
        thing = Thing(
            kind, float(x), float(y), float(rng.uniform(0, 3)), length, length * float(rng.uniform(0.7, 1)),
            length * height * float(rng.uniform(0.7, 1.3)), materials.SOIL, int(rng.integers(1 << 16)),
        )  # fmt: skip
        changes.append(Change("added" if rng.random() < 0.7 else "removed", kind, thing))
    return SyntheticConfig(height=SIDE, width=SIDE, seed=seed, gsd=GSD, changes=tuple(changes), landscape="rural")


def survey(seed: int, folder: Path) -> tuple[list[float], tuple[Path, Path], Path]:
    """Write surface models and outlines of a survey; return exact volumes and paths."""
    config = heaps(seed)
    exact = np.subtract(*synthetic_scene(config).heights(Window(0, SIDE, 0, SIDE))[::-1]).astype(float)
    polygons = []
    for change in config.changes or ():
        cols, rows = (outline(change.thing) / GSD).T
        ring = np.column_stack(config.grid.transform @ (cols, rows))
        polygons.append(shapely.Polygon(ring).buffer(TOE_M))
    volumes = [
        float(exact[geometry_mask([p], exact.shape, config.grid.transform, invert=True)].sum() * GSD**2)
        for p in polygons
    ]
    paths = make_surfaces(config, ERRORS, pixels=PIXELS).write(folder)
    target = folder / "outlines.gpkg"
    geopandas.GeoDataFrame(geometry=polygons, crs=config.grid.crs).to_file(target)
    return volumes, paths, target


def volumes(folder: Path, xdem: str | None) -> dict[str, object]:
    """Measure the volumes of all surveys, and those that xdem measures."""
    rows, other, seconds = [], [], 0.0
    shifts = []
    for seed in range(SURVEYS):
        exact, dsms, outlines = survey(seed, folder / str(seed))
        start = time.perf_counter()
        result = gs.measure_heights(*dsms, folder / str(seed) / "out.gpkg", polygons=outlines)
        seconds += time.perf_counter() - start
        found = geopandas.read_file(folder / str(seed) / "out.gpkg", layer="heights")
        net = found.volume_gain_m3 - found.volume_loss_m3
        rows += zip(exact, net, found.volume_sigma_m3, found.height_evidence, strict=True)
        shifts.append({k: v for k, v in result.heights["coregistration"].items() if isinstance(v, float)})
        if xdem:
            run = [xdem, str(Path(__file__).parent / "_xdem_volumes.py"), *map(str, (*dsms, outlines))]
            answer = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
            other += zip(exact, answer["volume"], answer["sigma"], strict=True)
    return {"rows": rows, "xdem": other, "seconds": seconds, "coregistration": shifts}


def summary(rows: list[tuple[float, ...]]) -> dict[str, float]:
    """Return the errors of volumes, given rows of exact volume, measured volume and standard error."""
    exact, net, sigma = (np.array([row[i] for row in rows], float) for i in range(3))
    relative = np.abs(net - exact) / np.abs(exact)
    return {
        "count": len(rows),
        "median error": float(np.median(relative)),
        "90th percentile": float(np.percentile(relative, 90)),
        "inside 95 %": float(np.mean(np.abs(net - exact) <= 1.96 * sigma)),
        "mean bias": float(np.mean((net - exact) / np.abs(exact))),
        "median sigma": float(np.median(sigma / np.abs(exact))),
    }


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("volumes", "lean", "all"), default="all")
    parser.add_argument("--xdem", help="Python interpreter with xdem")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.part in ("volumes", "all"):
            found = volumes(folder, given.xdem)
            print(json.dumps(found["coregistration"], indent=1))
            for row in found["rows"]:
                print(*(f"{v:9.3f}" if isinstance(v, float) else v for v in row))
            print(summary(found["rows"]), found["seconds"])
            if found["xdem"]:
                print(summary(found["xdem"]))


if __name__ == "__main__":
    main()
