"""Compare estimates of the displacement between two flights: error and time on the pairs of protocol E.

    python benchmarks/registration.py --data DIR --seeds 3 --out benchmarks \
        --arosics-python VENV/bin/python --gefolki CHECKOUT

geosiam is run with ``--register field --displacement``; its time is what that adds to a run with ``--register none``.
The others run as they are meant to be used; what needs an interpreter or a checkout of its own (AROSICS, GeFolki) is
left out without it. Results of methods that are not run now are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from _measure import GEOSIAM, machine, run
from geometry import BENDS, displacement_errors, pair, read_displacement, sites

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from protocols import Case

    Estimate = tuple[NDArray[np.floating], tuple[float, float]]  # wall and CPU seconds

SMOOTHING_PX = 24.0  # sigma
AGREEMENT_PX = 1.0  # of the flow there and back
NORMALIZATION_PX = 16.0  # sigma of the window in which gray values are normalized
TEXTURE_PERCENTILE = 20
ROUNDS = 3
ROBUST_PX = 2.0  # distance from the smoothed flow at which a weight is a quarter
AROSICS_PX = ((256, 64), (64, 64))  # window (256 is its default) and distance of the tie points
COLUMNS = ("error", "error_95", "known_fraction", "seconds_per_mpx", "cpu_seconds_per_mpx")

HEAD = """# Displacement between two flights

Made by `python benchmarks/registration.py` on the pairs of protocol E ([ACCURACY.md](ACCURACY.md)), of which it takes
the middle; every pair is in [REGISTRATION.json](REGISTRATION.json). Error: distance from the true displacement in
pixels where there is texture, as the median of the pairs (smallest to largest). Known: share of that ground for which
a method gives a displacement. Time: seconds per million pixels of one scene, by the clock and of all processors,
without imports; for geosiam, what `--register field` adds to a run.

- **OpenCV DIS**: dense inverse search flow (medium) on locally normalized gray values, begun at the shift of a phase
  correlation. **Smoothed**: kept where there and back agree within 1 px, then a robust Gaussian of 24 px; also at a
  quarter of the resolution.
- **AROSICS**: local co-registration with windows of 256 px (its default) or 64 px; tie points every 64 px, shifts up to
  100 px; linear between the tie points that it does not reject.
- **EFolki**: GeFolki's variant for two optical scenes, 6 levels, radii 32 to 8, 2 iterations, rank 4.
"""


def by_geosiam(case: Case, folder: Path) -> Estimate:
    """Return geosiam's field, and what it adds to the time of a run."""
    scenes = [str(case.before.write(folder / "before.tif")), str(case.after.write(folder / "after.tif"))]
    target, field = folder / "found.gpkg", folder / "field.tif"
    costs = []
    for options in (["none"], ["field", "--displacement", str(field)]):
        command = [*GEOSIAM, "detect", *scenes, "-o", str(target), "--overwrite", "--restart", "--register", *options]
        costs.append(run(command))
    added = costs[1].seconds - costs[0].seconds, costs[1].cpu_seconds - costs[0].cpu_seconds
    return read_displacement(field, case.before), added


def by_flow(case: Case, _folder: Path, *, step: int = 1, smoothed: bool = True) -> Estimate:
    """Return OpenCV's dense inverse search flow at 1 / step of the resolution, and its time."""
    start = time.perf_counter(), time.process_time()
    before, after = (_normalized(scene.pixels, step) for scene in (case.before, case.after))
    window = np.outer(*(np.hanning(side).astype(np.float32) for side in before.shape))
    shift, _ = cv2.phaseCorrelate(before.astype(np.float32) - 128, after.astype(np.float32) - 128, window)
    shift = np.rint(shift)
    rows, cols = before.shape
    moved = cv2.warpAffine(
        after, np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], float), (cols, rows), borderMode=cv2.BORDER_REPLICATE
    )
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    field = search.calc(before, moved, None).copy()
    if smoothed:
        sure = _is_sure(before, field, search.calc(moved, before, None))
        field = _smoothed(field, sure.astype(np.float32), SMOOTHING_PX / step)
    field += shift.astype(np.float32)
    full = case.before.pixels.shape[:0:-1]
    field = step * cv2.resize(field, full, interpolation=cv2.INTER_LINEAR)
    return np.moveaxis(field, -1, 0), (time.perf_counter() - start[0], time.process_time() - start[1])


def _normalized(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return locally normalized gray values around 128, uint8 (rows, cols), of every ``step``-th pixel."""
    gray = pixels.mean(axis=0, dtype=np.float32)
    if step > 1:
        gray = cv2.resize(gray, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    blur = partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=NORMALIZATION_PX)
    centered = gray - blur(gray)
    scale = np.sqrt(blur(np.square(centered))) + 2
    return np.clip(128 + 40 * centered / scale, 0, 255).astype(np.uint8)


def _is_sure(image: NDArray[np.uint8], there: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the flow there and back (rows, cols, 2) agree and the image has texture: bool (rows, cols)."""
    rows, cols = image.shape
    grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).astype(np.float32)
    apart = np.linalg.norm(there + cv2.remap(back, grid + there, None, cv2.INTER_LINEAR), axis=-1)
    energy = cv2.blur(sum(np.square(part) for part in np.gradient(image.astype(np.float32))), (9, 9))
    return (apart < AGREEMENT_PX) & (energy > np.percentile(energy, TEXTURE_PERCENTILE))


def _smoothed(flow: NDArray[np.float32], sure: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return a flow (rows, cols, 2) smoothed by a normalized Gaussian, with robust weights (Cauchy's, squared)."""
    blur = partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=sigma)
    weight = sure
    for _ in range(ROUNDS + 1):
        smooth = blur(flow * weight[..., None]) / (blur(weight)[..., None] + np.float32(1e-6))
        weight = sure / np.square(1 + np.square((flow - smooth) / ROBUST_PX).sum(axis=-1))
    return smooth


def by_other(case: Case, folder: Path, *, command: Sequence[str], more: Sequence[str] = ()) -> Estimate:
    """Return the field of another program in an interpreter of its own, and its time."""
    scenes = [str(case.before.write(folder / "before.tif")), str(case.after.write(folder / "after.tif"))]
    target = folder / "field.npz"
    run([command[0], str(Path(__file__).with_name("_rivals.py")), *command[1:], *scenes, str(target), *more])
    with np.load(target) as result:
        return result["field"], tuple(result["seconds"].tolist())


@dataclass(frozen=True)
class Figure:
    """Errors in pixels and time of one method on one pair; ``error`` is None where the method knows nothing."""

    method: str
    group: str
    scene: str
    seed: int
    error: float | None
    error_95: float | None
    known_fraction: float
    seconds_per_mpx: float
    cpu_seconds_per_mpx: float


def measure(name: str, method: Callable[[Case, Path], Estimate], case: Case) -> Figure:
    """Run a method on a pair."""
    with tempfile.TemporaryDirectory() as folder:
        field, seconds = method(case, Path(folder))
    errors = displacement_errors(case, field)
    middle, high = (None if np.isnan(errors[key]) else round(errors[key], 3) for key in ("error px", "error px, 95 %"))
    rates = [round(value / (case.truth.size / 1e6), 3) for value in seconds]
    return Figure(name, case.group, case.scene, case.seed, middle, high, round(errors["known"], 3), *rates)


def markdown(figures: Sequence[Figure], computer: str) -> str:
    """Return the report."""
    lines = [HEAD, f"{computer}\n"]
    for group in dict.fromkeys(figure.group for figure in figures):
        lines += _table(group, [figure for figure in figures if figure.group == group])
    return "\n".join(lines)


def _table(group: str, figures: Sequence[Figure]) -> list[str]:
    scenes = dict.fromkeys(figure.scene for figure in figures)
    seeds = len({figure.seed for figure in figures})
    lines = [
        f"## {group.removeprefix('E ')}\n",
        f"{len(scenes)} scenes, {seeds} seeds.\n",
        "| method | error, median | error, 95 % | known | s/Mpx | CPU s/Mpx |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(figure.method for figure in figures):
        own = [figure for figure in figures if figure.method == method]
        columns = ([getattr(f, name) for f in own] for name in COLUMNS)
        lines.append(f"| {method} | {' | '.join(_spread(values) for values in columns)} |")
    return [*lines, ""]


def _spread(values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{np.median(present):.2f} ({min(present):.2f}-{max(present):.2f})" if present else "-"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and train/")
    parser.add_argument("--group", nargs="+", default=[f"E {name}" for name in BENDS], help="groups of protocol E")
    parser.add_argument("--scene", nargs="+", default=[""], help="only scenes whose name contains one of these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1000, help="largest side of a scene in pixels")
    parser.add_argument("--without", nargs="+", default=[], help="methods that are not run")
    parser.add_argument("--arosics-python", help="interpreter that can import arosics")
    parser.add_argument("--gefolki", help="folder of a checkout of GeFolki")
    parser.add_argument("--out", type=Path, help="folder of REGISTRATION.md and REGISTRATION.json")
    parser.add_argument("--machine", default="", help="a sentence about the machine, for the report")
    args = parser.parse_args()
    methods: dict[str, Callable[[Case, Path], Estimate]] = {
        "geosiam": by_geosiam,
        "OpenCV DIS": partial(by_flow, smoothed=False),
        "OpenCV DIS, smoothed": by_flow,
        "OpenCV DIS, smoothed, quarter": partial(by_flow, step=4),
    }
    if args.arosics_python:
        for window, grid in AROSICS_PX:
            methods[f"AROSICS, {window} px"] = partial(
                by_other, command=[args.arosics_python, "arosics"], more=[str(window), str(grid)]
            )
    if args.gefolki:
        methods["EFolki"] = partial(by_other, command=[sys.executable, "efolki"], more=[args.gefolki])
    methods = {name: method for name, method in methods.items() if name not in args.without}
    figures = []
    for site in sites(args.data, args.side):
        if not any(part in site.scene.name for part in args.scene):
            continue
        for group in args.group:
            for seed in range(args.seeds):
                case = pair(site, seed, group)
                for name, method in methods.items():
                    figures.append(measure(name, method, case))
                    print(figures[-1], flush=True)
                if args.out:
                    save(args.out, figures, f"{machine()}. {args.machine}")


def save(folder: Path, figures: Sequence[Figure], computer: str) -> None:
    """Save the figures with those of other methods and pairs, and write the report."""
    path = folder / "REGISTRATION.json"
    old = [Figure(**values) for values in json.loads(path.read_text())] if path.exists() else []
    kept = {(f.method, f.group, f.scene, f.seed): f for f in [*old, *figures]}
    order = {f"E {name}": number for number, name in enumerate(BENDS)}
    rows = sorted(kept.values(), key=lambda f: (order.get(f.group, len(order)), f.group, f.method, f.scene, f.seed))
    lines = ",\n".join(json.dumps(asdict(figure)) for figure in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (folder / "REGISTRATION.md").write_text(markdown(rows, computer), encoding="utf-8")


if __name__ == "__main__":
    main()
