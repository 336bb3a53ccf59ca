"""The working file of a score raster: a tiled GeoTIFF whose blocks are written in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import rasterio
import rasterio.windows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.imagery.grid import Window as Cells

ScoreType = Literal["uint8", "float32"]

SCORE_NODATA = 255
SCORE_STEPS = 254  # a score of 1 is stored as this
BAND_NAME = "anomaly score"
TILE = 512


def encode(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return scores in [0, 1] (NaN = not scored) as stored: 0 to 254, 255 where not scored."""
    missing = np.isnan(scores)
    return np.where(missing, SCORE_NODATA, np.rint(np.where(missing, 0, scores) * SCORE_STEPS)).astype(np.uint8)


def decode(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return stored scores as float32 in [0, 1], NaN where not scored."""
    table = np.append(np.arange(SCORE_STEPS + 1, dtype=np.float32) / np.float32(SCORE_STEPS), np.float32(np.nan))
    scores: NDArray[np.float32] = table[stored]
    return scores


class WorkingRaster:
    """The GeoTIFF that blocks are written to, in any order, before it becomes the score raster.

    Parameters
    ----------
    path
        Where it is made; an existing file is replaced.
    grid
        The grid of cells.
    dtype
        How scores are stored.
    tags
        Dataset tags.
    """

    def __init__(self, path: Path, grid: Grid, dtype: ScoreType, tags: Mapping[str, str]) -> None:
        self.path = path
        self._dtype = dtype
        self._dataset = rasterio.open(
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
            tiled=True,
            blockxsize=TILE,
            blockysize=TILE,
            compress="zstd",
            zstd_level=1,
            bigtiff="IF_SAFER",
            sparse_ok=True,  # blocks never written read as nodata
        )
        self._dataset.update_tags(**tags)
        self._dataset.set_band_description(1, BAND_NAME)
        if dtype == "uint8":
            self._dataset.scales, self._dataset.offsets = (1 / SCORE_STEPS,), (0.0,)

    def write(self, cells: Cells, scores: NDArray[np.float32]) -> None:
        """Write one block: float32 of the window's shape in [0, 1], NaN = not scored."""
        rows, cols = cells.shape
        window = rasterio.windows.Window(cells.col_start, cells.row_start, cols, rows)
        stored = encode(scores) if self._dtype == "uint8" else scores.astype(np.float32, copy=False)
        self._dataset.write(stored, 1, window=window)

    def close(self) -> None:
        """Flush and close the file."""
        self._dataset.close()
