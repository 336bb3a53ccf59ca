"""A pair of scenes: checked before any work, then read as aligned, masked and normalised blocks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.imagery import radiometry as radiometric
from geosiam.imagery.alignment import align, check_transformable, footprint
from geosiam.imagery.bands import Channels, choose_channels, names_its_colours
from geosiam.imagery.grid import Window, reflected
from geosiam.imagery.reader import AlignedReader
from geosiam.imagery.sampling import sample_overlap
from geosiam.imagery.scaling import Scaling, choose_scaling
from geosiam.imagery.scene import ENVIRONMENT, Scene, SceneFacts, Source, checked_grid, facts
from geosiam.imagery.valid_area import ValidArea

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid
    from geosiam.imagery.radiometry import Radiometry
    from geosiam.imagery.registration import Shift

__all__ = ["NEUTRAL", "PairBlock", "PairReport", "Scene", "ScenePair", "open_pair"]

NEUTRAL = np.float32(0.5)
"""Value of pixels that are not valid, the same in both scenes, so that an edge of nodata is no anomaly."""

_FARTHEST_PX = 100.0
_NOTICEABLE_PX = 2.0
_HALF = 0.5


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
class PairReport:
    """What was found about a pair and what is done with it.

    Parameters
    ----------
    before, after
        What the scenes say of themselves.
    before_bands, after_bands
        1-based bands that serve as red, green and blue, and why.
    alignment, resampling
        How the after-scene comes onto the before-scene's grid.
    scaling
        (lowest, highest) value of each channel that becomes 0 and 1, per scene.
    radiometry
        See :meth:`geosiam.imagery.radiometry.Radiometry.to_dict`.
    overlap
        Pixels (row_start, row_stop, col_start, col_stop) outside of which nothing is valid.
    overlap_fraction, valid_fraction
        Share of the before-scene inside that window, and estimated share of valid pixels in the window.
    shift
        Estimated misregistration (rows, cols) in pixels and the share of patches that agree, before any correction.
    corrected
        Whether it is corrected.
    shift_px
        Estimated misregistration in pixels that remains; None where it cannot be told.
    warnings
        What the user should know.
    """

    before: SceneFacts
    after: SceneFacts
    before_bands: dict[str, Any]
    after_bands: dict[str, Any]
    alignment: str
    resampling: str
    scaling: dict[str, Any]
    radiometry: dict[str, Any]
    overlap: tuple[int, int, int, int]
    overlap_fraction: float
    valid_fraction: float
    shift: dict[str, float] | None
    corrected: bool
    shift_px: float | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class ScenePair:
    """Two scenes on one grid, with everything about their reading decided.

    Made by :func:`open_pair`. Reading is thread-safe. A pair can be pickled if its scenes are named by path or URL.
    """

    grid: Grid
    overlap: Window
    before: AlignedReader
    after: AlignedReader
    scaling: tuple[Scaling, Scaling]
    radiometry: Radiometry
    valid_area: ValidArea | None
    facts: PairReport

    def read(self, window: Window) -> PairBlock:
        """Read a window of the before-scene's grid; beyond the scene's outer margin both scenes are reflected."""
        rows = reflected(window.row_start, window.row_stop, self.grid.height)
        cols = reflected(window.col_start, window.col_stop, self.grid.width)
        inner = Window(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
        block = self._inside(inner)
        if inner == window:
            return block
        r, c = np.ix_(rows - inner.row_start, cols - inner.col_start)
        return PairBlock(block.before[:, r, c], block.after[:, r, c], block.valid[r, c])

    def _inside(self, window: Window) -> PairBlock:
        before, valid = self.before.read(window)
        after, also = self.after.read(window)
        valid &= also
        if self.valid_area is not None:
            valid &= self.valid_area.mask(window)
        before, after = self.scaling[0].apply(before), self.radiometry.apply(self.scaling[1].apply(after))
        if not valid.all():
            before[:, ~valid] = NEUTRAL
            after[:, ~valid] = NEUTRAL
        return PairBlock(before, after, valid)

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


def open_pair(
    before: Scene,
    after: Scene,
    *,
    bands: Sequence[int] | None = None,
    radiometry: str = "auto",
    register: bool = False,
    valid_area: str | os.PathLike[str] | None = None,
) -> ScenePair:
    """Check two scenes and decide how they are read; no result is written before this has passed.

    Parameters
    ----------
    before, after
        Paths, URLs that GDAL reads, open rasterio datasets, or georeferenced DataArrays.
    bands
        One or three 1-based bands for both scenes; None: by colour interpretation, else the first three.
    radiometry
        See :func:`geosiam.imagery.radiometry.estimate`.
    register
        Correct the misregistration where it can be estimated reliably.
    valid_area
        Vector file outside of whose polygons nothing is valid.

    Raises
    ------
    InputError
        One of its kinds, which names the scene, the fact and the remedy.
    """
    if radiometry not in radiometric.MODES:
        raise OptionError(f"radiometry {radiometry!r}", "is not known", f"use {', '.join(radiometric.MODES)}")
    sources = Source.of(before), Source.of(after)
    try:
        with rasterio.Env(**ENVIRONMENT):
            return _Preflight(*sources, bands).pair(radiometry, valid_area, register=register)
    except BaseException:
        for source in sources:
            source.close()
        raise


class _Preflight:
    """The checks and decisions of :func:`open_pair`, in their order."""

    def __init__(self, before: Source, after: Source, bands: Sequence[int] | None) -> None:
        self.sources = before, after
        self.grid, self.after_grid = checked_grid(before), checked_grid(after)
        check_transformable(after.name, self.after_grid, self.grid)
        handles = before.handle(), after.handle()
        by_colour = all(names_its_colours(handle) for handle in handles)
        self.channels = tuple(
            choose_channels(source.name, handle, bands, by_colour=by_colour)
            for source, handle in zip(self.sources, handles, strict=True)
        )
        self.warnings: list[str] = []

    def pair(self, mode: str, valid_area: str | os.PathLike[str] | None, *, register: bool) -> ScenePair:
        area = ValidArea.read(valid_area, self.grid) if valid_area is not None else None
        overlap = self._overlap(area)
        before, after = self._readers((0.0, 0.0))
        sample = sample_overlap(before, after, overlap, area)
        if sample is None:
            raise SceneRefusedError(
                self.sources[1].name,
                f"has no valid pixel in common with {self.sources[0].name}",
                "check nodata values, masks and the valid area",
            )
        scaling = choose_scaling(self._dtypes(), sample)
        shift = sample.shift(scaling)
        corrected = register and self._correctable(shift)
        if corrected and shift is not None:
            before, after = self._readers((shift.rows, shift.cols))
            sample = sample_overlap(before, after, overlap, area) or sample
        radiometry = radiometric.estimate(*sample.pixels(scaling), mode)
        report = PairReport(
            **self._scenes(after),
            **self._extent(overlap),
            **self._misregistration(shift, sample.shift(scaling) if corrected else shift, corrected=corrected),
            scaling={"before": asdict(scaling[0]), "after": asdict(scaling[1])},
            radiometry=radiometry.to_dict(),
            valid_fraction=round(sample.valid_fraction, 4),
            warnings=tuple(self.warnings),
        )
        return ScenePair(self.grid, overlap, before, after, scaling, radiometry, area, report)

    def _overlap(self, area: ValidArea | None) -> Window:
        overlap = footprint(self.after_grid, self.grid)
        if overlap is not None and area is not None:
            overlap = overlap.intersection(area.bounds(self.grid))
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
        return AlignedReader(before, self.channels[0], own), AlignedReader(after, self.channels[1], there)

    def _dtypes(self) -> tuple[str, str]:
        kinds = []
        for source, channels in zip(self.sources, self.channels, strict=True):
            kinds.append("uint8" if channels.table is not None else source.handle().dtypes[channels.indexes[0] - 1])
        return kinds[0], kinds[1]

    def _correctable(self, shift: Shift | None) -> bool:
        if shift is None or not shift.trustworthy:
            self.warnings.append("the misregistration cannot be estimated reliably and is not corrected")
            return False
        if shift.length > _FARTHEST_PX:
            self.warnings.append(f"a misregistration of {shift.length:.0f} px is not plausible and is not corrected")
            return False
        return shift.length > 0.1  # noqa: PLR2004 - resampling would cost more than it mends

    def _scenes(self, after: AlignedReader) -> dict[str, Any]:
        return {
            "before": facts(self.sources[0]),
            "after": facts(self.sources[1]),
            "before_bands": _bands(self.channels[0]),
            "after_bands": _bands(self.channels[1]),
            "alignment": after.alignment.reason,
            "resampling": after.alignment.resampling,
        }

    def _extent(self, overlap: Window) -> dict[str, Any]:
        rows, cols = overlap.shape
        share = rows * cols / (self.grid.width * self.grid.height)
        if share < _HALF:
            self.warnings.append(f"only {share:.0%} of the before-scene can be compared")
        window = (overlap.row_start, overlap.row_stop, overlap.col_start, overlap.col_stop)
        return {"overlap": window, "overlap_fraction": round(share, 4)}

    def _misregistration(self, shift: Shift | None, remaining: Shift | None, *, corrected: bool) -> dict[str, Any]:
        known = remaining is not None and remaining.trustworthy
        left = remaining.length if remaining is not None and known else None
        if left is not None and left > _NOTICEABLE_PX:
            self.warnings.append(f"the scenes are misregistered by about {left:.1f} px; consider --register")
        return {
            "shift": None if shift is None else asdict(shift),
            "corrected": corrected,
            "shift_px": None if left is None else round(left, 3),
        }


def _bands(channels: Channels) -> dict[str, Any]:
    return {"indexes": channels.indexes, "reason": channels.reason}
