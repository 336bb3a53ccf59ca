"""One writer for each output: a lock that the system takes back when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

with contextlib.suppress(ImportError):  # Windows has no such locks; there the output is not guarded
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """An exclusive lock on a path, where a file exists only while the lock is held or its holder was killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, or return False if another process holds it."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _locked(descriptor):
                os.close(descriptor)
                return False
            if self._is_mine(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # its last holder removed the file between our two steps

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_mine(self, descriptor: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, NameError):  # some network file systems have no locks, and some systems none at all
        return True
    return True
