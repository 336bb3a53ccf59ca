"""What a survey of many small pairs costs beyond the pairs themselves, and whether its workers' memory grows.

    python benchmarks/batch.py                      # this machine: throughput and memory
    python benchmarks/batch.py --side 2048 --pairs 40
    python benchmarks/batch.py --cluster --pairs 60 # a Dask cluster of one worker, and of two

Generates a few survey pairs and lays copies of them side by side on the map. First one process measures what the blocks
of a pair cost (reading and scoring), and what a whole `detect` costs that has nothing more to import; then `run_batch`
runs all, once without its page, once more with nothing to do, and once to draw the page. Costs are processor time,
which counts what is done and not what waits for others on the same machine; wall time is beside it. Prints Markdown
tables.
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

import rasterio
from affine import Affine

from geosiam.batch.api import BatchOptions, run_batch
from geosiam.batch.plan import BatchPair, BatchPlan
from geosiam.imagery.pair import open_pair
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


def made_plan(folder: Path, side: int, count: int) -> BatchPlan:
    """Return a plan of that many pairs of different places, of which a few look different."""
    paths = []
    for seed in range(PLACES):
        config = SyntheticConfig(height=side, width=side, seed=seed, objects=max(1, side // 64))
        paths.append(write_pair_tiles(config, folder / str(seed)))
    across = math.isqrt(count) + 1
    pairs = []
    for number in range(count):
        where, name = paths[number % PLACES], f"pair-{number:04}"
        row, col = divmod(number, across)
        before, after = (moved(scene, folder / name, row, col) for scene in (where.before, where.after))
        pairs.append(BatchPair(name, str(before), str(after), shape=(side, side)))
    return BatchPlan(tuple(pairs))


def moved(scene: Path, folder: Path, rows: int, cols: int) -> Path:
    """Return a copy of a scene that lies so many of its own heights further south and of its widths further east."""
    folder.mkdir(exist_ok=True)
    copy = folder / scene.name
    shutil.copyfile(scene, copy)
    with rasterio.open(copy, "r+") as dataset:
        dataset.transform @= Affine.translation(cols * dataset.width, rows * dataset.height)
    return copy


def cost_of_a_pair(plan: BatchPlan, options: DetectOptions, folder: Path) -> tuple[float, float]:
    """Return the processor seconds of the blocks alone, and of all of `detect`, on one thread: medians of warm runs."""
    scorer = Scorer.of_model(load_model(options.model), device=options.device, precision=options.precision)
    blocks, whole = [], []
    for _ in range(ROUNDS + 1):
        for pair in plan.pairs[:PLACES]:
            with open_pair(pair.before, pair.after) as opened:
                fresh = pickle.loads(pickle.dumps(opened))  # noqa: S301 - our own; it has decoded nothing yet
                start = time.process_time()
                for block in scorer.lattice(fresh.grid):
                    scorer.score_block(fresh, block)
                blocks.append(time.process_time() - start)
            start = time.process_time()
            detect(pair.before, pair.after, folder / "one.gpkg", options=options)
            whole.append(time.process_time() - start)
    return statistics.median(blocks[PLACES:]), statistics.median(whole[PLACES:])  # without those that warm up


@dataclass(frozen=True)
class Held:
    """Memory after a pair, in MB: that of the process that ran it, and that of the one that leads the survey."""

    process: int
    worker: float
    leader: float


def timed(plan: BatchPlan, folder: Path, options: BatchOptions) -> tuple[float, list[Held]]:
    """Run the survey; return the seconds from the first pair to the last, and the memory after each pair."""
    memory: list[Held] = []
    times: list[float] = []

    def note(event: BatchEvent) -> None:
        if event.kind in ("begin", "collect"):
            times.append(time.perf_counter())
        if event.kind == "done":
            memory.append(Held(event.data.get("pid", 0), event.data["held_mb"], resident_mb()))

    result = run_batch(plan, folder, options=options, on_event=note)
    if result.failed:
        raise SystemExit(f"{len(result.failed)} pairs failed, such as {result.failed[0].error}")
    return times[1] - times[0], memory


def resident_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize() / 1e6


def costed(plan: BatchPlan, folder: Path, options: BatchOptions) -> float:
    """Return the processor seconds of a call that runs no pair."""
    used = processor_seconds()
    run_batch(plan, folder, options=options)
    return processor_seconds() - used


def processor_seconds() -> float:
    """Return the processor time of this process, and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


@contextlib.contextmanager
def cluster(workers: int, folder: Path) -> Iterator[str]:
    """Start a scheduler and workers of one thread each; give its address."""
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


def on_clusters(plan: BatchPlan, folder: Path) -> None:
    """Compare a cluster of one worker with one of two; starting their processes is included in both."""
    seconds = {}
    for workers in (1, 2):
        with cluster(workers, folder) as address:
            options = BatchOptions(scheduler=address, report=False)
            seconds[workers], _ = timed(plan, folder / f"out{workers}", options)
    print("| workers | seconds | pairs/s | speed-up |\n|---|---|---|---|")
    for workers, taken in seconds.items():
        print(f"| {workers} | {taken:.1f} | {len(plan.pairs) / taken:.2f} | {seconds[1] / taken:.2f} |")


def here(plan: BatchPlan, folder: Path, workers: int) -> None:
    """Compare the survey with what its pairs cost, and the memory of its first pairs with that of its last."""
    blocks, whole = cost_of_a_pair(plan, DetectOptions(workers=1), folder)
    used = processor_seconds()
    taken, memory = timed(plan, folder / "out", BatchOptions(workers=workers, report=False))
    share = (processor_seconds() - used) / len(plan.pairs)
    nothing, page = (costed(plan, folder / "out", BatchOptions(report=report)) for report in (False, True))
    print("| | processor seconds | share of the survey |\n|---|---|---|")
    print(f"| the blocks of a pair alone | {blocks:.3f} | {blocks / share:.2f} |")
    print(f"| all of `detect`, imported and warm | {whole:.3f} | {whole / share:.2f} |")
    print(f"| a pair in the survey | {share:.3f} | 1 |\n")
    print(
        f"{taken:.0f} s for {len(plan.pairs)} pairs on {workers} cores, {taken * workers / len(plan.pairs):.3f} s of a"
    )
    print("core each; starting the workers is included in both.\n")
    print(f"A second call, which has nothing to do, takes {nothing:.1f} s, and one that draws the page {page:.1f} s.\n")
    size = min(100, max(1, len(memory) // 3))
    print(f"| memory | pairs | MB after the first {size} | after the last {size} | ratio |\n|---|---|---|---|---|")
    row("the leading process", [held.leader for held in memory], size)
    row("the process that ran the pair", [held.worker for held in memory], size)
    processes: dict[int, list[float]] = defaultdict(list)
    for held in memory:
        processes[held.process].append(held.worker)
    size = max(1, size // 4)
    print(f"\n| worker | pairs | MB after its first {size} | after its last {size} | ratio |\n|---|---|---|---|---|")
    for number, values in enumerate((values for values in processes.values() if len(values) >= 2 * size), 1):
        row(str(number), values, size)


def row(name: str, held: list[float], size: int) -> None:
    """Print a row of a table: the mean of the first values, of the last, and their ratio."""
    first, last = statistics.mean(held[:size]), statistics.mean(held[-size:])
    print(f"| {name} | {len(held)} | {first:.0f} | {last:.0f} | {last / first:.3f} |")


def main() -> None:
    """Make the pairs and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512, help="side of the scenes in pixels")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--cluster", action="store_true", help="compare Dask clusters instead")
    options = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:  # which counts only if it is there from the beginning
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S606
    tune_allocator()  # as the survey's own processes do
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plan = made_plan(folder / "scenes", options.side, options.pairs)
        print(f"{platform.machine()}, {options.pairs} pairs of {options.side} x {options.side} px\n")
        if options.cluster:
            on_clusters(plan, folder)
        else:
            here(plan, folder, options.workers)


if __name__ == "__main__":
    main()
