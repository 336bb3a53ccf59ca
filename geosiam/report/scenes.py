"""A part of a scene on any grid, at the cost of that part: averaged while it is read, warped when it is small."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject

from geosiam.imagery.alignment import align, footprint, turned
from geosiam.imagery.bands import Channels, choose_channels, names_its_colours
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.scene import Source, checked_grid, environment
from geosiam.imagery.validity import has_alpha, validity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.detection.raster import ScoreRaster

_MARGIN = 2  # pixels around what is asked for, so that interpolation has neighbours
_ROUNDING = 0.01


class _Raster(Protocol):
    """What can be read in parts."""

    @property
    def grid(self) -> Grid: ...

    @property
    def smooth(self) -> bool: ...

    def decimated(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class SceneView:
    """A scene to be looked at.

    Parameters
    ----------
    source
        The scene.
    channels
        Which of its bands are red, green and blue.
    grid
        Where it lies.
    """

    source: Source
    channels: Channels
    grid: Grid

    @classmethod
    def open(cls, path: str, bands: Sequence[int] | None = None, near: Grid | None = None) -> Self:
        """Open a scene; ``near`` is a grid whose way of counting longitudes it shall share.

        Raises
        ------
        InputError
            It is not there, cannot be opened, or is no georeferenced image.
        """
        source = Source.of(path)
        try:
            grid = checked_grid(source)
            dataset = source.handle()
            by_colour = names_its_colours(dataset)
            channels = choose_channels(source.name, dataset, bands, by_colour=by_colour)
        except BaseException:
            source.close()
            raise
        return cls(source, channels, grid if near is None else turned(grid, near))

    @property
    def smooth(self) -> bool:
        """Whether its values may be averaged: not those of a palette."""
        return self.channels.table is None

    def on(self, target: Grid) -> NDArray[np.float32]:
        """Return the channels on a grid: float32 (3, rows, cols) in the scene's own values, NaN = not known.

        Raises
        ------
        SceneUnreadableError
            It cannot be decoded there.
        """
        with environment(), self.source.decoding("the part to show"):
            return _on(self, target, 3)

    def decimated(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return a window in fewer pixels."""
        known = validity(self.source.handle(), self.source.path, self.channels.distinct)
        dataset = self.source.handle(known.view)
        indexes = list(range(1, len(self.channels.distinct) + 1)) if known.view else self.channels.distinct
        place = {"window": rasterio.windows.Window.from_slices(*window.slices)}
        resampling = Resampling.average if self.smooth else Resampling.nearest
        bands = dataset.read(indexes, out_shape=(len(indexes), *shape), resampling=resampling, **place)
        if known.hole is not None:
            valid = (dataset.read_masks(indexes, out_shape=(len(indexes), *shape), **place) > 0).all(axis=0)
        elif has_alpha(dataset):
            alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1
            valid = dataset.read(alpha, out_shape=shape, **place) > 0
        else:
            valid = dataset.dataset_mask(out_shape=shape, **place) > 0
        valid &= self.channels.shown(bands)
        return np.asarray(np.where(valid, self.channels.arrange(bands), np.nan), np.float32)

    def close(self) -> None:
        """Close the scene."""
        self.source.close()


@dataclass(frozen=True)
class ScoreView:
    """A score raster to be looked at."""

    raster: ScoreRaster

    smooth = False

    @property
    def grid(self) -> Grid:
        """Its grid of cells."""
        return self.raster.grid

    def on(self, target: Grid) -> NDArray[np.float32]:
        """Return the scores on a grid: float32 (rows, cols), NaN = not scored."""
        return np.asarray(_on(self, target, 1)[0])

    def decimated(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return a window in fewer cells."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(self.raster.path)
        with dataset:
            place = rasterio.windows.Window.from_slices(*window.slices)
            stored = dataset.read(1, window=place, out_shape=shape, masked=True, resampling=Resampling.average)
        scores = np.ma.filled(stored.astype(np.float32), np.nan) * self.raster.scale + self.raster.offset
        return np.asarray(scores[np.newaxis], np.float32)


def _on(raster: _Raster, target: Grid, bands: int) -> NDArray[np.float32]:
    """Read what lies under a grid, no finer than the grid, and bring it there."""
    found = np.full((bands, *target.shape), np.nan, np.float32)
    there = footprint(target, raster.grid)
    if there is None:
        return found
    step = max(1, int(align(raster.grid, target).ratio + _ROUNDING))
    whole = Window(0, raster.grid.height, 0, raster.grid.width)
    window = _of_whole_steps(there.grown(_MARGIN * step), raster.grid, target, step).intersection(whole)
    assert window is not None  # what grows keeps what it had
    rows, cols = window.shape
    shape = -(-rows // step), -(-cols // step)
    moved = Affine.translation(window.col_start, window.row_start) @ Affine.scale(cols / shape[1], rows / shape[0])
    reproject(
        raster.decimated(window, shape),
        found,
        src_transform=raster.grid.transform @ moved,
        src_crs=raster.grid.crs,
        dst_transform=target.transform,
        dst_crs=target.crs,
        src_nodata=np.nan,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear if raster.smooth else Resampling.nearest,
    )
    return found


def _of_whole_steps(window: Window, grid: Grid, target: Grid, step: int) -> Window:
    """Return a window whose steps begin where pixels of the target do, if that can be: then none is averaged twice."""
    col, row = ~grid.transform @ (target.transform @ (0, 0)) if grid.crs == target.crs else (0.0, 0.0)
    starts = [
        at - -(-(at - start) // step) * step
        for at, start in ((round(row), window.row_start), (round(col), window.col_start))
    ]
    rows, cols = (
        -(-(stop - start) // step) * step
        for start, stop in zip(starts, (window.row_stop, window.col_stop), strict=True)
    )
    return Window(starts[0], starts[0] + rows, starts[1], starts[1] + cols)
