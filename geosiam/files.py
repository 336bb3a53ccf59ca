"""What is asked of the file system before anything is read or written, with the answers as one line."""

from __future__ import annotations

import os
from pathlib import Path

from geosiam.errors import OutputError

LONGEST_NAME = 200
"""Bytes of an output's name: file systems take 255, and what is written first has a longer name of its own."""


def is_there(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to something; one that cannot be a path, such as a far too long one, does not."""
    try:
        Path(path).stat()
    except (OSError, ValueError):
        return False
    return True


def check_place(target: str | os.PathLike[str]) -> None:
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
