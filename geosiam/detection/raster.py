"""The score raster: a tiled working file while a run writes it, a cloud optimised GeoTIFF when it is done.

One band, one value per cell: the probability that something differs there. Stored as ``uint8`` with scale 1/254 and
nodata 255 (a quarter of the space, and finer than the network is sure of) or as ``float32`` with NaN for nodata.
"""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geosiam.detection.raster_style import raster_qml
from geosiam.detection.working_raster import SCORE_NODATA, SCORE_STEPS, TILE, ScoreType, WorkingRaster, decode, encode
from geosiam.errors import OptionError, OutputError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import check_place, is_there
from geosiam.imagery.grid import Grid
from geosiam.imagery.grid import Window as Cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

STRIDE_TAG = "GEOSIAM_STRIDE"  # pixels of the before-scene along a cell's side
SCENE_TAG = "GEOSIAM_SCENE_PX"  # rows and columns of the before-scene, where its last cells reach beyond it

__all__ = [
    "SCENE_TAG",
    "SCORE_NODATA",
    "SCORE_STEPS",
    "STRIDE_TAG",
    "ScoreRaster",
    "ScoreRasterWriter",
    "ScoreType",
    "decode",
    "encode",
]


class ScoreRasterWriter:
    """Write a score raster block by block; it appears under its name when complete, or not at all.

    A QGIS style of the same stem is put beside it unless there is one.

    Parameters
    ----------
    path
        The GeoTIFF to make. An existing one is replaced on success only.
    grid
        The grid of cells.
    dtype
        ``uint8`` or ``float32``.
    tags
        Provenance, written as dataset tags; names start with ``GEOSIAM_``. :data:`STRIDE_TAG` lets areas be given
        in pixels later.

    Raises
    ------
    OptionError
        Another dtype.
    OutputError
        The folder is missing, not writable or full.
    """

    def __init__(
        self, path: str | os.PathLike[str], grid: Grid, *, dtype: ScoreType = "uint8", tags: Mapping[str, str]
    ) -> None:
        if dtype not in ("uint8", "float32"):
            raise OptionError("score dtype", f"is {dtype!r}", "use uint8 or float32")
        self.path = Path(path)
        self._grid = grid
        self._dtype: ScoreType = dtype
        self._tags = dict(tags)
        unique = uuid.uuid4().hex[:8]
        self._partial = self.path.with_name(f".{self.path.name}.{unique}.partial.tif")
        self._finished = self.path.with_name(f".{self.path.name}.{unique}.cog.tif")
        self._style = self.path.with_name(f".{self.path.name}.{unique}.qml")

    def __enter__(self) -> Self:
        check_place(self.path)
        try:
            with self._reported():
                self._working = WorkingRaster(self._partial, self._grid, self._dtype, self._tags)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise
        return self

    def write(self, window: Cells, scores: NDArray[np.float32]) -> None:
        """Write one block of cells.

        Parameters
        ----------
        window
            The cells, inside the grid.
        scores
            float32 of the window's shape in [0, 1], NaN = not scored.

        Raises
        ------
        OutputError
            The disk is full or gone.
        """
        if scores.shape != window.shape:
            raise ValueError(f"scores of shape {scores.shape} do not fill a window of shape {window.shape}")
        with self._reported():
            self._working.write(window, scores)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._reported():
                    self._working.close()
                    _to_cog(self._partial, self._finished, self._dtype)
                    self._finished.replace(self.path)
                    self._write_style()
            else:
                with contextlib.suppress(RasterioError, CPLE_BaseError, OSError):
                    self._working.close()
        finally:
            for leftover in (self._partial, self._finished, self._style):
                leftover.unlink(missing_ok=True)

    def _write_style(self) -> None:
        """Write the QGIS style beside the raster unless the user has one there."""
        style = self.path.with_suffix(".qml")
        if not style.exists():
            self._style.write_text(raster_qml(), encoding="utf-8")
            self._style.replace(style)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what GDAL and the system say about the disk into one line."""
        try:
            yield
        except (RasterioError, CPLE_BaseError, OSError) as error:
            fact = f"cannot be written ({error.__cause__ or error})"  # rasterio's own words often just point to GDAL's
            raise OutputError(self.path, fact, "check the folder's permissions and the free disk space") from error


def _to_cog(source: Path, target: Path, dtype: ScoreType) -> None:
    """Copy a finished working raster into a cloud optimised GeoTIFF."""
    rasterio.shutil.copy(
        source,
        target,
        driver="COG",
        compress="DEFLATE",  # read by every GIS; ZSTD is not
        predictor="YES" if dtype == "float32" else "NO",
        blocksize=TILE,
        overview_resampling="average",
        num_threads="ALL_CPUS",
        bigtiff="IF_SAFER",
    )
    # GDAL says nothing when the disk fills up while it closes the copy.
    with rasterio.open(source) as made, rasterio.open(target) as copied:
        if made.checksum(1) != copied.checksum(1):
            raise OSError("the finished raster does not read back as it was written")


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
        with _opened(self.path) as src:
            for start in range(0, self.grid.height, rows):
                window = rasterio.windows.Window(0, start, self.grid.width, min(rows, self.grid.height - start))
                try:
                    stored = src.read(1, window=window)
                except RasterioError as error:
                    fact = f"cannot be read at row {start} ({error})"
                    raise SceneUnreadableError(self.path, fact, "check whether the file is complete") from error
                yield start, self._scores(stored)

    def _scores(self, stored: NDArray[np.number[Any]]) -> NDArray[np.float32]:
        # 1/254 stored as a double does not give back the exact quotients, the table does.
        ours = stored.dtype == np.uint8 and self.nodata == SCORE_NODATA and abs(self.scale * SCORE_STEPS - 1) < 1e-9  # noqa: PLR2004
        if ours and self.offset == 0:
            return decode(stored.astype(np.uint8, copy=False))
        scores: NDArray[np.float32] = (stored * self.scale + self.offset).astype(np.float32)
        if self.nodata is not None:
            scores[stored == self.nodata] = np.nan
        valid = scores[~np.isnan(scores)]
        if valid.size and not 0 <= valid.min() <= valid.max() <= 1:
            fact = f"holds values from {valid.min():g} to {valid.max():g}, scores lie in 0 to 1"
            raise SceneRefusedError(self.path, fact, "give the raster that geosiam score or detect wrote")
        return scores


@contextlib.contextmanager
def _opened(path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading; what GDAL says becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the caller refuses it in its own words
            dataset = rasterio.open(path)
    except RasterioError as error:
        if "://" not in path and not path.startswith("/vsi") and not is_there(path):
            raise SceneNotFoundError(path, "does not exist", "check the path") from error
        raise SceneUnreadableError(path, f"is no raster GDAL can open ({error})", "check the file") from error
    with dataset:
        yield dataset
