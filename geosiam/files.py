"""What is asked of the file system before anything is read or written, with the answers as one line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from geosiam.errors import OutputError

LONGEST_NAME = 200
"""Bytes of an output's name: file systems take 255, and what is written first has a longer name of its own."""


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to something; one that cannot be a path, such as a far too long one, does not."""
    try:
        Path(path).stat()
    except (OSError, ValueError):
        return False
    return True


def check_writable(target: str | os.PathLike[str]) -> None:
    """Refuse a target whose folder does not exist or whose name is too long, before any work is done.

    Raises
    ------
    OutputError
        One of the two.
    """
    path = Path(target)
    length = len(os.fsencode(path.name))
    if length > LONGEST_NAME:
        raise OutputError(_shown(path), f"its name has {length} bytes", f"use a name of at most {LONGEST_NAME}")
    try:
        folder = path.parent.is_dir()
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})", "choose another output") from error
    if not folder:
        raise OutputError(path, "its folder does not exist", "create the folder or choose another output")


def _shown(path: Path) -> str:
    return f"{path.name[:40]}...{path.suffix[-8:]}"


with contextlib.suppress(ImportError):  # Windows has no such locks; there the output is not guarded
    import fcntl


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
