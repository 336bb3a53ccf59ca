"""Read a score raster in strips.

It has one band and one value per cell, the anomaly probability: ``uint8`` with scale 1/254 and nodata 255 or, on
request, ``float32`` with NaN as nodata, which keeps full precision.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
import rasterio.windows
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists
from geosiam.imagery.grid import Grid
from geosiam.runtime import ignored_warnings
from geosiam.scores.working_file import SCORE_NODATA, SCORE_STEPS, TILE, cache_bytes, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Window

STRIDE_TAG = "GEOSIAM_STRIDE"  # pixels of the before scene along a cell's side
SCENE_TAG = "GEOSIAM_SCENE_PX"  # rows and columns of the before scene; its last cells may reach beyond it
THRESHOLD_TAG = "GEOSIAM_THRESHOLD"  # of the model that scored
_HISTOGRAM_CELLS = 65_536  # counted at once: numpy takes eight bytes for each
_SCALE_TOLERANCE = 1e-9  # relative


def scene_extent(grid: Grid, stride: int, scene_px: str | None) -> tuple[float, float]:
    """Return the extent of a scene of "rows cols" pixels on its grid of cells, in cells (rows, cols).

    Raises
    ------
    ValueError
        `scene_px` is not two numbers, or a scene of this size has another number of cells.
    """
    if scene_px is None:
        return float(grid.height), float(grid.width)
    rows, cols = (int(part) / stride for part in scene_px.split())
    if not (grid.height - 1 < rows <= grid.height and grid.width - 1 < cols <= grid.width):
        raise ValueError(f"a scene of {scene_px} pixels does not have {grid.height} x {grid.width} cells")
    return rows, cols


class Scores(Protocol):
    """Scores that are read strip by strip: those of a file, an array in memory, or a truth raster."""

    @property
    def grid(self) -> Grid:
        """The grid of cells."""
        ...

    @property
    def stride(self) -> int:
        """Pixels of the before scene along a cell's side."""
        ...

    @property
    def extent(self) -> tuple[float, float]:
        """Extent of the scene in cells (rows, cols)."""
        ...

    def strips(self, rows: int = ...) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores, float32 (rows, cols) in [0, 1], NaN = not scored, from top to bottom."""
        ...

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window inside the raster."""
        ...


class ModelScores(Scores, Protocol):
    """Scores of a model: those of a file (:class:`ScoreRaster`) or of an array that :func:`geosiam.score` returns."""

    @property
    def name(self) -> str:
        """Name of the scores in error messages."""
        ...

    @property
    def model_threshold(self) -> float | None:
        """The threshold of the model; None where it is not recorded."""
        ...

    def counts(self) -> NDArray[np.int64]:
        """Return the histogram of the scores from 0 to 1 in steps of 1/254: int64 (255,)."""
        ...


def count_scores(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the histogram of scores from 0 to 1 in steps of 1/254: int64 (255,); NaN does not count."""
    steps = np.rint(scores[~np.isnan(scores)] * SCORE_STEPS).astype(np.int64)
    return np.bincount(steps, minlength=SCORE_STEPS + 1)


@dataclass(frozen=True)
class ScoreRaster:
    """A score raster on disk, read in strips.

    Parameters
    ----------
    path
        Path or URL of the file.
    grid
        Grid of cells.
    tags
        Dataset tags, which hold the provenance.
    nodata
        Stored value of cells without a score; None: no such value.
    scale, offset
        Score = stored value * scale + offset.
    """

    path: str
    grid: Grid
    tags: Mapping[str, str] = field(repr=False)
    nodata: float | None
    scale: float
    offset: float

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Return the score raster at a path after checking that it is one.

        Any georeferenced raster with one band of real values is accepted if the values, with its own scale and offset,
        lie in [0, 1]; they are checked when they are read.

        Raises
        ------
        SceneNotFoundError, SceneUnreadableError
            There is no such file, or GDAL cannot open it.
        SceneRefusedError
            It has more than one band, complex values, or no georeference.
        """
        name = os.fspath(path)
        with _open(name) as src:
            if src.count != 1:
                fact = f"has {src.count} bands, a score raster has one"
                raise SceneRefusedError(name, fact, "give the raster that geosiam score or detect wrote")
            if np.dtype(src.dtypes[0]).kind not in "uif":
                raise SceneRefusedError(name, f"has values of type {src.dtypes[0]}", "give scores as uint8 or float32")
            if not src.crs or src.transform.is_degenerate or src.transform.is_identity:
                remedy = "assign them, for example with gdal_edit.py -a_srs and -a_ullr"
                raise SceneRefusedError(name, "has no coordinate reference system or no geotransform", remedy)
            grid = Grid(src.crs, src.transform, src.width, src.height)
            return cls(name, grid, src.tags(), src.nodata, float(src.scales[0]), float(src.offsets[0]))

    @property
    def name(self) -> str:
        """Name of the raster in error messages: its path."""
        return self.path

    @property
    def model_threshold(self) -> float | None:
        """The threshold of the model that scored; None where the tags do not record it."""
        try:
            return float(self.tags[THRESHOLD_TAG])
        except (KeyError, ValueError):
            return None

    @property
    def stride(self) -> int:
        """Pixels of the before scene along a cell's side; 1 without a tag."""
        try:
            return max(1, int(self.tags.get(STRIDE_TAG, "1")))
        except ValueError as error:
            fact = f"has the tag {STRIDE_TAG}={self.tags[STRIDE_TAG]!r}, not a whole number"
            raise SceneRefusedError(self.path, fact, "correct or remove the tag") from error

    @property
    def extent(self) -> tuple[float, float]:
        """Extent of the scene in cells (rows, cols); the last cells may reach beyond it."""
        try:
            return scene_extent(self.grid, self.stride, self.tags.get(SCENE_TAG))
        except ValueError as error:
            fact = f"has the tag {SCENE_TAG}={self.tags[SCENE_TAG]!r}, which does not fit its size"
            raise SceneRefusedError(self.path, fact, "correct or remove the tag") from error

    def strips(self, rows: int = TILE) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the raster from top to bottom.

        Parameters
        ----------
        rows
            Height of a strip in cells; multiples of the tile height (512) avoid decoding twice.

        Yields
        ------
        The first row of the strip, and its scores: float32 (rows, cols) in [0, 1], NaN = not scored.

        Raises
        ------
        SceneUnreadableError
            A strip cannot be read.
        SceneRefusedError
            A value lies outside [0, 1].
        """
        for start, stored in self._stored_strips(rows):
            yield start, self._decoded(stored)

    def counts(self) -> NDArray[np.int64]:
        """Return the histogram of scores from 0 to 1 in steps of 1/254: int64 (255,); errors as in :meth:`strips`."""
        counts = np.zeros(SCORE_STEPS + 1, np.int64)
        height = max(1, _HISTOGRAM_CELLS // self.grid.width)
        for _, strip in self._stored_strips(TILE):
            for rows in (strip[start : start + height] for start in range(0, len(strip), height)):
                if self._is_native(rows.dtype):
                    counts += np.bincount(rows.ravel(), minlength=SCORE_NODATA + 1)[:SCORE_NODATA]
                else:
                    counts += count_scores(self._decoded(rows))
        return counts

    def _stored_strips(self, rows: int) -> Iterator[tuple[int, NDArray[np.number[Any]]]]:
        """Yield the stored values from top to bottom."""
        with _open(self.path) as src:
            for start in range(0, self.grid.height, rows):
                window = rasterio.windows.Window(0, start, self.grid.width, min(rows, self.grid.height - start))
                try:
                    stored = _read(src, window)
                except RasterioError as error:
                    fact = f"cannot be read at row {start} ({error})"
                    raise SceneUnreadableError(self.path, fact, "check whether the file is complete") from error
                yield start, stored

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window of cells inside the raster; errors as in :meth:`strips`."""
        with _open(self.path) as src:
            slices = rasterio.windows.Window.from_slices(*window.slices)
            try:
                return self._decoded(_read(src, slices))
            except RasterioError as error:
                fact = f"cannot be read at row {window.row_start} ({error})"
                raise SceneUnreadableError(self.path, fact, "check whether the file is complete") from error

    def _is_native(self, dtype: np.dtype[Any]) -> bool:
        """Return whether scores are stored as bytes in the way that geosiam writes them."""
        same_scale = abs(self.scale * SCORE_STEPS - 1) < _SCALE_TOLERANCE and self.offset == 0
        return bool(same_scale and dtype == np.uint8 and self.nodata == SCORE_NODATA)

    def _decoded(self, stored: NDArray[np.number[Any]]) -> NDArray[np.float32]:
        if self._is_native(stored.dtype):  # by a table: multiplying by 1/254 does not give the exact quotients
            return decode(stored.astype(np.uint8, copy=False))
        scores: NDArray[np.float32] = (stored * self.scale + self.offset).astype(np.float32)
        if self.nodata is not None:
            scores[stored == self.nodata] = np.nan
        valid = scores[~np.isnan(scores)]
        if valid.size and not 0 <= valid.min() <= valid.max() <= 1:
            fact = f"holds values from {valid.min():g} to {valid.max():g}, scores lie in 0 to 1"
            raise SceneRefusedError(self.path, fact, "give the raster that geosiam score or detect wrote")
        return scores


def _read(dataset: rasterio.DatasetReader, window: rasterio.windows.Window) -> NDArray[np.number[Any]]:
    cache = cache_bytes(dataset.dtypes[0], dataset.width)  # by default GDAL would fill a twentieth of all memory
    with rasterio.Env(GDAL_CACHEMAX=cache):
        stored: NDArray[np.number[Any]] = dataset.read(1, window=window)
    return stored


@contextlib.contextmanager
def _open(path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading; errors of GDAL become one line."""
    try:
        with ignored_warnings(NotGeoreferencedWarning):  # the caller refuses it with a message of its own
            dataset = rasterio.open(path)
    except RasterioError as error:
        if "://" not in path and not path.startswith("/vsi") and not exists(path):
            raise SceneNotFoundError(path, "does not exist", "check the path") from error
        raise SceneUnreadableError(path, f"cannot be opened by GDAL ({error})", "check the file") from error
    with dataset:
        yield dataset
