"""What the pixels of both scenes show of a component: does it darken like a shadow, did something appear or vanish.

Pixels that were not noted while they were scored (:mod:`geosiam.polygons.evidence`) are read in blocks, of those that
hold a component large enough to become a polygon, and of each block the part around such components. They are summed up
by cells, in whole numbers, so that neither the order nor the company in which components come matters.

*Shadow.* A pixel darkens like a shadow where the after-scene has the same color at a part of the brightness.

*Hint.* Pixels of the component that differ between the scenes are compared with those in and around it that do not:
where they stand out from these in one scene clearly more than in the other, that is where something is to be seen.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from geosiam.errors import SceneUnreadableError
from geosiam.polygons.evidence import COLUMNS, COUNTS, ONE, REACH, SUMS, cell_sums, patches
from geosiam.polygons.schema import HINTS
from geosiam.polygons.score_stream import cells_of
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Window
    from geosiam.imagery.pair import PairBlock
    from geosiam.polygons.components import ComponentBatch
    from geosiam.polygons.evidence import ZonalStatsStore
    from geosiam.polygons.score_stream import ScoreStream

_ERRAND_BLOCKS = 4  # along a side: what one thread looks at in one go is about a tile of a file, which it decodes alone

TELLING, LEAST_CONTRAST, LEAST_PIXELS = 2.0, 1.0, 12
"""How many times the contrast in one scene is that in the other, the least contrast, and the least number of pixels
that changed and that did not, for a hint."""

_NOISE = 0.02  # contrast is measured against at least this spread of the surroundings
_SLICE_CELLS = 1 << 16


class Reader(Protocol):
    """The pair of scenes; :class:`~geosiam.imagery.pair.ScenePair` is one."""

    def read(self, window: Window) -> PairBlock:
        """Read a window of both scenes."""
        ...


class AttributeReader:
    """Looks at the pixels of components, in threads that end with the context.

    Parameters
    ----------
    pair
        The scenes.
    stride
        Pixels along a cell's side.
    threshold
        Score from which on cells are no surroundings.
    colored
        Whether the scenes have colors; without them nothing can be said about shadows.
    workers
        Number of threads; None: as many as there are processors.
    sightings
        What was noted when the cells were scored; only the others are looked at.
    """

    def __init__(
        self,
        pair: Reader,
        stride: int,
        threshold: float,
        *,
        colored: bool,
        workers: int | None = None,
        sightings: ZonalStatsStore | None = None,
    ) -> None:
        self._pair, self._stride, self._threshold, self._colored = pair, stride, threshold, colored
        self._sightings = sightings
        self._workers = workers or default_workers()
        self._threads = ThreadPoolExecutor(self._workers, "geosiam-witness")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def attributes_of(
        self, batch: ComponentBatch, field: ScoreStream
    ) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
        """Return ``shadow_fraction`` (NaN = unknown) and ``hint`` (None = unknown), shape (n,) each."""
        sums = np.zeros((len(batch), COLUMNS), np.int64)
        length = (batch.runs[:, 2] - batch.runs[:, 1]).astype(np.int64)
        run_owner = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
        part = np.cumsum(length) // _SLICE_CELLS
        for number in np.unique(part):
            run = part == number
            owner = np.repeat(run_owner[run], length[run])
            rows, cols = cells_of(batch.runs[run])
            around = _around(owner, rows, cols, field, self._threshold)
            self._add(sums, owner, rows, cols, around)
        return self._shadow(sums), _hints(sums)

    def _add(
        self,
        sums: NDArray[np.int64],
        owner: NDArray[np.int64],
        rows: NDArray[np.int64],
        cols: NDArray[np.int64],
        around: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """Add what the cells of components and those around them show."""
        whose, row, col = (np.concatenate(pair) for pair in zip((owner, rows, cols), around, strict=True))
        inside = np.arange(len(whose)) < len(owner)
        for here, seen in self._seen(row, col):
            mine = inside[here]
            seen[~mine, : COUNTS.index("still")] = 0
            seen[~mine, len(COUNTS) : len(COUNTS) + 6] = 0
            np.add.at(sums, whose[here], seen)

    def _seen(
        self, row: NDArray[np.int64], col: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
        """Yield which cells were looked at and what each shows, shape (cells, sums), in any order."""
        unknown = np.arange(len(row))
        if self._sightings is not None:
            known, shown = self._sightings.recall(row, col)
            yield np.flatnonzero(known), shown
            unknown = np.flatnonzero(~known)
        row, col = row[unknown], col[unknown]

        def run(errand: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], NDArray[np.int64]]]:
            found = []
            for part, cells in patches(row[errand], col[errand], self._stride):
                here = errand[part]
                if (sums := self._look(cells)) is not None:
                    found.append((unknown[here], sums[:, row[here] - cells.row_start, col[here] - cells.col_start].T))
            return found

        errands = (errand for errand, _ in patches(row, col, self._stride, _ERRAND_BLOCKS))
        waiting = deque(self._threads.submit(run, errand) for errand in islice(errands, 2 * self._workers))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(self._threads.submit(run, errand) for errand in islice(errands, 1))

    def _look(self, cells: Window) -> NDArray[np.int64] | None:
        """Return what the cells of a window show, shape (sums, rows, cols); None where a scene cannot be read."""
        try:
            return cell_sums(self._pair.read(cells.scaled(self._stride)), self._stride)
        except SceneUnreadableError:
            return None  # where this is no error, there are no scores either: these are surroundings at most

    def _shadow(self, sums: NDArray[np.int64]) -> NDArray[np.float64]:
        valid = sums[:, 0].astype(np.float64)
        if not self._colored:
            return np.full(len(sums), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(valid > 0, sums[:, 1] / valid, np.nan)


def _around(
    owner: NDArray[np.int64], rows: NDArray[np.int64], cols: NDArray[np.int64], field: ScoreStream, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the cells around those given that have a score below the threshold: owner, row and column."""
    height, width = field.scores.grid.shape
    reach = np.arange(-REACH, REACH + 1)
    row = (rows[:, None] + np.repeat(reach, len(reach))).ravel()
    col = (cols[:, None] + np.tile(reach, len(reach))).ravel()
    whose = np.repeat(owner, len(reach) ** 2)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    key = np.unique((whose[inside] * height + row[inside]) * width + col[inside])
    rest, col = np.divmod(key, width)
    whose, row = np.divmod(rest, height)
    weak = field.at(row, col) < threshold
    return whose[weak], row[weak], col[weak]


def contrasts(sums: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much the changed pixels stand out from the others in the before- and the after-scene, shape (n,)."""
    changed, still = (np.maximum(sums[:, COUNTS.index(name), None], 1) for name in ("changed", "still"))
    values = {name: sums[:, len(COUNTS) + 3 * i :][:, :3] / ONE for i, name in enumerate(SUMS)}
    found = []
    for scene in ("before", "after"):
        mean = values[f"still_{scene}"] / still
        spread = np.maximum(values[f"still_{scene}_2"] / still - mean**2, 0)
        apart = (values[f"changed_{scene}"] / changed - mean) ** 2 / (spread + _NOISE**2)
        found.append(np.sqrt(apart.mean(axis=1)))
    return found[0], found[1]


def _hints(sums: NDArray[np.int64]) -> NDArray[np.object_]:
    before, after = contrasts(sums)
    enough = (sums[:, COUNTS.index("changed")] >= LEAST_PIXELS) & (sums[:, COUNTS.index("still")] >= LEAST_PIXELS)
    hints = np.full(len(sums), None, dtype=object)
    appeared, vanished = HINTS
    hints[enough & (after >= LEAST_CONTRAST) & (after >= TELLING * before)] = appeared
    hints[enough & (before >= LEAST_CONTRAST) & (before >= TELLING * after)] = vanished
    return hints
