"""Measure the speed and memory of geosiam from two files to polygons, beside its limits and alternatives.

    python benchmarks/engine.py --folder DIR                     # everything, about an hour; DIR keeps the scenes
    python benchmarks/engine.py --folder DIR --only limits threads   # only these; the other sections are kept
    python benchmarks/engine.py --sizes 1024 2048 --runs 1         # a quick look

Scenes are generated survey pairs (RGB, 8 bit, deflate in tiles of 512 px unless stated otherwise). Each value is that
of a process from its start to its end. Commands that are compared run in turns, and their medians are compared. Use an
idle machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from _cluster import cluster
from _measure import GEOSIAM, Cost, generated, machine, median, run, spread, stored

from geosiam.imagery.grid import Window
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.vrt import VirtualRaster
from geosiam.inference.scorer import Scorer
from geosiam.network import DEFAULT_MODEL
from geosiam.network.weights import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent
FAST = "survey-fast"  # of stride 8
ONCE_FROM_PX = 20_000  # side of scenes that take a minute or more, and are run once
SLOPE_FROM_PX = 4000  # side of scenes below which the start of the program takes most of the time
START_PX = 128  # side of scenes that take hardly longer than the start of the program
REFERENCE = "PyTorch, fp32"
ENGINES = {
    REFERENCE: ("--engine", "torch", "--device", "cpu", "--precision", "fp32"),
    "PyTorch, auto": ("--engine", "torch", "--device", "cpu"),
    "onnxruntime": ("--engine", "onnx"),
}
MAD = "otbcli_MultivariateAlterationDetector"
STORED = {
    "deflate, tiles of 512": {},
    "zstd, tiles of 512": {"TILED": "YES", "BLOCKXSIZE": 512, "BLOCKYSIZE": 512, "COMPRESS": "ZSTD"},
    "JPEG, tiles of 256": {"TILED": "YES", "COMPRESS": "JPEG", "PHOTOMETRIC": "YCBCR"},
    "uncompressed, tiles of 256": {"TILED": "YES"},
    "deflate, strips of 8 rows": {"COMPRESS": "DEFLATE", "BLOCKYSIZE": 8},
    "uncompressed, strips of 1 row": {"BLOCKYSIZE": 1},
}


class Bench:
    """Sections of the report; each is a method that returns Markdown."""

    def __init__(self, folder: Path, sizes: Sequence[int], runs: int) -> None:
        self.folder, self.sizes, self.runs = folder, sorted(sizes), runs
        self.middle = min(self.sizes, key=lambda size: abs(size - 10240))
        self.output = folder / "out.gpkg"

    def detect(self, pair: tuple[Path, Path], *options: str) -> list[str]:
        """Return the command that detects changes in a pair."""
        return [*GEOSIAM, "detect", *map(str, pair), "-o", str(self.output), "--restart", "--quiet", *options]

    def in_turns(self, commands: dict[str, list[str]], runs: int | None = None) -> dict[str, list[Cost]]:
        """Run commands in turns, for several rounds."""
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for _ in range(runs or self.runs):
            for name, command in commands.items():
                costs[name].append(run(command))
        return costs

    def measure(self, script: str, *args: object) -> float:
        """Return the median of the numbers that a script of this folder prints."""
        command = [sys.executable, str(HERE / script), *map(str, args)]
        return float(np.median([float(subprocess.check_output(command, text=True)) for _ in range(self.runs)]))

    def limits(self) -> str:
        """Compare a whole run with its forward pass alone, and that with plain PyTorch."""
        pair, size = generated(self.middle, self.folder), self.middle
        lines = [
            f"Mpx/s, {size} x {size} px. *Plain*: the network in eager PyTorch, fp32, NCHW, 2048 px windows.\n",
            "| model | precision | end to end | forward | decode | end to end / forward | plain | forward / plain |",
            "|---|---|---|---|---|---|---|---|",
        ]
        decode = self.measure("_limits.py", "decode", FAST, "auto", *pair)
        for model in ("survey", FAST):
            plain = self.measure("_loops.py", "plain", model, *generated(max(self.sizes[0], 2048), self.folder), "-")
            default = Scorer.of_model(load_model(model), device="cpu").engine.precision
            for precision in dict.fromkeys((default, "bf16", "fp32")):
                options = "--model", model, "--precision", precision
                name = f"{precision}, the default" if precision == default else precision
                whole = size**2 / 1e6 / median([run(self.detect(pair, *options)) for _ in range(self.runs)]).seconds
                forward = self.measure("_limits.py", "forward", model, precision, *pair)
                lines.append(
                    f"| {model} | {name} | {whole:.1f} | {forward:.1f} | {decode:.0f} | {whole / forward:.2f} "
                    f"| {plain:.2f} | {forward / plain:.1f} |"
                )
        return "\n".join(lines)

    def stages(self) -> str:
        """Measure each stage of a run alone."""
        stages = ("open", "decode", "forward", "write", "vectorize")
        lines = [
            f"Seconds of `{DEFAULT_MODEL}`, each stage alone on all processors; in a run, stages overlap.\n",
            f"| px | start | {' | '.join(stages)} | sum | the whole run |",
            "|---" * (len(stages) + 4) + "|",
        ]
        start = [
            sys.executable,
            "-c",
            "import geosiam.pipeline, geosiam.inference.torch_engine, geosiam.polygons.writer",
        ]
        for size in (side for side in self.sizes if side <= self.middle):
            pair = generated(size, self.folder)
            whole = median([run(self.detect(pair)) for _ in range(self.runs)]).seconds
            scores = self.output.with_suffix(".tif")
            seconds = [median([run(start) for _ in range(self.runs)]).seconds]
            seconds += [
                size**2 / 1e6 / self.measure("_limits.py", stage, DEFAULT_MODEL, "auto", *pair, scores)
                for stage in stages
            ]
            columns = " | ".join(f"{second:.2f}" for second in (*seconds, sum(seconds)))
            lines.append(f"| {size} | {columns} | {whole:.2f} |")
        return "\n".join(lines)

    def growth(self) -> str:
        """Run pairs of increasing size; the slope excludes the start of the program."""
        base = next((size for size in self.sizes if size >= SLOPE_FROM_PX), self.sizes[0])
        lines = [
            f"| px | seconds: median (least-most) | Mpx/s | s per Mpx beyond {base} px | peak MB | CPU busy |",
            "|---|---|---|---|---|---|",
        ]
        first: tuple[int, float] | None = None
        for size in self.sizes:
            costs = [run(self.detect(self.pair_of(size))) for _ in range(self.runs if size < ONCE_FROM_PX else 1)]
            cost = median(costs)
            slope = "" if first is None else f"{(cost.seconds - first[1]) / (size**2 - first[0] ** 2) * 1e6:.4f}"
            first = (size, cost.seconds) if size == base else first
            lines.append(
                f"| {size} | {spread(costs)} | {size**2 / 1e6 / cost.seconds:.1f} | {slope} "
                f"| {cost.peak_bytes / 1e6:.0f} | {cost.utilization:.0%} |"
            )
        return "\n".join(lines)

    def pair_of(self, size: int) -> tuple[Path, Path]:
        """Return a pair of a size; beyond the middle size, the middle one is repeated side by side in a real file."""
        if size <= self.middle:
            return generated(size, self.folder)
        return self.repeated(size, name="before"), self.repeated(size, name="after")

    def repeated(self, size: int, *, name: str, virtual: bool = False) -> Path:
        """Return a scene of a size in which the middle one is repeated."""
        source = generated(self.middle, self.folder)[0 if name == "before" else 1]
        folder = self.folder / f"repeated-{size}"
        folder.mkdir(exist_ok=True)
        target = folder / f"{name}.vrt"
        target.write_text(repeated_vrt(source, size), encoding="utf-8")
        tiles = {"TILED": "YES", "BLOCKXSIZE": 512, "BLOCKYSIZE": 512, "COMPRESS": "DEFLATE", "ZLEVEL": 1}
        return target if virtual else stored(target, "stored", **tiles)

    def memory(self) -> str:
        """Compare the peak memory of a very large virtual scene with that of a large one."""
        sizes = self.middle, 4 * self.middle
        peaks = []
        lines = ["| scene | seconds | Mpx/s | peak MB |", "|---|---|---|---|"]
        for size in sizes:
            pair = self.repeated(size, name="before", virtual=True), self.repeated(size, name="after", virtual=True)
            cost = run(self.detect(pair))
            peaks.append(cost.peak_bytes)
            name = f"{size} x {size} px, virtual raster"
            rate = size**2 / 1e6 / cost.seconds
            lines.append(f"| {name} | {cost.seconds:.1f} | {rate:.1f} | {cost.peak_bytes / 1e6:.0f} |")
        return "\n".join([*lines, "", f"Peak of the larger / peak of the smaller: {peaks[1] / peaks[0]:.2f}."])

    def storage(self) -> str:
        """Run the same pair with several creation options."""
        pair = generated(self.sizes[len(self.sizes) // 2 - (len(self.sizes) % 2 == 0)], self.folder)
        commands = {}
        for name, options in STORED.items():
            copies = [stored(scene, name.replace(", ", "-").replace(" ", "-"), **options) for scene in pair]
            commands[name] = self.detect((copies[0], copies[1]) if options else pair)
        costs = self.in_turns(commands)
        with rasterio.open(pair[0]) as scene:
            size = scene.width
        lines = [f"{size} x {size} px.\n", "| stored as | seconds | Mpx/s | peak MB |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {spread(runs)} | {size**2 / 1e6 / median(runs).seconds:.1f} "
            f"| {median(runs).peak_bytes / 1e6:.0f} |"
            for name, runs in costs.items()
        ]
        return "\n".join(lines)

    def threads(self) -> str:
        """Compare one thread with two, and one cluster worker of a thread with two."""
        pair, size = generated(self.middle, self.folder), self.middle
        options = {
            f"{model}, {precision}, {count} thread(s)": self.detect(
                pair, "--model", model, "--precision", precision, "--workers", str(count)
            )
            for model, precision in (("survey", "auto"), (FAST, "auto"), (FAST, "fp32"))
            for count in (1, 2)
        }
        costs = self.in_turns(options)
        lines = ["| | seconds: median (least-most) | CPU busy |", "|---|---|---|"]
        lines += [f"| {name} | {spread(runs)} | {median(runs).utilization:.0%} |" for name, runs in costs.items()]
        seconds = [median(runs).seconds for runs in costs.values()]
        ratios = [f"{single / double:.2f}" for single, double in zip(seconds[::2], seconds[1::2], strict=True)]
        lines += ["", f"One thread / two, start of the program included: {', '.join(ratios)}.", ""]
        lines += ["| Dask cluster, px | one worker, s | two workers, s | ratio |", "|---|---|---|---|"]
        before, after = (self.repeated(2 * size, name=name, virtual=True) for name in ("before", "after"))
        for scenes, side, repeats in ((pair, size, self.runs), ((before, after), 2 * size, 1)):
            times = self.on_clusters(scenes, repeats)
            single, double = (median(times[workers]).seconds for workers in (1, 2))
            lines.append(f"| {side} | {spread(times[1])} | {spread(times[2])} | {single / double:.2f} |")
        return "\n".join(lines)

    def on_clusters(self, pair: tuple[Path, Path], runs: int) -> dict[int, list[Cost]]:
        """Run the default model on one worker with one thread, and on two, after a warm-up."""
        warm_up = generated(min(self.sizes, key=lambda each: abs(each - 4096)), self.folder)
        times: dict[int, list[Cost]] = {1: [], 2: []}
        for _ in range(runs):
            for workers, costs in times.items():
                with cluster(workers, threads=1) as address:
                    run(self.detect(warm_up, "--scheduler", address))
                    costs.append(run(self.detect(pair, "--scheduler", address)))
        return times

    def alternatives(self) -> str:
        """Run alternatives on the same pair."""
        pair, size = generated(self.middle, self.folder), self.middle
        small_size = min(self.sizes, key=lambda each: abs(each - 4096))
        small, tiny = generated(small_size, self.folder), generated(self.sizes[0], self.folder)
        scores = str(self.folder / "scores.tif")
        lines = [
            "| | px | seconds: median (least-most) | Mpx/s | peak MB | geosiam is faster by |",
            "|---|---|---|---|---|---|",
        ]

        def loop(name: str, scenes: tuple[Path, Path]) -> list[str]:
            return [sys.executable, str(HERE / "_loops.py"), name, FAST, *map(str, scenes), scores]

        mad = [MAD, "-in1", str(pair[0]), "-in2", str(pair[1]), "-out", scores, "float"]
        cases: list[tuple[int, tuple[Path, Path], dict[str, list[str]]]] = [
            (size, pair, {"Orfeo Toolbox, MAD": mad}),
            (
                small_size,
                small,
                {"grid of windows": loop("grid", small), "half-overlapping windows": loop("blend", small)},
            ),
            (self.sizes[0], tiny, {"one chip per step of 8 px": loop("chips", tiny)}),
        ]
        for side, scenes, alternatives in cases:
            ours = {f"geosiam, {FAST}, {name}": self.detect(scenes, "--model", FAST, "--precision", precision)
                    for name, precision in (("default precision", "auto"), ("fp32", "fp32"))}  # fmt: skip
            costs = self.in_turns({**ours, **alternatives})
            best = [median(costs[name]).seconds for name in ours]
            for name, runs in costs.items():
                cost = median(runs)
                faster = "" if name in ours else " / ".join(f"{cost.seconds / seconds:.1f}x" for seconds in best)
                lines.append(
                    f"| {name} | {side} | {spread(runs)} | {side**2 / 1e6 / cost.seconds:.2f} "
                    f"| {cost.peak_bytes / 1e6:.0f} | {faster} |"
                )
        return "\n".join([*lines, "", "Last column: at default precision / in fp32, the precision of the loops."])

    def seams(self) -> str:
        """Compare blocks with one forward pass over the whole scene."""
        pair = generated(self.sizes[0], self.folder)
        lines = ["| model | largest difference of a score |", "|---|---|"]
        for model in ("survey", FAST):
            scorer = Scorer.of_model(load_model(model), device="cpu", precision="fp32")
            with open_pair(*map(str, pair)) as scenes:
                halo, (height, width) = scorer.config.halo, scenes.grid.shape
                whole = Window(-halo.leading, height + halo.trailing, -halo.leading, width + halo.trailing)
                block = scenes.read(whole)
                in_blocks = scorer.probabilities(block.before, block.after)
                at_once = one_pass(model, block.before, block.after)
            lines.append(f"| {model} | {np.abs(in_blocks - at_once).max():.1e} |")
        return "\n".join(lines)

    def engines(self) -> str:
        """Compare onnxruntime with PyTorch: start of the program, speed beyond it, memory and scores."""
        size = max(side for side in self.sizes if side <= max(self.sizes[0], SLOPE_FROM_PX))
        area = (size**2 - START_PX**2) / 1e6
        circumstances = (
            f"{machine()}, onnxruntime {version('onnxruntime')}; {datetime.now(UTC):%Y-%m-%d}; {self.runs} runs."
        )
        meaning = (
            f"*Start*: a pair of {START_PX} x {START_PX} px, shortest run; in brackets, CPU seconds. *Mpx/s of one "
            f"core*: by the CPU seconds that {size} x {size} px take beyond the start. CPU seconds depend little on "
            "what else runs. *Difference*: the largest of a score from PyTorch in fp32."
        )
        lines = [
            f"{circumstances} {meaning}\n",
            "| model | engine | start, s | Mpx/s of one core | peak MB: start, whole | difference |",
            "|---|---|---|---|---|---|",
        ]
        for model in (DEFAULT_MODEL, FAST):
            costs: dict[tuple[str, int], list[Cost]] = {}
            for side in (START_PX, size):
                commands = {
                    name: self.detect(generated(side, self.folder), "--model", model, *options)
                    for name, options in ENGINES.items()
                }
                costs |= {(name, side): runs for name, runs in self.in_turns(commands).items()}
            scores = {name: self.scores(size, "--model", model, *options) for name, options in ENGINES.items()}
            for name in ENGINES:
                start, whole = median(costs[name, START_PX]), median(costs[name, size])
                shortest = min(cost.seconds for cost in costs[name, START_PX])
                lines.append(
                    f"| {model} | {name} | {shortest:.1f} ({start.cpu_seconds:.1f}) "
                    f"| {area / (whole.cpu_seconds - start.cpu_seconds):.2f} "
                    f"| {start.peak_bytes / 1e6:.0f}, {whole.peak_bytes / 1e6:.0f} "
                    f"| {np.nanmax(np.abs(scores[name] - scores[REFERENCE])):.1e} |"
                )
        return "\n".join(lines)

    def scores(self, size: int, *options: str) -> np.ndarray:
        """Return the scores of a pair, float32 (rows, cols), NaN = not scored."""
        run(self.detect(generated(size, self.folder), "--score-type", "float32", *options))
        with rasterio.open(self.output.with_suffix(".tif")) as raster:
            values: np.ndarray = raster.read(1)
        return values


def one_pass(model: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the scores of one forward pass of the network as it was trained."""
    import torch

    with torch.inference_mode():
        logits = load_model(model).network(torch.from_numpy(before)[None], torch.from_numpy(after)[None])
    scores: np.ndarray = torch.sigmoid(-logits)[0, 0].numpy()
    return scores


def repeated_vrt(source: Path, size: int) -> str:
    """Return a virtual raster of a size in which a scene is repeated."""
    with rasterio.open(source) as scene:
        side, crs, transform = scene.width, scene.crs, scene.transform
    from geosiam.imagery.grid import Grid

    view = VirtualRaster(Grid(crs, transform, size, size))
    for index in (1, 2, 3):
        band = view.band("uint8")
        for row in range(0, size, side):
            for col in range(0, size, side):
                band.add(str(source), index, Window(row, row + side, col, col + side))
    return view.xml()


SECTIONS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "limits": ("The whole run and its limits", Bench.limits),
    "stages": ("Stages", Bench.stages),
    "growth": ("Scenes of growing size", Bench.growth),
    "memory": ("Memory", Bench.memory),
    "threads": ("Threads and workers", Bench.threads),
    "alternatives": ("Alternatives", Bench.alternatives),
    "storage": ("How the scenes are stored", Bench.storage),
    "seams": ("Seams (fp32)", Bench.seams),
    "engines": ("PyTorch and onnxruntime", Bench.engines),
}


def main() -> None:
    """Run the chosen sections and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the scenes are or go; a temporary folder by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 10240, 32768], help="sides in pixels")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="report to write; - prints it only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, options.sizes, options.runs)
        has_file = str(options.output) != "-"
        for name in options.only:
            title, section = SECTIONS[name]
            text = f"## {title}\n\n{section(bench)}"
            print(text + "\n", flush=True)
            if has_file:
                write(options.output, name, text, runs=options.runs)


def write(path: Path, name: str, text: str, *, runs: int) -> None:
    """Replace a section of the report."""
    sections = path.read_text(encoding="utf-8").split("\n\n## ")[1:] if path.exists() else []
    parts = {section.partition("\n")[0]: f"## {section.rstrip()}" for section in sections}
    parts[SECTIONS[name][0]] = text
    head = (
        f"# Speed and memory\n\n{machine()}; {datetime.now(UTC):%Y-%m-%d}; {runs} runs. Made by `benchmarks/engine.py`."
    )
    order = [parts[title] for title, _ in SECTIONS.values() if title in parts]
    path.write_text("\n\n".join([head, *order]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
