"""Reading either scene in windows of the before-scene's grid: as it is, moved by whole pixels, or warped."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from geosiam.imagery.grid import Window
from geosiam.imagery.scene import ENVIRONMENT
from geosiam.imagery.validity import Validity, has_alpha, validity

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from geosiam.imagery.alignment import Alignment
    from geosiam.imagery.bands import Channels
    from geosiam.imagery.scene import Source

_TOLERANCE_PX = 1e-3  # how far GDAL's approximated transform may be off; an exact one takes most of the warp's time


class AlignedReader:
    """Reads windows of the target grid out of a scene, in any thread.

    Parameters
    ----------
    source, channels
        The scene, and which of its bands are the channels.
    alignment
        How it comes onto the target grid.
    """

    def __init__(self, source: Source, channels: Channels, alignment: Alignment) -> None:
        self.source = source
        self.channels = channels
        self.alignment = alignment
        self._local = threading.local()

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window inside the target grid: (3, rows, cols) in the scene's own values, and what is valid."""
        with rasterio.Env(**ENVIRONMENT), self.source.decoding(_place(window)):
            if self.alignment.offset is not None:
                return self._moved(window, self.alignment.offset)
            return self._warped(window)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return what :meth:`read` calls valid, without reading where the scene's outline alone decides."""
        dataset = self.source.handle()
        unmasked = all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums) and not has_alpha(dataset)
        maskless = unmasked and self.channels.opaque
        if self.alignment.offset is None or not maskless or np.dtype(dataset.dtypes[0]).kind == "f":
            return self.read(window)[1]
        rows, cols = self.alignment.offset
        valid = np.zeros(window.shape, bool)
        scene = Window(rows, rows + dataset.height, cols, cols + dataset.width).intersection(window)
        if scene is not None:
            valid[
                scene.row_start - window.row_start : scene.row_stop - window.row_start,
                scene.col_start - window.col_start : scene.col_stop - window.col_start,
            ] = True
        return valid

    def _moved(self, window: Window, offset: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        dataset = self._dataset()
        rows, cols = offset
        own = Window(window.row_start - rows, window.row_stop - rows, window.col_start - cols, window.col_stop - cols)
        inside = own.intersection(Window(0, dataset.height, 0, dataset.width))
        if inside == own:
            return self._decode(dataset, own)
        valid = np.zeros(window.shape, bool)
        if inside is None:
            return np.zeros((len(self.channels.indexes), *window.shape), np.uint8), valid
        part = (
            slice(inside.row_start - own.row_start, inside.row_stop - own.row_start),
            slice(inside.col_start - own.col_start, inside.col_stop - own.col_start),
        )
        known, valid[part] = self._decode(dataset, inside)
        values = np.zeros((len(known), *window.shape), known.dtype)
        values[:, *part] = known
        return values, valid

    def _warped(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read in strips of the warped file's own blocks.

        GDAL warps larger requests in one go, with a transform approximated for just that window: the same pixel would
        get another value in another window. Its blocks lie always in the same place.
        """
        vrt = self._vrt()
        height = vrt.block_shapes[0][0]
        inner = range((window.row_start // height + 1) * height, window.row_stop, height)
        strips = [
            self._decode(vrt, Window(top, bottom, window.col_start, window.col_stop))
            for top, bottom in pairwise((window.row_start, *inner, window.row_stop))
        ]
        return np.concatenate([values for values, _ in strips], axis=1), np.concatenate([valid for _, valid in strips])

    def _decode(self, dataset: DatasetReader, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        place = rasterio.windows.Window.from_slices(*window.slices)
        known = self._validity()
        indexes = list(range(1, len(self.channels.distinct) + 1)) if known.view else self.channels.distinct
        bands = dataset.read(indexes, window=place)
        if known.hole is None and has_alpha(dataset):
            # The mask that GDAL makes of an alpha band is one for two types only, and all valid for the others.
            valid = dataset.read(dataset.colorinterp.index(ColorInterp.alpha) + 1, window=place) > 0
        elif known.hole is None:
            valid = dataset.dataset_mask(window=place) > 0
        else:
            valid = (dataset.read_masks(indexes, window=place) > 0).all(axis=0)
        if bands.dtype.kind == "f":
            valid &= np.isfinite(bands).all(axis=0)
            bands = np.where(valid, bands, 0)
        return self.channels.arrange(bands), valid & self.channels.shown(bands)

    def _validity(self) -> Validity:
        if not hasattr(self._local, "validity"):
            self._local.validity = validity(self.source.handle(), self.source.path, self.channels.distinct)
        found: Validity = self._local.validity
        return found

    def _dataset(self) -> DatasetReader:
        return self.source.handle(self._validity().view)

    def _vrt(self) -> WarpedVRT:
        if not hasattr(self._local, "vrt"):
            self._local.vrt = self._open_vrt(self._dataset())
        return self._local.vrt

    def _open_vrt(self, dataset: DatasetReader) -> WarpedVRT:
        target = self.alignment.target
        rows, cols = self.alignment.shift
        across, down = self.alignment.scale
        hole = self._validity().hole
        options: dict[str, Any] = {"add_alpha": not has_alpha(dataset)}
        if hole is not None:
            # With an alpha band GDAL would forget holes of single bands, and fill them.
            options = {"src_nodata": hole, "nodata": hole, "UNIFIED_SRC_NODATA": "NO"}
        return WarpedVRT(
            dataset,
            src_transform=self.alignment.scene.transform,
            crs=target.crs,
            transform=target.transform @ Affine.translation(cols, rows),
            width=target.width,
            height=target.height,
            resampling=Resampling[self.alignment.resampling],
            tolerance=_TOLERANCE_PX,
            # Left to itself, GDAL estimates the kernel's width anew for each block.
            XSCALE=str(across),
            YSCALE=str(down),
            **options,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "channels": self.channels, "alignment": self.alignment}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _place(window: Window) -> str:
    return f"rows {window.row_start}-{window.row_stop}, columns {window.col_start}-{window.col_stop}"
