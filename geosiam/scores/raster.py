"""The score raster on disk, read in strips.

One band, one value per cell: the probability that something differs there. Stored as ``uint8`` with scale 1/254 and
nodata 255, or on request as ``float32`` with NaN for nodata, which tells the strongest scores apart.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

STRIDE_TAG = "GEOSIAM_STRIDE"  # pixels of the before-scene along a cell's side
SCENE_TAG = "GEOSIAM_SCENE_PX"  # rows and columns of the before-scene, where its last cells reach beyond it
_COUNTED_AT_ONCE = 65_536  # cells: numpy takes eight bytes for each


def scene_extent(grid: Grid, stride: int, scene_px: str | None) -> tuple[float, float]:
    """Return where a scene of "rows cols" pixels ends on its grid of cells, in cells (rows, cols).

    Raises
    ------
    ValueError
        These are not two numbers, or a scene of this size has another number of cells.
    """
    if scene_px is None:
        return float(grid.height), float(grid.width)
    rows, cols = (int(part) / stride for part in scene_px.split())
    if not (grid.height - 1 < rows <= grid.height and grid.width - 1 < cols <= grid.width):
        raise ValueError(f"a scene of {scene_px} pixels does not have {grid.height} x {grid.width} cells")
    return rows, cols


@dataclass(frozen=True)
class ScoreRaster:
    """A score raster on disk, read in strips.

    Parameters
    ----------
    path
        The file or URL.
    grid
        The grid of cells.
    tags
        Provenance: dataset tags.
    nodata
        Stored value of cells without a score; None where there is none.
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

        Any raster of one real band with a place on earth will do if its values, scaled as it says itself, lie in
        [0, 1]; the values are checked as they are read.

        Raises
        ------
        SceneNotFoundError, SceneUnreadableError
            There is no such file, or GDAL cannot open it.
        SceneRefusedError
            It has more than one band, complex values, or no place on earth.
        """
        name = os.fspath(path)
        with _opened(name) as src:
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
    def stride(self) -> int:
        """Pixels of the before-scene along a cell's side; 1 where the raster does not say."""
        try:
            return max(1, int(self.tags.get(STRIDE_TAG, "1")))
        except ValueError as error:
            fact = f"has the tag {STRIDE_TAG}={self.tags[STRIDE_TAG]!r}, not a whole number"
            raise SceneRefusedError(self.path, fact, "correct or remove the tag") from error

    @property
    def extent(self) -> tuple[float, float]:
        """Where the scene ends, in cells (rows, cols): the last ones may reach beyond it."""
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
            Height of a strip; multiples of the tile height (512) avoid decoding twice.

        Yields
        ------
        The first row of the strip, and its scores: float32 (rows, cols) in [0, 1], NaN = not scored.

        Raises
        ------
        SceneUnreadableError
            Reading fails midway.
        SceneRefusedError
            A value lies outside [0, 1].
        """
        for start, stored in self._stored(rows):
            yield start, self._scores(stored)

    def counts(self) -> NDArray[np.int64]:
        """Return how many cells have each score, from 0 to 1 in steps of 1/254: shape (255,); raises as `strips`."""
        counts = np.zeros(SCORE_STEPS + 1, np.int64)
        few = max(1, _COUNTED_AT_ONCE // self.grid.width)
        for _, strip in self._stored(TILE):
            for rows in (strip[start : start + few] for start in range(0, len(strip), few)):
                if self._ours(rows.dtype):
                    counts += np.bincount(rows.ravel(), minlength=SCORE_NODATA + 1)[:SCORE_NODATA]
                else:
                    scores = self._scores(rows)
                    steps = np.rint(scores[~np.isnan(scores)] * SCORE_STEPS).astype(np.int64)
                    counts += np.bincount(steps, minlength=SCORE_STEPS + 1)
        return counts

    def _stored(self, rows: int) -> Iterator[tuple[int, NDArray[np.number[Any]]]]:
        """Yield the raster from top to bottom as it is stored."""
        with _opened(self.path) as src:
            for start in range(0, self.grid.height, rows):
                window = rasterio.windows.Window(0, start, self.grid.width, min(rows, self.grid.height - start))
                try:
                    stored = _decoded(src, window)
                except RasterioError as error:
                    fact = f"cannot be read at row {start} ({error})"
                    raise SceneUnreadableError(self.path, fact, "check whether the file is complete") from error
                yield start, stored

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window of cells inside the raster, as :meth:`strips` would."""
        with _opened(self.path) as src:
            place = rasterio.windows.Window.from_slices(*window.slices)
            try:
                return self._scores(_decoded(src, place))
            except RasterioError as error:
                fact = f"cannot be read at row {window.row_start} ({error})"
                raise SceneUnreadableError(self.path, fact, "check whether the file is complete") from error

    def _ours(self, dtype: np.dtype[Any]) -> bool:
        """Return whether values are stored in the way that geosiam itself stores scores as bytes."""
        scaled = abs(self.scale * SCORE_STEPS - 1) < 1e-9 and self.offset == 0  # noqa: PLR2004
        return bool(scaled and dtype == np.uint8 and self.nodata == SCORE_NODATA)

    def _scores(self, stored: NDArray[np.number[Any]]) -> NDArray[np.float32]:
        if self._ours(stored.dtype):  # 1/254 stored as a double does not give back the exact quotients, the table does
            return decode(stored.astype(np.uint8, copy=False))
        scores: NDArray[np.float32] = (stored * self.scale + self.offset).astype(np.float32)
        if self.nodata is not None:
            scores[stored == self.nodata] = np.nan
        valid = scores[~np.isnan(scores)]
        if valid.size and not 0 <= valid.min() <= valid.max() <= 1:
            fact = f"holds values from {valid.min():g} to {valid.max():g}, scores lie in 0 to 1"
            raise SceneRefusedError(self.path, fact, "give the raster that geosiam score or detect wrote")
        return scores


def _decoded(dataset: rasterio.DatasetReader, window: rasterio.windows.Window) -> NDArray[np.number[Any]]:
    cache = cache_bytes(dataset.dtypes[0], dataset.width)  # GDAL itself would fill a twentieth of all memory
    with rasterio.Env(GDAL_CACHEMAX=cache):
        stored: NDArray[np.number[Any]] = dataset.read(1, window=window)
    return stored


@contextlib.contextmanager
def _opened(path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading; what GDAL says becomes one line."""
    try:
        with ignored_warnings(NotGeoreferencedWarning):  # the caller refuses it in its own words
            dataset = rasterio.open(path)
    except RasterioError as error:
        if "://" not in path and not path.startswith("/vsi") and not exists(path):
            raise SceneNotFoundError(path, "does not exist", "check the path") from error
        raise SceneUnreadableError(path, f"is no raster GDAL can open ({error})", "check the file") from error
    with dataset:
        yield dataset
