"""Surface models of two dates, opened, checked, and read in meters on the grid of the first one.

Reading is that of scenes (:class:`~geosiam.imagery.reader.AlignedReader`): another grid, another CRS and a shift are
undone in one resampling, and windows of a warped surface equal the warped whole.
"""

from __future__ import annotations

import contextlib
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyproj
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.imagery.alignment import align, check_transformable, footprint, unwrap_longitude
from geosiam.imagery.bands import Channels, colors_of
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.masks import settle_nodata
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.options import use_plain_values
from geosiam.imagery.reader import AlignedReader
from geosiam.imagery.scene import checked_grid, environment
from geosiam.imagery.scene_info import fingerprint
from geosiam.polygons.areas import pixel_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.scene import Scene

UNITS = {"m": 1.0, "ft": 0.3048, "us-ft": 1200 / 3937}
"""Units of heights in meters: the meter, the international and the US survey foot."""

_BAND_UNITS = {
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), "m"),
    **dict.fromkeys(("ft", "foot", "feet", "international foot"), "ft"),
    **dict.fromkeys(("us-ft", "us survey foot", "us_survey_foot", "ftus", "us foot"), "us-ft"),
}
_HIGHEST_M = 12_000.0  # no surface on Earth is farther from any vertical datum
_VOIDS = (-9999.0, -32767.0, -32768.0)  # values that mean a void even where the file does not declare it


@dataclass(frozen=True)
class HeightOptions:
    """Options of reading surface models.

    Parameters
    ----------
    dsm_units
        Unit of their heights: ``"m"``, ``"ft"`` (international foot) or ``"us-ft"`` (US survey foot); ``"auto"``: as
        the vertical part of the CRS or the band declares, and meters where nothing is declared and the CRS is not in
        feet.

    Raises
    ------
    OptionError
        The value of an option is not allowed.
    """

    _: KW_ONLY
    dsm_units: Literal["auto", "m", "ft", "us-ft"] = "auto"

    def __post_init__(self) -> None:
        use_plain_values(self)
        if self.dsm_units not in ("auto", *UNITS):
            raise OptionError(f"`dsm_units` {self.dsm_units!r}", "is not known", f"use auto, {', '.join(UNITS)}")


@dataclass(frozen=True)
class SurfaceInfo:
    """What is known of a surface model, for the record of a run.

    Parameters
    ----------
    name
        Its name, as it was given.
    fingerprint
        See :func:`geosiam.imagery.scene_info.fingerprint`.
    units
        Unit of its heights, a key of :data:`UNITS`.
    units_from
        Where the unit is from: ``"CRS"``, ``"band"``, ``"option"`` or ``"assumed"``.
    pixel_m
        Length of a pixel's side along a row and along a column in meters, in the middle.
    """

    name: str
    fingerprint: str
    units: str
    units_from: str
    pixel_m: tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A surface model and how its heights are read.

    Parameters
    ----------
    reader
        Reads windows of the target grid.
    info
        What is known of it.
    scale, offset
        Height in meters = stored value * scale + offset.
    """

    reader: AlignedReader
    info: SurfaceInfo
    scale: float
    offset: float

    @classmethod
    def of(cls, scene: Scene, grid: Grid, target: Grid, units: str) -> Self:
        """Return the surface of an open scene with a (horizontal) grid, aligned to a target grid."""
        dataset = scene.handle()
        unit, origin = _unit(scene.name, dataset.crs, dataset.units[0], units)
        scale, offset = float(dataset.scales[0]) * UNITS[unit], float(dataset.offsets[0]) * UNITS[unit]
        middle = np.array([grid.width / 2]), np.array([grid.height / 2])
        lengths = pixel_lengths(grid, *middle)[:, 0]
        info = SurfaceInfo(
            scene.name, fingerprint(scene), unit, origin, (round(float(lengths[0]), 6), round(float(lengths[1]), 6))
        )
        channels = Channels((1, 1, 1), None, "heights")
        return cls(AlignedReader(scene, channels, align(grid, target)), info, scale, offset)

    def read(self, window: Window, grid: Grid) -> NDArray[np.float64]:
        """Return the heights of a window of the target grid in meters, NaN = void or outside."""
        heights = np.full(window.shape, np.nan)
        inside = window.intersection(Window(0, grid.height, 0, grid.width))
        if inside is None:
            return heights
        values, valid = self.reader.read(inside)
        stored = values[0].astype(np.float64)
        valid = valid & np.isfinite(stored) & ~np.isin(stored, _VOIDS)
        measured = stored * self.scale + self.offset
        heights[inside.relative_to(window).slices] = np.where(
            valid & (np.abs(measured) <= _HIGHEST_M), measured, np.nan
        )
        return heights

    def shifted(self, shift: tuple[float, float]) -> Surface:
        """Return the surface with a shift (rows, cols) of its content undone."""
        alignment = self.reader.alignment
        return replace(self, reader=self.reader.with_alignment(align(alignment.scene, alignment.target, shift=shift)))


@dataclass(frozen=True)
class SurfacePair:
    """One or two surface models on the grid of the first one; a context manager that closes them.

    Parameters
    ----------
    grid
        Grid of the first surface, in a horizontal CRS.
    surfaces
        The surfaces: before and after, or one alone.
    overlap
        Window of the grid outside of which no pixel has both heights.
    warnings
        Warnings to the user.
    scenes
        The open files.
    """

    grid: Grid
    surfaces: tuple[Surface, ...]
    overlap: Window
    warnings: tuple[str, ...] = ()
    scenes: tuple[Scene, ...] = field(default=(), repr=False)

    def read(self, window: Window) -> NDArray[np.float64]:
        """Return the heights of all surfaces in meters, float64 (surfaces, rows, cols), NaN = void; in any thread."""
        with environment():
            return np.stack([surface.read(window, self.grid) for surface in self.surfaces])

    def shifted(self, shift: tuple[float, float]) -> SurfacePair:
        """Return the pair with a shift (rows, cols) of the after surface's content undone, in pixels of the grid."""
        return replace(self, surfaces=(self.surfaces[0], self.surfaces[1].shifted(shift)))

    def pixel_lengths(self, window: Window) -> tuple[float, float]:
        """Return the lengths of a pixel along a row and along a column in the middle of a window, in meters."""
        row, col = (window.row_start + window.row_stop) / 2, (window.col_start + window.col_stop) / 2
        across, down = pixel_lengths(self.grid, np.array([col]), np.array([row]))[:, 0]
        return float(across), float(down)

    def pixel_area(self, window: Window) -> float:
        """Return the area of a pixel in the middle of a window in square meters."""
        across, down = self.pixel_lengths(window)
        sides = self.grid.pixel_size
        return across * down * abs(self.grid.transform.determinant) / (sides[0] * sides[1])

    def close(self) -> None:
        """Close all handles."""
        for scene in self.scenes:
            scene.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_surfaces(surfaces: Sequence[SceneLike], options: HeightOptions = HeightOptions()) -> SurfacePair:
    """Open and check the surface models of two dates, or of one.

    Parameters
    ----------
    surfaces
        Paths, also of folders or patterns of tiles, URLs that GDAL reads, open rasterio datasets or georeferenced
        DataArrays; one band of heights each.
    options
        How they are read.

    Raises
    ------
    InputError
        A surface cannot be used; the message names it, the fact and the remedy.
    """
    with contextlib.ExitStack() as on_failure:
        scenes = tuple(on_failure.enter_context(contextlib.closing(open_scene(surface))) for surface in surfaces)
        with environment():
            warnings = []
            for scene in scenes:
                _check_bands(scene)
                warnings += settle_nodata(scene, None, skip_unreadable=False)
            grids = [_horizontal(checked_grid(scene)) for scene in scenes]
            target = grids[0]
            overlap: Window | None = Window(0, target.height, 0, target.width)
            for scene, grid in zip(scenes[1:], grids[1:], strict=True):
                check_transformable(scene.name, grid, target)
                overlap = footprint(unwrap_longitude(grid, target), target)
            if overlap is None:
                fact = f"does not overlap {scenes[0].name}"
                raise SceneRefusedError(scenes[1].name, fact, "give surface models of the same place, or check the CRS")
            read = [
                Surface.of(scene, unwrap_longitude(grid, target), target, options.dsm_units)
                for scene, grid in zip(scenes, grids, strict=True)
            ]
        on_failure.pop_all()
    return SurfacePair(target, tuple(read), overlap, tuple(warnings), scenes)


def _check_bands(scene: Scene) -> None:
    dataset = scene.handle()
    bands = [kind for kind in colors_of(dataset) if kind != ColorInterp.alpha] if dataset.count else []
    if len(bands) > 1 or (bands and bands[0] == ColorInterp.palette):
        fact = f"has {len(bands)} bands" if len(bands) > 1 else "has a color table"
        raise SceneRefusedError(scene.name, f"{fact}, a surface model has one band of heights", "give the DSM")


def _horizontal(grid: Grid) -> Grid:
    """Return a grid in the horizontal part of its CRS; GDAL would take systems of different vertical parts for two."""
    system = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    if not system.is_compound:
        return grid
    return replace(grid, crs=CRS.from_wkt(system.sub_crs_list[0].to_wkt()))


def _unit(name: str, crs: CRS, band_unit: str | None, option: str) -> tuple[str, str]:
    """Return the unit of the heights of a raster, a key of :data:`UNITS`, and where it is from."""
    if option != "auto":
        return option, "option"
    system = pyproj.CRS.from_wkt(crs.to_wkt())
    vertical = system.sub_crs_list[1] if system.is_compound else system if len(system.axis_info) > 2 else None  # noqa: PLR2004 - 3D
    if vertical is not None:
        factor = vertical.axis_info[-1].unit_conversion_factor
        for unit, meters in UNITS.items():
            if abs(factor / meters - 1) < 1e-9:  # noqa: PLR2004 - the two feet differ by 2e-6
                return unit, "CRS"
        fact = f"has heights in {vertical.axis_info[-1].unit_name}"
        raise SceneRefusedError(name, fact, f"convert them to meters, or set `dsm_units` to one of {', '.join(UNITS)}")
    declared = (band_unit or "").strip().lower()
    if declared in _BAND_UNITS:
        return _BAND_UNITS[declared], "band"
    if declared:
        fact = f"has heights in {band_unit!r}, which is no known unit"
        raise SceneRefusedError(name, fact, f"set `dsm_units` to one of {', '.join(UNITS)}")
    if system.is_projected and abs(system.axis_info[0].unit_conversion_factor - 1) > 0.01:  # noqa: PLR2004 - feet
        fact = "does not say whether its heights are in meters or feet, and its CRS is in feet"
        raise SceneRefusedError(name, fact, "set `dsm_units=m`, `dsm_units=ft` or `dsm_units=us-ft`")
    return "m", "assumed"


def info_dict(surfaces: SurfacePair) -> dict[str, Any]:
    """Return what is known of the surfaces by role, ``before_dsm`` and ``after_dsm``, in plain values."""
    roles = ("before_dsm", "after_dsm")
    return {
        role: {**vars(surface.info), "pixel_m": list(surface.info.pixel_m)}
        for role, surface in zip(roles, surfaces.surfaces, strict=False)
    }
