"""A pair of scenes, read as aligned, masked and normalized blocks on the before scene's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geosiam.imagery.bands import CHANNELS
from geosiam.imagery.grid import Window, reflected
from geosiam.imagery.normalization import PixelTransform
from geosiam.imagery.scene import environment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.aoi import AreaOfInterest
    from geosiam.imagery.displacement import DisplacementField
    from geosiam.imagery.grid import Grid
    from geosiam.imagery.normalization import RadiometricNormalization, Stretch
    from geosiam.imagery.pair_report import PairReport
    from geosiam.imagery.reader import AlignedReader

NEUTRAL = np.float32(0.5)
"""Value of invalid pixels, the same in both scenes, so that an edge of nodata is no anomaly."""


@dataclass(frozen=True)
class PairBlock:
    """A window of both scenes, ready to be compared.

    Parameters
    ----------
    before, after
        float32 (3, rows, cols) in [0, 1]; :data:`NEUTRAL` where not valid.
    valid
        bool (rows, cols), True = both scenes have data here, inside the area of interest.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class StoredBlock:
    """A window of both scenes in the values that they store.

    Parameters
    ----------
    before, after
        (3, rows, cols) in the scene's own type and values; any value but NaN where not valid.
    valid
        bool (rows, cols), True = both scenes have data here, inside the area of interest.
    transforms
        Functions that make the before and the after scene comparable, with values in [0, 1].
    """

    before: NDArray[Any]
    after: NDArray[Any]
    valid: NDArray[np.bool_]
    transforms: tuple[PixelTransform, PixelTransform]

    def comparable(self) -> PairBlock:
        """Return the block with both transforms applied."""
        before, after = self.transforms[0].apply(self.before), self.transforms[1].apply(self.after)
        if not self.valid.all():
            before[:, ~self.valid] = NEUTRAL
            after[:, ~self.valid] = NEUTRAL
        return PairBlock(before, after, self.valid)


@dataclass(frozen=True)
class ScenePair:
    """Two scenes on one grid, with all decisions about reading them made.

    Made by :func:`geosiam.imagery.prepare.open_pair`. Reading is thread-safe. A pair can be pickled if its scenes are
    named by path or URL.

    Parameters
    ----------
    grid
        Grid of the before scene, on which both are read.
    overlap
        Window of the grid outside of which nothing is valid.
    before, after
        Readers of the two scenes.
    stretches
        Stretch of each scene's own values to [0, 1].
    radiometry
        Normalization of the stretched after scene.
    aoi
        Area of interest; None: the whole overlap.
    report
        Metadata of the pair, and the decisions about reading it.
    displacement
        Displacement of the after scene from place to place, whether it is corrected or not; None if not estimated.
    """

    grid: Grid
    overlap: Window
    before: AlignedReader
    after: AlignedReader
    stretches: tuple[Stretch, Stretch]
    radiometry: RadiometricNormalization
    aoi: AreaOfInterest | None
    report: PairReport
    displacement: DisplacementField | None = None

    @property
    def transforms(self) -> tuple[PixelTransform, PixelTransform]:
        """Functions that are applied to every pixel of the before and the after scene."""
        return PixelTransform(self.stretches[0]), PixelTransform(self.stretches[1], self.radiometry)

    @property
    def columns_at_once(self) -> int | None:
        """Largest width in pixels of a row of blocks for which no tile is decoded twice; None: any width."""
        limits = [columns for reader in (self.before, self.after) if (columns := reader.columns_at_once) is not None]
        return min(limits, default=None)

    def read(self, window: Window) -> PairBlock:
        """Read a window of the before scene's grid; beyond the scene's outer margin both scenes are reflected."""
        return self.stored(window).comparable()

    def stored(self, window: Window) -> StoredBlock:
        """Read a window as :meth:`read` does, in the values that the scenes store."""
        inner, rows, cols = self._reflect(window)
        if inner.intersection(self.overlap) is None:
            empty = np.zeros((CHANNELS, *window.shape), np.uint8)
            return StoredBlock(empty, empty, np.zeros(window.shape, bool), self.transforms)
        with environment():
            before, valid = self.before.read(inner)
            after, valid_after = self.after.read(inner)
        valid &= valid_after
        if self.aoi is not None:
            valid &= self.aoi.mask(inner)
        if inner != window:
            before, after = (image.take(rows, axis=1).take(cols, axis=2) for image in (before, after))
            valid = valid.take(rows, axis=0).take(cols, axis=1)
        return StoredBlock(before, after, valid, self.transforms)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return only the validity of :meth:`read`; scenes without masks that are not warped are not decoded for it."""
        inner, rows, cols = self._reflect(window)
        if inner.intersection(self.overlap) is None:
            return np.zeros(window.shape, bool)
        valid = self.before.valid(inner) & self.after.valid(inner)
        if self.aoi is not None:
            valid &= self.aoi.mask(inner)
        return valid.take(rows, axis=0).take(cols, axis=1)

    def _reflect(self, window: Window) -> tuple[Window, NDArray[np.intp], NDArray[np.intp]]:
        """Return the part of the scene that a window shows, and the row and column in it of each of its pixels."""
        rows = reflected(window.row_start, window.row_stop, self.grid.height)
        cols = reflected(window.col_start, window.col_stop, self.grid.width)
        inner = Window(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
        return inner, rows - inner.row_start, cols - inner.col_start

    def clear_cache(self) -> None:
        """Drop all decoded tiles, when they will hardly be needed again."""
        self.before.clear_cache()
        self.after.clear_cache()

    @property
    def colored(self) -> bool:
        """Whether the channels of both scenes differ from one another."""
        return min(self.before.channels.color_count, self.after.channels.color_count) > 1

    def close(self) -> None:
        """Close all handles."""
        self.before.scene.close()
        self.after.scene.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
