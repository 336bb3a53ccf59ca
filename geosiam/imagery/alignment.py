"""How the after-scene comes onto the before-scene's grid, and the reading of either in windows of that grid."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Window, apply_affine
from geosiam.imagery.scene import ENVIRONMENT

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from geosiam.imagery.bands import Channels
    from geosiam.imagery.grid import Grid
    from geosiam.imagery.scene import Source

_SAME_PLACE_PX = 1e-3  # how far two grids' corners may be apart and still be the same
_FINER = 1.5  # from this ratio of pixel sizes on, pixels are averaged
_EDGE_POINTS = 21
# An approximated transform would depend on the window that is read; rasterio takes 0 for "no transformer at all".
_EXACT_PX = 1e-6


@dataclass(frozen=True)
class Alignment:
    """What has to be done to read a scene on the target grid.

    Parameters
    ----------
    target
        The grid to read on.
    offset
        (rows, cols) from the target's first pixel to the scene's, if whole pixels coincide; None: it is warped.
    resampling
        How warped pixels are made.
    shift
        (rows, cols) in pixels by which the scene's content is known to lie too far down and right.
    reason
        For the report.
    """

    target: Grid
    offset: tuple[int, int] | None
    resampling: str
    shift: tuple[float, float]
    reason: str


def align(scene: Grid, target: Grid, *, palette: bool = False, shift: tuple[float, float] = (0.0, 0.0)) -> Alignment:
    """Decide how a scene comes onto the target grid: read as it is where whole pixels coincide, warped otherwise."""
    same_crs = scene.crs == target.crs
    offset = _whole_pixels(scene, target) if same_crs and shift == (0.0, 0.0) else None
    if offset is not None:
        moved = f"moved by {offset[0]} rows and {offset[1]} columns" if offset != (0, 0) else "the grids are the same"
        return Alignment(target, offset, "none", shift, moved)
    ratio = _size_ratio(scene, target)
    resampling = "nearest" if palette else "average" if ratio > _FINER else "bilinear"
    if not same_crs:
        reason = f"warped from {_name(scene)} to {_name(target)}"
    elif abs(ratio - 1) > 1e-3:  # noqa: PLR2004 - what one would call another pixel size
        reason = f"resampled: its pixels are {1 / ratio:.3g} times as large"
    else:
        reason = "resampled: its pixels lie between those of the first scene"
    return Alignment(target, None, resampling, shift, reason)


def footprint(scene: Grid, target: Grid) -> Window | None:
    """Return the window of target pixels that the scene can cover, or None where it covers none."""
    along = np.linspace(0, 1, _EDGE_POINTS)
    edge = np.concatenate([
        np.column_stack([along, 0 * along]), np.column_stack([along, 0 * along + 1]),
        np.column_stack([0 * along, along]), np.column_stack([0 * along + 1, along]),
    ]) * (scene.width, scene.height)  # fmt: skip
    cols, rows = _on_target(scene, target, edge[:, 0], edge[:, 1])
    known = np.isfinite(cols) & np.isfinite(rows)
    if not known.any():
        return None
    cols, rows = cols[known], rows[known]
    # Rounded outwards by a pixel: an edge may bulge between two points.
    covered = Window(
        int(np.floor(rows.min())) - 1, int(np.ceil(rows.max())) + 1,
        int(np.floor(cols.min())) - 1, int(np.ceil(cols.max())) + 1,
    )  # fmt: skip
    return covered.intersection(Window(0, target.height, 0, target.width))


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
                return self._direct(window, self.alignment.offset)
            return self._decode(self._warped(), window)

    def _direct(self, window: Window, offset: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        dataset = self.source.handle()
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

    def _decode(self, dataset: DatasetReader, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        place = rasterio.windows.Window.from_slices(*window.slices)
        bands = dataset.read(self.channels.distinct, window=place)
        valid = dataset.dataset_mask(window=place) > 0
        if bands.dtype.kind == "f":
            valid &= np.isfinite(bands).all(axis=0)
            bands = np.where(valid, bands, 0)
        return self.channels.arrange(bands), valid

    def _warped(self) -> WarpedVRT:
        if not hasattr(self._local, "vrt"):
            self._local.vrt = self._open_warped(self.source.handle())
        return self._local.vrt

    def _open_warped(self, dataset: DatasetReader) -> WarpedVRT:
        target = self.alignment.target
        rows, cols = self.alignment.shift
        options: dict[str, Any] = {"add_alpha": "alpha" not in {kind.name for kind in dataset.colorinterp}}
        unmasked = all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)
        if unmasked and np.dtype(dataset.dtypes[0]).kind == "f":
            # With an alpha band GDAL would forget that NaN stands for nodata, and fill it.
            options = {"src_nodata": float("nan"), "nodata": float("nan")}
        return WarpedVRT(
            dataset,
            crs=target.crs,
            transform=target.transform @ Affine.translation(cols, rows),
            width=target.width,
            height=target.height,
            resampling=Resampling[self.alignment.resampling],
            tolerance=_EXACT_PX,
            **options,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "channels": self.channels, "alignment": self.alignment}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def check_transformable(name: str, scene: Grid, target: Grid) -> None:
    """Refuse scenes whose coordinate systems have nothing to do with one another."""
    if scene.crs == target.crs:
        return
    try:
        x, y = scene.transform @ (scene.width / 2, scene.height / 2)
        found = np.array(transform_points(scene.crs, target.crs, [x], [y]))
    except (RasterioError, CPLE_BaseError) as error:
        raise SceneRefusedError(
            name, f"cannot be brought from {_name(scene)} to {_name(target)} ({error})", "use one system for both"
        ) from error
    if not np.isfinite(found).all():
        raise SceneRefusedError(name, f"lies outside of where {_name(target)} is defined", "check both systems")


def _on_target(
    scene: Grid, target: Grid, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the target's pixel coordinates (cols, rows) of a scene's; not finite where there are none."""
    x, y = apply_affine(scene.transform, cols, rows)
    if scene.crs != target.crs:
        x, y = (np.array(values) for values in transform_points(scene.crs, target.crs, list(x), list(y)))
    return apply_affine(~target.transform, x, y)


def _whole_pixels(scene: Grid, target: Grid) -> tuple[int, int] | None:
    to_target = ~target.transform @ scene.transform
    cols, rows = round(to_target.c), round(to_target.f)
    ends = np.array([(0, 0), (scene.width, 0), (0, scene.height), (scene.width, scene.height)], float)
    x, y = apply_affine(to_target, ends[:, 0], ends[:, 1])
    off = np.abs(np.concatenate([x - ends[:, 0] - cols, y - ends[:, 1] - rows])).max()
    return (rows, cols) if off < _SAME_PLACE_PX else None


def _size_ratio(scene: Grid, target: Grid) -> float:
    """Return how many of the scene's pixels lie side by side in one pixel of the target, at the scene's middle."""
    col, row = scene.width / 2, scene.height / 2
    cols, rows = _on_target(scene, target, np.array([col, col + 1, col]), np.array([row, row, row + 1]))
    area = abs((cols[1] - cols[0]) * (rows[2] - rows[0]) - (cols[2] - cols[0]) * (rows[1] - rows[0]))
    return float(1 / np.sqrt(area)) if area > 0 else 1.0


def _name(grid: Grid) -> str:
    authority = grid.crs.to_authority()
    return ":".join(authority) if authority else "its own coordinate system"


def _place(window: Window) -> str:
    return f"rows {window.row_start}-{window.row_stop}, columns {window.col_start}-{window.col_stop}"
