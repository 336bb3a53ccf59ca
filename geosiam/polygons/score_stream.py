"""The scores that polygons are made of, streamed once from top to bottom, and the footprint: the area scored."""

from __future__ import annotations

import os
import warnings
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.open_scene import turned_transform
from geosiam.polygons.areas import CellAreas
from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import trace
from geosiam.polygons.runs import cells_of
from geosiam.polygons.schema import FOOTPRINT_SCHEMA, GEOMETRY
from geosiam.scores.raster import SCENE_TAG, STRIDE_TAG, THRESHOLD_TAG, ScoreRaster, count_scores, scene_extent
from geosiam.scores.working_file import FINE_STEPS, SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from geosiam.polygons.components import ComponentBatch
    from geosiam.scores.raster import ModelScores, Scores

MAX_STRIP_ROWS, MAX_STRIP_CELLS = 512, 1 << 22
"""Size of a strip: a row of tiles, or less where a strip would have too many cells."""

_RECENT_STRIPS = 2  # components end soon after the rows they lie in
_SLICE_CELLS = 1 << 21  # cells whose scores are looked up at once
_STEP_ROUNDING = 0.01  # of a step: more than the error of float32 where a score is one of the steps
_PERCENTILE_90 = 9, 10  # as a fraction of whole numbers, so that the count of cells is exact


def as_scores(scores: str | os.PathLike[str] | ModelScores | xr.DataArray) -> ModelScores:
    """Return a score raster by its path, or a georeferenced array, as scores that are read strip by strip.

    Raises
    ------
    InputError
        The scores cannot be read, or are no scores.
    """
    if isinstance(scores, (str, os.PathLike)):
        return ScoreRaster.open(scores)
    if isinstance(scores, ScoreRaster):
        return scores
    import xarray as xr  # noqa: PLC0415 - slow to import, and a path does not need it

    return ArrayScores.of(scores) if isinstance(scores, xr.DataArray) else scores


class ScoreStream:
    """Scores that are streamed once, while those that components still need are in memory or read again.

    The last two strips stay in memory; scores above them, of components that are taller, are read again.

    Parameters
    ----------
    scores
        Scores to stream.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.footprint = Footprint(scores.grid, scores.extent)
        self._recent: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=_RECENT_STRIPS)

    def strips(self) -> Iterator[NDArray[np.float32]]:
        """Yield the strips from top to bottom."""
        for start, strip in self.scores.strips(strip_rows(self.scores.grid.width)):
            self._recent.append((start, strip))
            self.footprint.add(start, strip)
            yield strip

    def at(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of cells of the strips so far, shape (n,); NaN outside the raster."""
        height, width = self.scores.grid.shape
        values = np.full(len(rows), np.nan, np.float32)
        missing = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        for start, strip in self._recent:
            selected = missing & (rows >= start) & (rows < start + len(strip))
            values[selected] = strip[rows[selected] - start, cols[selected]]
            missing &= ~selected
        index = np.flatnonzero(missing)
        band_rows = strip_rows(width)
        band = rows[index] // band_rows
        for number in np.unique(band):
            cells = index[band == number]
            top, left = int(number) * band_rows, int(cols[cells].min())
            window = Window(top, min(top + band_rows, height), left, int(cols[cells].max()) + 1)
            values[cells] = self.scores.read(window)[rows[cells] - top, cols[cells] - left]
        return values

    def percentile_90(self, batch: ComponentBatch) -> NDArray[np.float64]:
        """Return the score that 90 % of the cells of each component do not exceed, shape (n,).

        It is the least such score (the inverse of the distribution function): exact where scores are stored as bytes,
        else rounded up to the next step of 1/65532. A histogram is therefore enough for a component of any size.
        """
        result = batch.score_max.copy()  # with fewer than ten cells it is the highest
        numerator, denominator = _PERCENTILE_90
        large = batch.cells >= denominator
        if not large.any():
            return result
        components = batch.where(large)
        key, count = self._histograms(components)
        owner, step = np.divmod(key, FINE_STEPS + 1)
        cumulative = np.cumsum(count) - (np.cumsum(components.cells) - components.cells)[owner]
        enough = cumulative * denominator >= components.cells[owner] * numerator
        first = np.full(len(components), FINE_STEPS, np.int64)
        np.minimum.at(first, owner[enough], step[enough])
        result[large] = np.minimum((first / np.float32(FINE_STEPS)).astype(np.float32), components.score_max)
        return result

    def _histograms(self, batch: ComponentBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return histograms of scores: ascending ``component * (FINE_STEPS + 1) + step`` and number of cells."""
        length = (batch.runs[:, 2] - batch.runs[:, 1]).astype(np.int64)
        owner = batch.run_owner
        part = np.cumsum(length) // _SLICE_CELLS
        keys, counts = [], []
        for number in np.unique(part):
            run = part == number
            scores = self.at(*cells_of(batch.runs[run])).astype(np.float64)
            steps = np.ceil(scores * FINE_STEPS - _STEP_ROUNDING).astype(np.int64)
            key, count = np.unique(np.repeat(owner[run], length[run]) * (FINE_STEPS + 1) + steps, return_counts=True)
            keys.append(key)
            counts.append(count)
        key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        return key, np.bincount(inverse, weights=np.concatenate(counts)).astype(np.int64)


def strip_rows(width: int) -> int:
    """Return the height of strips of a raster of this width: a power of two, at most a tile's height."""
    rows = MAX_STRIP_ROWS
    while rows > 1 and rows * width > MAX_STRIP_CELLS:
        rows //= 2
    return rows


@dataclass(frozen=True)
class ArrayScores:
    """A georeferenced array as scores that are read strip by strip.

    Parameters
    ----------
    array
        Shape (rows, cols), floats in [0, 1], NaN = not scored.
    grid
        The grid of cells.
    stride
        Pixels of the before scene along a cell's side.
    extent
        Where the scene ends, in cells (rows, cols).
    """

    array: xr.DataArray
    grid: Grid
    stride: int
    extent: tuple[float, float]

    @classmethod
    def of(cls, array: xr.DataArray) -> ArrayScores:
        """Return the scores of a rioxarray array of shape (rows, cols) or (1, rows, cols).

        Raises
        ------
        SceneRefusedError
            The array has several bands, integer values, or no coordinate reference system.
        """
        import rioxarray  # noqa: F401, PLC0415 - only where an array is given

        name = "scores" if array.name is None else array.name
        flat = array.squeeze(drop=True) if array.ndim > 2 else array  # noqa: PLR2004
        if flat.ndim != 2:  # noqa: PLR2004
            raise SceneRefusedError(name, f"has the shape {array.shape}", "give one band of scores")
        if flat.dtype.kind != "f":
            remedy = "open it with rioxarray.open_rasterio(..., mask_and_scale=True), or give its path"
            raise SceneRefusedError(name, f"holds {flat.dtype}, not probabilities", remedy)
        if flat.rio.crs is None:
            raise SceneRefusedError(name, "has no coordinate reference system", "set one with .rio.write_crs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rioxarray multiplies transforms with *
            transform = turned_transform(flat) or flat.rio.transform()
            grid = Grid(flat.rio.crs, transform, flat.shape[1], flat.shape[0])
        stride = int(array.attrs.get("stride", array.attrs.get(STRIDE_TAG, 1)))
        try:
            # A part of an array has the attributes of the whole, whose size then does not fit and is ignored.
            extent = scene_extent(grid, stride, array.attrs.get("scene_px", array.attrs.get(SCENE_TAG)))
        except ValueError:
            extent = float(grid.height), float(grid.width)
        return cls(flat, grid, stride, extent)

    @property
    def name(self) -> str:
        """The array's name."""
        return "scores" if self.array.name is None else str(self.array.name)

    @property
    def model_threshold(self) -> float | None:
        """The threshold of the model that scored, which :func:`geosiam.score` records as an attribute."""
        recorded = self.array.attrs.get("threshold", self.array.attrs.get(THRESHOLD_TAG))
        return None if recorded is None else float(recorded)

    def counts(self) -> NDArray[np.int64]:
        """Return the number of cells of each score, in steps of 1/254: int64 (255,); computes a lazy array."""
        return sum((count_scores(strip) for _, strip in self.strips()), start=np.zeros(SCORE_STEPS + 1, np.int64))

    def strips(self, rows: int = MAX_STRIP_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores; a lazy array is computed chunk by chunk."""
        heights = self.array.chunks[0] if self.array.chunks else None
        spans = heights or [min(rows, self.grid.height - start) for start in range(0, self.grid.height, rows)]
        start = 0
        for height in spans:
            yield start, np.asarray(self.array[start : start + height].values, np.float32)
            start += height

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window; those of a lazy array are computed again."""
        return np.asarray(self.array[window.slices].values, np.float32)


MAX_CELLS = 1024
"""Maximum number of squares along a side; up to this size of raster a footprint is as exact as the scores."""


class Footprint:
    """Count scored cells per square while strips are read, in bounded memory.

    Parameters
    ----------
    grid
        The grid of cells.
    extent
        Where the scene ends on it, in cells (rows, cols).
    """

    def __init__(self, grid: Grid, extent: tuple[float, float]) -> None:
        self._grid, self._extent = grid, extent
        self.factor = -(-max(grid.shape) // MAX_CELLS)  # cells along the side of a square
        height, width = (-(-side // self.factor) for side in grid.shape)
        self._scored = np.zeros((height, width), np.int64)

    def add(self, start: int, strip: NDArray[np.float32]) -> None:
        """Count the cells of a strip whose first row is ``start``."""
        rows = (start + np.arange(len(strip))) // self.factor
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        # Down the columns first, in the smallest type that can count them: along rows it would take ten times as long.
        count_type = np.uint8 if self.factor <= np.iinfo(np.uint8).max else np.int64
        down = np.add.reduceat((~np.isnan(strip)).view(np.uint8), first, axis=0, dtype=count_type)
        for offset in range(self.factor):
            across = down[:, offset :: self.factor]
            self._scored[rows[first], : across.shape[1]] += across

    def scored_squares(self) -> NDArray[np.bool_]:
        """Return the squares of which at least half of the cells have a score, shape (rows, cols)."""
        heights, widths = (np.minimum(self.factor, side - np.arange(0, side, self.factor)) for side in self._grid.shape)
        return 2 * self._scored >= heights[:, None] * widths[None, :]

    def table(self, stride: int, origin: dict[str, str | None]) -> pa.Table:
        """Return the outline as a table of :data:`~geosiam.polygons.schema.FOOTPRINT_SCHEMA`.

        It has one row, or none if nothing has a score.

        Parameters
        ----------
        stride
            Pixels of the before scene along a cell's side.
        origin
            The columns ``before``, ``after`` and ``created``.
        """
        squares = self.scored_squares().astype(np.float32)
        transform = self._grid.transform @ Affine.scale(self.factor)
        grid = Grid(self._grid.crs, transform, squares.shape[1], squares.shape[0])
        extent = self._extent[0] / self.factor, self._extent[1] / self.factor
        areas = CellAreas(grid, extent)
        polygons, area = [], 0.0
        for batch in component_batches([squares], 1.0, connectivity=4):
            for outline in trace(batch).to_crs_coordinates(transform, extent).geometries():
                polygons.extend(outline.geoms)
            area += float(areas.of(batch).sum())
        outline = shapely.to_wkb(shapely.MultiPolygon(polygons))
        row = {**origin, "looked_at_m2": area, "accuracy_px": self.factor * stride, GEOMETRY: outline}
        return pa.Table.from_pylist([row] if polygons else [], schema=FOOTPRINT_SCHEMA)
