"""Read the pictures of a pair from its scenes: before, after and scores around a polygon, and an overview."""

from __future__ import annotations

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
from geosiam.polygons.results import read_displacement
from geosiam.report.map import ground_distance, simplify_outline
from geosiam.runtime import ignored_warnings
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.polygons.results import RecordedScene, RunRecord
    from geosiam.report.inputs import ReportPair
    from geosiam.report.map import Plane

_CHIP_SCALE = 1.7  # side of a chip, in sides of the polygon's extent
_MIN_CHIP_PX = 128  # side of a chip, in pixels of the before scene
_SMALL_PX = 512  # side of the copies by which a pair is stretched
_PERCENTILES = (0.5, 99.5)  # values that become black and white
_MAX_SAMPLES = 100_000  # of the values whose percentiles are estimated
_OUTLINE_CORNERS = 600
_OUTLINE_BOX = 1000  # side of the box that outlines are drawn in
_MARGIN = 2  # pixels around what is asked for, so that interpolation has neighbors
_ROUNDING = 0.01


@dataclass(frozen=True)
class Chip:
    """The pictures of a polygon and its surroundings.

    Parameters
    ----------
    before, after
        uint8 (rows, cols, 3), or 4 with an opacity where pixels are missing.
    scores
        float32 (cell rows, cell cols), NaN = not scored, of the same ground; None without a score raster.
    outline
        The polygon as the ``d`` of an SVG path in a box of 1000 x 1000.
    meters
        Length of the upper side on the ground; None off the earth.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    outline: str
    meters: float | None


class PairPictures:
    """The pictures of one pair, read on demand; close it when done.

    Parameters
    ----------
    before, after
        The scenes.
    scores
        The score raster; None if it is gone.
    record
        The record of the run, whose stretch and shift are applied.
    displacement
        Displacement that the after scene was read with, float64 (n, 4): x, y, rows and columns in pixels; None: by the
        shift of the record everywhere.
    """

    def __init__(
        self,
        before: SceneView,
        after: SceneView,
        scores: ScoreView | None,
        record: RunRecord,
        displacement: NDArray[np.float64] | None = None,
    ) -> None:
        self._scenes = before, after
        self._scores = scores
        self._stretches = record.before.scaling, record.after.scaling
        self._moved_px = record.moved_px
        self._displacement = displacement
        self.grid = before.grid
        self._small_grid = before.grid.coarsened(max(1, -(-max(before.grid.shape) // _SMALL_PX)))
        small = self._read(self._small_grid, self._small_grid)
        self._limits = _common_limits(*small)
        self._small_after = small[1]

    @classmethod
    def open(cls, pair: ReportPair, record: RunRecord) -> Self:
        """Open the scenes of a pair.

        Raises
        ------
        InputError
            A scene is gone, cannot be read, or has changed since it was compared.
        """
        before = _open_scene(pair.before, record.before, None)
        try:
            after = _open_scene(pair.after, record.after, before.grid)
        except GeosiamError:
            before.close()
            raise
        try:
            return cls(before, after, _open_scores(pair), record, _read_displacement(pair, record))
        except BaseException:
            before.close()
            after.close()
            raise

    def close(self) -> None:
        """Close both scenes."""
        for scene in self._scenes:
            scene.close()

    def chip(self, outline: shapely.MultiPolygon, max_px: int) -> Chip:
        """Return the surroundings of a polygon in at most ``max_px`` pixels a side."""
        stride = 1 if self._scores is None else self._scores.raster.stride
        row, col, side = self._square(outline, stride)
        step = max(1, -(-side // max_px))
        count = max(1, side // step)
        corner = Affine.translation(col, row)
        rows, cols = self._displaced(outline)
        shifted = self._subgrid(Affine.translation(col + cols, row + rows) @ Affine.scale(side / count), count)
        before, after = self._read(self._subgrid(corner @ Affine.scale(side / count), count), shifted)
        scores = None
        if self._scores is not None:
            cells = max(1, min(side // stride, max_px))
            scores = self._scores.on(self._subgrid(corner @ Affine.scale(side / cells), cells))
        to_box = Affine.scale(_OUTLINE_BOX / side) @ Affine.translation(-col, -row) @ ~self.grid.transform
        path = _svg_path(simplify_outline(outline, _OUTLINE_CORNERS), to_box)
        return Chip(self._to_bytes(before), self._to_bytes(after), scores, path, self._width(row, col, side))

    def overview(self, plane: Plane, max_px: int) -> tuple[NDArray[np.uint8], Grid]:
        """Return the whole after scene, reprojected to the plane of the map, and its grid there."""
        grid = plane.picture_grid(self.grid, max_px)
        return self._to_bytes(_warp(self._small_after, self._small_grid, grid, Resampling.nearest)), grid

    def _square(self, outline: shapely.MultiPolygon, stride: int) -> tuple[int, int, int]:
        """Return first row, first column and side of a polygon's chip, in pixels, on whole cells."""
        to_px = ~self.grid.transform
        corners = shapely.get_coordinates(outline)
        cols, rows = apply_affine(to_px, corners[:, 0], corners[:, 1])
        extent = max(np.ptp(cols), np.ptp(rows))
        side = -(-int(max(extent * _CHIP_SCALE, _MIN_CHIP_PX)) // stride) * stride
        middle = (rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2
        row, col = (
            _start_inside(round(center - side / 2), side, length) // stride * stride
            for center, length in zip(middle, self.grid.shape, strict=True)
        )
        return row, col, side

    def _displaced(self, outline: shapely.MultiPolygon) -> tuple[float, float]:
        """Return by how many rows and columns the after scene shows a polygon's ground elsewhere."""
        if self._displacement is None:
            return self._moved_px
        left, bottom, right, top = outline.bounds
        distance = np.hypot(
            self._displacement[:, 0] - (left + right) / 2, self._displacement[:, 1] - (bottom + top) / 2
        )
        rows, cols = self._displacement[np.argmin(distance), 2:]
        return float(rows), float(cols)

    def _width(self, row: int, col: int, side: int) -> float | None:
        """Return the width of a chip on the ground in meters; None off the earth."""
        left, right = (self.grid.transform @ (col + offset, row + side / 2) for offset in (0, side))
        return ground_distance(self.grid.crs.to_wkt(), left, right)

    def _subgrid(self, to_grid: Affine, count: int) -> Grid:
        return Grid(self.grid.crs, self.grid.transform @ to_grid, count, count)

    def _read(self, before: Grid, after: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both scenes, each on a grid, stretched as for the comparison; NaN = missing."""
        first, second = (
            np.where(np.isnan(values), np.nan, stretch.apply(np.nan_to_num(values)))
            for values, stretch in zip(
                (self._scenes[0].on(before), self._scenes[1].on(after)), self._stretches, strict=True
            )
        )
        return first.astype(np.float32), second.astype(np.float32)

    def _to_bytes(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return channels (3, rows, cols) as a picture; with an opacity where pixels are missing."""
        low, high = self._limits
        valid = np.asarray(np.isfinite(values).all(axis=0))
        brightness = ((np.nan_to_num(values) - low) / (high - low)).clip(0, 1)
        picture = np.rint(brightness * 255).astype(np.uint8).transpose(1, 2, 0)
        if valid.all():
            return np.ascontiguousarray(picture)
        return np.dstack([np.where(valid[..., np.newaxis], picture, 0), valid.astype(np.uint8) * 255])


def _read_displacement(pair: ReportPair, record: RunRecord) -> NDArray[np.float64] | None:
    """Return the displacement that a pair was read with, from its GeoPackage; None if it was not, or is not there."""
    if not record.field_applied or pair.anomalies is None:
        return None
    points = read_displacement(pair.anomalies)
    return points if len(points) else None


class _View(Protocol):
    """A raster that can be read in parts, at a lower resolution."""

    @property
    def grid(self) -> Grid: ...

    @property
    def smooth(self) -> bool: ...

    def decimated(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class SceneView:
    """A scene that is read in parts, at the cost of the part.

    Parameters
    ----------
    source
        The scene.
    channels
        Its bands that serve as red, green and blue.
    grid
        Its grid.
    """

    source: Scene
    channels: Channels
    grid: Grid

    @classmethod
    def open(cls, path: str, bands: Sequence[int] | None = None, near: Grid | None = None) -> Self:
        """Open a scene; its longitudes are unwrapped to those of the grid ``near``.

        Raises
        ------
        InputError
            It does not exist, cannot be opened, or is not georeferenced.
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
        """True if values may be averaged, unlike those of a palette."""
        return self.channels.table is None

    def on(self, target: Grid) -> NDArray[np.float32]:
        """Return the channels on a grid: float32 (3, rows, cols) in the scene's own values, NaN = missing.

        Raises
        ------
        SceneUnreadableError
            It cannot be decoded there.
        """
        with environment(), self.source.decoding("the part to show"):
            return _read_on(self, target, 3)

    def decimated(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return a window at a lower resolution."""
        rule = mask_rule(self.source.handle(), self.source.path, self.channels.distinct)
        dataset = self.source.handle(rule.view)
        indexes = list(range(1, len(self.channels.distinct) + 1)) if rule.view else self.channels.distinct
        place = {"window": rasterio.windows.Window.from_slices(*window.slices)}
        resampling = Resampling.average if self.smooth else Resampling.nearest
        bands = dataset.read(indexes, out_shape=(len(indexes), *shape), resampling=resampling, **place)
        if rule.nodata is not None:
            valid = (dataset.read_masks(indexes, out_shape=(len(indexes), *shape), **place) > 0).all(axis=0)
        elif has_alpha(dataset):
            alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1
            valid = dataset.read(alpha, out_shape=shape, **place) > 0
        else:
            valid = dataset.dataset_mask(out_shape=shape, **place) > 0
        valid &= self.channels.opaque_pixels(bands)
        return np.asarray(np.where(valid, self.channels.arrange(bands), np.nan), np.float32)

    def close(self) -> None:
        """Close the scene."""
        self.source.close()


@dataclass(frozen=True)
class ScoreView:
    """A score raster that is read in parts."""

    raster: ScoreRaster

    smooth = False

    @property
    def grid(self) -> Grid:
        """The grid of cells."""
        return self.raster.grid

    def on(self, target: Grid) -> NDArray[np.float32]:
        """Return the scores on a grid: float32 (rows, cols), NaN = not scored."""
        return np.asarray(_read_on(self, target, 1)[0])

    def decimated(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return a window at a lower resolution."""
        with rasterio.open(self.raster.path) as dataset:
            place = rasterio.windows.Window.from_slices(*window.slices)
            stored = dataset.read(1, window=place, out_shape=shape, masked=True, resampling=Resampling.average)
        scores = np.ma.filled(stored.astype(np.float32), np.nan) * self.raster.scale + self.raster.offset
        return np.asarray(scores[np.newaxis], np.float32)


def _read_on(view: _View, target: Grid, bands: int) -> NDArray[np.float32]:
    """Return a view resampled to a grid, float32 (bands, rows, cols); only the part below the grid is read."""
    covered = footprint(target, view.grid)
    if covered is None:
        return np.full((bands, *target.shape), np.nan, np.float32)
    step = max(1, int(align(view.grid, target).ratio + _ROUNDING))
    whole = Window(0, view.grid.height, 0, view.grid.width)
    window = _aligned_to_steps(covered.grown(_MARGIN * step), view.grid, target, step).intersection(whole)
    assert window is not None  # a grown window contains the window
    rows, cols = window.shape
    shape = -(-rows // step), -(-cols // step)
    to_window = Affine.translation(window.col_start, window.row_start) @ Affine.scale(cols / shape[1], rows / shape[0])
    source = Grid(view.grid.crs, view.grid.transform @ to_window, shape[1], shape[0])
    resampling = Resampling.bilinear if view.smooth else Resampling.nearest
    return _warp(view.decimated(window, shape), source, target, resampling)


def _warp(values: NDArray[np.float32], source: Grid, target: Grid, resampling: Resampling) -> NDArray[np.float32]:
    """Return values (bands, rows, cols) on another grid, NaN where there are none."""
    result = np.full((len(values), *target.shape), np.nan, np.float32)
    # rasterio changes the warning filters of all threads here, so only one thread at a time may do it.
    with ignored_warnings(NotGeoreferencedWarning):
        reproject(
            values,
            result,
            src_transform=source.transform,
            src_crs=source.crs,
            dst_transform=target.transform,
            dst_crs=target.crs,
            src_nodata=np.nan,
            dst_nodata=np.nan,
            resampling=resampling,
        )
    return result


def _aligned_to_steps(window: Window, grid: Grid, target: Grid, step: int) -> Window:
    """Return a window whose steps start with pixels of the target if possible, so that none is averaged twice."""
    col, row = ~grid.transform @ (target.transform @ (0, 0)) if grid.crs == target.crs else (0.0, 0.0)
    starts = [
        first - -(-(first - start) // step) * step
        for first, start in ((round(row), window.row_start), (round(col), window.col_start))
    ]
    rows, cols = (
        -(-(stop - start) // step) * step
        for start, stop in zip(starts, (window.row_stop, window.col_stop), strict=True)
    )
    return Window(starts[0], starts[0] + rows, starts[1], starts[1] + cols)


def _open_scene(path: object, recorded: RecordedScene, near: Grid | None) -> SceneView:
    """Open a scene if it is the one that was compared."""
    if path is None:
        raise SceneRefusedError("the scene", "is not recorded", "run geosiam detect again")
    view = SceneView.open(str(path), recorded.bands, near)
    if recorded.fingerprint and not _same_content(fingerprint(str(path)), recorded.fingerprint):
        view.close()
        raise SceneRefusedError(path, "has changed since it was compared", "run geosiam detect again")
    return view


def _same_content(now: str, then: str) -> bool:
    """Return whether two fingerprints agree except for the time of change, which differs in a copy."""
    parts = [value.split("-") for value in (now, then)]
    if any(len(part) != 3 for part in parts):  # noqa: PLR2004 - of tiles, whose digest includes their times
        return parts[0][0] == parts[1][0]
    return (parts[0][0], parts[0][2]) == (parts[1][0], parts[1][2])


def _open_scores(pair: ReportPair) -> ScoreView | None:
    if pair.scores is None:
        return None
    try:
        return ScoreView(ScoreRaster.open(pair.scores))
    except (GeosiamError, RasterioError):
        return None


def _start_inside(start: int, side: int, length: int) -> int:
    """Return the start of a window moved into the scene; one larger than the scene starts where the scene does."""
    return max(0, min(start, length - side))


def _common_limits(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the values (3, 1, 1) that become black and white: the same for both scenes and all channels."""
    both = np.concatenate([before.ravel(), after.ravel()])
    both = both[:: max(1, both.size // _MAX_SAMPLES)]
    valid = both[np.isfinite(both)]
    low, high = np.percentile(valid, _PERCENTILES) if valid.size else (0.0, 1.0)
    if high - low < 1e-6:  # noqa: PLR2004 - a scene of one color
        low, high = 0.0, 1.0
    shape = np.ones((3, 1, 1), np.float32)
    return shape * np.float32(low), shape * np.float32(high)


def _svg_path(outline: shapely.MultiPolygon, to_box: Affine) -> str:
    parts = []
    for polygon in outline.geoms:
        for ring in (polygon.exterior, *polygon.interiors):
            xy = np.asarray(ring.coords)[:-1, :2]
            x, y = apply_affine(to_box, xy[:, 0], xy[:, 1])
            points = "L".join(f"{a:.0f} {b:.0f}" for a, b in zip(x, y, strict=True))
            parts.append(f"M{points}Z")
    return "".join(parts)
