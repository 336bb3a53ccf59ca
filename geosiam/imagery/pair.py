"""A pair of scenes: checked before any work, then read as aligned, masked and normalized blocks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeGuard

import numpy as np

from geosiam.errors import SceneRefusedError
from geosiam.imagery import normalization as radiometric
from geosiam.imagery.alignment import align, check_resolution, check_transformable, footprint, turned
from geosiam.imagery.aoi import AreaOfInterest
from geosiam.imagery.bands import CHANNELS, Channels, choose_channels, names_its_colors
from geosiam.imagery.grid import Window, reflected
from geosiam.imagery.normalization import PLAIN, PixelTransform, Stretch, Unit, choose_scaling
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair_report import (
    PairReport,
    remarks_on_bands,
    remarks_on_extent,
    remarks_on_radiometry,
    remarks_on_resolution,
    remarks_on_shift,
    remarks_on_storage,
)
from geosiam.imagery.reader import AlignedReader
from geosiam.imagery.sampling import sample_overlap
from geosiam.imagery.scene import Scene, SceneLike, checked_grid, environment, facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.imagery.normalization import RadiometricNormalization
    from geosiam.imagery.registration import Shift
    from geosiam.imagery.sampling import Sample

__all__ = ["NEUTRAL", "PairBlock", "PairReport", "Scene", "ScenePair", "StoredBlock", "open_pair"]

NEUTRAL = np.float32(0.5)
"""Value of pixels that are not valid, the same in both scenes, so that an edge of nodata is no anomaly."""

NOT_MOVED = (0.0, 0.0)
_FARTHEST_PX = 100.0
_WORTH_PX = 0.5  # below that, an estimate's own error counts
_FAR_PX = 8.0
_MOST_PIXELS = 10**13  # of the before-scene, which sets the size of the score raster


@dataclass(frozen=True)
class PairBlock:
    """A window of both scenes.

    Parameters
    ----------
    before, after
        float32 (3, rows, cols), scaled to [0, 1]; :data:`NEUTRAL` where not valid.
    valid
        bool (rows, cols), True = both scenes have data here, inside the valid area.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class StoredBlock:
    """A window of both scenes as they store it.

    Parameters
    ----------
    before, after
        (3, rows, cols) in the scene's own type and values; where not valid, anything but NaN.
    valid
        bool (rows, cols), True = both scenes have data here, inside the valid area.
    transfers
        What makes the one and the other comparable, values in [0, 1].
    """

    before: NDArray[Any]
    after: NDArray[Any]
    valid: NDArray[np.bool_]
    transfers: tuple[PixelTransform, PixelTransform]

    def comparable(self) -> PairBlock:
        """Return the block with both transfers applied."""
        before, after = self.transfers[0].apply(self.before), self.transfers[1].apply(self.after)
        if not self.valid.all():
            before[:, ~self.valid] = NEUTRAL
            after[:, ~self.valid] = NEUTRAL
        return PairBlock(before, after, self.valid)


@dataclass(frozen=True)
class ScenePair:
    """Two scenes on one grid, with everything about their reading decided.

    Made by :func:`open_pair`. Reading is thread-safe. A pair can be pickled if its scenes are named by path or URL.
    """

    grid: Grid
    overlap: Window
    before: AlignedReader
    after: AlignedReader
    scaling: tuple[Stretch, Stretch]
    radiometry: RadiometricNormalization
    aoi: AreaOfInterest | None
    facts: PairReport

    @property
    def transfers(self) -> tuple[PixelTransform, PixelTransform]:
        """What every pixel of the one and the other scene goes through."""
        return PixelTransform(self.scaling[0]), PixelTransform(self.scaling[1], self.radiometry)

    @property
    def columns_at_once(self) -> int | None:
        """How many pixel columns a row of blocks can have without anything being decoded twice; None: all."""
        known = [columns for reader in (self.before, self.after) if (columns := reader.columns_at_once) is not None]
        return min(known, default=None)

    def read(self, window: Window) -> PairBlock:
        """Read a window of the before-scene's grid; beyond the scene's outer margin both scenes are reflected."""
        return self.stored(window).comparable()

    def stored(self, window: Window) -> StoredBlock:
        """Read a window as :meth:`read` does, in the values that the scenes store."""
        inner, rows, cols = self._mirrored(window)
        if inner.intersection(self.overlap) is None:
            nothing = np.zeros((CHANNELS, *window.shape), np.uint8)
            return StoredBlock(nothing, nothing, np.zeros(window.shape, bool), self.transfers)
        with environment():
            before, valid = self.before.read(inner)
            after, also = self.after.read(inner)
        valid &= also
        if self.aoi is not None:
            valid &= self.aoi.mask(inner)
        if inner != window:
            before, after = (image.take(rows, axis=1).take(cols, axis=2) for image in (before, after))
            valid = valid.take(rows, axis=0).take(cols, axis=1)
        return StoredBlock(before, after, valid, self.transfers)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return just the validity of :meth:`read`; nothing is read of scenes without masks that are not warped."""
        inner, rows, cols = self._mirrored(window)
        if inner.intersection(self.overlap) is None:
            return np.zeros(window.shape, bool)
        valid = self.before.valid(inner) & self.after.valid(inner)
        if self.aoi is not None:
            valid &= self.aoi.mask(inner)
        return valid.take(rows, axis=0).take(cols, axis=1)

    def _mirrored(self, window: Window) -> tuple[Window, NDArray[np.intp], NDArray[np.intp]]:
        """Return the pixels of the scene that a window shows, and where in these to look for each of its pixels."""
        rows = reflected(window.row_start, window.row_stop, self.grid.height)
        cols = reflected(window.col_start, window.col_stop, self.grid.width)
        inner = Window(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
        return inner, rows - inner.row_start, cols - inner.col_start

    def clear_cache(self) -> None:
        """Keep nothing of what has been decoded so far: it will hardly be needed again."""
        self.before.clear_cache()
        self.after.clear_cache()

    @property
    def colored(self) -> bool:
        """Whether the channels of both scenes differ."""
        return min(self.before.channels.colors, self.after.channels.colors) > 1

    def report(self) -> PairReport:
        """Return what was found about the pair and what is done with it."""
        return self.facts

    def close(self) -> None:
        """Close all handles."""
        self.before.source.close()
        self.after.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_pair(before: SceneLike, after: SceneLike, options: PairOptions = PairOptions()) -> ScenePair:
    """Check two scenes and decide how they are read; no result is written before this has passed.

    Parameters
    ----------
    before, after
        Paths, also of folders or patterns of tiles, URLs that GDAL reads, open rasterio datasets, or georeferenced
        DataArrays.
    options
        How they are read.

    Raises
    ------
    InputError
        One of its kinds, which names the scene, the fact and the remedy.
    """
    sources = Scene.of(before), Scene.of(after)
    try:
        with environment():
            return PairBuilder(*sources, options).pair()
    except BaseException:
        for source in sources:
            source.close()
        raise


@dataclass(frozen=True)
class _View:
    """How the scenes are read, and what is seen."""

    before: AlignedReader
    after: AlignedReader
    overlap: Window
    sample: Sample


class PairBuilder:
    """The checks and decisions of :func:`open_pair`, in their order."""

    def __init__(self, before: Scene, after: Scene, options: PairOptions) -> None:
        self.options = options
        self.sources = before, after
        self.grid = checked_grid(before)
        if self.grid.width * self.grid.height > _MOST_PIXELS:
            fact = f"has {self.grid.height} x {self.grid.width} pixels, more than {_MOST_PIXELS:.0e}"
            raise SceneRefusedError(before.name, fact, "cut out a part of it: gdal_translate -projwin ... IN OUT")
        self.after_grid = turned(checked_grid(after), self.grid)
        check_transformable(after.name, self.after_grid, self.grid)
        handles = before.handle(), after.handle()
        by_color = all(names_its_colors(handle) for handle in handles)
        self.channels = (
            choose_channels(before.name, handles[0], options.bands, by_color=by_color),
            choose_channels(after.name, handles[1], options.bands, by_color=by_color),
        )
        self.warnings: list[str] = []
        self._unmoved: tuple[AlignedReader, AlignedReader] | None = None

    def pair(self) -> ScenePair:
        """Return the pair that the scenes make.

        Raises
        ------
        InputError
            They cannot be compared.
        """
        aoi, mode, register = self.options.aoi, self.options.radiometry, self.options.register
        area = AreaOfInterest.read(aoi, self.grid) if aoi is not None else None
        view = self._view(area)
        if view is None:
            raise SceneRefusedError(
                self.sources[1].name,
                f"has no valid pixel in common with {self.sources[0].name}",
                "check nodata values and masks, or name with --valid-area where data are",
            )
        scaling = choose_scaling(self._dtypes(), view.sample, self._units())
        shift = remaining = view.sample.shift(scaling)
        if register is not False and _far(shift):
            shift = self._looked_at_again(shift, scaling, area)
        moved = self._correction(shift, view, register=register)
        if not register and (near := self._moved_a_little(view, moved, area)) is not None:
            assert shift is not None
            view, remaining = near, shift.without(*moved)
        elif moved != NOT_MOVED and (there := self._view(area, moved)) is not None:
            left = there.sample.shift(scaling)
            if register or _nearer(left, shift):
                view, remaining = there, left
        radiometry = radiometric.estimate(*view.sample.pixels(scaling), mode)
        known = remaining is not None and remaining.trustworthy
        moved = view.after.alignment.shift
        report = PairReport(
            **self._found(view.before, view.after, view.overlap),
            scaling={"before": asdict(scaling[0]), "after": asdict(scaling[1])},
            radiometry=radiometry.to_dict(),
            valid_fraction=round(view.sample.valid_fraction, 4),
            shift=None if shift is None else asdict(shift),
            moved_px=moved,
            shift_px=round(remaining.length, 3) if remaining is not None and known else None,
            warnings=(
                *self.warnings,
                *remarks_on_radiometry(radiometry, mode),
                *remarks_on_shift(remaining, moved, asked=register is not None),
            ),
        )
        return ScenePair(self.grid, view.overlap, view.before, view.after, scaling, radiometry, area, report)

    def _view(self, area: AreaOfInterest | None, shift: tuple[float, float] = NOT_MOVED) -> _View | None:
        """Return how the scenes are read if a shift (rows, cols) is corrected; None where they then share no pixel."""
        before, after = self._readers(shift)
        overlap = self._overlap(area, margin=math.ceil(math.hypot(*shift)))
        sample = sample_overlap(
            before, after, overlap, area, skip_unreadable=self.options.on_error == "skip", workers=self.options.workers
        )
        return None if sample is None else _View(before, after, overlap, sample)

    def _moved_a_little(self, view: _View, shift: tuple[float, float], area: AreaOfInterest | None) -> _View | None:
        """Return what is seen where a few whole pixels are corrected, if the patches alone tell that this helps."""
        whole = all(part.is_integer() for part in shift) and view.after.alignment.offset is not None
        if not whole or shift == NOT_MOVED or max(map(abs, shift)) > _FAR_PX:
            return None
        sample = view.sample.moved(int(shift[0]), int(shift[1]))
        if sample is None or sample.correlation() <= view.sample.correlation():
            return None
        before, after = self._readers(shift)
        return _View(before, after, self._overlap(area, margin=math.ceil(math.hypot(*shift))), sample)

    def _correction(self, shift: Shift | None, view: _View, *, register: bool | None) -> tuple[float, float]:
        """Return what to move the after-scene by: all of the shift, or, unasked, what costs no resampling."""
        if register is False or (register and not self._correctable(shift)):
            return NOT_MOVED
        if shift is None or not shift.trustworthy or shift.length > _FARTHEST_PX:
            return NOT_MOVED
        if register or (view.after.alignment.offset is None and shift.length >= _WORTH_PX):
            return shift.rows, shift.cols
        whole = float(round(shift.rows)), float(round(shift.cols))
        return whole if view.after.alignment.offset is not None else NOT_MOVED

    def _looked_at_again(self, shift: Shift, scaling: tuple[Stretch, Stretch], area: AreaOfInterest | None) -> Shift:
        """Estimate a large shift once more where the scenes then meet: patches far apart have little in common."""
        known = replace(shift, rows=float(round(shift.rows)), cols=float(round(shift.cols)))
        view = self._view(area, (known.rows, known.cols))
        rest = None if view is None else view.sample.shift(scaling)
        return known + rest if rest is not None and rest.trustworthy else shift

    def _overlap(self, area: AreaOfInterest | None, margin: int = 0) -> Window:
        overlap = footprint(self.after_grid, self.grid)
        if overlap is not None and margin:  # where a correction may move the scene to
            overlap = overlap.grown(margin).intersection(Window(0, self.grid.height, 0, self.grid.width))
        if overlap is not None and area is not None:
            overlap = overlap.intersection(area.bounds())
        if overlap is None:
            raise SceneRefusedError(
                self.sources[1].name, f"does not overlap {self.sources[0].name}", "choose two scenes of the same place"
            )
        return overlap

    def _readers(self, shift: tuple[float, float]) -> tuple[AlignedReader, AlignedReader]:
        before, after = self.sources
        palette = self.channels[1].table is not None
        own = align(self.grid, self.grid)
        there = align(self.after_grid, self.grid, palette=palette, shift=shift)
        check_resolution((before.name, after.name), (self.grid, self.after_grid), there)
        if self._unmoved is not None:
            return self._unmoved[0], self._unmoved[1].with_alignment(there)
        self._unmoved = AlignedReader(before, self.channels[0], own), AlignedReader(after, self.channels[1], there)
        return self._unmoved

    def _dtypes(self) -> tuple[str, str]:
        kinds = []
        for source, channels in zip(self.sources, self.channels, strict=True):
            kinds.append("uint8" if channels.table is not None else source.handle().dtypes[channels.indexes[0] - 1])
        return kinds[0], kinds[1]

    def _units(self) -> tuple[Unit, Unit]:
        units = []
        for source, channels in zip(self.sources, self.channels, strict=True):
            dataset, bands = source.handle(), [index - 1 for index in channels.indexes]
            told = [dataset.scales[band] for band in bands], [dataset.offsets[band] for band in bands]
            units.append(PLAIN if channels.table is not None else Unit.of(*told))
        if units[0] != units[1]:
            self.warnings.append("the scenes store values in different units; their scale and offset are applied")
        return units[0], units[1]

    def _correctable(self, shift: Shift | None) -> bool:
        if shift is None or not shift.trustworthy:
            self.warnings.append("the misregistration cannot be estimated reliably and is not corrected")
            return False
        if shift.length > _FARTHEST_PX:
            self.warnings.append(f"a misregistration of {shift.length:.0f} px is not plausible and is not corrected")
            return False
        return shift.length > 0.1  # noqa: PLR2004 - resampling would cost more than it mends

    def _found(self, before: AlignedReader, after: AlignedReader, overlap: Window) -> dict[str, Any]:
        scenes = facts(self.sources[0]), facts(self.sources[1])
        rows, cols = overlap.shape
        share = rows * cols / (self.grid.width * self.grid.height)
        self.warnings += remarks_on_bands(scenes, self.channels)
        self.warnings += remarks_on_resolution(after.alignment)
        self.warnings += remarks_on_storage((before, after))
        self.warnings += remarks_on_extent(share)
        return {
            "before": scenes[0],
            "after": scenes[1],
            "before_bands": _bands(self.channels[0]),
            "after_bands": _bands(self.channels[1]),
            "alignment": after.alignment.reason,
            "resampling": after.alignment.resampling,
            "overlap": (overlap.row_start, overlap.row_stop, overlap.col_start, overlap.col_stop),
            "overlap_fraction": round(share, 4),
        }


def _far(shift: Shift | None) -> TypeGuard[Shift]:
    return shift is not None and shift.trustworthy and _FAR_PX < shift.length <= _FARTHEST_PX


def _nearer(left: Shift | None, shift: Shift | None) -> bool:
    """Return whether what is left of a shift is known to be less of one."""
    return left is not None and shift is not None and left.trustworthy and left.length < shift.length


def _bands(channels: Channels) -> dict[str, Any]:
    return {"indexes": channels.indexes, "reason": channels.reason}
