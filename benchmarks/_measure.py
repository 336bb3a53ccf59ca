"""Run a command as a user would, and say what it took; what the benchmarks share."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rasterio.shutil
import torch

from geosiam.inference.device import multiplies_bf16, multiplies_int8
from geosiam.runtime import default_workers
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GEOSIAM = [sys.executable, "-m", "geosiam_cli"]


@dataclass(frozen=True)
class Cost:
    """What a process took from its start to its end.

    Parameters
    ----------
    seconds
        By the clock.
    cpu_seconds
        Of all processors, in the program and in the system.
    peak_bytes
        Largest resident memory of the process.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    @property
    def utilisation(self) -> float:
        """Share of the processors that was busy."""
        return self.cpu_seconds / self.seconds / default_workers()


def run(command: Sequence[str], **environment: str) -> Cost:
    """Run a command to its end; its outputs are not shown unless it fails."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **environment}
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said.decode(errors='replace')[-500:]}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each quantity, and the largest memory."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
        max(cost.peak_bytes for cost in costs),
    )


def spread(costs: Sequence[Cost]) -> str:
    """Return the median of the seconds with the least and the most, as a table shows it."""
    seconds = [cost.seconds for cost in costs]
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"


def generated(size: int, folder: Path) -> tuple[Path, Path]:
    """Return the scenes of a generated survey pair of a size, made only once in a folder: deflate, 512 px tiles."""
    place = folder / f"survey-{size}"
    before, after = place / "before.tif", place / "after.tif"
    if not (before.exists() and after.exists()):
        write_pair_tiles(SyntheticConfig(height=size, width=size, seed=1, objects=size // 32), place)
    return before, after


def stored(scene: Path, name: str, **options: str | int) -> Path:
    """Return a copy of a scene stored in another way, made only once beside it."""
    copy = scene.with_name(f"{scene.stem}-{name}.tif")
    if not copy.exists():
        partial = copy.with_suffix(".partial")
        with rasterio.Env(GDAL_CACHEMAX=64_000_000):  # a process that is started counts as large as this one was
            rasterio.shutil.copy(scene, partial, driver="GTiff", BIGTIFF="IF_SAFER", NUM_THREADS="ALL_CPUS", **options)
        partial.rename(copy)
    return copy


def machine() -> str:
    """Say what this runs on."""
    cpu = "x86-64" if platform.machine() == "x86_64" else platform.machine()
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    has = {"AVX512-VNNI": multiplies_int8(), "AVX512-BF16": multiplies_bf16()}
    found = ["AMX"] if tiles is not None and tiles() else [name for name, there in has.items() if there]
    kind = f" with {' and '.join(found)}" if found else ""
    commit = "unknown"
    if git := shutil.which("git"):
        asked = [git, "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or commit
    versions = f"PyTorch {torch.__version__}, GDAL {rasterio.__gdal_version__}; commit {commit}"
    return f"{default_workers()} cores, {cpu}{kind}; {versions}"
