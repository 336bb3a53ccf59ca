"""How this process asks the system for memory."""

from __future__ import annotations

import contextlib
import ctypes
import os

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # names that mallopt(3) goes by
_MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory at hand, in one pool per processor, where it can be told so (glibc).

    Layers and images of some megabytes come and go by the thousand. By default glibc gives each back to the system and
    has the next one's pages zeroed again, and lets short-lived threads leave pools of their own behind. This is for
    programs, which own their process; a library does not touch it.

    Variables of the environment by which a user has set the same (``MALLOC_ARENA_MAX`` and others) stay in force.

    Returns
    -------
    whether the C library took it
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {
        "MALLOC_ARENA_MAX": (_ARENA_MAX, max(2, processors)),
        "MALLOC_MMAP_THRESHOLD_": (_MMAP_THRESHOLD, 32 * _MIB),  # the most that glibc takes
        "MALLOC_TRIM_THRESHOLD_": (_TRIM_THRESHOLD, 256 * _MIB),
    }
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    settings = [setting for variable, setting in wanted.items() if variable not in os.environ]
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)


def return_freed_memory() -> None:
    """Return to the system what this process has freed, where the C library is glibc.

    For a run at a point from which on it needs memory of another kind: what it has left behind until then is in pieces
    that seldom fit.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)
