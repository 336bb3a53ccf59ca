"""What is asked of the file system before anything is read or written, with the answers as one line."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from geosiam.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextlib.contextmanager
def atomic_write(target: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside a target, which it replaces when the context ends without an error.

    So the target is the old file or the whole new one, never a part of it; after an error the temporary file is gone
    and the old one still there.

    Parameters
    ----------
    target
        The file to make; its folder exists.
    durable
        Sync the file and its folder to disk, so that this holds even after a power cut.
    """
    path = Path(target)
    partial = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        if durable:
            replace_durably(partial, path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write_files(target: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield the target's name in a hidden folder beside it, for a result that consists of several files.

    When the context ends without an error, all files in the folder move beside the target, the target itself last: it
    is the file that is opened, and by then the others are in place. In any case the folder is gone afterwards.

    Parameters
    ----------
    target
        The file that is opened; its folder exists.
    durable
        Sync each file to disk before it is moved.
    """
    path = Path(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield folder / path.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            if durable:
                replace_durably(file, path.with_name(file.name))
            else:
                file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_partials(target: str | os.PathLike[str]) -> None:
    """Remove the temporary files and folders of killed processes; the caller holds the lock on writing the target."""
    path = Path(target)
    stem, name, suffix = (glob.escape(part) for part in (path.stem, path.name, path.suffix))
    for pattern in (f".{stem}.{'[0-9a-f]' * 8}.partial{suffix}", f".{name}.{'?' * 8}.partial"):
        for partial in path.parent.glob(pattern):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def replace_durably(partial: Path, target: Path) -> None:
    """Rename a file so that the target is the old one or the whole new one, even after a power cut."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    if hasattr(os, "O_DIRECTORY"):  # where folders can be synced at all
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
