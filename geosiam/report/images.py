"""Before, after and scores of one place as pictures, both scenes stretched alike; and a small view of a whole pair."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import reproject

from geosiam.errors import GeosiamError, SceneRefusedError
from geosiam.imagery.alignment import align, footprint, unwrap_longitude
from geosiam.imagery.bands import Channels, choose_channels, names_its_colors
from geosiam.imagery.grid import Grid, Window, apply_affine
from geosiam.imagery.masks import has_alpha, mask_rule
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import Scene, checked_grid, environment
from geosiam.imagery.scene_info import fingerprint
from geosiam.report.map import distance, simplified
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.report.inputs import RecordedScene, ReportPair, Result
    from geosiam.report.map import Plane

SURROUNDINGS = 1.7  # side of what is shown, in sides of what was found
LEAST_PX = 128  # of the before-scene that is shown at least
_SMALL_PX = 512  # side of the copies that tell how to stretch a pair
_PERCENTILES = (0.5, 99.5)
_TELLING = 100_000  # values tell as much of a distribution as all
_OUTLINE_CORNERS = 600


@dataclass(frozen=True)
class Chip:
    """One place of a pair.

    Parameters
    ----------
    before, after
        uint8 (rows, cols, 3), or 4 with an opacity where something is not known.
    scores
        float32 (cell rows, cell cols), NaN = not scored, of the same ground; None without a score raster.
    outline
        What was found, as the ``d`` of an SVG path in a box of 1000 x 1000.
    metres
        Length of its upper side on the ground; None off the earth.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    outline: str
    metres: float | None


class PairPictures:
    """The pictures of one pair, read as they are asked for; close it when done.

    Parameters
    ----------
    before, after
        The scenes.
    scores
        The score raster; None where it is gone.
    result
        What the run recorded: bands, scaling and correction are its own.

    Raises
    ------
    InputError
        One of the scenes cannot be shown any more, and why.
    """

    def __init__(self, before: SceneView, after: SceneView, scores: ScoreView | None, result: Result) -> None:
        self._scenes = before, after
        self._scores = scores
        self._scalings = result.scene("before").scaling, result.scene("after").scaling
        self._shift = result.corrected_shift
        self.grid = before.grid
        self._small_grid = before.grid.coarsened(max(1, -(-max(before.grid.shape) // _SMALL_PX)))
        small = self._read(self._small_grid, self._small_grid)
        self._stretch = _joint_stretch(*small)
        self._small_after = small[1]

    @classmethod
    def open(cls, pair: ReportPair, result: Result) -> Self:
        """Open the scenes of a pair, if they are those that were compared."""
        before = _open(pair.before, result.scene("before"), None)
        try:
            after = _open(pair.after, result.scene("after"), before.grid)
        except GeosiamError:
            before.close()
            raise
        try:
            return cls(before, after, _open_scores(pair), result)
        except BaseException:
            before.close()
            after.close()
            raise

    def close(self) -> None:
        """Close both scenes."""
        for scene in self._scenes:
            scene.close()

    def chip(self, outline: shapely.MultiPolygon, px: int) -> Chip:
        """Return the surroundings of an outline, in at most ``px`` pixels a side."""
        stride = 1 if self._scores is None else self._scores.raster.stride
        row, col, side = self._square(outline, stride)
        step = max(1, -(-side // px))
        count = max(1, side // step)
        at = Affine.translation(col, row)
        target = self._part(at @ Affine.scale(side / count), count)
        rows, cols = self._shift
        moved = self._part(Affine.translation(col + cols, row + rows) @ Affine.scale(side / count), count)
        before, after = (self._shown(values) for values in self._read(target, moved))
        scores = None
        if self._scores is not None:
            cells = max(1, min(side // stride, px))
            scores = self._scores.on(self._part(at @ Affine.scale(side / cells), cells))
        to_box = Affine.scale(1000 / side) @ Affine.translation(-col, -row) @ ~self.grid.transform
        return Chip(
            before, after, scores, _path(simplified(outline, _OUTLINE_CORNERS), to_box), self._metres(row, col, side)
        )

    def overview(self, plane: Plane, px: int) -> tuple[NDArray[np.uint8], Grid]:
        """Return the after-scene as a whole, as seen in the plane of the map, and where it lies there."""
        grid = plane.picture(self.grid, px)
        values = np.full((3, *grid.shape), np.nan, np.float32)
        reproject(
            self._small_after,
            values,
            src_transform=self._small_grid.transform,
            src_crs=self._small_grid.crs,
            dst_transform=grid.transform,
            dst_crs=grid.crs,
            src_nodata=np.nan,
            dst_nodata=np.nan,
        )
        return self._shown(values), grid

    def _square(self, outline: shapely.MultiPolygon, stride: int) -> tuple[int, int, int]:
        """Return first row, first column and side of what is shown, in pixels that are whole cells."""
        to_px = ~self.grid.transform
        corners = shapely.get_coordinates(outline)
        cols, rows = apply_affine(to_px, corners[:, 0], corners[:, 1])
        extent = max(np.ptp(cols), np.ptp(rows))
        side = -(-int(max(extent * SURROUNDINGS, LEAST_PX)) // stride) * stride
        middle = (rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2
        row, col = (
            _inside(round(center - side / 2), side, length) // stride * stride
            for center, length in zip(middle, self.grid.shape, strict=True)
        )
        return row, col, side

    def _metres(self, row: int, col: int, side: int) -> float | None:
        ends = [self.grid.transform @ (col + part, row + side / 2) for part in (0, side)]
        return distance(self.grid.crs.to_wkt(), ends[0], ends[1])

    def _part(self, to_grid: Affine, count: int) -> Grid:
        return Grid(self.grid.crs, self.grid.transform @ to_grid, count, count)

    def _read(self, before: Grid, after: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both scenes, each on a grid, scaled as they were compared; NaN = not known."""
        first, second = (
            np.where(np.isnan(values), np.nan, scaling.apply(np.nan_to_num(values)))
            for values, scaling in zip(
                (self._scenes[0].on(before), self._scenes[1].on(after)), self._scalings, strict=True
            )
        )
        return first.astype(np.float32), second.astype(np.float32)

    def _shown(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        low, high = self._stretch
        known = np.asarray(np.isfinite(values).all(axis=0))
        bright = ((np.nan_to_num(values) - low) / (high - low)).clip(0, 1)
        picture = np.rint(bright * 255).astype(np.uint8).transpose(1, 2, 0)
        if known.all():
            return np.ascontiguousarray(picture)
        return np.dstack([np.where(known[..., np.newaxis], picture, 0), known.astype(np.uint8) * 255])


def _open(path: object, recorded: RecordedScene, near: Grid | None) -> SceneView:
    if path is None:
        raise SceneRefusedError("the scene", "is not recorded", "run geosiam detect again")
    view = SceneView.open(str(path), recorded.bands, near)
    if recorded.fingerprint and not _same_content(fingerprint(str(path)), recorded.fingerprint):
        view.close()
        raise SceneRefusedError(path, "has changed since it was compared", "run geosiam detect again")
    return view


def _same_content(now: str, then: str) -> bool:
    """Compare fingerprints but for the time of change, which a copy has of its own."""
    parts = [mark.split("-") for mark in (now, then)]
    if any(len(part) != 3 for part in parts):  # noqa: PLR2004 - of tiles, whose digest has their times inside
        return parts[0][0] == parts[1][0]
    return (parts[0][0], parts[0][2]) == (parts[1][0], parts[1][2])


def _open_scores(pair: ReportPair) -> ScoreView | None:
    if pair.scores is None:
        return None
    try:
        return ScoreView(ScoreRaster.open(pair.scores))
    except (GeosiamError, RasterioError):
        return None


def _inside(start: int, side: int, length: int) -> int:
    """Move a window into a scene where it fits; a larger one starts where the scene does."""
    return max(0, min(start, length - side))


def _joint_stretch(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the values (3, 1, 1) of both scenes together that become black and white, the same for all channels."""
    both = np.concatenate([before.ravel(), after.ravel()])
    both = both[:: max(1, both.size // _TELLING)]
    known = both[np.isfinite(both)]
    low, high = np.percentile(known, _PERCENTILES) if known.size else (0.0, 1.0)
    if high - low < 1e-6:  # noqa: PLR2004 - a scene of one color
        low, high = 0.0, 1.0
    shape = np.ones((3, 1, 1), np.float32)
    return shape * np.float32(low), shape * np.float32(high)


def _path(outline: shapely.MultiPolygon, to_box: Affine) -> str:
    parts = []
    for polygon in outline.geoms:
        for ring in (polygon.exterior, *polygon.interiors):
            xy = np.asarray(ring.coords)[:-1, :2]
            x, y = apply_affine(to_box, xy[:, 0], xy[:, 1])
            places = "L".join(f"{a:.0f} {b:.0f}" for a, b in zip(x, y, strict=True))
            parts.append(f"M{places}Z")
    return "".join(parts)


_MARGIN = 2  # pixels around what is asked for, so that interpolation has neighbors
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

    source: Scene
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
        source = open_scene(path)
        try:
            grid = checked_grid(source)
            dataset = source.handle()
            by_color = names_its_colors(dataset)
            channels = choose_channels(source.name, dataset, bands, by_color=by_color)
        except BaseException:
            source.close()
            raise
        return cls(source, channels, grid if near is None else unwrap_longitude(grid, near))

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
        known = mask_rule(self.source.handle(), self.source.path, self.channels.distinct)
        dataset = self.source.handle(known.view)
        indexes = list(range(1, len(self.channels.distinct) + 1)) if known.view else self.channels.distinct
        place = {"window": rasterio.windows.Window.from_slices(*window.slices)}
        resampling = Resampling.average if self.smooth else Resampling.nearest
        bands = dataset.read(indexes, out_shape=(len(indexes), *shape), resampling=resampling, **place)
        if known.nodata is not None:
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
