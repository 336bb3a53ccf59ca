"""What an unfinished run leaves behind to go on from: which blocks are done, and of what run they are."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_FORMAT = 1


class Journal:
    """Which blocks of a run are finished; one small file that is replaced as a whole.

    Parameters
    ----------
    path
        The file.
    identity
        What the scores depend on: a digest by its name. Only a run of the same identity may go on.
    done
        bool (blocks,), True = the scores of this block are in the working raster.
    """

    def __init__(self, path: Path, identity: Mapping[str, str], done: NDArray[np.bool_]) -> None:
        self.path = path
        self.identity = dict(identity)
        self.done = done

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the journal in a file, or None if there is no such file.

        Raises
        ------
        ValueError
            The file is no journal of this version.
        """
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            stored = json.loads(text)
            version = stored["geosiam_journal"]
            bits = np.frombuffer(base64.b64decode(stored["done"]), np.uint8)
            journal = cls(path, stored["identity"], np.unpackbits(bits, count=stored["blocks"]).astype(bool))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("no journal") from error
        if version != _FORMAT:
            raise ValueError(f"no journal of version {_FORMAT}")
        return journal

    def differing(self, identity: Mapping[str, str]) -> list[str]:
        """Return the names of what is not the same in another run."""
        names = dict.fromkeys([*self.identity, *identity])
        return [name for name in names if self.identity.get(name) != identity.get(name)]

    def save(self) -> None:
        """Write the file; what it says is done must be on disk before."""
        text = json.dumps(
            {
                "geosiam_journal": _FORMAT,
                "identity": self.identity,
                "blocks": self.done.size,
                "done": base64.b64encode(np.packbits(self.done).tobytes()).decode(),
            }
        )
        partial = self.path.with_name(f"{self.path.name}.new")
        partial.write_text(text, encoding="utf-8")
        replace_durably(partial, self.path)


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
