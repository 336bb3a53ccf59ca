"""Measure the overhead of a batch of many small pairs, and whether the memory of its workers grows.

    python benchmarks/batch.py                      # this machine: throughput and memory
    python benchmarks/batch.py --side 2048 --pairs 40
    python benchmarks/batch.py --cluster --pairs 60 # a Dask cluster of one worker, and of two

Generates a few synthetic pairs and places copies of them side by side on the map. First, one process measures the
blocks of a pair (reading and scoring), and all of `detect` when everything is imported. Then `run_batch` runs all pairs
without the page, runs again with nothing to do, and writes the page. Costs are processor time, which does not depend on
other programs on the machine; wall time is shown as well. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import pickle
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import rasterio
from affine import Affine

from geosiam.batch.api import BatchOptions, run_batch
from geosiam.batch.plan import BatchPair, BatchPlan
from geosiam.imagery.prepare import open_pair
from geosiam.inference.scorer import Scorer
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.runtime import default_workers, tune_allocator
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geosiam.batch.events import BatchEvent

PLACES = 6
ROUNDS = 3


def make_plan(folder: Path, side: int, count: int) -> BatchPlan:
    """Return a plan of pairs at different places, which are copies of a few pairs."""
    paths = []
    for seed in range(PLACES):
        config = SyntheticConfig(height=side, width=side, seed=seed, objects=max(1, side // 64))
        paths.append(write_pair_tiles(config, folder / str(seed)))
    across = math.isqrt(count) + 1
    pairs = []
    for number in range(count):
        original, name = paths[number % PLACES], f"pair-{number:04}"
        row, col = divmod(number, across)
        before, after = (copy_scene(scene, folder / name, row, col) for scene in (original.before, original.after))
        pairs.append(BatchPair(name, str(before), str(after), shape=(side, side)))
    return BatchPlan(tuple(pairs))


def copy_scene(scene: Path, folder: Path, rows: int, cols: int) -> Path:
    """Copy a scene to a place `rows` of its heights further south and `cols` of its widths further east."""
    folder.mkdir(exist_ok=True)
    copy = folder / scene.name
    shutil.copyfile(scene, copy)
    with rasterio.open(copy, "r+") as dataset:
        dataset.transform @= Affine.translation(cols * dataset.width, rows * dataset.height)
    return copy


def cost_of_a_pair(plan: BatchPlan, options: DetectOptions, folder: Path) -> tuple[float, float]:
    """Return processor seconds of the blocks of a pair and of all of `detect`: medians of warm runs on one thread."""
    scorer = Scorer.of_model(load_model(options.model), device=options.device, precision=options.precision)
    blocks, whole = [], []
    for _ in range(ROUNDS + 1):
        for pair in plan.pairs[:PLACES]:
            with open_pair(pair.before, pair.after) as scene_pair:
                unread = pickle.loads(pickle.dumps(scene_pair))  # noqa: S301 - our own; without any cached tiles
                start = time.process_time()
                for block in scorer.lattice(unread.grid):
                    scorer.block(unread, block)
                blocks.append(time.process_time() - start)
            start = time.process_time()
            detect(pair.before, pair.after, folder / "one.gpkg", options=options)
            whole.append(time.process_time() - start)
    return statistics.median(blocks[PLACES:]), statistics.median(whole[PLACES:])  # without the warm-up


@dataclass(frozen=True)
class MemorySample:
    """Memory after a pair, in MB.

    Parameters
    ----------
    pid
        Id of the worker process that ran the pair.
    worker, main
        Resident memory of that process, and of the main process of the batch.
    """

    pid: int
    worker: float
    main: float


def run_timed(plan: BatchPlan, folder: Path, options: BatchOptions) -> tuple[float, list[MemorySample]]:
    """Run the batch; return the seconds from the first pair to the last, and the memory after each pair."""
    memory: list[MemorySample] = []
    times: list[float] = []

    def record(event: BatchEvent) -> None:
        if event.kind in ("begin", "collect"):
            times.append(time.perf_counter())
        if event.kind == "done":
            memory.append(MemorySample(event.data.get("pid", 0), event.data["held_mb"], resident_mb()))

    result = run_batch(plan, folder, options=options, on_event=record)
    if result.failed:
        raise SystemExit(f"{len(result.failed)} pairs failed, such as {result.failed[0].error}")
    return times[1] - times[0], memory


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    return psutil.Process().memory_info().rss / 1e6


def rerun_seconds(plan: BatchPlan, folder: Path, options: BatchOptions) -> float:
    """Return the processor seconds of a call that runs no pair."""
    start = processor_seconds()
    run_batch(plan, folder, options=options)
    return processor_seconds() - start


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


@contextlib.contextmanager
def cluster(workers: int, folder: Path) -> Iterator[str]:
    """Start a scheduler and workers with one thread each; give the address."""
    from distributed import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    worker = ["worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
    scheduler = [
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        address.rsplit(":", maxsplit=1)[-1],
        "--no-dashboard",
        "--no-show",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    commands = [scheduler, *[worker] * workers]
    processes = [subprocess.Popen([sys.executable, "-m", "dask", *command], **quiet) for command in commands]
    try:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare_clusters(plan: BatchPlan, folder: Path) -> None:
    """Compare clusters of one and of two workers; the start of their processes is included in both."""
    seconds = {}
    for workers in (1, 2):
        with cluster(workers, folder) as address:
            options = BatchOptions(scheduler=address, report=False)
            seconds[workers], _ = run_timed(plan, folder / f"out{workers}", options)
    print("| workers | seconds | pairs/s | speed-up |\n|---|---|---|---|")
    for workers, elapsed in seconds.items():
        print(f"| {workers} | {elapsed:.1f} | {len(plan.pairs) / elapsed:.2f} | {seconds[1] / elapsed:.2f} |")


def measure_here(plan: BatchPlan, folder: Path, workers: int) -> None:
    """Compare a batch with the cost of its pairs, and the memory after its first pairs with that after its last."""
    blocks, whole = cost_of_a_pair(plan, DetectOptions(workers=1), folder)
    start = processor_seconds()
    elapsed, memory = run_timed(plan, folder / "out", BatchOptions(workers=workers, report=False))
    per_pair = (processor_seconds() - start) / len(plan.pairs)
    nothing, page = (rerun_seconds(plan, folder / "out", BatchOptions(report=report)) for report in (False, True))
    print("| | processor seconds | share of the batch |\n|---|---|---|")
    print(f"| the blocks of a pair alone | {blocks:.3f} | {blocks / per_pair:.2f} |")
    print(f"| all of `detect`, imported and warm | {whole:.3f} | {whole / per_pair:.2f} |")
    print(f"| a pair in the batch | {per_pair:.3f} | 1 |\n")
    core_seconds = elapsed * workers / len(plan.pairs)
    print(f"{elapsed:.0f} s for {len(plan.pairs)} pairs on {workers} cores, {core_seconds:.3f} core seconds per pair;")
    print("the start of the workers is included in both.\n")
    print(f"A second call, which has nothing to do, takes {nothing:.1f} s; one that writes the page, {page:.1f} s.\n")
    size = min(100, max(1, len(memory) // 3))
    print(f"| memory | pairs | MB after the first {size} | after the last {size} | ratio |\n|---|---|---|---|---|")
    print_row("the main process", [sample.main for sample in memory], size)
    print_row("the process that ran the pair", [sample.worker for sample in memory], size)
    by_process: dict[int, list[float]] = defaultdict(list)
    for sample in memory:
        by_process[sample.pid].append(sample.worker)
    size = max(1, size // 4)
    print(f"\n| worker | pairs | MB after its first {size} | after its last {size} | ratio |\n|---|---|---|---|---|")
    for number, values in enumerate((values for values in by_process.values() if len(values) >= 2 * size), 1):
        print_row(str(number), values, size)


def print_row(name: str, values: list[float], size: int) -> None:
    """Print a row of a table: the mean of the first values, of the last, and their ratio."""
    first, last = statistics.mean(values[:size]), statistics.mean(values[-size:])
    print(f"| {name} | {len(values)} | {first:.0f} | {last:.0f} | {last / first:.3f} |")


def main() -> None:
    """Generate the pairs and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512, help="side of the scenes in pixels")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--cluster", action="store_true", help="compare Dask clusters instead")
    options = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:  # which must be set when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S606
    tune_allocator()  # as the worker processes do
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plan = make_plan(folder / "scenes", options.side, options.pairs)
        print(f"{platform.machine()}, {options.pairs} pairs of {options.side} x {options.side} px\n")
        if options.cluster:
            compare_clusters(plan, folder)
        else:
            measure_here(plan, folder, options.workers)


if __name__ == "__main__":
    main()
