"""What a process may use and how it uses it: processors, memory, imports."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # names that mallopt(3) goes by
_MIB = 1 << 20
_SPARED = 16 * _MIB

_kept: dict[int, int] = {}  # what has been set


def tune_allocator() -> bool:
    """Let the C library keep freed memory at hand, in one pool per processor, where it can be told so (glibc).

    Layers and images of some megabytes come and go by the thousand. By default glibc gives each back to the system and
    has the next one's pages zeroed again, and lets short-lived threads leave pools of their own behind. This is for
    programs, which own their process; a library does not touch it.

    Variables of the environment by which a user has set the same (``MALLOC_ARENA_MAX`` and others) stay in force.

    Returns
    -------
    whether the C library took it
    """
    wanted = {
        "MALLOC_ARENA_MAX": (_ARENA_MAX, max(2, os.cpu_count() or 1)),
        "MALLOC_MMAP_THRESHOLD_": (_MMAP_THRESHOLD, 32 * _MIB),  # the most that glibc takes
        "MALLOC_TRIM_THRESHOLD_": (_TRIM_THRESHOLD, 256 * _MIB),
    }
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    settings = dict(setting for variable, setting in wanted.items() if variable not in os.environ)
    _kept.update({name: value for name, value in settings.items() if mallopt(name, value)})
    return _kept == settings


@contextlib.contextmanager
def release_freed_memory() -> Iterator[None]:
    """Return to the system what this process has freed, and meanwhile keep less of it than usual.

    For a part of a run that needs much memory of another kind than the part before: what that has left behind is in
    pieces that seldom fit. Outside a program that called :func:`tune_allocator`, only what is free is returned, and
    nothing where the C library is not glibc.

    Larger pieces are not given back one by one: with two threads at work that took GDAL seven times as long.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)
    usual = _kept.get(_TRIM_THRESHOLD)
    if usual is None:
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_TRIM_THRESHOLD, _SPARED)
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
def prefetch_imports(*modules: str) -> Iterator[None]:
    """Import modules in a thread, one after the other, while the caller goes on; it is over when the context is.

    Whoever imports one of them in the meantime waits for just that one, and sees what is wrong with it.
    """

    def load() -> None:
        with contextlib.suppress(Exception):
            for module in modules:
                import_module(module)

    thread = threading.Thread(target=load, name="geosiam-imports")
    missing = any(module not in sys.modules for module in modules)
    if missing:
        thread.start()
    try:
        yield
    finally:
        if missing:
            thread.join()


def default_workers() -> int:
    """Return the number of processors this process may use, by its affinity and its container's quota."""
    from dask.system import CPU_COUNT  # noqa: PLC0415 - dask takes longer to import than a command's help may take

    return CPU_COUNT
