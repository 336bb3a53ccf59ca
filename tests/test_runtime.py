"""Processors are counted with the container's quota; memory settings take effect unless the user has made them."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys

import dask.system
import pytest

from geosiam.runtime import default_workers

PREAMBLE = """
import ctypes, resource, sys
from pathlib import Path
from geosiam.runtime import tune_allocator, release_freed_memory
if sys.argv[1] == "keep":
    assert tune_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
"""

# Blocks of 24 MiB come and go; without the setting each is mapped and zeroed by the system again.
CHURN = """
size = 24 << 20
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    other = libc.malloc(size)
    libc.memset(other, 1, size)
    libc.free(block)
    libc.free(other)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def numbers(program: str, how: str, **environment: str) -> list[int]:
    """Run a program that keeps freed memory, or leaves everything as usual, and return what it prints."""
    command = [sys.executable, "-c", PREAMBLE + program, how]
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [int(word) for word in process.stdout.split()]


def faults(how: str, **environment: str) -> int:
    return numbers(CHURN, how, **environment)[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_is_zeroed_by_the_system_once_unless_the_user_has_decided_otherwise() -> None:
    kept, usual = faults("keep"), faults("leave", MALLOC_MMAP_THRESHOLD_="131072")
    assert kept < usual / 5
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > usual / 2


SPARED = """
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def freed(holding):
    blocks = [libc.malloc(8 << 20) for _ in range(16)]
    for block in blocks:
        libc.memset(block, 1, 8 << 20)
    if holding:
        libc.malloc(100)  # holds what lies below it
    for block in blocks:
        libc.free(block)

freed(True)
before = resident()
with release_freed_memory():
    inside = resident()
    freed(False)
    after = resident()
freed(False)
print(before - inside, after - inside, resident() - after)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_sparing_gives_back_what_was_freed_and_keeps_little_until_it_ends() -> None:
    given_back, kept_inside, kept_again = numbers(SPARED, "keep")
    assert given_back > 100 << 20
    assert kept_inside < 40 << 20
    assert kept_again > 80 << 20


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        (
            {
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        ({}, 64),
    ],
    ids=["quota", "no quota", "quota of cgroup v1", "no cgroup"],
)
def test_a_container_has_as_many_workers_as_its_quota(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """On a machine of 64 processors."""

    def read(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(dask.system, "open", read, raising=False)
    monkeypatch.setattr(dask.system, "psutil", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    assert default_workers() == expected
