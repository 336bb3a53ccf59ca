"""Measure the time and memory of commands; helpers that the benchmarks share."""

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

from geosiam.inference.torch_engine import multiplies_bf16, multiplies_int8
from geosiam.runtime import default_workers
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GEOSIAM = [sys.executable, "-m", "geosiam_cli"]


@dataclass(frozen=True)
class Cost:
    """Time and memory of a process from its start to its end.

    Parameters
    ----------
    seconds
        Wall time.
    cpu_seconds
        CPU time of all processors, user and system.
    peak_bytes
        Largest resident memory.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    @property
    def utilization(self) -> float:
        """Fraction of the processors that was busy."""
        return self.cpu_seconds / self.seconds / default_workers()


def run(command: Sequence[str], **environment: str) -> Cost:
    """Run a command to its end; its output is shown only if it fails."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **environment}
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {process.returncode}: {errors.decode(errors='replace')[-500:]}"
        )
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median times and the largest memory."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
        max(cost.peak_bytes for cost in costs),
    )


def spread(costs: Sequence[Cost]) -> str:
    """Return the median, smallest and largest wall time as text for a table."""
    seconds = [cost.seconds for cost in costs]
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"


def generated(size: int, folder: Path) -> tuple[Path, Path]:
    """Return a generated pair (deflate, 512 px tiles), which is made once per folder."""
    pair_folder = folder / f"survey-{size}"
    before, after = pair_folder / "before.tif", pair_folder / "after.tif"
    if not (before.exists() and after.exists()):
        write_pair_tiles(SyntheticConfig(height=size, width=size, seed=1, objects=size // 32), pair_folder)
    return before, after


def stored(scene: Path, name: str, **options: str | int) -> Path:
    """Return a copy of a scene with other creation options, which is made once beside it."""
    copy = scene.with_name(f"{scene.stem}-{name}.tif")
    if not copy.exists():
        partial = copy.with_suffix(".partial")
        with rasterio.Env(GDAL_CACHEMAX=64_000_000):  # memory of this process counts for the processes that it starts
            rasterio.shutil.copy(scene, partial, driver="GTiff", BIGTIFF="IF_SAFER", NUM_THREADS="ALL_CPUS", **options)
        partial.rename(copy)
    return copy


def machine() -> str:
    """Return a description of this machine."""
    cpu = "x86-64" if platform.machine() == "x86_64" else platform.machine()
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    has = {"AVX512-VNNI": multiplies_int8(), "AVX512-BF16": multiplies_bf16()}
    features = ["AMX"] if tiles is not None and tiles() else [name for name, has_it in has.items() if has_it]
    kind = f" with {' and '.join(features)}" if features else ""
    commit = "unknown"
    if git := shutil.which("git"):
        command = [git, "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or commit
    versions = f"PyTorch {torch.__version__}, GDAL {rasterio.__gdal_version__}; commit {commit}"
    return f"{default_workers()} cores, {cpu}{kind}; {versions}"
