"""Files of an unfinished run: a GeoTIFF whose blocks are written in place, a journal of them, and what was estimated.

How scores are stored is defined here as well.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import rasterio

from geosiam import __version__
from geosiam.files import parse_json, replace_durably
from geosiam.imagery.displacement import DisplacementField, FieldEstimate
from geosiam.imagery.registration import Shift

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid, Window

ScoreType = Literal["uint8", "float32"]

SCORE_NODATA = 255
SCORE_STEPS = 254
"""Stored byte of a score of 1."""

FINE_STEPS = 258 * SCORE_STEPS
"""Steps from 0 to 1 that float32 scores are rounded to in histograms; a multiple, so that stored bytes stay exact."""

BAND_NAME = "anomaly score"
TILE = 512  # side of a tile of the finished raster, in cells

CACHE_CELLS = 64_000_000
"""Largest part of a score raster that GDAL may cache, in cells: two rows of tiles that are 60,000 cells long."""

_MIN_CACHE_CELLS = 16_000_000


def cache_bytes(dtype: str, width: int) -> int:
    """Return the size of GDAL's cache for a score raster of a type and width.

    It is read and copied from top to bottom, so more than two rows of tiles would be cached in vain.
    """
    cells = min(max(2 * TILE * width, _MIN_CACHE_CELLS), CACHE_CELLS)
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


def hidden_file(target: Path, suffix: str) -> Path:
    """Return the path of a file beside a score raster that exists only while its run is not finished."""
    return target.with_name(f".{target.name}.partial.{suffix}")


UNKNOWN = "unknown"
"""Digest of what may have changed without a sign: a run that depends on it is never resumed."""


class WorkingRaster:
    """The GeoTIFF that blocks are written to, in any order, before it becomes the score raster.

    Its values are not compressed, and the file has its final size from the beginning. So writing a block changes only
    its own cells, a killed process leaves a readable file, and a disk that is too small shows at once.

    Parameters
    ----------
    path
        File that :meth:`create` made.
    grid
        The grid of cells.
    dtype
        Type that scores are stored in.

    Raises
    ------
    OSError
        The file is missing, incomplete, or does not have the layout of :meth:`create`.
    """

    def __init__(self, path: Path, grid: Grid, dtype: ScoreType) -> None:
        self.path = path
        self._grid = grid
        self._dtype = np.dtype(dtype)
        self._start = self._first_value()
        self._file = path.open("r+b", buffering=0)

    @classmethod
    def create(cls, path: Path, grid: Grid, dtype: ScoreType) -> Self:
        """Create the file, all nodata; an existing one is replaced."""
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

    def write(self, cells: Window, scores: NDArray[np.float32]) -> None:
        """Write one block: float32 of the window's shape in [0, 1], NaN = not scored."""
        stored = encode(scores) if self._dtype == np.uint8 else np.ascontiguousarray(scores, np.float32)
        position = self._start + (cells.row_start * self._grid.width + cells.col_start) * self._dtype.itemsize
        for values in stored:
            self._file.seek(position)
            if self._file.write(values) != values.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            position += self._grid.width * self._dtype.itemsize

    def sync(self) -> None:
        """Flush everything written to disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _first_value(self) -> int:
        """Return the position of the first value in the file; the others follow row by row."""
        rows, row_bytes = self._grid.height, self._grid.width * self._dtype.itemsize
        with rasterio.open(self.path) as dataset:
            strip_rows = dataset.block_shapes[0][0]
            last_strip = -(-rows // strip_rows) - 1
            first, last = (dataset.get_tag_item(f"BLOCK_OFFSET_0_{i}", "TIFF", 1) for i in (0, last_strip))
            same_kind = dataset.shape == self._grid.shape and dataset.dtypes[0] == self._dtype
        # GDAL may not report that the disk was full when it closed the file.
        has_all_bytes = first and last and int(first) + rows * row_bytes <= self.path.stat().st_size
        if not (same_kind and has_all_bytes and int(last) - int(first) == last_strip * strip_rows * row_bytes):
            raise OSError("the working file is not complete")
        return int(first)


_JOURNAL_VERSION = 1


class Journal:
    """Record which blocks of a run are finished, in one small file that is replaced as a whole.

    Parameters
    ----------
    path
        Path of the file.
    identity
        Digests of everything that the scores depend on, by name. Only a run of the same identity may resume.
    finished
        bool (blocks,), True = the scores of this block are in the working raster.
    """

    def __init__(self, path: Path, identity: Mapping[str, str], finished: NDArray[np.bool_]) -> None:
        self.path = path
        self.identity = dict(identity)
        self.finished = finished

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the journal in a file; None if there is no such file.

        Raises
        ------
        ValueError
            The file is not a journal of this version.
        """
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            stored = parse_json(text)
            version, blocks = stored["geosiam_journal"], stored["blocks"]
            bits = np.unpackbits(np.frombuffer(base64.b64decode(stored["done"]), np.uint8))
            journal = cls(path, stored["identity"], bits[:blocks].astype(bool))
            is_complete = isinstance(stored["identity"], dict) and len(bits) == -(-blocks // 8) * 8
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a journal") from error
        if not is_complete or not all(isinstance(part, str) for item in journal.identity.items() for part in item):
            raise ValueError("not a journal, or a damaged one")
        if version != _JOURNAL_VERSION:
            raise ValueError(f"not a journal of version {_JOURNAL_VERSION}")
        return journal

    def differing(self, identity: Mapping[str, str]) -> list[str]:
        """Return the names of the digests that differ from those of another run."""
        names = dict.fromkeys([*self.identity, *identity])
        return [name for name in names if self.identity.get(name) != identity.get(name)]

    def save(self) -> None:
        """Write the file; the scores of blocks that it lists as finished must be on disk before."""
        text = json.dumps(
            {
                "geosiam_journal": _JOURNAL_VERSION,
                "identity": self.identity,
                "blocks": self.finished.size,
                "done": base64.b64encode(np.packbits(self.finished).tobytes()).decode(),
            }
        )
        # A fixed name, so that the next run finds what a killed one left; the lock on the output keeps others away.
        partial = self.path.with_name(f"{self.path.name}.new")
        partial.write_text(text, encoding="utf-8")
        replace_durably(partial, self.path)


class StoredEstimates:
    """Estimates of the displacement of a pair, by a digest of all that they depend on.

    A file beside the journal keeps them, so that a resumed run has the field that the finished blocks were read
    through, and need not match the scenes again. That the scenes cannot be matched is an estimate as well.

    Parameters
    ----------
    target
        The score raster of the run.
    restart
        Whether to leave out what the file holds.
    """

    def __init__(self, target: Path, *, restart: bool = False) -> None:
        self.path = hidden_file(target, "npz")
        self._stored = {} if restart else _read_estimates(self.path)
        self._used: dict[str, FieldEstimate | None] = {}

    def get(self, inputs: Mapping[str, Any], estimate: Callable[[], FieldEstimate | None]) -> FieldEstimate | None:
        """Return the estimate that depends on given values only: the stored one, or one that is made now.

        Parameters
        ----------
        inputs
            All that the estimate depends on, as JSON has it; among them ``scenes``, with the ``fingerprint`` of each.
            Where a fingerprint is empty, nothing tells whether the scene is unchanged, and nothing is stored.
        estimate
            Makes the estimate.
        """
        if not all(scene["fingerprint"] for scene in inputs["scenes"]):
            return estimate()
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self._used[key] = self._stored[key] if key in self._stored else estimate()
        return self._used[key]

    def save(self) -> None:
        """Write the estimates of this run to the file, unless it holds just these."""
        if not self._used or (self._used.keys() == self._stored.keys() and self.path.exists()):
            return
        arrays: dict[str, NDArray[Any]] = {}
        plain = {key: _without_arrays(number, e, arrays) for number, (key, e) in enumerate(self._used.items())}
        content = io.BytesIO()
        header = np.array(json.dumps({"version": __version__, "estimates": plain}))
        np.savez(content, allow_pickle=False, header=header, **arrays)
        partial = self.path.with_name(f"{self.path.name}.new")
        with partial.open("wb") as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())
        replace_durably(partial, self.path)


def _without_arrays(
    number: int, estimate: FieldEstimate | None, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any] | None:
    """Return the plain values of an estimate, and add its arrays to others, by number and name."""
    if estimate is None:
        return None
    values = asdict(estimate)
    for name in [name for name, value in values["field"].items() if isinstance(value, np.ndarray)]:
        arrays[f"{number} {name}"] = values["field"].pop(name)
    return values


def _read_estimates(path: Path) -> dict[str, FieldEstimate | None]:
    """Return the estimates in a file by digest; none if it is missing, damaged, or of another version of geosiam."""
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:
        return {}
    with np.load(io.BytesIO(content[size:]), allow_pickle=False) as stored:
        header = json.loads(str(stored["header"]))
        if header["version"] != __version__:
            return {}
        arrays: dict[int, dict[str, NDArray[Any]]] = {}
        for name in set(stored.files) - {"header"}:
            number, _, field = name.partition(" ")
            arrays.setdefault(int(number), {})[field] = stored[name]
    plain = enumerate(header["estimates"].items())
    return {key: None if values is None else _restored(values, arrays[number]) for number, (key, values) in plain}


def _restored(values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> FieldEstimate:
    field: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values["field"].items()}
    parts = {"field": DisplacementField(**field | arrays), "shift": Shift(**values["shift"])}
    return FieldEstimate(**{**values, **parts, "bend": tuple(values["bend"])})
