"""Check, replace and lock the files that are written."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from geosiam.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

MAX_NAME_BYTES = 200
"""Longest name of an output in bytes: file systems take 255, and temporary files beside it have longer names."""


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a path exists; False for a name that no file can have, such as one that is too long."""
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
        The folder does not exist, or the name is too long.
    """
    path = Path(target)
    length = len(os.fsencode(path.name))
    if length > MAX_NAME_BYTES:
        raise OutputError(_abbreviated(path), f"its name has {length} bytes", f"use a name of at most {MAX_NAME_BYTES}")
    try:
        has_folder = path.parent.is_dir()
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})", "choose another output") from error
    if not has_folder:
        raise OutputError(path, "its folder does not exist", "create the folder or choose another output")


def _abbreviated(path: Path) -> str:
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


_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def locked(
    lock: Path, output: Path, *, writer: str = "run", remedy: str = "wait for it or choose another output"
) -> Iterator[None]:
    """Hold an exclusive lock while an output is written; it ends with the context or with the process.

    Where the file system has no locks, a warning is logged and the output is not guarded.

    Parameters
    ----------
    lock
        Path of the lock's file, which exists only while the lock is held, or after its holder was killed.
    output
        The output, for messages.
    writer
        Kind of process that may hold the lock, for the message.
    remedy
        What to do if the lock is held.

    Raises
    ------
    OutputError
        Another holder has the lock, in this process or another one; or the folder is missing or not writable.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - slow to import, and a command's help needs no lock

    file_lock = FileLock(lock, thread_local=False)
    try:
        lock.parent.stat()  # filelock would make a missing folder
        file_lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputError(output, f"is being written by another {writer}", remedy) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            fact = f"cannot be written ({error})"
            raise OutputError(output, fact, "check the folder's permissions and the free disk space") from error
        message = "%s: its file system has no locks (%s), so do not write it from two runs at once"
        _log.warning(message, output, error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file; there its release does
            lock.unlink(missing_ok=True)  # before the release: afterwards the file may be another holder's
        file_lock.release()
