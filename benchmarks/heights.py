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
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import shapely
from rasterio.features import geometry_mask

import geosiam as gs
from geosiam.imagery.grid import Window
from geosiam.synthesis import materials
from geosiam.synthesis.changes import Change
from geosiam.synthesis.pairs import SurfaceErrors, SyntheticConfig, make_pair, make_surfaces, write_pair
from geosiam.synthesis.pairs import _scene as synthetic_scene
from geosiam.synthesis.things import Thing, outline

PAGE = Path(__file__).parent / "HEIGHTS.md"
GSD, SIDE, PIXELS = 0.1, 1600, 2
HEAPS, SURVEYS = 10, 5
TOE_M = 0.6  # outlines are drawn this far outside of the foot, as surveyors draw them
LEAN_SIDE, LEAN_GSD, LEAN_SURVEYS, ROOFS, TARPS = 896, 0.15, 6, 5, 3


def errors(seed: int) -> tuple[SurfaceErrors, SurfaceErrors]:
    """Return the errors of both surface models of a survey: the second is 1 m aside, 10 cm too high, and tilted."""
    after = SurfaceErrors(bias_m=0.10, tilt_m=(0.15, -0.10), shift_m=(0.8, -0.6), seed=2 * seed + 2)
    return SurfaceErrors(seed=2 * seed + 1), after


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
    paths = make_surfaces(config, errors(seed), pixels=PIXELS).write(folder)
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
            kept = folder / str(seed) / "xdem.json"
            if not kept.exists():
                kept.write_text(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
            answer = json.loads(kept.read_text())
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
        "errors in sigmas": float(np.sqrt(np.mean(((net - exact) / sigma) ** 2))),
        "median sigma": float(np.median(sigma / np.abs(exact))),
    }


def leaning(seed: int, *, leans: bool) -> SyntheticConfig:
    """Return a survey with new roofs and tarps, of two flights that lean in different directions, or do not lean."""
    rng = np.random.default_rng([seed, 78])
    landscape = ("village", "urban")[seed % 2]
    base = SyntheticConfig(
        height=LEAN_SIDE,
        width=LEAN_SIDE,
        seed=seed,
        gsd=LEAN_GSD,
        changes=(),
        landscape=landscape,
        shift_px=(0.4, -0.3),
    )
    ground = synthetic_scene(base).heights(Window(0, LEAN_SIDE, 0, LEAN_SIDE))[0]
    changes: list[Change] = []
    tries = 0
    while len(changes) < ROOFS + TARPS and tries < 20_000:
        tries += 1
        x, y = rng.uniform(14, LEAN_SIDE * LEAN_GSD - 14, 2)
        is_roof = len(changes) < ROOFS
        length, width = (rng.uniform(8, 13), rng.uniform(6, 9)) if is_roof else (rng.uniform(2, 5), rng.uniform(2, 3))
        reach = int((length / 2 + 1.5) / LEAN_GSD)
        row, col = int(y / LEAN_GSD), int(x / LEAN_GSD)
        clear = np.mean(ground[row - reach : row + reach, col - reach : col + reach] > 0.5) < 0.05
        if not clear or any(np.hypot(x - c.thing.x, y - c.thing.y) < 16 for c in changes):
            continue
        color = tuple(rng.uniform((110, 60, 50), (190, 110, 90)) if is_roof else rng.uniform(60, 220, 3))
        kind = ("house" if rng.random() < 0.7 else "hall") if is_roof else "tarp"
        height = float(rng.uniform(2.6, 5)) if is_roof else 0.0
        thing = Thing(
            kind, float(x), float(y), float(rng.uniform(0, 3)), float(length), float(width), height,
            materials.painted(color), int(rng.integers(1 << 16)),
        )  # fmt: skip
        changes.append(Change("added", kind, thing))
    angles = (float(rng.uniform(6, 16)), float(rng.uniform(6, 16))) if leans else (0.0, 0.0)
    azimuth = float(rng.uniform(0, 360))
    before = replace(base.before, off_nadir=angles[0], view_azimuth=azimuth)
    after = replace(base.after, off_nadir=angles[1], view_azimuth=azimuth + float(rng.uniform(90, 270)))
    return replace(base, before=before, after=after, changes=tuple(changes))


def lean(folder: Path) -> dict[str, int]:
    """Return how many alarms from lean, new roofs and new tarps there are, and how many are marked."""
    names = ("alarms", "alarms marked", "roofs", "roofs marked", "tarps", "tarps marked", "alarms without lean")
    counts = dict.fromkeys(names, 0)
    for seed in range(LEAN_SURVEYS):
        found = {}
        for leans in (True, False):
            config, here = leaning(seed, leans=leans), folder / f"lean{seed}{leans}"
            pair = make_pair(config)
            paths = write_pair(pair, here)
            dsm = make_surfaces(config, errors(seed), pixels=PIXELS).write(here)
            options = gs.DetectOptions(dsm=(str(dsm[0]), str(dsm[1])), register="none")
            gs.detect(paths.before, paths.after, here / "a.gpkg", options=options)
            table = geopandas.read_file(here / "a.gpkg", layer="anomalies")
            near = pair.truth.buffer(6 * LEAN_GSD)  # a shadow of a new house is a change, too
            shadow = pair.truth[pair.truth.what != "tarp"].buffer(6.0)
            touched = np.array([(near.intersects(g) | shadow.intersects(g)).any() for g in table.geometry], bool)
            found[leans] = (table, touched, pair.truth)
        table, touched, truth = found[True]
        others = found[False][0][~found[False][1]]
        alarms = table[~touched & ~np.array([bool(others.intersects(g).any()) for g in table.geometry], bool)]
        marked = table[table.likely_geometry == True]  # noqa: E712 - may be empty
        counts["alarms"] += len(alarms)
        counts["alarms marked"] += int((alarms.likely_geometry == True).sum())  # noqa: E712
        counts["alarms without lean"] += len(others)
        for kind, name in ((("house", "hall"), "roofs"), (("tarp",), "tarps")):
            for shape in truth[truth.what.isin(kind)].geometry:
                own = table[[g.intersection(shape).area > 0.3 * g.area for g in table.geometry]]
                largest = own.loc[[own.area.idxmax()]] if len(own) else own
                counts[name] += bool(len(own))
                counts[f"{name} marked"] += bool(len(largest.index.intersection(marked.index)))
        print(seed, counts, flush=True)
        alarms.drop(columns="created").to_file(folder / f"alarms{seed}.gpkg") if len(alarms) else None
    return counts


def cost(folder: Path) -> dict[str, float]:
    """Return the processor seconds that a run takes without surface models, and with them."""
    config, here = heaps(0), folder / "cost"
    paths = write_pair(make_pair(config), here)
    dsm = make_surfaces(config, errors(0), pixels=PIXELS).write(here)
    options = {"without": gs.DetectOptions(), "with": gs.DetectOptions(dsm=(str(dsm[0]), str(dsm[1])))}
    seconds = {}
    for name, own in options.items():
        start = time.process_time()
        gs.detect(paths.before, paths.after, here / "o.gpkg", options=own, dz=here / "dz.tif" if own.dsm else None)
        seconds[name] = time.process_time() - start
    return seconds


def page(found: dict[str, object], leans: dict[str, int], seconds: dict[str, float], command: str) -> str:
    """Return the page of all results."""
    rows = [("geosiam", summary(found["rows"]))]
    rows += [("xdem by hand", summary(found["xdem"]))] if found["xdem"] else []
    table = [
        f"| {name} | {100 * s['median error']:.1f} % | {100 * s['90th percentile']:.1f} % "
        f"| {100 * s['mean bias']:+.1f} % "
        f"| {s['inside 95 %']:.2f} | {s['errors in sigmas']:.2f} | {100 * s['median sigma']:.1f} % |"
        for name, s in rows
    ]
    shifts = [
        f"| {seed} | {c['shift_right_m']:.2f} | {c['shift_down_m']:.2f} | {c['nmad_before_m']:.3f} | {c['nmad_m']:.3f} "
        f"| {c['level_of_detection_95_m']:.3f} |"
        for seed, c in enumerate(found["coregistration"])
    ]
    right = sum(row[3] == ("raised" if row[0] > 0 else "lowered") for row in found["rows"])
    share = leans["alarms marked"] / max(1, leans["alarms"])
    return f"""# Heights and volumes

Made by `{command}`; the script says what is generated. {os.cpu_count()} processors, shared with other work.

## Volumes

{len(found["rows"])} heaps and pits of {min(abs(row[0]) for row in found["rows"]):.0f} to
{max(abs(row[0]) for row in found["rows"]):.0f} m³ in {SURVEYS} surveys of {SIDE * GSD:.0f} m. Surface models of
{GSD * PIXELS:g} m pixels, smoothed, with noise, bulges and holes on both dates; the second 1 m aside (0.80 m right,
0.60 m up), 10 cm too high and tilted by 25 cm. Outlines {TOE_M:g} m outside of the foot.

| | median error | 90th percentile | mean | truths inside the 95 % interval | RMS | standard error, median |
|---|---|---|---|---|---|---|
{chr(10).join(table)}

RMS is that of the errors in units of their standard errors: below 1, the intervals are too wide.
`height_evidence` is right for {right} of {len(found["rows"])}. Measuring took {found["seconds"] / SURVEYS:.1f} s a
survey.

| survey | shift found, right (m) | down (m) | NMAD before (m) | after (m) | level of detection, 95 % (m) |
|---|---|---|---|---|---|
{chr(10).join(shifts)}

## Lean

{LEAN_SURVEYS} pairs of flights that lean by 6 to 16 degrees in different directions, with {ROOFS} new roofs and {TARPS}
new tarps each; an alarm is a polygon away from all changes and from their shadows. Without lean, the same surveys have
{leans["alarms without lean"]} alarms.

| | number | marked as likely geometry |
|---|---|---|
| alarms from lean | {leans["alarms"]} | {leans["alarms marked"]} ({100 * share:.0f} %) |
| new roofs | {leans["roofs"]} | {leans["roofs marked"]} |
| new tarps on the ground | {leans["tarps"]} | {leans["tarps marked"]} |

## Cost

`detect` on {SIDE} x {SIDE} px takes {seconds["without"]:.1f} s of processor time without surface models (the first run
of the process), and {seconds["with"]:.1f} s with them and the difference raster.
Without them none of this is imported but the reading of options, and nothing is computed.
"""


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("volumes", "lean", "cost", "all"), default="all")
    parser.add_argument("--xdem", help="Python interpreter with xdem")
    parser.add_argument("--keep", help="folder in which surveys and results stay; what is there is not measured again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(given.keep or name)
        parts = {
            "volumes": lambda: volumes(folder, given.xdem),
            "lean": lambda: lean(folder),
            "cost": lambda: cost(folder),
        }
        for part in parts if given.part == "all" else [given.part]:
            kept = folder / f"{part}.json"
            if not kept.exists():
                kept.write_text(json.dumps(parts[part](), default=float), encoding="utf-8")
        if given.part != "all":
            print(kept.read_text(encoding="utf-8"))
            return
        results = [json.loads((folder / f"{part}.json").read_text(encoding="utf-8")) for part in parts]
        text = page(*results, "python benchmarks/heights.py" + (" --xdem python" if given.xdem else ""))
        PAGE.write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
