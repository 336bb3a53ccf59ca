"""Geometry of bringing the after scene onto the before scene's grid."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Window, apply_affine, authority_code

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid

_SAME_PLACE_PX = 1e-3  # corners of two grids that are nearer than this coincide
_AVERAGING_RATIO = 1.5  # ratio of pixel sizes above which pixels are averaged
_MAX_RATIO = 10.01  # largest ratio of pixel sizes that is compared: 10, with a margin for rounded sizes
_FARTHEST_PX = 1e9  # integers overflow beyond
_SAMPLES = 41  # points along a side of a grid that are transformed to another one


@dataclass(frozen=True)
class Alignment:
    """Geometric relation of a scene to the target grid that it is read on.

    Parameters
    ----------
    scene, target
        The scene's own grid, and the grid to read it on.
    offset
        (rows, cols) from the target's first pixel to the scene's, if whole pixels coincide; None: the scene is warped.
    resampling
        Resampling method for warped pixels, by GDAL's name; ``"none"`` if the scene is not warped.
    scale
        (across, down) target pixels per pixel of the scene, along the target's axes.
    shift
        Misregistration (rows, cols) to correct: how far the scene's content lies too far down and right, in pixels of
        the target.
    reason
        What is done and why, for the report.
    """

    scene: Grid
    target: Grid
    offset: tuple[int, int] | None
    resampling: str
    scale: tuple[float, float]
    shift: tuple[float, float]
    reason: str

    @property
    def ratio(self) -> float:
        """Number of the scene's pixels along the side of one target pixel."""
        return float(1 / np.sqrt(self.scale[0] * self.scale[1]))


def across_the_dateline(scene: Grid, target: Grid) -> Grid | None:
    """Return a grid in degrees that ends beyond 180 degrees with longitudes counted from its own middle.

    PROJ's longitudes end at 180 degrees, and so would what GDAL warps to another system. Other grids are returned as
    they are; None for one whose coordinates, counted so, would mean other places, because PROJ knows the transformation
    of its datum for one prime meridian only.
    """
    if not scene.crs.is_geographic or scene.crs == target.crs:
        return scene
    left, _, right, _ = scene.bounds
    full_turn = _full_turn(scene)
    if right - left > full_turn or max(-left, right) <= full_turn / 2:
        return scene
    system = CRS.from_wkt(scene.crs.to_wkt())
    middle = round(_middle(scene) * 360 / full_turn)
    first = middle + system.prime_meridian.longitude if system.prime_meridian is not None else middle
    wkt = re.sub(
        r'PRIMEM\["[^"]*",[^,\]]*(,AUTHORITY\[[^]]*\])?', f'PRIMEM["turned",{first!r}', system.to_wkt("WKT1_GDAL")
    )
    moved = Affine.translation(-middle * full_turn / 360, 0) @ scene.transform
    turned = replace(scene, crs=type(scene.crs).from_wkt(wkt), transform=moved)
    middles = np.array([scene.width / 2]), np.array([scene.height / 2])
    if not np.allclose(
        transform_pixels(scene, target, *middles), transform_pixels(turned, target, *middles), rtol=0, atol=0.01
    ):
        return None
    return turned


def align(scene: Grid, target: Grid, *, palette: bool = False, shift: tuple[float, float] = (0.0, 0.0)) -> Alignment:
    """Decide how a scene is read on the target grid: as it is if whole pixels coincide, warped otherwise."""
    same_crs = scene.crs == target.crs
    pixel_offset = _pixel_offset(scene, target) if same_crs and all(part == round(part) for part in shift) else None
    if pixel_offset is not None:
        offset = pixel_offset[0] - round(shift[0]), pixel_offset[1] - round(shift[1])
        reason = f"moved by {offset[0]} rows and {offset[1]} columns" if offset != (0, 0) else "the grids are the same"
        return Alignment(scene, target, offset, "none", (1.0, 1.0), shift, reason)
    scale = _scale(scene, target)
    ratio = float(1 / np.sqrt(scale[0] * scale[1]))
    finer = ratio > _AVERAGING_RATIO
    resampling = ("mode" if finer else "nearest") if palette else ("average" if finer else "bilinear")
    if not same_crs:
        reason = f"warped from {_crs_name(scene)} to {_crs_name(target)}"
    elif abs(ratio - 1) > 1e-3:  # noqa: PLR2004 - a difference that a reader of the report would call one
        reason = f"resampled: its pixels are {1 / ratio:.3g} times as large"
    else:
        reason = "resampled: its pixels lie between those of the before scene"
    return Alignment(scene, target, None, resampling, scale, shift, reason)


def displaced(alignment: Alignment, *, palette: bool = False) -> Alignment:
    """Return the alignment of a scene that is resampled through a displacement field."""
    resampling = "nearest" if palette else "average" if alignment.resampling == "average" else "cubic"
    reason = f"{alignment.reason}; resampled through a displacement field"
    return replace(alignment, offset=None, resampling=resampling, reason=reason)


def footprint(scene: Grid, target: Grid) -> Window | None:
    """Return the window of target pixels that the scene can cover, or None if it covers none.

    Points are transformed both ways, because either way may fail: a scene of the whole earth has points without
    coordinates in the target's system, one around a pole covers more than the area between its points, and a small
    scene falls between points of the target. The window may be too large, never too small.
    """
    along = np.linspace(0, 1, _SAMPLES)
    across, down = (side.ravel() for side in np.meshgrid(along, along))
    points = transform_pixels(scene, target, across * scene.width, down * scene.height)
    window = _bounding_window(*points, 1, 1, target)

    cols, rows = across * target.width, down * target.height
    scene_cols, scene_rows = transform_pixels(target, scene, cols, rows)
    inside = (scene_cols >= 0) & (scene_cols <= scene.width) & (scene_rows >= 0) & (scene_rows <= scene.height)
    covered = _bounding_window(cols[inside], rows[inside], 0, 0, target)
    if window is None or (covered is not None and window.union(covered) != window) or not np.isfinite(points).all():
        # The scene's points are not enough. The area around the target's may end anywhere before the next point.
        step = 1 / (_SAMPLES - 1)
        covered = _bounding_window(cols[inside], rows[inside], step * target.width, step * target.height, target)
        return window.union(covered) if window and covered else window or covered
    return window


def _bounding_window(
    cols: NDArray[np.float64], rows: NDArray[np.float64], margin_cols: float, margin_rows: float, grid: Grid
) -> Window | None:
    """Return the window inside a grid that holds all finite points and a margin around them."""
    finite = np.isfinite(cols) & np.isfinite(rows)
    if not finite.any():
        return None
    cols = cols[finite].clip(-_FARTHEST_PX, _FARTHEST_PX)
    rows = rows[finite].clip(-_FARTHEST_PX, _FARTHEST_PX)
    return Window(
        int(np.floor(rows.min() - margin_rows)), int(np.ceil(rows.max() + margin_rows)),
        int(np.floor(cols.min() - margin_cols)), int(np.ceil(cols.max() + margin_cols)),
    ).intersection(Window(0, grid.height, 0, grid.width))  # fmt: skip


def check_transformable(name: str, scene: Grid, target: Grid) -> None:
    """Refuse scenes between whose coordinate systems there is no transformation, such as those of two planets."""
    try:
        transform_pixels(scene, target, np.array([scene.width / 2]), np.array([scene.height / 2]))
    except ProjError as error:
        raise SceneRefusedError(
            name,
            f"cannot be transformed from {_crs_name(scene)} to {_crs_name(target)} ({error})",
            "use one coordinate system for both",
        ) from error
    if across_the_dateline(scene, target) is None:
        fact = f"lies across the dateline in {_crs_name(scene)}, which cannot be warped to {_crs_name(target)}"
        raise SceneRefusedError(name, fact, "use one coordinate system for both")


def check_resolution(names: tuple[str, str], grids: tuple[Grid, Grid], alignment: Alignment) -> None:
    """Refuse two scenes, named before and after, whose pixel sizes are too different to compare."""
    ratio = alignment.ratio
    if _MAX_RATIO >= ratio >= 1 / _MAX_RATIO:
        return
    after_is_finer = ratio > 1
    fine = 1 if after_is_finer else 0
    times, kind = (ratio, "small") if after_is_finer else (1 / ratio, "large")
    size = " ".join(f"{side * times:.6g}" for side in grids[fine].pixel_size)
    raise SceneRefusedError(
        names[1],
        f"has pixels {times:.3g} times as {kind} as those of {names[0]}, more than 10",
        f"take scenes of similar pixel size, or average {names[fine]} first: gdalwarp -r average -tr {size} IN OUT",
    )


def transform_pixels(
    source: Grid, target: Grid, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform pixel coordinates (cols, rows) of one grid to another; not finite where there are none."""
    x, y = apply_affine(source.transform, cols, rows)
    if source.crs != target.crs:
        if source.crs.is_geographic:  # PROJ looks up the transformation of a datum by the place, which 360 degrees hide
            full_turn = _full_turn(source)
            x = x - full_turn * np.round(x / full_turn)
        # Not rasterio's transform, which raises if any one of the points has no coordinates.
        transformer = Transformer.from_crs(source.crs.to_wkt(), target.crs.to_wkt(), always_xy=True)
        x, y = transformer.transform(x, y)
        undefined = ~(np.isfinite(x) & np.isfinite(y))
        x[undefined] = y[undefined] = np.nan  # NumPy warns of infinity times zero
        x = _turned(x, target)
    return apply_affine(~target.transform, x, y)


def _turned(x: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Return longitudes, turned by 360 degrees where that is nearer to the middle of a grid in degrees."""
    if not grid.crs.is_geographic:
        return x
    full_turn = _full_turn(grid)
    return x - full_turn * np.round((x - _middle(grid)) / full_turn)


def _full_turn(grid: Grid) -> float:
    """Return 360 degrees in the angular unit of a grid."""
    return float(2 * np.pi / grid.crs.units_factor[1])


def _middle(grid: Grid) -> float:
    """Return the longitude in the middle of a grid in degrees."""
    return float((grid.transform @ (grid.width / 2, grid.height / 2))[0])


def _pixel_offset(scene: Grid, target: Grid) -> tuple[int, int] | None:
    """Return the (rows, cols) of the scene's first pixel on the target, or None if whole pixels do not coincide."""
    to_target = ~target.transform @ scene.transform
    cols, rows = round(to_target.c), round(to_target.f)
    corners = np.array([(0, 0), (scene.width, 0), (0, scene.height), (scene.width, scene.height)], float)
    x, y = apply_affine(to_target, corners[:, 0], corners[:, 1])
    error = np.abs(np.concatenate([x - corners[:, 0] - cols, y - corners[:, 1] - rows])).max()
    return (rows, cols) if error < _SAME_PLACE_PX else None


def unwrap_longitude(scene: Grid, target: Grid) -> Grid:
    """Return a grid in degrees, moved by whole turns of 360 degrees to be nearest to another one.

    Across the dateline, longitudes may end beyond 180 degrees, or begin before -180.
    """
    if scene.crs != target.crs:
        return within_one_turn(scene)
    if not scene.crs.is_geographic:
        return scene
    full_turn = _full_turn(scene)
    turns = round((_middle(target) - _middle(scene)) / full_turn)
    return replace(scene, transform=Affine.translation(turns * full_turn, 0) @ scene.transform) if turns else scene


def within_one_turn(grid: Grid) -> Grid:
    """Return a grid; of one in degrees that lies beyond 180 degrees as a whole, the same place within 180 degrees."""
    if not grid.crs.is_geographic:
        return grid
    left, _, right, _ = grid.bounds
    full_turn = _full_turn(grid)
    if left < full_turn / 2 and right > -full_turn / 2:
        return grid
    turns = round(_middle(grid) / full_turn)
    return replace(grid, transform=Affine.translation(-turns * full_turn, 0) @ grid.transform)


def _scale(scene: Grid, target: Grid) -> tuple[float, float]:
    """Return the width and height of a scene pixel in target pixels, in the middle of the target.

    If the scene does not reach there, it is measured in the middle of the scene.
    """
    middle = np.array([target.width / 2]), np.array([target.height / 2])
    col, row = (float(value[0]) for value in transform_pixels(target, scene, *middle))
    if not (0 <= col <= scene.width and 0 <= row <= scene.height):
        col, row = scene.width / 2, scene.height / 2
    cols, rows = transform_pixels(scene, target, np.array([col, col + 1, col]), np.array([row, row, row + 1]))
    across = float(np.hypot(cols[1] - cols[0], cols[2] - cols[0]))
    down = float(np.hypot(rows[1] - rows[0], rows[2] - rows[0]))
    return (across, down) if 0 < across * down < np.inf else (1.0, 1.0)


def _crs_name(grid: Grid) -> str:
    return authority_code(CRS.from_wkt(grid.crs.to_wkt())) or "its own coordinate system"
