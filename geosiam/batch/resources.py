"""Compute how many pairs run at once and with how many threads each, and measure the free memory of this machine."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from geosiam.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCKS_PER_THREAD = 16
"""Blocks of a pair for each of its threads; with fewer, threads would idle while the last blocks are scored."""

_FREE_MEMORY_FRACTION = 0.8  # of the memory that is free when the batch starts
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Resources:
    """Threads and memory, either those that a pair takes or those that all pairs together may take.

    Parameters
    ----------
    threads
        Number of threads.
    memory
        Memory in bytes.
    """

    threads: int
    memory: float

    def has_room(self, running: Iterable[Resources], demand: Resources) -> bool:
        """Return whether another pair fits beside the running ones; a single pair always fits, so that it is tried."""
        demands = list(running)
        if not demands:
            return True
        threads = sum(pair.threads for pair in demands) + demand.threads
        memory = sum(pair.memory for pair in demands) + demand.memory
        return threads <= self.threads and memory <= self.memory


@dataclass(frozen=True)
class CostModel:
    """Time and memory that the pairs of a batch cost.

    Parameters
    ----------
    seconds_per_pixel
        Time of the network's forward pass on one thread.
    process_bytes, thread_bytes
        Memory of an idle worker process, and of each of its threads while it scores.
    block_px
        Side of a block in pixels.
    min_threads
        Threads that every pair of several blocks gets, because they read for a GPU.
    """

    seconds_per_pixel: float
    process_bytes: float
    thread_bytes: float
    block_px: int
    min_threads: int = 1

    def blocks(self, shape: tuple[int, int] | None) -> int:
        """Return the number of blocks of a scene; 1 if its size is unknown."""
        if shape is None:
            return 1
        return math.ceil(shape[0] / self.block_px) * math.ceil(shape[1] / self.block_px)

    def demand(
        self, shape: tuple[int, int] | None, threads: int, *, waiting: int = 10**9, memory_factor: float = 1
    ) -> Resources:
        """Return the resources of a pair: large pairs get more threads, and the last pairs share the free ones.

        Parameters
        ----------
        shape
            (height, width) of the before scene in pixels; None if unknown.
        threads
            Threads of all pairs together.
        waiting
            Number of pairs that have not started, including this one.
        memory_factor
            Factor on the memory, for a pair that may have run out of it before.
        """
        blocks = self.blocks(shape)
        useful = max(blocks // BLOCKS_PER_THREAD, threads // max(1, waiting), self.min_threads)
        granted = min(useful, blocks, threads)
        return Resources(granted, memory_factor * (self.process_bytes + granted * self.thread_bytes))


def parse_memory(text: str) -> float:
    """Return ``8GB``, ``8GiB`` or ``500M`` in bytes.

    Raises
    ------
    OptionError
        The text is not an amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] == "I" or float(match[1]) == 0:
        raise OptionError(f"`memory` {text!r}", "is not an amount of memory", "write it like 8GB")
    return float(match[1]) * _UNITS[match[2]]


def available_memory() -> float:
    """Return the bytes that a batch may take: a fraction of the free memory of the machine and of its control group."""
    free = float(psutil.virtual_memory().available)
    group = _free_in_control_group()
    return _FREE_MEMORY_FRACTION * (free if group is None else min(free, group))


def process_memory() -> dict[str, float]:
    """Return the resident memory of this process in MB, now (``held_mb``) and at its peak (``peak_mb``).

    Where the system does not record a peak for one process, the peak is the present value.
    """
    info = psutil.Process().memory_info()
    peak = getattr(info, "peak_wset", info.rss)  # Windows
    with contextlib.suppress(OSError):  # Linux: ru_maxrss would include the process that started this one
        match = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        peak = max(info.rss, int(match[1]) * 1024 if match else 0)
    return {"held_mb": round(info.rss / 2**20, 1), "peak_mb": round(peak / 2**20, 1)}


def _free_in_control_group() -> float | None:
    """Return the free bytes of the control group, such as that of a container or SLURM job; None without a limit.

    psutil knows no control groups, and ``distributed.system`` only the limit of the outermost one.
    """
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        for folder in _control_group_folders():
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / limit_file).read_text(encoding="ascii"))  # "max" is not a number
                return float(max(0, limit - int((folder / usage_file).read_text(encoding="ascii"))))
    return None


def _control_group_folders() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            if line.startswith("0::/"):
                group = root / line.removeprefix("0::/")
                return [group, *[parent for parent in group.parents if root in (parent, *parent.parents)]]
    return [root]
