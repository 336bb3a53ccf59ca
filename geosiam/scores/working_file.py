"""The working file of a score raster: a GeoTIFF whose blocks are written in place, in any order."""

from __future__ import annotations

import base64
import errno
import json
import os
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import rasterio

from geosiam.files import replace_durably

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.imagery.grid import Window as Cells


ScoreType = Literal["uint8", "float32"]

SCORE_NODATA = 255
SCORE_STEPS = 254  # a score of 1 is stored as this
FINE_STEPS = 258 * SCORE_STEPS
"""Steps from 0 to 1 that scores of floating point are rounded to where they are counted; those of bytes stay exact."""
BAND_NAME = "anomaly score"
TILE = 512

CACHE_CELLS = 64_000_000
"""Cells of a score raster that GDAL may keep blocks of at most: two rows of tiles that are 60,000 cells long."""

_LEAST_CACHE_CELLS = 16_000_000


def cache_bytes(dtype: str, width: int) -> int:
    """Return how much memory GDAL may take to keep blocks of a score raster of this type and so many columns.

    It is read and copied from top to bottom, so what is kept longer than two rows of tiles is kept for nothing.
    """
    cells = min(max(2 * TILE * width, _LEAST_CACHE_CELLS), CACHE_CELLS)
    return cells * np.dtype(dtype).itemsize


def encode(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return scores in [0, 1] (NaN = not scored) as stored: 0 to 254, 255 where not scored."""
    steps = scores * np.float32(SCORE_STEPS)
    np.rint(steps, out=steps)
    np.copyto(steps, SCORE_NODATA, where=np.isnan(scores))
    return steps.astype(np.uint8)


def decode(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return stored scores as float32 in [0, 1], NaN where not scored."""
    table = np.append(np.arange(SCORE_STEPS + 1, dtype=np.float32) / np.float32(SCORE_STEPS), np.float32(np.nan))
    scores: NDArray[np.float32] = table[stored]
    return scores


class WorkingRaster:
    """The GeoTIFF that blocks are written to, in any order, before it becomes the score raster.

    Its values are not compressed and all have their place from the beginning. So a block is written in place, nothing
    but its own cells changes, and a process that is killed leaves a file that can be read; and a disk that is too
    small is found at once.

    Parameters
    ----------
    path
        A file that :meth:`create` made.
    grid
        The grid of cells.
    dtype
        How scores are stored.

    Raises
    ------
    OSError
        The file is not there, not whole, or not laid out as :meth:`create` does it.
    """

    def __init__(self, path: Path, grid: Grid, dtype: ScoreType) -> None:
        self.path = path
        self._grid = grid
        self._dtype = np.dtype(dtype)
        self._start = self._first_value()
        self._file = path.open("r+b", buffering=0)

    @classmethod
    def create(cls, path: Path, grid: Grid, dtype: ScoreType) -> Self:
        """Make the file, all nodata; an existing one is replaced."""
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            dtype=dtype,
            count=1,
            width=grid.width,
            height=grid.height,
            crs=grid.crs,
            transform=grid.transform,
            nodata=SCORE_NODATA if dtype == "uint8" else np.nan,
            blockysize=min(TILE, grid.height),
            bigtiff="IF_NEEDED",
            sparse_ok=False,
        ) as dataset:
            dataset.set_band_description(1, BAND_NAME)
            if dtype == "uint8":
                dataset.scales, dataset.offsets = (1 / SCORE_STEPS,), (0.0,)
        return cls(path, grid, dtype)

    def write(self, cells: Cells, scores: NDArray[np.float32]) -> None:
        """Write one block: float32 of the window's shape in [0, 1], NaN = not scored."""
        stored = encode(scores) if self._dtype == np.uint8 else np.ascontiguousarray(scores, np.float32)
        place = self._start + (cells.row_start * self._grid.width + cells.col_start) * self._dtype.itemsize
        for values in stored:
            self._file.seek(place)
            if self._file.write(values) != values.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            place += self._grid.width * self._dtype.itemsize

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _first_value(self) -> int:
        """Return the position of the first value in the file; all others follow row by row."""
        rows, row_bytes = self._grid.height, self._grid.width * self._dtype.itemsize
        with rasterio.open(self.path) as dataset:
            strip_rows = dataset.block_shapes[0][0]
            last_strip = -(-rows // strip_rows) - 1
            first, last = (dataset.get_tag_item(f"BLOCK_OFFSET_0_{i}", "TIFF", 1) for i in (0, last_strip))
            fits = dataset.shape == self._grid.shape and dataset.dtypes[0] == self._dtype
        # GDAL may say nothing of a disk that fills up while it closes a file.
        whole = first and last and int(first) + rows * row_bytes <= self.path.stat().st_size
        if not (fits and whole and int(last) - int(first) == last_strip * strip_rows * row_bytes):
            raise OSError("the working file is not complete")
        return int(first)


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
