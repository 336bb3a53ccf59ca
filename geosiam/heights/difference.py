"""The difference of two surface models: read in blocks, written as a raster, measured inside outlines."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from scipy import ndimage

from geosiam import __version__
from geosiam.files import atomic_write
from geosiam.heights.coregistration import Coregistration, coregister, gradient, nmad, robust_fit
from geosiam.heights.surfaces import info_dict
from geosiam.heights.volumes import PARTS, HeightStats, Size, Tally, likely_lean, parts_inside, rasterized, stats
from geosiam.imagery.alignment import transform_pixels
from geosiam.imagery.grid import Window, apply_affine
from geosiam.qml import difference_qml
from geosiam.runtime import default_workers
from geosiam.scores.writer import write_bands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from geosiam.heights.surfaces import SurfacePair
    from geosiam.imagery.grid import Grid
    from geosiam.scores.raster import ScoreRaster

    Stable = Callable[[Window], NDArray[np.bool_]]

BAND = "dz"
_BLOCK_PX = 1024  # side of the blocks in which the difference is computed
_ROUNDED = 3  # decimals: whole millimeters
_MARGIN_CELLS = 4  # around anomalous cells, which are no stable ground either
_MAX_CELLS = 1 << 24  # of scores that are looked up at once
_LEAN_M = 8.0  # around an outline, within which a roof or a crown that leans stands
_MAX_LEAN_PX = 1 << 21  # of a window in which lean is looked for; larger outlines are none
_EDGE_PX = 2  # over which dense matching smears a steep side
_MIN_RIM = 12  # pixels of a rim, from which a plane is drawn


@dataclass(frozen=True)
class DifferenceBlock:
    """A window of the difference.

    Parameters
    ----------
    dz
        Height of the after surface above the before surface in meters, rounded to millimeters: (rows, cols), NaN =
        unknown.
    noise
        Standard deviation of the noise of each pixel in meters, by its slope; NaN = unknown.
    surfaces
        Heights of both dates, with the after surface brought onto the before surface: (2, rows, cols), NaN = void.
    """

    dz: NDArray[np.float64]
    noise: NDArray[np.float64]
    surfaces: NDArray[np.float64]


class HeightDifference:
    """The difference of two surface models that were brought onto each other.

    Parameters
    ----------
    surfaces
        Both surfaces, with the shift undone.
    errors
        Bias, tilt and errors.
    workers
        Number of threads; None: one for each processor.
    """

    def __init__(self, surfaces: SurfacePair, errors: Coregistration, *, workers: int | None = None) -> None:
        self.surfaces, self.errors = surfaces, errors
        self._workers = workers or default_workers()

    @classmethod
    def coregistered(cls, surfaces: SurfacePair, is_stable: Stable, *, workers: int | None = None) -> HeightDifference:
        """Bring two surfaces onto each other on stable ground, see :func:`coregister`, and return their difference."""
        errors = coregister(surfaces, is_stable, workers=workers)
        return cls(surfaces.shifted(errors.shift) if any(errors.shift) else surfaces, errors, workers=workers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user."""
        if self.errors.pixels:
            return self.surfaces.warnings
        lost = "the surface models have too little stable ground in common to be brought onto each other: heights are "
        return (*self.surfaces.warnings, f"{lost}as in the files, and their errors are unknown")

    def to_dict(self) -> dict[str, Any]:
        """Return the surfaces and how they were brought onto each other, in plain values that JSON can hold."""
        return {**info_dict(self.surfaces), "coregistration": self.errors.to_dict(self.surfaces)}

    def read(self, window: Window) -> DifferenceBlock:
        """Return a window of the difference; a pixel has the same values in every window, in any thread."""
        before, after = self.surfaces.read(window.grown(1))
        after = after - self.errors.correction(window.grown(1))
        lengths = self.surfaces.pixel_lengths(self.surfaces.overlap)
        slopes = []
        for surface in (before, after):
            down, right = gradient(surface)
            slopes.append(np.hypot(right / lengths[0], down / lengths[1]))
        noise = self.errors.noise_at(np.fmax(*slopes), max(lengths))
        both = np.stack([before, after])[:, 1:-1, 1:-1]
        return DifferenceBlock(np.round(both[1] - both[0], _ROUNDED), noise, both)

    def blocks(self) -> Iterator[tuple[Window, NDArray[np.float32]]]:
        """Yield the windows that cover the grid, and the difference in each: float32 (1, rows, cols)."""
        whole = Window(0, self.surfaces.grid.height, 0, self.surfaces.grid.width)
        windows = list(_blocks_of(whole))
        step = 2 * self._workers
        with ThreadPoolExecutor(self._workers, "geosiam-heights") as pool:
            for first in range(0, len(windows), step):
                group = windows[first : first + step]
                for window, block in zip(group, pool.map(self.read, group), strict=True):
                    yield window, block.dz[None].astype(np.float32)

    def write(self, path: Path) -> None:
        """Write the difference as a COG with a QGIS style beside it, unless there is one.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        detection = self.errors.detection_95
        tags = {
            "GEOSIAM_VERSION": __version__,
            "GEOSIAM_HEIGHTS": json.dumps(self.to_dict(), sort_keys=True),
            "GEOSIAM_DETECTION_95_M": f"{detection:.4g}",
        }
        write_bands(path, self.surfaces.grid, {BAND: "m"}, self.blocks(), tags=tags, workers=self._workers)
        style = path.with_suffix(".qml")
        if not style.exists():
            with atomic_write(style) as partial:
                partial.write_text(difference_qml(detection), encoding="utf-8")

    def columns(
        self, outlines: NDArray[np.object_], shift_fraction: NDArray[np.float64] | None = None, *, crs: CRS
    ) -> dict[str, Any]:
        """Return the columns of :data:`~geosiam.polygons.schema.HEIGHT_COLUMNS` of outlines.

        Parameters
        ----------
        outlines
            Shapely Polygons and MultiPolygons, shape (n,).
        shift_fraction
            See :data:`~geosiam.polygons.schema.COLUMNS`, shape (n,); None: not known.
        crs
            CRS of the outlines.
        """
        outlines = in_crs(outlines, crs, self.surfaces.grid.crs)
        fractions = np.full(len(outlines), np.nan) if shift_fraction is None else shift_fraction
        with ThreadPoolExecutor(self._workers, "geosiam-heights") as pool:
            rows = list(pool.map(self._measure, outlines, fractions))
        return _as_columns(rows, (*HeightStats._fields, "likely_geometry"))

    def _measure(self, outline: shapely.Geometry, shift_fraction: float) -> tuple[Any, ...]:
        """Return the values of one row."""
        grid = self.surfaces.grid
        wider = shapely.buffer(outline, _EDGE_PX * max(grid.pixel_size))
        window, tally = window_of(wider, grid), Tally()
        for part in _blocks_of(window):
            block, transform = self.read(part), grid.transform @ _to(part)
            inside = parts_inside(outline, transform, part.shape)
            tally.add(inside, block.dz, block.noise)
            tally.add_edge(parts_inside(wider, transform, part.shape) - inside, block.dz)
        tally.total = max(tally.total, beyond_grid(outline, window, grid))
        row = stats(tally, self.surfaces.pixel_area(window), self.errors)
        if row.height_evidence == "unknown":
            return (*row, None)
        return (*row, self._leans(outline, window, row, shift_fraction))

    def _leans(self, outline: shapely.Geometry, window: Window, row: HeightStats, shift_fraction: float) -> bool:
        lengths = self.surfaces.pixel_lengths(window)
        wider = window.grown(math.ceil(_LEAN_M / min(lengths)))
        if wider.shape[0] * wider.shape[1] > _MAX_LEAN_PX:
            return False
        scale = math.sqrt(self.surfaces.pixel_area(window) / abs(self.surfaces.grid.transform.determinant))
        width = 2 * scale * outline.area / max(outline.length, 1e-12)
        parts = parts_inside(outline, self.surfaces.grid.transform @ _to(wider), wider.shape)
        size = Size(scale**2 * outline.area, width)
        return likely_lean(parts, self.read(wider).surfaces, lengths, row, size=size, shift_fraction=shift_fraction)


class RimHeights:
    """The height of one surface above planes through the rims of outlines.

    Parameters
    ----------
    surfaces
        The surface, alone.
    """

    def __init__(self, surfaces: SurfacePair) -> None:
        self.surfaces = surfaces
        self.warnings = surfaces.warnings

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of the surface, in plain values that JSON can hold."""
        return {**info_dict(self.surfaces), "reference": "plane through the rim of each outline"}

    def columns(self, outlines: NDArray[np.object_], *, crs: CRS) -> dict[str, Any]:
        """Return the columns of :data:`~geosiam.polygons.schema.HEIGHT_COLUMNS` but ``likely_geometry``.

        The plane is fitted robustly to the pixels just outside of an outline. Its error is taken to be what the rim
        deviates from it (NMAD), everywhere in the same direction.
        """
        outlines = in_crs(outlines, crs, self.surfaces.grid.crs)
        return _as_columns([self._measure(outline) for outline in outlines], HeightStats._fields)

    def _measure(self, outline: shapely.Geometry) -> HeightStats:
        grid, window = self.surfaces.grid, window_of(outline, self.surfaces.grid).grown(2)
        (heights,) = self.surfaces.read(window)
        parts = parts_inside(outline, grid.transform @ _to(window), window.shape)
        rim = ndimage.binary_dilation(parts > 0, np.ones((3, 3), bool)) & (parts == 0) & np.isfinite(heights)
        row, col = (index.astype(np.float64) for index in np.indices(window.shape))
        unknown = float("nan")
        noise, tally = unknown, Tally()
        dz = np.full(window.shape, np.nan)
        if np.count_nonzero(rim) >= _MIN_RIM:
            design = np.stack([np.ones_like(row), row, col], axis=-1)
            plane = robust_fit(design[rim], heights[rim])
            noise = max(nmad((heights - design @ plane)[rim]), 1e-3)
            dz = np.round(heights - design @ plane, _ROUNDED)
        tally.add(parts, dz, np.full(window.shape, noise))
        tally.total = max(tally.total, beyond_grid(outline, window, grid))
        errors = Coregistration(
            (0.0, 0.0), (0.0, 0.0), (0.0, 0.0, 0.0), int(np.count_nonzero(rim)), (noise,), {1: 1.0}, 0.0, noise, noise
        )
        return stats(tally, self.surfaces.pixel_area(window), errors)


def _as_columns(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> dict[str, Any]:
    words = ("height_evidence", "likely_geometry")
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return {
        name: np.array(column, object if name in words else float) for name, column in zip(names, columns, strict=True)
    }


def in_crs(outlines: NDArray[np.object_], crs: CRS, target: CRS) -> NDArray[np.object_]:
    """Return outlines in another CRS, shape (n,)."""
    if crs == target:
        return outlines
    transformer = pyproj.Transformer.from_crs(crs.to_wkt(), target.to_wkt(), always_xy=True)
    moved = shapely.transform(shapely.force_2d(outlines), transformer.transform, interleaved=False)
    return np.asarray(moved, object)


def window_of(outline: shapely.Geometry, grid: Grid) -> Window:
    """Return the window of all pixels that an outline touches; it may reach outside of the grid."""
    left, bottom, right, top = outline.bounds
    x, y = np.array([left, right, right, left]), np.array([bottom, bottom, top, top])
    cols, rows = apply_affine(~grid.transform, x, y)
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        return Window(0, 1, 0, 1)
    whole = Window(-1, grid.height + 1, -1, grid.width + 1)
    limits = (rows, cols)
    (top_row, bottom_row), (first, last) = ((int(np.floor(at.min())), int(np.ceil(at.max())) + 1) for at in limits)
    inside = Window(top_row, bottom_row, first, last).intersection(whole)
    return inside or Window(-1, 0, -1, 0)


def beyond_grid(outline: shapely.Geometry, window: Window, grid: Grid) -> int:
    """Return the number of parts of pixels in an outline that reaches beyond a grid; 0 for one that does not."""
    inside = window.intersection(Window(0, grid.height, 0, grid.width)) == window
    return 0 if inside else round(outline.area / abs(grid.transform.determinant) * PARTS**2)


def _to(window: Window) -> Affine:
    return Affine.translation(window.col_start, window.row_start)


def _blocks_of(window: Window) -> Iterator[Window]:
    """Yield the parts of a window in blocks of a lattice that is anchored to the grid."""
    for row in range(window.row_start // _BLOCK_PX * _BLOCK_PX, window.row_stop, _BLOCK_PX):
        for col in range(window.col_start // _BLOCK_PX * _BLOCK_PX, window.col_stop, _BLOCK_PX):
            part = Window(row, row + _BLOCK_PX, col, col + _BLOCK_PX).intersection(window)
            if part is not None:
                yield part


def stable_by_scores(raster: ScoreRaster, threshold: float, grid: Grid) -> Stable:
    """Return a function of a window of a grid that says where no score within a few cells reaches a threshold.

    Parameters
    ----------
    raster
        The scores.
    threshold
        Threshold of the polygons.
    grid
        Grid of the surfaces.
    """
    lines = np.array([0.0, 1.0])

    def is_stable(window: Window) -> NDArray[np.bool_]:
        rows = (np.arange(window.row_start, window.row_stop) + 0.5)[:, None]
        cols = (np.arange(window.col_start, window.col_stop) + 0.5)[None, :]
        first = float(cols[0, 0]), float(rows[0, 0])
        cols, rows = transform_pixels(grid, raster.grid, *map(np.ravel, np.broadcast_arrays(cols, rows)))
        across, down = transform_pixels(grid, raster.grid, lines + first[0], lines + first[1])
        margin = math.ceil(max(_MARGIN_CELLS, *np.nan_to_num([abs(np.ptp(across)), abs(np.ptp(down))]) / 2))
        finite = np.isfinite(rows) & np.isfinite(cols)
        row, col = (np.where(finite, np.floor(at), -1e9).astype(np.int64) for at in (rows, cols))
        inside = (row >= 0) & (row < raster.grid.height) & (col >= 0) & (col < raster.grid.width)
        stable = np.ones(len(row), bool)
        if not inside.any():
            return stable.reshape(window.shape)
        limits = [int(value) for at in (row[inside], col[inside]) for value in (at.min(), at.max() + 1)]
        area = Window(*limits).grown(margin).intersection(Window(0, raster.grid.height, 0, raster.grid.width))
        assert area is not None
        if area.shape[0] * area.shape[1] > _MAX_CELLS and max(window.shape) > 1:
            return np.block([[is_stable(part) for part in line] for line in _quarters(window)])
        anomalous = np.nan_to_num(raster.read(area)) >= threshold
        anomalous = ndimage.maximum_filter(anomalous, 2 * margin + 1)
        stable[inside] = ~anomalous[row[inside] - area.row_start, col[inside] - area.col_start]
        return stable.reshape(window.shape)

    return is_stable


def _quarters(window: Window) -> list[list[Window]]:
    rows, cols = (
        sorted({start, (start + stop) // 2, stop})
        for start, stop in ((window.row_start, window.row_stop), (window.col_start, window.col_stop))
    )
    return [
        [Window(rows[i], rows[i + 1], cols[j], cols[j + 1]) for j in range(len(cols) - 1)] for i in range(len(rows) - 1)
    ]


def stable_outside(outlines: NDArray[np.object_], crs: CRS, grid: Grid) -> Stable:
    """Return a function of a window of a grid that says where no outline, nor two pixels around it, lies."""
    tree = shapely.STRtree(shapely.buffer(in_crs(outlines, crs, grid.crs), 2 * max(grid.pixel_size)))

    def is_stable(window: Window) -> NDArray[np.bool_]:
        transform = grid.transform @ _to(window)
        height, width = window.shape
        corners = [transform @ corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
        near = tree.geometries[tree.query(shapely.Polygon(corners))]
        stable = np.ones(window.shape, bool)
        if len(near):
            stable = rasterized(near, transform, window.shape) == 0
        return stable

    return is_stable


def difference_of(
    surfaces: SurfacePair, raster: ScoreRaster, threshold: float, workers: int | None = None
) -> HeightDifference:
    """Return the difference of two surfaces that are brought onto each other where no score reaches a threshold."""
    return HeightDifference.coregistered(surfaces, stable_by_scores(raster, threshold, surfaces.grid), workers=workers)
