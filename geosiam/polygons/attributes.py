"""Polygon attributes that depend on the pixels of both scenes, and on how far these are apart.

Statistics of cells come from the store that was filled while the cells were scored
(:mod:`geosiam.inference.zonal_stats`). Pixels of other cells are read again, in patches around the components that are
large enough to become a polygon. All sums are integers, so neither the order nor the grouping of components matters.

*Shadow.* A pixel darkens like a shadow where the after scene has the same color at a part of the brightness.

*Hint.* Pixels of the component that differ between the scenes are compared with pixels in and around it that do not:
where they stand out in one scene clearly more than in the other, the object is in that scene.

*Shift fraction.* The scenes are compared again after one was shifted a little against the other. Where an edge is out
of place, some shift makes the difference as small as it is around the component; what is in one scene only stays.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from geosiam.errors import SceneUnreadableError
from geosiam.inference.zonal_stats import (
    BUFFER_CELLS,
    COLUMNS,
    COUNTS,
    PIXEL_COLUMNS,
    REACH_PX,
    SUMS,
    UNIT,
    cell_statistics,
    patches,
)
from geosiam.polygons.runs import cells_of
from geosiam.polygons.schema import HINTS
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.displacement import DisplacementField
    from geosiam.imagery.grid import Window
    from geosiam.imagery.pair import PairBlock
    from geosiam.inference.zonal_stats import ZonalStatsStore
    from geosiam.polygons.components import ComponentBatch
    from geosiam.polygons.score_stream import ScoreStream

_PATCH_FACTOR = 4  # what a thread reads in one go is about a tile of a file, which it decodes alone
_MAX_CELLS_AT_ONCE = 1 << 15
_UNCHANGED = [COUNTS.index("unchanged"), *range(len(COUNTS) + 6, PIXEL_COLUMNS)]  # columns of unchanged pixels
_MIN_DIFFERENCE = 1.0  # least mean difference of the scenes in a component that is explained, in 1/255
_MAX_NOISE = 0.25  # largest share of it that counts as noise
_SHIFT_SAMPLES = 5  # points along each side of a component at which the shift is taken


@dataclass(frozen=True)
class HintPolicy:
    """Criteria for the hint that an object appeared or vanished.

    Parameters
    ----------
    min_contrast_ratio
        Least ratio of the contrast in one scene to that in the other.
    min_contrast
        Least contrast: distance from the surroundings' mean, in standard deviations of the surroundings.
    min_pixels
        Least number of changed pixels, and of unchanged ones.
    min_deviation
        Least standard deviation that a contrast is measured in, of channels in [0, 1].
    """

    min_contrast_ratio: float = 2.0
    min_contrast: float = 1.0
    min_pixels: int = 12
    min_deviation: float = 0.02


_POLICY = HintPolicy()


class PairReader(Protocol):
    """Reads both scenes; :class:`~geosiam.imagery.pair.ScenePair` is one, and arrays are in tests."""

    def read(self, window: Window) -> PairBlock:
        """Read a window of both scenes."""
        ...


class Attributes(NamedTuple):
    """Attributes of components, shape (n,) each.

    Parameters
    ----------
    shift_px
        Median distance in pixels that the scenes are apart around it; NaN = unknown; None = not known of any place.
    shift_fraction
        Fraction of the difference of the scenes that a short shift explains, 0 to 1; NaN = unknown.
    shadow_fraction
        Fraction of the pixels that darken like a shadow, 0 to 1; NaN = unknown.
    hint
        One of :data:`~geosiam.polygons.schema.HINTS`; None = unknown.
    """

    shift_px: NDArray[np.float64] | None
    shift_fraction: NDArray[np.float64]
    shadow_fraction: NDArray[np.float64]
    hint: NDArray[np.object_]


class AttributeReader:
    """Determine the attributes of components from the pixels of both scenes, in threads that end with the context.

    Parameters
    ----------
    pair
        The scenes.
    stride
        Pixels along a cell's side.
    threshold
        Threshold of the polygons; cells with this score or more do not count as surroundings.
    colored
        Whether the scenes have colors; without them shadows cannot be detected.
    displacement
        Displacement of the after scene from place to place; None if not known.
    workers
        Number of threads; None: one for each processor.
    zonal_stats
        Statistics collected while the cells were scored; the pixels of other cells are read again.
    """

    def __init__(
        self,
        pair: PairReader,
        stride: int,
        threshold: float,
        *,
        colored: bool,
        displacement: DisplacementField | None = None,
        workers: int | None = None,
        zonal_stats: ZonalStatsStore | None = None,
    ) -> None:
        self._pair, self._stride, self._threshold, self._colored = pair, stride, threshold, colored
        self._displacement, self._zonal_stats = displacement, zonal_stats
        self._workers = workers or default_workers()
        self._threads = ThreadPoolExecutor(self._workers, "geosiam-attributes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def attributes_of(self, batch: ComponentBatch, stream: ScoreStream) -> Attributes:
        """Return the attributes of a batch of components."""
        totals = np.zeros((len(batch), 2, COLUMNS), np.int64)
        length = (batch.runs[:, 2] - batch.runs[:, 1]).astype(np.int64)
        run_owner = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
        part = np.cumsum(length) // _MAX_CELLS_AT_ONCE
        for number in np.unique(part):
            run = part == number
            owner = np.repeat(run_owner[run], length[run])
            rows, cols = cells_of(batch.runs[run])
            members = owner, rows, cols
            self._add(totals, members, _surroundings(owner, rows, cols, stream, self._threshold))
        pixels = totals[:, 0, :PIXEL_COLUMNS]
        pixels[:, _UNCHANGED] += totals[:, 1, :PIXEL_COLUMNS][:, _UNCHANGED]  # of those around, only these count
        return Attributes(
            self._shifts_left(batch),
            _shift_fractions(totals[..., PIXEL_COLUMNS:]),
            self._shadow_fractions(pixels),
            _hints(pixels),
        )

    def _shifts_left(self, batch: ComponentBatch) -> NDArray[np.float64] | None:
        """Return how far the scenes are apart around components, shape (n,).

        It is the median over the bounding box and a margin: in the component itself matches are wrong, because there
        the scenes differ.
        """
        field = self._displacement
        if field is None:
            return None
        top, bottom, left_side, right_side = batch.bounds.T * self._stride
        rows, cols = (
            np.linspace(start - field.spacing, stop + field.spacing, _SHIFT_SAMPLES)
            for start, stop in ((top, bottom), (left_side, right_side))
        )
        points = np.broadcast_arrays(rows[:, None], cols[None])
        distances = field.remaining_at(*(axis.ravel() for axis in points)).reshape(-1, len(batch))
        shifts = np.full(len(batch), np.nan)
        has_match = np.isfinite(distances).any(axis=0)
        shifts[has_match] = np.nanmedian(distances[:, has_match], axis=0)
        return shifts

    def _add(
        self,
        totals: NDArray[np.int64],
        members: tuple[NDArray[np.int64], ...],
        surroundings: tuple[NDArray[np.int64], ...],
    ) -> None:
        """Add statistics of the cells of components and of those around them; each is owner, row and column.

        Totals have the shape (n, 2, COLUMNS): those of a component's own cells, then those of the cells around it.
        """
        owner, row, col = (np.concatenate(pair) for pair in zip(members, surroundings, strict=True))
        outside = (np.arange(len(owner)) >= len(members[0])).astype(np.intp)
        for cells, statistics in self._statistics(row, col):
            np.add.at(totals, (owner[cells], outside[cells]), statistics)

    def _statistics(
        self, row: NDArray[np.int64], col: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
        """Yield the indices of some of the cells and their statistics, shape (some, COLUMNS), in any order."""
        missing = np.arange(len(row))
        if self._zonal_stats is not None:
            stored, statistics = self._zonal_stats.lookup(row, col)
            yield np.flatnonzero(stored), statistics
            missing = np.flatnonzero(~stored)
        row, col = row[missing], col[missing]

        def read(area: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], NDArray[np.int64]]]:
            results = []
            for part, cells in patches(row[area], col[area], self._stride):
                members = area[part]
                if (statistics := self._read(cells)) is not None:
                    places = row[members] - cells.row_start, col[members] - cells.col_start
                    results.append((missing[members], statistics[:, places[0], places[1]].T))
            return results

        areas = (area for area, _ in patches(row, col, self._stride, _PATCH_FACTOR))
        running = deque(self._threads.submit(read, area) for area in islice(areas, 2 * self._workers))
        while running:
            yield from running.popleft().result()
            running.extend(self._threads.submit(read, area) for area in islice(areas, 1))

    def _read(self, cells: Window) -> NDArray[np.int64] | None:
        """Return the statistics of a window of cells, (COLUMNS, rows, cols); None where a scene cannot be read."""
        try:
            return cell_statistics(self._pair.read(cells.scaled(self._stride).grown(REACH_PX)), self._stride)
        except SceneUnreadableError:
            return None  # where a run may go on after this, there are no scores either: these are surroundings at most

    def _shadow_fractions(self, totals: NDArray[np.int64]) -> NDArray[np.float64]:
        if not self._colored:
            return np.full(len(totals), np.nan)
        return _quotient(totals[:, COUNTS.index("shaded")], totals[:, COUNTS.index("valid")])


def _quotient(dividend: NDArray[np.int64], divisor: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return quotients; NaN where the divisor is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(divisor > 0, dividend / divisor, np.nan)


def _shift_fractions(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the fraction of the difference that the best shift removes, shape (n,); NaN where nothing differs.

    Parameters
    ----------
    totals
        Shape (n, 2, 1 + number of shifts), of a component's own cells and of those around it: the number of cells,
        and the sum of their differences at each shift.
    """
    inside, around = np.moveaxis(totals[..., 1:] / np.maximum(totals[..., :1], 1), 1, 0)
    unshifted = inside[:, 0]
    # Noise and blur remain at any shift, as they do around the component; but the surroundings may have changed, too.
    noise = np.minimum(around.min(axis=1), _MAX_NOISE * unshifted)
    unexplained = np.maximum(inside.min(axis=1) - noise, 0)
    differs = unshifted >= _MIN_DIFFERENCE
    return np.where(differs, 1 - unexplained / np.where(differs, unshifted - noise, 1), np.nan)


def _surroundings(
    owner: NDArray[np.int64], rows: NDArray[np.int64], cols: NDArray[np.int64], stream: ScoreStream, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the surrounding cells with a score below the threshold: owner, row and column."""
    height, width = stream.scores.grid.shape
    reach = np.arange(-BUFFER_CELLS, BUFFER_CELLS + 1)
    row = (rows[:, None] + np.repeat(reach, len(reach))).ravel()
    col = (cols[:, None] + np.tile(reach, len(reach))).ravel()
    owner = np.repeat(owner, len(reach) ** 2)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    key = np.unique((owner[inside] * height + row[inside]) * width + col[inside])
    owner_and_row, col = np.divmod(key, width)
    owner, row = np.divmod(owner_and_row, height)
    weak = stream.at(row, col) < threshold
    return owner[weak], row[weak], col[weak]


def _contrasts(totals: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much the changed pixels stand out from the others in the before and the after scene, shape (n,)."""
    changed, unchanged = (np.maximum(totals[:, COUNTS.index(name), None], 1) for name in ("changed", "unchanged"))
    sums = {name: totals[:, len(COUNTS) + 3 * i :][:, :3] / UNIT for i, name in enumerate(SUMS)}
    contrasts = []
    for scene in ("before", "after"):
        mean = sums[f"unchanged_{scene}"] / unchanged
        variance = np.maximum(sums[f"unchanged_{scene}_squared"] / unchanged - mean**2, 0)
        squared = (sums[f"changed_{scene}"] / changed - mean) ** 2 / (variance + _POLICY.min_deviation**2)
        contrasts.append(np.sqrt(squared.mean(axis=1)))
    return contrasts[0], contrasts[1]


def _hints(totals: NDArray[np.int64]) -> NDArray[np.object_]:
    before, after = _contrasts(totals)
    changed, unchanged = (totals[:, COUNTS.index(name)] for name in ("changed", "unchanged"))
    enough = (changed >= _POLICY.min_pixels) & (unchanged >= _POLICY.min_pixels)
    ratio = _POLICY.min_contrast_ratio
    hints = np.full(len(totals), None, dtype=object)
    appeared, vanished = HINTS
    hints[enough & (after >= _POLICY.min_contrast) & (after >= ratio * before)] = appeared
    hints[enough & (before >= _POLICY.min_contrast) & (before >= ratio * after)] = vanished
    return hints
