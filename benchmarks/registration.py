r"""Compare estimates of the displacement between two flights: error and time on the pairs of protocol E.

    python benchmarks/registration.py --data DIR --side 1024 --out benchmarks \
        --arosics-python VENV/bin/python --gefolki CHECKOUT
    python benchmarks/registration.py --data DIR --side 1024 --out benchmarks --methods geosiam --again

Every result is saved at once, and pairs that have one are left out, so an interrupted comparison goes on where it
stopped. ``--methods`` measures some methods only; ``--again`` replaces what was measured of them before. The rows of
all others stay.

geosiam estimates with ``register="field"``; the time is that of the estimate alone. What the option adds to a whole run
(``geosiam score``, the fastest of ``--runs`` with it less the fastest with ``none``) is a column of its own. The other
methods run as they are meant to be used; what needs an interpreter or a checkout of its own (AROSICS, GeFolki) is
left out without it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from _measure import GEOSIAM, machine, run
from geometry import BENDS, displacement_errors, pair, read_displacement, sites

from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.results import write_displacement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from protocols import Case

    from geosiam.imagery.displacement import FieldEstimate


SMOOTHING_PX = 24.0  # sigma
AGREEMENT_PX = 1.0  # of the flow there and back
NORMALIZATION_PX = 16.0  # sigma of the window in which gray values are normalized
TEXTURE_PERCENTILE = 20
ROUNDS = 3
ROBUST_PX = 2.0  # distance from the smoothed flow at which a weight is a quarter
AROSICS_PX = ((256, 64), (64, 64))  # window (256 is its default) and distance of the tie points
FILE = "REGISTRATION.json"
OURS = "geosiam"
REPEATS = 3  # of geosiam's estimate, of which the fastest counts
KEPT_PX = 4  # of a field that is kept for pictures, every so many pixels
COLUMNS = ("error", "error_95", "known_fraction", "cpu_seconds_per_mpx", "seconds_per_mpx", "added_per_mpx")

HEAD = """# Displacement between two flights

Made by `python benchmarks/registration.py --side {side}` on the pairs of protocol E ([ACCURACY.md](ACCURACY.md)): the
middle {side} px of its scenes. Every pair is in [REGISTRATION.json](REGISTRATION.json). Error: distance from the true
displacement in pixels where there is texture, as the median of the pairs (smallest to largest). Known: share of that
ground for which a method gives a displacement. CPU and s: seconds per million pixels of one scene, of all processors
and by the clock, for the estimate alone, without imports. Added: CPU seconds per million pixels that `--register field`
adds to `geosiam score`, with reading through the field.

- **geosiam**: `register="field"`, as a run applies it: cubic convolution between nodes 16 px apart.
- **OpenCV DIS**: dense inverse search flow (medium) on locally normalized gray values, begun at the shift of a phase
  correlation. **Smoothed**: kept where there and back agree within 1 px, then a robust Gaussian of 24 px; also at a
  quarter of the resolution.
- **AROSICS**: local co-registration with windows of 256 px (its default) or 64 px; tie points every 64 px, shifts up to
  100 px; linear between the tie points that it does not reject.
- **EFolki**: GeFolki's variant for two optical scenes, 6 levels, radii 32 to 8, 2 iterations, rank 4.

A method that lacks pairs in a table was not run on the others; a row without an error knows nothing anywhere.
"""


@dataclass(frozen=True)
class Estimate:
    """A displacement, and what it costs.

    Parameters
    ----------
    field
        float (2, rows, cols): pixels to the right and down; NaN where it is not known.
    seconds, cpu_seconds
        Time of the estimate by the clock and of all processors.
    added_cpu_seconds
        CPU time that it adds to a run of geosiam; None: not measured.
    """

    field: NDArray[np.floating]
    seconds: float
    cpu_seconds: float
    added_cpu_seconds: float | None = None


def by_geosiam(case: Case, folder: Path, *, runs: int) -> Estimate:
    """Return geosiam's field, the time of its estimate, and what it adds to the fastest of a few runs."""
    scenes = [str(case.before.write(folder / "before.tif")), str(case.after.write(folder / "after.tif"))]
    seconds = np.zeros(2)

    def timed(_inputs: object, estimate: Callable[[], FieldEstimate | None]) -> FieldEstimate | None:
        least = np.full(2, np.inf)
        for _ in range(REPEATS):
            start = _times()
            result = estimate()
            least = np.minimum(least, _times() - start)
        seconds[:] += least
        return result

    with open_pair(*scenes, options=PairOptions(register="field"), estimates=timed) as opened:
        write_displacement(folder / "field.tif", opened)
    added = _added_seconds(scenes, folder / "scores.tif", runs) if runs else None
    field = read_displacement(folder / "field.tif", case.before)
    return Estimate(field, *seconds.tolist(), added_cpu_seconds=added)


def _added_seconds(scenes: Sequence[str], target: Path, runs: int) -> float:
    """Return the CPU time that a field adds to scoring a pair."""
    costs: dict[str, list[float]] = {"none": [], "field": []}
    for _, register in itertools.product(range(runs), costs):
        command = [*GEOSIAM, "score", *scenes, "-o", str(target), "--restart", "--register", register]
        costs[register].append(run(command).cpu_seconds)
    return min(costs["field"]) - min(costs["none"])


def _times() -> NDArray[np.float64]:
    return np.array([time.perf_counter(), time.process_time()])


def by_flow(case: Case, _folder: Path, *, step: int = 1, smoothed: bool = True) -> Estimate:
    """Return OpenCV's dense inverse search flow at 1 / step of the resolution, and its time."""
    start = _times()
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
    return Estimate(np.moveaxis(field, -1, 0), *(_times() - start).tolist())


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
        return Estimate(result["field"], *result["seconds"].tolist())


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
    added_per_mpx: float | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What is measured: method and pair."""
        return self.method, self.group, self.scene, self.seed


def measure(name: str, method: Callable[[Case, Path], Estimate], case: Case, fields: Path | None = None) -> Figure:
    """Run a method on a pair; keep a thinned field in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        estimate = method(case, Path(folder))
    if fields is not None:
        fields.mkdir(parents=True, exist_ok=True)
        file = "_".join((case.group, case.scene, str(case.seed), name)).replace("/", "-").replace(" ", "_")
        np.savez_compressed(fields / f"{file}.npz", field=estimate.field[:, ::KEPT_PX, ::KEPT_PX])
    errors = displacement_errors(case, estimate.field)
    middle, high = (None if np.isnan(errors[key]) else round(errors[key], 3) for key in ("error px", "error px, 95 %"))
    times = estimate.seconds, estimate.cpu_seconds, estimate.added_cpu_seconds
    rates = [None if value is None else round(value / (case.truth.size / 1e6), 3) for value in times]
    return Figure(name, case.group, case.scene, case.seed, middle, high, round(errors["known"], 3), *rates)


@dataclass
class Report:
    """All figures, and the machine and versions that each method was measured with.

    Parameters
    ----------
    side
        Largest side of the scenes in pixels.
    machines
        A sentence for each method.
    figures
        Every result by method and pair.
    """

    side: int
    machines: dict[str, str] = field(default_factory=dict)
    figures: dict[tuple[str, str, str, int], Figure] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | None, side: int) -> Report:
        """Return the report in a folder, or an empty one.

        Raises
        ------
        SystemExit
            It was measured on scenes of another size.
        """
        if folder is None or not (path := folder / FILE).exists():
            return cls(side)
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["side"] != side:
            raise SystemExit(f"{path} has scenes of {stored['side']} px: choose another --out, or delete it")
        figures = [Figure(**values) for values in stored["figures"]]
        return cls(side, stored["machines"], {figure.key: figure for figure in figures})

    def add(self, figure: Figure, computer: str) -> None:
        """Add or replace a result."""
        self.figures[figure.key] = figure
        self.machines[figure.method] = computer

    def save(self, folder: Path) -> None:
        """Save the figures and write the report."""
        order = {f"E {name}": number for number, name in enumerate(BENDS)}
        rows = sorted(
            self.figures.values(), key=lambda f: (order.get(f.group, len(order)), f.group, _rank(f), f.scene, f.seed)
        )
        lines = ",\n".join(json.dumps(asdict(figure)) for figure in rows)
        head = f'"side": {self.side},\n"machines": {json.dumps(self.machines, indent=1)}'
        (folder / FILE).write_text(f'{{{head},\n"figures": [\n{lines}\n]}}\n', encoding="utf-8")
        (folder / "REGISTRATION.md").write_text(markdown(self, rows), encoding="utf-8")


def _rank(figure: Figure) -> tuple[bool, str]:
    return figure.method != OURS, figure.method


def markdown(report: Report, rows: Sequence[Figure]) -> str:
    """Return the report."""
    lines = [HEAD.format(side=report.side)]
    for machine_line in dict.fromkeys(report.machines.values()):
        methods = [name for name, line in sorted(report.machines.items()) if line == machine_line]
        lines.append(f"Measured on {machine_line} ({'; '.join(methods)})\n")
    groups = list(dict.fromkeys(figure.group for figure in rows))
    lines += _beside_ours(rows, groups)
    for group in groups:
        lines += _table(group, [figure for figure in rows if figure.group == group])
    return "\n".join(lines)


def _beside_ours(rows: Sequence[Figure], groups: Sequence[str]) -> list[str]:
    """Return a table of the pairs on which other methods err less than geosiam."""
    ours = {figure.key[1:]: figure for figure in rows if figure.method == OURS}
    if not ours:
        return []
    lines = [
        "## Where others err less\n",
        "Pairs on which the median error of a method is smaller than that of geosiam / pairs on which its 95th",
        "percentile is / pairs that both were run on.\n",
        f"| method | {' | '.join(group.removeprefix('E ') for group in groups)} |",
        f"|---|{'---|' * len(groups)}",
    ]
    for method in dict.fromkeys(figure.method for figure in rows if figure.method != OURS):
        cells = []
        for group in groups:
            both = [(f, ours[f.key[1:]]) for f in rows if (f.method, f.group) == (method, group) and f.key[1:] in ours]
            counts = (sum(_is_less(getattr(f, n), getattr(own, n)) for f, own in both) for n in ("error", "error_95"))
            cells.append(" / ".join(map(str, (*counts, len(both)))))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


def _is_less(error: float | None, other: float | None) -> bool:
    return error is not None and (other is None or error < other)


def _table(group: str, figures: Sequence[Figure]) -> list[str]:
    scenes = dict.fromkeys(figure.scene for figure in figures)
    seeds = len({figure.seed for figure in figures})
    lines = [
        f"## {group.removeprefix('E ')}\n",
        f"{len(scenes)} scenes, {seeds} seed{'s' if seeds > 1 else ''}.\n",
        "| method | pairs | error, median | error, 95 % | known | CPU s/Mpx | s/Mpx | added CPU s/Mpx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(figure.method for figure in figures):
        own = [figure for figure in figures if figure.method == method]
        columns = ([getattr(f, name) for f in own] for name in COLUMNS)
        lines.append(f"| {method} | {len(own)} | {' | '.join(_spread(values) for values in columns)} |")
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
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--side", type=int, default=1024, help="largest side of a scene in pixels")
    parser.add_argument("--methods", nargs="+", default=[""], help="only methods whose name begins with one of these")
    parser.add_argument("--runs", type=int, default=2, help="runs of geosiam with and without a field; 0: none")
    parser.add_argument("--again", action="store_true", help="measure again what the report has already")
    parser.add_argument("--arosics-python", help="interpreter that can import arosics")
    parser.add_argument("--gefolki", help="folder of a checkout of GeFolki")
    parser.add_argument("--out", type=Path, help="folder of REGISTRATION.md and REGISTRATION.json")
    parser.add_argument("--fields", type=Path, help="folder in which a thinned copy of every field is kept")
    parser.add_argument("--machine", default="", help="a sentence about the machine, for the report")
    args = parser.parse_args()
    methods = {name: how for name, how in _methods(args).items() if name.startswith(tuple(args.methods))}
    report = Report.load(args.out, args.side)
    stored = set() if args.again else set(report.figures)
    computer = f"{machine()}, OpenCV {cv2.__version__}. {args.machine}".strip()
    chosen = (site for site in sites(args.data, args.side) if any(part in site.scene.name for part in args.scene))
    for site, group, seed in itertools.product(chosen, args.group, range(args.seeds)):
        left = {name: how for name, how in methods.items() if (name, group, site.scene.name, seed) not in stored}
        case = pair(site, seed, group) if left else None
        for name, method in left.items():
            figure = measure(name, method, case, args.fields)
            print(figure, flush=True)
            report.add(figure, computer)
            if args.out:
                report.save(args.out)


def _methods(args: argparse.Namespace) -> dict[str, Callable[[Case, Path], Estimate]]:
    """Return the methods that can be run, by name."""
    methods: dict[str, Callable[[Case, Path], Estimate]] = {
        OURS: partial(by_geosiam, runs=args.runs),
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
    return methods


if __name__ == "__main__":
    main()
