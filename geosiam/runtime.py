"""Resources of the process: the processors, and the memory of the C library."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # parameters of mallopt(3)
_MIB = 1 << 20
_TRIM_BYTES_WHILE_RELEASING = 16 * _MIB

_allocator_settings: dict[int, int] = {}  # what tune_allocator has set, by parameter


def tune_allocator() -> bool:
    """Let glibc keep freed memory for reuse, in one pool per processor.

    Thousands of layers and images of some megabytes are allocated and freed. By default glibc returns each to the
    system, which then zeroes the pages of the next one, and short-lived threads leave pools of their own behind. Only
    programs, which own their process, call this; the library does not.

    Environment variables that set the same parameters (``MALLOC_ARENA_MAX`` and others) take precedence.

    Returns
    -------
    True if the C library accepted the settings
    """
    parameters = {
        "MALLOC_ARENA_MAX": (_ARENA_MAX, max(2, os.cpu_count() or 1)),
        "MALLOC_MMAP_THRESHOLD_": (_MMAP_THRESHOLD, 32 * _MIB),  # the largest that glibc accepts
        "MALLOC_TRIM_THRESHOLD_": (_TRIM_THRESHOLD, 256 * _MIB),
    }
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    settings = dict(setting for variable, setting in parameters.items() if variable not in os.environ)
    _allocator_settings.update({name: value for name, value in settings.items() if mallopt(name, value)})
    return _allocator_settings == settings


@contextlib.contextmanager
def release_freed_memory() -> Iterator[None]:
    """Return freed memory to the system, and keep less of it than usual until the context ends.

    For a stage that needs blocks of other sizes than the stage before, whose freed memory it could seldom reuse.
    Without :func:`tune_allocator` before, freed memory is returned once only; without glibc, nothing happens.

    Large blocks are not returned one by one: with two threads at work, GDAL took seven times as long.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)
    usual = _allocator_settings.get(_TRIM_THRESHOLD)
    if usual is None:
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_TRIM_THRESHOLD, _TRIM_BYTES_WHILE_RELEASING)
    try:
        yield
    finally:
        mallopt(_TRIM_THRESHOLD, usual)


_filters = threading.RLock()


@contextlib.contextmanager
def ignored_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore a category of warnings in a short block of code, in one thread at a time.

    Python has one list of warning filters for all threads: blocks that overlap would restore one another's filters in
    the wrong order, and leave the wrong ones behind.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield


@contextlib.contextmanager
def unchanged_environment() -> Iterator[None]:
    """Undo changes of environment variables, such as that of OpenCV's import, which hides libraries of others."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def processor_name() -> str:
    """Return the name of the processor, or its architecture where the system does not tell more."""
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def default_workers() -> int:
    """Return the number of processors this process may use, by its affinity and its container's quota."""
    from dask.system import cpu_count  # noqa: PLC0415 - dask takes longer to import than a command's help may take

    return cpu_count()
