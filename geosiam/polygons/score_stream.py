"""The score raster as polygons need it: once from top to bottom, and then some cells of it again."""

from __future__ import annotations

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
from geosiam.polygons.areas import CellAreas
from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import trace
from geosiam.polygons.schema import GEOMETRY
from geosiam.scores.raster import SCENE_TAG, STRIDE_TAG, THRESHOLD_TAG, count_scores, scene_extent
from geosiam.scores.working_file import FINE_STEPS, SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from geosiam.polygons.components import ComponentBatch
    from geosiam.scores.raster import Scores

MAX_STRIP_ROWS, STRIP_CELLS = 512, 1 << 22
"""Height of a strip: a row of tiles, or less where a strip would have too many cells."""

_ROUNDING = 0.01  # of a step, more than float32 is off where a score is one of these
_SLICE_CELLS = 1 << 21
_TENTH = 10


class ScoreStream:
    """Scores that are streamed once, while what of them components need later is at hand or read again.

    Components end soon after the rows they lie in, so the last two strips are kept. What lies above, in components that
    are taller, is read again.

    Parameters
    ----------
    scores
        Where they come from.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.footprint = Footprint(scores.grid, scores.extent)
        self._held: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=2)

    def strips(self) -> Iterator[NDArray[np.float32]]:
        """Yield the strips from top to bottom."""
        for start, strip in self.scores.strips(strip_rows(self.scores.grid.width)):
            self._held.append((start, strip))
            self.footprint.add(start, strip)
            yield strip

    def at(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of cells of the strips seen so far, shape (n,); NaN outside the raster."""
        height, width = self.scores.grid.shape
        found = np.full(len(rows), np.nan, np.float32)
        missing = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        for start, strip in self._held:
            here = missing & (rows >= start) & (rows < start + len(strip))
            found[here] = strip[rows[here] - start, cols[here]]
            missing &= ~here
        where = np.flatnonzero(missing)
        pitch = strip_rows(width)
        band = rows[where] // pitch
        for number in np.unique(band):
            which = where[band == number]
            top, left = int(number) * pitch, int(cols[which].min())
            part = Window(top, min(top + pitch, height), left, int(cols[which].max()) + 1)
            found[which] = self.scores.read(part)[rows[which] - top, cols[which] - left]
        return found

    def percentile_90(self, batch: ComponentBatch) -> NDArray[np.float64]:
        """Return the score that 90 % of the cells of each component do not exceed, shape (n,).

        It is the least such score (the inverse of the distribution function): exactly where scores are stored as bytes,
        else up to the next step of 1/65532. So a component of any size needs a histogram only.
        """
        result = batch.score_max.copy()  # of fewer than ten cells it is the highest
        large = batch.cells >= _TENTH
        if not large.any():
            return result
        chosen = batch.where(large)
        key, count = _histograms(chosen, self)
        owner, step = np.divmod(key, FINE_STEPS + 1)
        within = np.cumsum(count) - (np.cumsum(chosen.cells) - chosen.cells)[owner]
        enough = within * _TENTH >= chosen.cells[owner] * (_TENTH - 1)
        first = np.full(len(chosen), FINE_STEPS, np.int64)
        np.minimum.at(first, owner[enough], step[enough])
        result[large] = np.minimum((first / np.float32(FINE_STEPS)).astype(np.float32), chosen.score_max)
        return result


def strip_rows(width: int) -> int:
    """Return how many rows of a raster of this width are worked on at a time: a power of two, up to a tile's height."""
    rows = MAX_STRIP_ROWS
    while rows > 1 and rows * width > STRIP_CELLS:
        rows //= 2
    return rows


def _histograms(batch: ComponentBatch, field: ScoreStream) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the histograms of components: ascending ``component * (FINE_STEPS + 1) + step`` and number of cells."""
    length = (batch.runs[:, 2] - batch.runs[:, 1]).astype(np.int64)
    owner = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    part = np.cumsum(length) // _SLICE_CELLS
    keys, counts = [], []
    for number in np.unique(part):
        run = part == number
        rows, cols = cells_of(batch.runs[run])
        steps = np.ceil(field.at(rows, cols).astype(np.float64) * FINE_STEPS - _ROUNDING).astype(np.int64)
        key, count = np.unique(np.repeat(owner[run], length[run]) * (FINE_STEPS + 1) + steps, return_counts=True)
        keys.append(key)
        counts.append(count)
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    return key, np.bincount(inverse, weights=np.concatenate(counts)).astype(np.int64)


def cells_of(runs: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column of each cell of runs of shape (k, 3)."""
    row, start, stop = runs.astype(np.int64).T
    length = stop - start
    rank = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(row, length), np.repeat(start, length) + rank


@dataclass(frozen=True)
class ArrayScores:
    """A georeferenced array as a source of strips.

    Parameters
    ----------
    array
        Shape (rows, cols), floats in [0, 1], NaN = not scored.
    grid
        Its grid of cells.
    stride
        Pixels of the before-scene along a cell's side.
    extent
        Where the scene ends, in cells (rows, cols).
    """

    array: xr.DataArray
    grid: Grid
    stride: int
    extent: tuple[float, float]

    @classmethod
    def of(cls, array: xr.DataArray) -> ArrayScores:
        """Return an array with its grid; a single band may stand in front.

        Raises
        ------
        SceneRefusedError
            It has several bands, integer values, or no coordinate reference system.
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
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rioxarray multiplies the old way of affine 2
            grid = Grid(flat.rio.crs, flat.rio.transform(), flat.shape[1], flat.shape[0])
        stride = int(array.attrs.get("stride", array.attrs.get(STRIDE_TAG, 1)))
        try:
            # A part of the scores of a scene keeps the attributes of the whole, but ends where it ends.
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
        """Return how many cells have each score, in steps of 1/254: int64 (255,); a lazy array is computed for it."""
        return sum((count_scores(strip) for _, strip in self.strips()), start=np.zeros(SCORE_STEPS + 1, np.int64))

    def strips(self, rows: int = MAX_STRIP_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores; a lazy array is computed by whole chunks."""
        heights = self.array.chunks[0] if self.array.chunks else None
        spans = heights or [min(rows, self.grid.height - start) for start in range(0, self.grid.height, rows)]
        start = 0
        for height in spans:
            yield start, np.asarray(self.array[start : start + height].values, np.float32)
            start += height

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window; of a lazy array, computed again."""
        return np.asarray(self.array[window.slices].values, np.float32)


MOST_CELLS = 1024
"""Along either side: a footprint is as exact as the scores up to this size, and a part of it beyond."""

FOOTPRINT_COLUMNS = {
    "before": "File name of the before-scene",
    "after": "File name of the after-scene",
    "created": "When the scores were computed, ISO 8601, UTC",
    "looked_at_m2": "Area of the cells with a score in square metres, counted in the grid of this outline",
    "accuracy_px": "Side of the squares that the outline is made of, in pixels of the before-scene: it is that exact",
}

FOOTPRINT_SCHEMA = pa.schema(
    [
        ("before", pa.string()),
        ("after", pa.string()),
        ("created", pa.string()),
        ("looked_at_m2", pa.float64()),
        ("accuracy_px", pa.int64()),
        (GEOMETRY, pa.binary()),
    ]
)
"""The columns with their types, and the outline as WKB."""


class Footprint:
    """Counts scored cells in squares while strips go by, in bounded memory.

    Parameters
    ----------
    grid, extent
        The grid of cells, and where the scene ends on it, in cells (rows, cols).
    """

    def __init__(self, grid: Grid, extent: tuple[float, float]) -> None:
        self._grid, self._extent = grid, extent
        self.factor = -(-max(grid.shape) // MOST_CELLS)
        height, width = (-(-side // self.factor) for side in grid.shape)
        self._scored = np.zeros((height, width), np.int64)

    def add(self, start: int, strip: NDArray[np.float32]) -> None:
        """Count the cells of a strip that begins at row ``start``."""
        rows = (start + np.arange(len(strip))) // self.factor
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        # Down the columns first, in numbers as small as they can be: along rows it would take ten times as long.
        counting = np.uint8 if self.factor <= np.iinfo(np.uint8).max else np.int64
        down = np.add.reduceat((~np.isnan(strip)).view(np.uint8), first, axis=0, dtype=counting)
        for offset in range(self.factor):
            across = down[:, offset :: self.factor]
            self._scored[rows[first], : across.shape[1]] += across

    def looked_at(self) -> NDArray[np.bool_]:
        """Return the squares of which at least half of the cells have a score, shape (rows, cols)."""
        sides = []
        for side in self._grid.shape:
            starts = np.arange(0, side, self.factor)
            sides.append(np.minimum(starts + self.factor, side) - starts)
        cells = sides[0][:, None] * sides[1][None, :]
        return 2 * self._scored >= cells

    def table(self, stride: int, origin: dict[str, str | None]) -> pa.Table:
        """Return the outline as a table of one row, or of none where nothing has a score.

        Parameters
        ----------
        stride
            Pixels of the before-scene along a cell's side.
        origin
            ``before``, ``after`` and ``created``.
        """
        squares = self.looked_at().astype(np.float32)
        transform = self._grid.transform @ Affine.scale(self.factor)
        grid = Grid(self._grid.crs, transform, squares.shape[1], squares.shape[0])
        extent = self._extent[0] / self.factor, self._extent[1] / self.factor
        areas = CellAreas(grid, extent)
        polygons, area = [], 0.0
        for batch in component_batches([squares], 1.0, connectivity=4):
            for outline in trace(batch).placed(transform, extent).geometries():
                polygons.extend(outline.geoms)
            area += float(areas.of(batch).sum())
        outline = shapely.to_wkb(shapely.MultiPolygon(polygons))
        row = {**origin, "looked_at_m2": area, "accuracy_px": self.factor * stride, GEOMETRY: outline}
        return pa.Table.from_pylist([row] if polygons else [], schema=FOOTPRINT_SCHEMA)
