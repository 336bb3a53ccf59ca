"""A sample of a pair: patches spread evenly over the overlap, so that its cost does not grow with the scene."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.errors import SceneUnreadableError
from geosiam.imagery.grid import Window, common_parts
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
_MAX_PATCHES_PER_SIDE = 6
_SQUARE = 16  # side of what is correlated, in every other pixel
_MAX_PIXELS = 30_000  # of a sample, after thinning
_FEW_PATCHES = 25  # of local files; reading them takes less time than opening the files in several threads
_THREADS = 4  # for decoding, and for waiting for a server
_FILE_BLOCK_PX = 256  # usual side of a file's blocks, or a divisor of it
_MIN_VALID = 0.5  # share of a row or column of a patch; others are trimmed off
_STRIP_PIXELS = 4_000_000
_MAX_SEARCHED_PIXELS = 2_000_000_000  # some minutes of reading


@dataclass(frozen=True)
class Patch:
    """A window of both scenes in their own values, (3, rows, cols), and validity in both, bool (rows, cols)."""

    before: NDArray[Any]
    after: NDArray[Any]
    valid: NDArray[np.bool_]

    def within(self, mask: NDArray[np.bool_]) -> Patch:
        """Return the patch with the pixels outside of a mask, bool (rows, cols), marked as invalid."""
        return replace(self, valid=self.valid & mask)

    def moved(self, rows: int, cols: int) -> Patch:
        """Return the part with the same ground in both scenes if the after scene is shifted by ``rows``, ``cols``."""
        before, after = common_parts(self.valid.shape, rows, cols)
        return Patch(self.before[:, *before], self.after[:, *after], self.valid[before] & self.valid[after])

    def trimmed(self) -> Patch | None:
        """Return the patch without invalid margins, or None if that leaves invalid pixels or nothing."""
        rows, cols = (np.flatnonzero(self.valid.mean(axis=axis) > _MIN_VALID) for axis in (1, 0))
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
        """Valid pixels of the before scene, (3, n) in its own values, thinned to a limited number."""
        return self._thin([patch.before for patch in self.patches])

    @property
    def after(self) -> NDArray[Any]:
        """The same pixels of the after scene."""
        return self._thin([patch.after for patch in self.patches])

    @property
    def valid_fraction(self) -> float:
        """Share of valid pixels."""
        return float(sum(p.valid.sum() for p in self.patches) / sum(p.valid.size for p in self.patches))

    def moved(self, rows: int, cols: int) -> Sample | None:
        """Return the sample with a small shift of the after scene corrected; None if some pixels are not valid."""
        if not all(patch.valid.all() and min(patch.valid.shape) > max(abs(rows), abs(cols)) for patch in self.patches):
            return None
        return Sample(tuple(patch.moved(rows, cols) for patch in self.patches))

    def correlation(self) -> float:
        """Return the median correlation of both scenes' brightness over squares of the patches; -1 if all are constant.

        What has changed is inside few of the squares, whereas it may dominate each patch of a small scene.
        """
        values = []
        for patch in self.patches:
            valid = patch.valid[::2, ::2]
            brightness = [image[:, ::2, ::2].mean(axis=0) for image in (patch.before, patch.after)]
            for square in _squares(valid.shape):
                inside = valid[square]
                before, after = (image[square][inside] for image in brightness)
                if inside.any() and before.std() and after.std():
                    values.append(np.corrcoef(before, after)[0, 1])
        return float(np.median(values)) if values else -1.0

    def pixels(self, stretches: tuple[Stretch, Stretch]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the valid pixels of both scenes, stretched to [0, 1]."""
        return stretches[0].apply(self.before), stretches[1].apply(self.after)

    def shift(self, stretches: tuple[Stretch, Stretch]) -> Shift | None:
        """Estimate the misregistration from the patches that are fully valid without their margins."""
        full = [trimmed for patch in self.patches if (trimmed := patch.trimmed()) is not None]
        return estimate_shift([(stretches[0].apply(p.before), stretches[1].apply(p.after)) for p in full])

    def _thin(self, images: list[NDArray[Any]]) -> NDArray[Any]:
        counts = [int(patch.valid.sum()) for patch in self.patches]
        step = max(1, sum(counts) // _MAX_PIXELS)
        firsts = [-total % step for total in accumulate(counts, initial=0)]  # every step-th pixel across all patches
        indexes = [np.flatnonzero(patch.valid)[first::step] for patch, first in zip(self.patches, firsts, strict=False)]
        return np.concatenate(
            [image.reshape(len(image), -1)[:, index] for image, index in zip(images, indexes, strict=True)], axis=1
        )


def sample_overlap(
    before: AlignedReader,
    after: AlignedReader,
    overlap: Window,
    aoi: AreaOfInterest | None,
    *,
    skip_unreadable: bool = False,
    workers: int | None = None,
) -> Sample | None:
    """Sample the overlap; None if no pixel is valid in both scenes.

    If the evenly spread patches have no valid pixel, the overlap is searched from top to bottom for the first strip
    that has one. Of gigantic scenes only the upper part is searched.

    Parameters
    ----------
    before, after
        Readers of the scenes, on one grid.
    overlap, aoi
        Window to sample, and the area of interest in it; None: all of the window.
    skip_unreadable
        Leave out patches that cannot be decoded, instead of raising.
    workers
        Largest number of threads that decode local files; None: as many as this module uses by default.
    """
    sample = _sample(before, after, _spread(overlap), aoi, skip_unreadable=skip_unreadable, workers=workers)
    if sample is None:
        strips = (_sample(before, after, [w], aoi, skip_unreadable=skip_unreadable) for w in _strips(overlap))
        sample = next((strip for strip in strips if strip), None)
    return sample


def _sample(
    before: AlignedReader,
    after: AlignedReader,
    windows: list[Window],
    aoi: AreaOfInterest | None,
    *,
    skip_unreadable: bool,
    workers: int | None = None,
) -> Sample | None:
    def read_patch(window: Window) -> Patch | None:
        try:
            with environment():
                values_before, valid_before = before.read_once(window)
                values_after, valid_after = after.read_once(window)
        except SceneUnreadableError:
            if not skip_unreadable:
                raise
            return None
        return Patch(values_before, values_after, valid_before & valid_after)

    remote = before.scene.remote or after.scene.remote
    threads = _THREADS if remote or workers is None else min(_THREADS, workers)
    if threads == 1 or (len(windows) <= _FEW_PATCHES and not remote):
        patches = [read_patch(window) for window in windows]
    else:
        with ThreadPoolExecutor(threads, "geosiam-sample") as pool:
            patches = list(pool.map(read_patch, windows))
    inside = tuple(
        patch if aoi is None else patch.within(aoi.mask(window))
        for window, patch in zip(windows, patches, strict=True)
        if patch is not None
    )
    return Sample(inside) if any(patch.valid.any() for patch in inside) else None


def _squares(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return the parts, about as large as a square, that divide an image of a shape (rows, cols)."""
    edges = [np.linspace(0, size, max(1, round(size / _SQUARE)) + 1).round().astype(int) for size in shape]
    rows, cols = ([slice(*pair) for pair in pairwise(side.tolist())] for side in edges)
    return list(product(rows, cols))


def _spread(overlap: Window) -> list[Window]:
    """Return the windows of evenly spread patches, which do not overlap."""
    rows = _starts(overlap.row_start, overlap.row_stop)
    cols = _starts(overlap.col_start, overlap.col_stop)
    return [
        Window(row, min(row + PATCH_PX, overlap.row_stop), col, min(col + PATCH_PX, overlap.col_stop))
        for row in rows
        for col in cols
    ]


def _starts(start: int, stop: int) -> list[int]:
    count = max(1, min(_MAX_PATCHES_PER_SIDE, (stop - start) // PATCH_PX))
    last = max(start, stop - PATCH_PX)
    if count == 1:
        return [(start + last) // 2]
    starts = [int(value) for value in np.linspace(start, last, count)]
    if last - start < 2 * _FILE_BLOCK_PX * count:
        return starts
    return [max(start, _snap(value)) for value in starts]


def _snap(start: int) -> int:
    """Move a patch up or left to where it is inside one block of a file with blocks of the usual size."""
    inside = start % _FILE_BLOCK_PX
    return start - inside if inside > _FILE_BLOCK_PX - PATCH_PX else start


def _strips(overlap: Window) -> Iterator[Window]:
    width = min(overlap.shape[1], _STRIP_PIXELS)
    height = max(1, _STRIP_PIXELS // width)
    budget = _MAX_SEARCHED_PIXELS
    for row in range(overlap.row_start, overlap.row_stop, height):
        for col in range(overlap.col_start, overlap.col_stop, width):
            yield Window(row, min(row + height, overlap.row_stop), col, min(col + width, overlap.col_stop))
            budget -= width * height
            if budget < 0:
                return
