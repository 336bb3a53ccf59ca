"""Reading either scene in windows of the before-scene's grid: as it is, moved by whole pixels, or warped."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Window
from geosiam.imagery.masks import Validity, has_alpha, validity
from geosiam.imagery.scene import DECODING_ERRORS, GDAL_CACHE_BYTES, environment
from geosiam.imagery.tile_cache import Tile, TileCache, TileLayout, assembled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from geosiam.imagery.alignment import Alignment
    from geosiam.imagery.bands import Channels
    from geosiam.imagery.scene import Scene
    from geosiam.imagery.tile_cache import Position

CACHE_BYTES = 96_000_000
"""Memory for the decoded tiles of a scene."""

_MOST_CACHE_BYTES = 512_000_000  # for files whose tiles are as wide as they are
_LARGEST_SHARE = 8  # a file's block of more than this part of the cache is left to GDAL's own
_ROWS_TOGETHER = 1024 + 64  # of blocks side by side, with their halo

_TOLERANCE_PX = 1e-3  # how far GDAL's approximated transform may be off; an exact one takes most of the warp's time


@dataclass(frozen=True)
class _Tiles:
    layout: TileLayout | None  # None: nothing is kept
    cache: TileCache


class AlignedReader:
    """Reads windows of the target grid out of a scene, in any thread.

    Parameters
    ----------
    source, channels
        The scene, and which of its bands are the channels.
    alignment
        How it comes onto the target grid.
    """

    def __init__(self, source: Scene, channels: Channels, alignment: Alignment) -> None:
        self.source = source
        self.channels = channels
        self.alignment = alignment
        self._local = threading.local()

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window inside the target grid: (3, rows, cols) in the scene's own values, and what is valid.

        What is decoded for it is kept for the windows around it, which may be read in any thread.
        """
        return self._read(window, self._assembled)

    def read_once(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window that nothing else is read around: the same as :meth:`read`, and nothing is kept.

        Of a scene that can be kept as a whole everything is: the windows read later are then there already.
        """
        height, width = self._shape
        whole = height * width * self._pixel_bytes <= self._tiles.cache.capacity
        return self._read(window, self._assembled if whole else self._decoded)

    def clear_cache(self) -> None:
        """Keep nothing of what has been decoded so far."""
        self._tiles.cache.clear()

    def with_alignment(self, alignment: Alignment) -> AlignedReader:
        """Return a reader of the same scene that comes onto the grid in another way; what is decoded is shared."""
        reader = AlignedReader(self.source, self.channels, alignment)
        if self.alignment.offset is not None and alignment.offset is not None:
            reader._tiles = self._tiles
        return reader

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return what :meth:`read` calls valid, without reading where the scene's outline alone decides."""
        dataset = self.source.handle()
        maskless = _has_no_mask(dataset) and not has_alpha(dataset) and self.channels.opaque
        if self.alignment.offset is None or not maskless or np.dtype(dataset.dtypes[0]).kind == "f":
            return self.read(window)[1]
        valid = np.zeros(window.shape, bool)
        own = self._own(window)
        scene = own.intersection(Window(0, dataset.height, 0, dataset.width))
        if scene is not None:
            valid[scene.relative_to(own).slices] = True
        return valid

    @property
    def columns_at_once(self) -> int | None:
        """How many pixel columns of a row of blocks can be kept; None: all."""
        with environment():
            layout = self._tiles.layout
            if layout is None or layout.in_strips:
                return None
            return self._tiles.cache.capacity // (layout.reach(_ROWS_TOGETHER) * self._pixel_bytes)

    @property
    def decodes_again(self) -> bool:
        """Whether parts of the file have to be decoded more than once, because of how large they are."""
        with environment():
            layout, dataset = self._tiles.layout, self._decodable()
            if layout is None:
                size: int = dataset.height * dataset.width * self._pixel_bytes
                return size > GDAL_CACHE_BYTES
            return layout.in_strips and self._strip_bytes(layout) > _MOST_CACHE_BYTES

    def _own(self, window: Window) -> Window:
        """Return a window of the target grid as it lies in what is decoded."""
        rows, cols = self.alignment.offset or (0, 0)
        return Window(window.row_start - rows, window.row_stop - rows, window.col_start - cols, window.col_stop - cols)

    def _read(
        self, window: Window, inner: Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]]]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read what the scene has of a window, and leave the rest zero and not valid."""
        with environment(), self.source.decoding(_place(window)), self._parts_checked():
            own, (height, width) = self._own(window), self._shape
            inside = own.intersection(Window(0, height, 0, width))
            if inside == own:
                return inner(own)
            valid = np.zeros(window.shape, bool)
            if inside is None:
                return np.zeros((len(self.channels.indexes), *window.shape), np.uint8), valid
            part = inside.relative_to(own).slices
            known, valid[part] = inner(inside)
            values = np.zeros((len(known), *window.shape), known.dtype)
            values[:, *part] = known
            return values, valid

    @contextlib.contextmanager
    def _parts_checked(self) -> Iterator[None]:
        try:
            yield
        except DECODING_ERRORS:
            self.source.check_parts(opening=True)
            raise

    def _assembled(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        layout, cache = self._tiles.layout, self._tiles.cache
        if layout is None:
            return self._decoded(window)
        try:
            tiles = cache.get(layout.over(window), self._tile)
        except DECODING_ERRORS:
            self.source.check_parts(opening=True)
            return self._decoded(window)  # what cannot be decoded may lie outside of the window
        return assembled(layout, window, tiles)

    def _tile(self, position: Position) -> Tile:
        layout = self._tiles.layout
        assert layout is not None
        values, valid = self._decoded(layout.window(position))
        return Tile(values, None if valid.all() else valid)

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Rows and columns of what is decoded; a thread that finds all of it in the cache need not open the file."""
        with environment():
            dataset = self._decodable()
            return dataset.height, dataset.width

    @cached_property
    def _tiles(self) -> _Tiles:
        """How the scene is decoded for all threads; the first of them finds out."""
        with environment():
            stored = self._vrt() if self.alignment.offset is None else self.source.handle()
            layout = TileLayout.of_blocks(self._shape, stored.block_shapes[0])
        capacity = CACHE_BYTES
        if layout.in_strips:
            capacity = min(max(capacity, self._strip_bytes(layout)), _MOST_CACHE_BYTES)
        largest = layout.rows * layout.cols * self._pixel_bytes
        return _Tiles(layout if largest * _LARGEST_SHARE <= capacity else None, TileCache(capacity))

    @cached_property
    def _pixel_bytes(self) -> int:
        itemsize = 4 if self.channels.table is not None else np.dtype(self.source.handle().dtypes[0]).itemsize
        return len(self.channels.indexes) * itemsize + 1  # and a byte of the mask

    def _strip_bytes(self, layout: TileLayout) -> int:
        return layout.reach(_ROWS_TOGETHER) * layout.width * self._pixel_bytes

    def _decodable(self) -> DatasetReader | WarpedVRT:
        """Return this thread's handle of what is decoded."""
        return self._dataset() if self.alignment.offset is not None else self._vrt()

    def _decoded(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return self._decode(self._dataset(), window) if self.alignment.offset is not None else self._warped(window)

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
            valid = dataset.read(colors_of(dataset).index(ColorInterp.alpha) + 1, window=place) > 0
        elif known.hole is None and _has_no_mask(dataset):
            valid = np.ones(window.shape, bool)
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


def _has_no_mask(dataset: DatasetReader) -> bool:
    return all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)


def _place(window: Window) -> str:
    return f"rows {window.row_start}-{window.row_stop}, columns {window.col_start}-{window.col_stop}"
