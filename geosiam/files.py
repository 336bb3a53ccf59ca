"""Check, replace and lock the files that are written."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from geosiam.errors import OutputError, redacted

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

MAX_NAME_BYTES = 200
"""Longest name of an output in bytes: file systems take 255, and temporary files beside it have longer names."""


_DATABASES = (".gpkg",)
_COMPANIONS = {".gpkg": ("-wal", "-shm", "-journal"), **dict.fromkeys((".tif", ".tiff"), (".aux.xml", ".ovr", ".msk"))}
_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx", ".idm", ".ind")
_CLOSE_SECONDS = 1.0  # that another program may take to finish a change


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a path exists; False for a name that no file can have: an empty one, or one that is too long."""
    try:
        os.stat(path)  # noqa: PTH116 - of an empty Path, it would be the current folder
    except (OSError, ValueError):
        return False
    return True


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder; False for a name that no folder can have."""
    return exists(path) and Path(path).is_dir()


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a file; False for a name that no file can have."""
    return exists(path) and Path(path).is_file()


def file_name(resource: str) -> str:
    """Return the file name of a path or URL, without the parameters of a URL."""
    text = redacted(resource)
    if "://" in text or text.startswith("/vsi"):
        text = text.rpartition("url=")[2].partition("?")[0].partition("&")[0].rstrip("/")
    return PurePath(text).name


def companions(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files beside a file that every reader takes for a part of it; those that exist.

    Of a GeoPackage they are SQLite's log and journal, of a raster GDAL's overviews, mask and statistics, of a shapefile
    its indexes.
    """
    file = Path(path)
    beside = [file.with_name(file.name + end) for end in _COMPANIONS.get(file.suffix.lower(), ())]
    indexes = [file.with_suffix(suffix) for suffix in _SHAPEFILE_INDEXES] if file.suffix.lower() == ".shp" else []
    return [companion for companion in (*beside, *indexes) if exists(companion)]


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return what a text of JSON holds.

    Raises
    ------
    ValueError
        It is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def file_and_layer(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Split ``FILE:LAYER``, the name of a layer of a vector file; the layer is None if none is named."""
    name = os.fspath(path)
    file, colon, layer = name.rpartition(":")
    return (file, layer) if colon and not exists(name) and exists(file) else (name, None)


def check_writable(target: str | os.PathLike[str]) -> None:
    """Refuse a target that cannot be written or replaced, before any work is done.

    Raises
    ------
    OutputError
        The folder does not exist, the name is too long or no UTF-8, the target is a folder or a device, or a database
        that another program has open.
    """
    path = Path(target)
    if not path.name:
        raise OutputError(f"'{path}'", "is no name of a file", "name the output, such as anomalies.gpkg")
    check_text(path)
    length = len(os.fsencode(path.name))
    if length > MAX_NAME_BYTES:
        raise OutputError(_abbreviated(path), f"its name has {length} bytes", f"use a name of at most {MAX_NAME_BYTES}")
    try:
        has_folder = path.parent.is_dir()
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})", "choose another output") from error
    if not has_folder:
        raise OutputError(path, "its folder does not exist", "create the folder or choose another output")
    if exists(path) and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device"
        raise OutputError(path, f"cannot be written, because it is {kind}", "choose another output")
    if path.suffix.lower() in _DATABASES:
        close_database(path)


def check_text(path: str | os.PathLike[str]) -> None:
    """Refuse a name that GDAL cannot be told: all its names are UTF-8.

    Raises
    ------
    OutputError
        Some bytes of the name are no UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fspath(path).encode(errors="backslashreplace").decode()
        raise OutputError(shown, "has a name that is no UTF-8", "rename the file or its folder") from error


def close_database(path: Path) -> None:
    """Merge the log and journal of an SQLite database into it, as SQLite does when the last program closes it.

    They belong to this one file: left beside the file that replaces it, they would put their own content in its place.

    Raises
    ------
    OutputError
        Another program has the database open, or the log belongs to no database here.
    """
    if path.is_file() and path.stat().st_size and _is_closed(path):
        return
    for companion in companions(path):
        if companion.name.endswith("-shm") or not companion.stat().st_size:
            companion.unlink(missing_ok=True)
        else:
            fact = f"has beside it {companion.name}, which is not its own"
            raise OutputError(path, fact, "move that file away or delete it, or choose another output")


def _is_closed(path: Path) -> bool:
    """Close a database that only logs and journals are left of; return False if the file is none.

    Raises
    ------
    OutputError
        It is open in another program.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_CLOSE_SECONDS, isolation_level=None)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # rolls an unfinished change back
            if db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                db.execute("PRAGMA journal_mode = DELETE")  # raises while another program has the file open
            db.execute("BEGIN EXCLUSIVE")
            db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if not os.access(path, os.W_OK) and not companions(path):
            return True  # a file that may not be changed may yet be replaced
        fact = f"cannot be replaced ({error})"
        raise OutputError(path, fact, "close whatever has it open, such as QGIS, or choose another output") from error
    except sqlite3.DatabaseError:
        return False
    for companion in companions(path):  # of a change that never began
        companion.unlink(missing_ok=True)
    return True


def _abbreviated(path: Path) -> str:
    return f"{path.name[:40]}...{path.suffix[-8:]}"


@contextlib.contextmanager
def plain_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a name of a vector file that pyogrio hands on to GDAL as it is.

    It reads ``!`` and ``;`` in a path as parts of a URI, and would use another file in another folder; a relative path
    may even look like the scheme of one. Such a path gets a symbolic link in a temporary folder, together with the
    files of the same stem, which belong to a shapefile or to a database. A file that is yet to be written needs a plain
    name itself; its folder may have any.

    Parameters
    ----------
    path
        The file.
    """
    file = Path(path).absolute()
    if os.name == "nt" or not _is_special(file):
        yield str(file)
        return
    with tempfile.TemporaryDirectory(prefix="geosiam.") as folder:
        links = Path(folder, "links")
        if not _is_special(file.name):
            links.symlink_to(file.parent)
            yield str(links / file.name)
            return
        links.mkdir()
        for part in file.parent.glob(f"{glob.escape(file.stem)}.*"):
            (links / f"file{part.name[len(file.stem) :]}").symlink_to(part)
        yield str(links / f"file{file.suffix}")


def _is_special(path: str | os.PathLike[str]) -> bool:
    name = os.fsencode(path)
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return name.startswith(b"//") or any(sign in name for sign in b"!;?\n\r\t")


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
