"""Reading a scene in windows of the before scene's grid: as it is, moved by whole pixels, or warped."""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from geosiam.imagery.alignment import across_the_dateline, within_one_turn
from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Window
from geosiam.imagery.masks import BLUR_PX, MaskRule, has_alpha, has_no_mask, mask_rule, without_blur
from geosiam.imagery.scene import DECODING_ERRORS, GDAL_CACHE_BYTES, environment
from geosiam.imagery.tile_cache import Tile, TileCache, TileLayout, assemble

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
"""Memory for the decoded tiles of a scene, in bytes."""

_MAX_CACHE_BYTES = 512_000_000  # for files whose tiles are as wide as the scene
_MIN_TILES = 8  # that fit into the cache; larger tiles are left to GDAL's own cache
_BLOCK_ROWS = 1024 + 64  # pixel rows of a row of blocks, with the halo

_TOLERANCE_PX = 1e-3  # error of GDAL's approximated transform; an exact one takes most of the warp's time


@dataclass(frozen=True)
class _Storage:
    """The decoded size and tile layout of a scene, and the cache of its tiles, which all threads share.

    Parameters
    ----------
    shape
        Rows and columns of the raster that is decoded: the scene's own, or the target grid's if it is warped.
    pixel_bytes
        Memory of a decoded pixel, with its mask.
    layout
        Tiles that are kept; None: the blocks of the file are too large to keep.
    cache
        The decoded tiles.
    """

    shape: tuple[int, int]
    pixel_bytes: int
    layout: TileLayout | None
    cache: TileCache


class AlignedReader:
    """Read windows of the target grid from a scene, in any thread.

    Parameters
    ----------
    scene, channels
        The scene, and the bands that are its channels.
    alignment
        How the scene is brought onto the target grid.
    """

    def __init__(self, scene: Scene, channels: Channels, alignment: Alignment) -> None:
        self.scene = scene
        self.channels = channels
        self.alignment = alignment
        self._local = threading.local()
        self._lock = threading.Lock()
        self._shared: _Storage | None = None

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window inside the target grid, and keep the decoded tiles for neighboring windows in any thread.

        Returns
        -------
        values (3, rows, cols) in the scene's own type, and validity, bool (rows, cols)
        """
        return self._read(window, self._assemble)

    def read_once(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read an isolated window: the result is that of :meth:`read`, but decoded tiles are not kept.

        They are kept if the whole scene fits into the cache, because later reads then find them there.
        """
        storage = self._storage
        height, width = storage.shape
        fits = height * width * storage.pixel_bytes <= storage.cache.capacity
        return self._read(window, self._assemble if fits else self._decode)

    def clear_cache(self) -> None:
        """Drop all decoded tiles."""
        self._storage.cache.clear()

    def with_alignment(self, alignment: Alignment) -> AlignedReader:
        """Return a reader of the same scene with another alignment; decoded tiles are shared if neither is warped."""
        reader = AlignedReader(self.scene, self.channels, alignment)
        if self.alignment.offset is not None and alignment.offset is not None:
            reader._shared = self._storage
        return reader

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return the validity that :meth:`read` returns, without decoding if the scene's outline alone decides."""
        dataset = self.scene.handle()
        maskless = has_no_mask(dataset) and not has_alpha(dataset) and self.channels.opaque
        if self.alignment.offset is None or not maskless or np.dtype(dataset.dtypes[0]).kind == "f":
            return self.read(window)[1]
        valid = np.zeros(window.shape, bool)
        moved = self._moved(window)
        inside = moved.intersection(Window(0, dataset.height, 0, dataset.width))
        if inside is not None:
            valid[inside.relative_to(moved).slices] = True
        return valid

    @property
    def columns_at_once(self) -> int | None:
        """Largest width in pixels of a row of blocks whose tiles can be kept; None: any width."""
        with environment():
            storage = self._storage
            layout = storage.layout
            if layout is None or layout.in_strips:
                return None
            return storage.cache.capacity // (layout.reach(_BLOCK_ROWS) * storage.pixel_bytes)

    @property
    def decodes_again(self) -> bool:
        """Whether blocks of the file are so large that they are decoded more than once."""
        with environment():
            storage = self._storage
            layout, (height, width) = storage.layout, storage.shape
            if layout is None:
                return height * width * storage.pixel_bytes > GDAL_CACHE_BYTES
            return layout.in_strips and _strip_bytes(layout, storage.pixel_bytes) > _MAX_CACHE_BYTES

    def _moved(self, window: Window) -> Window:
        """Return a window of the target grid in pixels of the raster that is decoded."""
        rows, cols = self.alignment.offset or (0, 0)
        return Window(window.row_start - rows, window.row_stop - rows, window.col_start - cols, window.col_stop - cols)

    def _read(
        self, window: Window, read_inside: Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]]]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read the part of a window that the scene covers; the rest is zero and invalid."""
        with environment(), self.scene.decoding(_place(window)), self._checking_parts():
            moved, (height, width) = self._moved(window), self._storage.shape
            inside = moved.intersection(Window(0, height, 0, width))
            if inside == moved:
                return read_inside(moved)
            valid = np.zeros(window.shape, bool)
            if inside is None:
                return np.zeros((len(self.channels.indexes), *window.shape), np.uint8), valid
            part = inside.relative_to(moved).slices
            values_inside, valid[part] = read_inside(inside)
            values = np.zeros((len(values_inside), *window.shape), values_inside.dtype)
            values[:, *part] = values_inside
            return values, valid

    @contextlib.contextmanager
    def _checking_parts(self) -> Iterator[None]:
        try:
            yield
        except DECODING_ERRORS:
            self.scene.check_parts(opening=True)
            raise

    def _assemble(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        layout, cache = self._storage.layout, self._storage.cache
        if layout is None:
            return self._decode(window)
        try:
            tiles = cache.get(layout.over(window), self._tile)
        except DECODING_ERRORS:
            self.scene.check_parts(opening=True)
            return self._decode(window)  # the part of a tile that cannot be decoded may be outside of the window
        return assemble(layout, window, tiles)

    def _tile(self, position: Position) -> Tile:
        layout = self._storage.layout
        assert layout is not None
        values, valid = self._decode(layout.window(position))
        return Tile(values, None if valid.all() else valid)

    @property
    def _storage(self) -> _Storage:
        """Size, layout and cache of the decoded scene; determined once, under a lock, because threads share them."""
        if self._shared is None:
            with self._lock:
                if self._shared is None:
                    self._shared = self._find_storage()
        return self._shared

    def _find_storage(self) -> _Storage:
        with environment():
            decoded = self._decoded_dataset()
            shape = decoded.height, decoded.width
            # A warped file's tiles are the warper's blocks; a view's are those of the scene itself.
            stored = decoded if self.alignment.offset is None else self.scene.handle()
            layout = TileLayout.of_blocks(shape, stored.block_shapes[0])
            itemsize = 4 if self.channels.table is not None else np.dtype(self.scene.handle().dtypes[0]).itemsize
        pixel_bytes = len(self.channels.indexes) * itemsize + 1  # one byte for the mask
        capacity = CACHE_BYTES
        if layout.in_strips:
            capacity = min(max(capacity, _strip_bytes(layout, pixel_bytes)), _MAX_CACHE_BYTES)
        tile_bytes = layout.rows * layout.cols * pixel_bytes
        cached_layout = layout if tile_bytes * _MIN_TILES <= capacity else None
        return _Storage(shape, pixel_bytes, cached_layout, TileCache(capacity))

    def _decoded_dataset(self) -> DatasetReader | WarpedVRT:
        """Return this thread's handle of the raster that is decoded."""
        return self._dataset() if self.alignment.offset is not None else self._vrt()

    def _decode(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        nodata = self._mask_rule().blurred
        if nodata is None:
            return self._decode_exactly(window)
        reach = math.ceil(BLUR_PX * max(self.alignment.scale))
        height, width = self._storage.shape
        wider = window.grown(2 * reach).intersection(Window(0, height, 0, width))
        assert wider is not None
        values, valid = self._decode_exactly(wider)
        inner = window.relative_to(wider).slices
        return values[:, *inner], without_blur(valid, values, nodata, reach)[inner]

    def _decode_exactly(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if self.alignment.offset is not None:
            return self._decode_window(self._dataset(), window)
        return self._decode_warped(window)

    def _decode_warped(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read in strips of the warped dataset's own blocks.

        GDAL warps a larger request at once, with a transform approximated for just that window, so the same pixel would
        get another value in another window. Its blocks are always in the same place.
        """
        vrt = self._vrt()
        height = vrt.block_shapes[0][0]
        inner = range((window.row_start // height + 1) * height, window.row_stop, height)
        strips = [
            self._decode_window(vrt, Window(top, bottom, window.col_start, window.col_stop))
            for top, bottom in pairwise((window.row_start, *inner, window.row_stop))
        ]
        return np.concatenate([values for values, _ in strips], axis=1), np.concatenate([valid for _, valid in strips])

    def _decode_window(self, dataset: DatasetReader, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        place = rasterio.windows.Window.from_slices(*window.slices)
        rule = self._mask_rule()
        indexes = list(range(1, len(self.channels.distinct) + 1)) if rule.view else self.channels.distinct
        bands = dataset.read(indexes, window=place)
        if rule.nodata is None and has_alpha(dataset):
            # GDAL makes a mask of an alpha band for two types only; for the others all pixels would be valid.
            valid = dataset.read(colors_of(dataset).index(ColorInterp.alpha) + 1, window=place) > 0
        elif rule.nodata is None and has_no_mask(dataset):
            valid = np.ones(window.shape, bool)
        elif rule.nodata is None:
            valid = dataset.dataset_mask(window=place) > 0
        else:
            valid = (dataset.read_masks(indexes, window=place) > 0).all(axis=0)
        if bands.dtype.kind == "f":
            valid &= np.isfinite(bands).all(axis=0)
            bands = np.where(valid, bands, 0)
        return self.channels.arrange(bands), valid & self.channels.opaque_pixels(bands)

    def _mask_rule(self) -> MaskRule:
        if not hasattr(self._local, "mask_rule"):
            self._local.mask_rule = mask_rule(self.scene.handle(), self.scene.path, self.channels.distinct)
        rule: MaskRule = self._local.mask_rule
        return rule

    def _dataset(self) -> DatasetReader:
        return self.scene.handle(self._mask_rule().view)

    def _vrt(self) -> WarpedVRT:
        if not hasattr(self._local, "vrt"):
            self._local.vrt = self._open_vrt(self._dataset())
        return self._local.vrt

    def _open_vrt(self, dataset: DatasetReader) -> WarpedVRT:
        target = self.alignment.target
        if self.alignment.scene.crs != target.crs:
            target = within_one_turn(target)
        rows, cols = self.alignment.shift
        across, down = self.alignment.scale
        nodata = self._mask_rule().nodata
        options: dict[str, Any] = {"add_alpha": not has_alpha(dataset)}
        if nodata is not None:
            # With an alpha band, GDAL would fill pixels that are nodata in single bands.
            options = {"src_nodata": nodata, "nodata": nodata, "UNIFIED_SRC_NODATA": "NO"}
        source = across_the_dateline(self.alignment.scene, target) or self.alignment.scene
        return WarpedVRT(
            dataset,
            src_crs=source.crs,
            src_transform=source.transform,
            crs=target.crs,
            transform=target.transform @ Affine.translation(cols, rows),
            width=target.width,
            height=target.height,
            resampling=Resampling[self.alignment.resampling],
            tolerance=_TOLERANCE_PX,
            # By default, GDAL estimates the kernel's width for each block.
            XSCALE=str(across),
            YSCALE=str(down),
            **options,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"scene": self.scene, "channels": self.channels, "alignment": self.alignment}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _strip_bytes(layout: TileLayout, pixel_bytes: int) -> int:
    """Return the memory of the tiles that a row of blocks as wide as the scene touches."""
    return layout.reach(_BLOCK_ROWS) * layout.width * pixel_bytes


def _place(window: Window) -> str:
    return f"rows {window.row_start}-{window.row_stop}, columns {window.col_start}-{window.col_stop}"
