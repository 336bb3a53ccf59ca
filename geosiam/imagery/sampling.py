"""A sample of the pair: patches spread evenly over the overlap, so that its cost does not grow with the scene."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.errors import SceneUnreadableError
from geosiam.imagery.grid import Window
from geosiam.imagery.registration import estimate_shift
from geosiam.imagery.scene import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.aoi import AreaOfInterest
    from geosiam.imagery.normalization import Stretch
    from geosiam.imagery.reader import AlignedReader
    from geosiam.imagery.registration import Shift

PATCH_PX = 192
_ACROSS = 6
_MOST_PIXELS = 30_000
_FEW = 25  # patches of local files are read in less time than threads take to open these
_THREADS = 4  # decoding on as many processors, and waiting for a server's answers at the same time
_FILE_BLOCK_PX = 256  # or a multiple of it
_HALF = 0.5
_STRIP_PIXELS = 4_000_000
_MOST_SEARCHED = 2_000_000_000  # pixels, some minutes' work


@dataclass(frozen=True)
class Patch:
    """A window of both scenes in their own values: (3, rows, cols), and what is valid in both."""

    before: NDArray[Any]
    after: NDArray[Any]
    valid: NDArray[np.bool_]

    def within(self, mask: NDArray[np.bool_]) -> Patch:
        """Return the patch with no more pixels valid than a mask (rows, cols) has."""
        return replace(self, valid=self.valid & mask)

    def moved(self, rows: int, cols: int) -> Patch:
        """Return what the patch shows of both scenes if the after-scene's content lies so far down and to the right."""
        height, width = self.valid.shape
        here = slice(max(0, -rows), height - max(0, rows)), slice(max(0, -cols), width - max(0, cols))
        there = slice(max(0, rows), height + min(0, rows)), slice(max(0, cols), width + min(0, cols))
        return Patch(self.before[:, *here], self.after[:, *there], self.valid[here] & self.valid[there])

    def trimmed(self) -> Patch | None:
        """Return the patch without margins that are not valid, or None where that leaves gaps or nothing."""
        rows, cols = (np.flatnonzero(self.valid.mean(axis=axis) > _HALF) for axis in (1, 0))
        if not len(rows) or not len(cols):
            return None
        inner = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
        if not self.valid[inner].all():
            return None
        return Patch(self.before[:, *inner], self.after[:, *inner], self.valid[inner])


@dataclass(frozen=True)
class Sample:
    """Patches of a pair; at least one pixel of them is valid."""

    patches: tuple[Patch, ...]

    @property
    def before(self) -> NDArray[Any]:
        """Valid pixels of the before-scene, (3, n) in its own values."""
        return self._thinned([patch.before for patch in self.patches])

    @property
    def after(self) -> NDArray[Any]:
        """The same pixels of the after-scene."""
        return self._thinned([patch.after for patch in self.patches])

    @property
    def valid_fraction(self) -> float:
        """Share of valid pixels."""
        return float(sum(p.valid.sum() for p in self.patches) / sum(p.valid.size for p in self.patches))

    def moved(self, rows: int, cols: int) -> Sample | None:
        """Return the sample with a small shift of the after-scene undone; None where some pixels are not valid."""
        if not all(patch.valid.all() and min(patch.valid.shape) > max(abs(rows), abs(cols)) for patch in self.patches):
            return None
        return Sample(tuple(patch.moved(rows, cols) for patch in self.patches))

    def correlation(self) -> float:
        """Return the median correlation of both scenes' brightness over the patches; -1 where all of these are even."""
        gray = [[image[:, ::2, ::2].mean(axis=0) for image in (patch.before, patch.after)] for patch in self.patches]
        known = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in gray if one.std() and other.std()]
        return float(np.median(known)) if known else -1.0

    def pixels(self, scaling: tuple[Stretch, Stretch]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the valid pixels of both scenes, scaled to [0, 1]."""
        return scaling[0].apply(self.before), scaling[1].apply(self.after)

    def shift(self, scaling: tuple[Stretch, Stretch]) -> Shift | None:
        """Estimate the misregistration from the patches that are valid throughout, but for their margins."""
        full = [trimmed for patch in self.patches if (trimmed := patch.trimmed()) is not None]
        return estimate_shift([(scaling[0].apply(p.before), scaling[1].apply(p.after)) for p in full])

    def _thinned(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        counts = [int(patch.valid.sum()) for patch in self.patches]
        step = max(1, sum(counts) // _MOST_PIXELS)
        firsts = [-seen % step for seen in accumulate(counts, initial=0)]  # goes on where the last patch ended
        wanted = [np.flatnonzero(patch.valid)[first::step] for patch, first in zip(self.patches, firsts, strict=False)]
        return np.concatenate(
            [part.reshape(len(part), -1)[:, where] for part, where in zip(parts, wanted, strict=True)], axis=1
        )


def sample_overlap(
    before: AlignedReader,
    after: AlignedReader,
    overlap: Window,
    area: AreaOfInterest | None,
    *,
    skip_unreadable: bool = False,
    workers: int | None = None,
) -> Sample | None:
    """Sample the overlap; None if no pixel at all is valid in both scenes.

    Where the evenly spread patches meet nodata only, the overlap is searched from top to bottom for the first patch
    with data, so that scarce data are found and scenes without any are told apart from these; but in a gigantic scene
    not all the way down.

    Parameters
    ----------
    before, after, overlap, area
        The scenes on one grid, and where to look at them.
    skip_unreadable
        Do without patches that cannot be decoded.
    workers
        Number of threads that decode local files; None: as many as help.
    """
    sample = _sample(before, after, _spread(overlap), area, skip_unreadable=skip_unreadable, workers=workers)
    if sample is None:
        strips = (_sample(before, after, [w], area, skip_unreadable=skip_unreadable) for w in _strips(overlap))
        sample = next((found for found in strips if found), None)
    return sample


def _sample(
    before: AlignedReader,
    after: AlignedReader,
    windows: list[Window],
    area: AreaOfInterest | None,
    *,
    skip_unreadable: bool,
    workers: int | None = None,
) -> Sample | None:
    def patch(window: Window) -> Patch | None:
        try:
            with environment():
                first, valid = before.read_once(window)
                second, also = after.read_once(window)
        except SceneUnreadableError:
            if not skip_unreadable:
                raise
            return None
        return Patch(first, second, valid & also)

    remote = before.source.remote or after.source.remote
    threads = _THREADS if remote or workers is None else min(_THREADS, workers)
    if threads == 1 or (len(windows) <= _FEW and not remote):
        found = [patch(window) for window in windows]
    else:
        with ThreadPoolExecutor(threads, "geosiam-sample") as pool:
            found = list(pool.map(patch, windows))
    read = [(window, seen) for window, seen in zip(windows, found, strict=True) if seen]
    patches = [seen if area is None else seen.within(area.mask(window)) for window, seen in read]
    return Sample(tuple(patches)) if any(patch.valid.any() for patch in patches) else None


def _spread(overlap: Window) -> list[Window]:
    """Return evenly spread patches that do not overlap each other."""
    rows = _starts(overlap.row_start, overlap.row_stop)
    cols = _starts(overlap.col_start, overlap.col_stop)
    return [
        Window(row, min(row + PATCH_PX, overlap.row_stop), col, min(col + PATCH_PX, overlap.col_stop))
        for row in rows
        for col in cols
    ]


def _starts(start: int, stop: int) -> list[int]:
    count = max(1, min(_ACROSS, (stop - start) // PATCH_PX))
    last = max(start, stop - PATCH_PX)
    if count == 1:
        return [(start + last) // 2]
    found = [int(value) for value in np.linspace(start, last, count)]
    if last - start < 2 * _FILE_BLOCK_PX * count:
        return found
    return [max(start, _snapped(value)) for value in found]


def _snapped(start: int) -> int:
    """Move a patch up or left to where it lies within one block of a file that is tiled as most are."""
    inside = start % _FILE_BLOCK_PX
    return start - inside if inside > _FILE_BLOCK_PX - PATCH_PX else start


def _strips(overlap: Window) -> Iterator[Window]:
    width = min(overlap.shape[1], _STRIP_PIXELS)
    height = max(1, _STRIP_PIXELS // width)
    budget = _MOST_SEARCHED
    for row in range(overlap.row_start, overlap.row_stop, height):
        for col in range(overlap.col_start, overlap.col_stop, width):
            yield Window(row, min(row + height, overlap.row_stop), col, min(col + width, overlap.col_stop))
            budget -= width * height
            if budget < 0:
                return
