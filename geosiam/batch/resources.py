"""How many pairs run side by side, and with how many threads each: pure arithmetic, and what this machine has."""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from geosiam.errors import OptionError

BLOCKS_PER_THREAD = 16
"""Blocks of a pair that are worth a thread more: fewer, and threads wait for its last ones."""

_SHARE = 0.8  # of the memory that is free when the survey begins
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Need:
    """What a pair takes while it runs: threads, and bytes of memory."""

    threads: int
    memory: float


@dataclass(frozen=True)
class Budget:
    """What all pairs together may take: threads, and bytes of memory."""

    threads: int
    memory: float

    def has_room(self, running: list[Need], need: Need) -> bool:
        """Return whether another pair may start; one alone always may, for it can only be tried."""
        if not running:
            return True
        threads = sum(other.threads for other in running) + need.threads
        memory = sum(other.memory for other in running) + need.memory
        return threads <= self.threads and memory <= self.memory


@dataclass(frozen=True)
class Cost:
    """What work costs on this machine.

    Parameters
    ----------
    seconds_per_pixel
        Of the network, on one thread.
    process_bytes, thread_bytes
        Memory of a worker process that waits, and of each of its threads.
    block_px
        Side of a block.
    least_threads
        Threads that a pair of several blocks always gets: those that read for a GPU.
    """

    seconds_per_pixel: float
    process_bytes: float
    thread_bytes: float
    block_px: int
    least_threads: int = 1

    def blocks(self, shape: tuple[int, int] | None) -> int:
        """Return the number of blocks of a scene; 1 where its size is not known."""
        if shape is None:
            return 1
        return math.ceil(shape[0] / self.block_px) * math.ceil(shape[1] / self.block_px)

    def need(self, shape: tuple[int, int] | None, threads: int, *, waiting: int = 10**9, times: float = 1) -> Need:
        """Return what a pair gets: a large one more threads, and the last ones share what is free.

        Parameters
        ----------
        shape
            (height, width) of the scene in pixels.
        threads
            Of the whole budget.
        waiting
            Pairs that are not begun, this one included.
        times
            Factor for the memory, of a pair that may have run out of it before.
        """
        blocks = self.blocks(shape)
        fair = max(blocks // BLOCKS_PER_THREAD, threads // max(1, waiting), self.least_threads)
        given = min(fair, blocks, threads)
        return Need(given, times * (self.process_bytes + given * self.thread_bytes))


def parse_memory(text: str) -> float:
    """Return ``8GB``, ``8GiB`` or ``500M`` in bytes.

    Raises
    ------
    OptionError
        It is no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] == "I" or float(match[1]) == 0:
        raise OptionError(f"memory {text!r}", "is no amount of memory", "write 8GB")
    return float(match[1]) * _UNITS[match[2]]


def memory_available() -> float:
    """Return the bytes that a survey may take: a share of what is free, here or in the job's control group."""
    free = [_of_machine(), _of_group()]
    return _SHARE * min((amount for amount in free if amount is not None), default=4e9)


def _of_machine() -> float | None:
    with contextlib.suppress(OSError):
        match = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
        if match:
            return float(match[1]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return None


def _of_group() -> float | None:
    """Return what the control group leaves, such as that of a SLURM job or a container; None without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        for folder in _group_folders():
            with contextlib.suppress(OSError, ValueError):
                most = int((folder / limit).read_text(encoding="ascii"))  # "max" is no number
                return float(max(0, most - int((folder / used).read_text(encoding="ascii"))))
    return None


def _group_folders() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            if line.startswith("0::/"):
                inner = root / line.removeprefix("0::/")
                return [inner, *[parent for parent in inner.parents if root in (parent, *parent.parents)]]
    return [root]
