"""How the after-scene comes onto the before-scene's grid: the geometry of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pyproj import Transformer
from pyproj.exceptions import ProjError

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Window, apply_affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid

_SAME_PLACE_PX = 1e-3  # how far two grids' corners may be apart and still be the same
_FINER = 1.5  # from this ratio of pixel sizes on, pixels are averaged
_MOST_DIFFERENT = 10.01  # ratio of pixel sizes up to which scenes are compared; 10, as rounded sizes have it
_SAMPLES = 41  # points along a side of a grid that are brought to another one


@dataclass(frozen=True)
class Alignment:
    """What has to be done to read a scene on the target grid.

    Parameters
    ----------
    scene, target
        The scene's grid, and the one to read on.
    offset
        (rows, cols) from the target's first pixel to the scene's, if whole pixels coincide; None: it is warped.
    resampling
        How warped pixels are made.
    scale
        (across, down) target pixels per pixel of the scene, along the target's axes.
    shift
        (rows, cols) in pixels by which the scene's content is known to lie too far down and right.
    reason
        For the report.
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
        """How many of the scene's pixels lie side by side in one pixel of the target."""
        return float(1 / np.sqrt(self.scale[0] * self.scale[1]))


def align(scene: Grid, target: Grid, *, palette: bool = False, shift: tuple[float, float] = (0.0, 0.0)) -> Alignment:
    """Decide how a scene comes onto the target grid: read as it is where whole pixels coincide, warped otherwise."""
    same_crs = scene.crs == target.crs
    coinciding = _whole_pixels(scene, target) if same_crs and all(part == round(part) for part in shift) else None
    if coinciding is not None:
        offset = coinciding[0] - round(shift[0]), coinciding[1] - round(shift[1])
        moved = f"moved by {offset[0]} rows and {offset[1]} columns" if offset != (0, 0) else "the grids are the same"
        return Alignment(scene, target, offset, "none", (1.0, 1.0), shift, moved)
    scale = _scale(scene, target)
    ratio = float(1 / np.sqrt(scale[0] * scale[1]))
    finer = ratio > _FINER
    resampling = ("mode" if finer else "nearest") if palette else ("average" if finer else "bilinear")
    if not same_crs:
        reason = f"warped from {_name(scene)} to {_name(target)}"
    elif abs(ratio - 1) > 1e-3:  # noqa: PLR2004 - what one would call another pixel size
        reason = f"resampled: its pixels are {1 / ratio:.3g} times as large"
    else:
        reason = "resampled: its pixels lie between those of the first scene"
    return Alignment(scene, target, None, resampling, scale, shift, reason)


def footprint(scene: Grid, target: Grid) -> Window | None:
    """Return the window of target pixels that the scene can cover, or None where it covers none.

    Looked at from both sides, because either may fail: a scene of the whole earth has points that lie nowhere on the
    target, one around a pole covers more than lies between its points, and a small scene falls between points of the
    target. What is returned may be too large, never too small.
    """
    along = np.linspace(0, 1, _SAMPLES)
    across, down = (side.ravel() for side in np.meshgrid(along, along))
    there = _between(scene, target, across * scene.width, down * scene.height)
    window = _around(*there, 1, 1, target)

    cols, rows = across * target.width, down * target.height
    own_cols, own_rows = _between(target, scene, cols, rows)
    inside = (own_cols >= 0) & (own_cols <= scene.width) & (own_rows >= 0) & (own_rows <= scene.height)
    found = _around(cols[inside], rows[inside], 0, 0, target)
    if window is None or (found is not None and window.union(found) != window) or not np.isfinite(there).all():
        # The scene's points do not tell all; what the target's tell may end anywhere before the next one.
        step = 1 / (_SAMPLES - 1)
        found = _around(cols[inside], rows[inside], step * target.width, step * target.height, target)
        return window.union(found) if window and found else window or found
    return window


def _around(
    cols: NDArray[np.float64], rows: NDArray[np.float64], margin_cols: float, margin_rows: float, grid: Grid
) -> Window | None:
    """Return the window inside a grid that holds all points that are somewhere, and a margin."""
    known = np.isfinite(cols) & np.isfinite(rows)
    if not known.any():
        return None
    cols = cols[known].clip(-1e9, 1e9)  # so far out, integers overflow
    rows = rows[known].clip(-1e9, 1e9)
    return Window(
        int(np.floor(rows.min() - margin_rows)), int(np.ceil(rows.max() + margin_rows)),
        int(np.floor(cols.min() - margin_cols)), int(np.ceil(cols.max() + margin_cols)),
    ).intersection(Window(0, grid.height, 0, grid.width))  # fmt: skip


def check_transformable(name: str, scene: Grid, target: Grid) -> None:
    """Refuse scenes whose coordinate systems have nothing to do with one another, such as those of two planets."""
    try:
        _between(scene, target, np.array([scene.width / 2]), np.array([scene.height / 2]))
    except ProjError as error:
        raise SceneRefusedError(
            name, f"cannot be brought from {_name(scene)} to {_name(target)} ({error})", "use one system for both"
        ) from error


def check_resolution(names: tuple[str, str], grids: tuple[Grid, Grid], alignment: Alignment) -> None:
    """Refuse two scenes, named before and after, of which one shows nothing of what the other one shows."""
    ratio = alignment.ratio
    if _MOST_DIFFERENT >= ratio >= 1 / _MOST_DIFFERENT:
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


def _between(
    grid: Grid, other: Grid, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixel coordinates (cols, rows) on the other grid of a grid's; not finite where there are none."""
    x, y = apply_affine(grid.transform, cols, rows)
    if grid.crs != other.crs:
        # Not rasterio's transform, which raises where only some of the points lie nowhere.
        there = Transformer.from_crs(grid.crs.to_wkt(), other.crs.to_wkt(), always_xy=True)
        x, y = there.transform(x, y)
        nowhere = ~(np.isfinite(x) & np.isfinite(y))
        x[nowhere] = y[nowhere] = np.nan  # infinity times zero would be worth a warning
    return apply_affine(~other.transform, x, y)


def _whole_pixels(scene: Grid, target: Grid) -> tuple[int, int] | None:
    to_target = ~target.transform @ scene.transform
    cols, rows = round(to_target.c), round(to_target.f)
    ends = np.array([(0, 0), (scene.width, 0), (0, scene.height), (scene.width, scene.height)], float)
    x, y = apply_affine(to_target, ends[:, 0], ends[:, 1])
    off = np.abs(np.concatenate([x - ends[:, 0] - cols, y - ends[:, 1] - rows])).max()
    return (rows, cols) if off < _SAME_PLACE_PX else None


def turned(scene: Grid, target: Grid) -> Grid:
    """Return a grid in degrees with its longitudes counted such that it lies as near as possible to another one.

    Across the dateline, longitudes may end beyond 180 degrees, or begin before -180.
    """
    if scene.crs != target.crs or not scene.crs.is_geographic:
        return scene
    turn = 2 * np.pi / scene.crs.units_factor[1]
    middles = [(grid.transform @ (grid.width / 2, grid.height / 2))[0] for grid in (scene, target)]
    turns = round((middles[1] - middles[0]) / turn)
    return replace(scene, transform=Affine.translation(turns * turn, 0) @ scene.transform) if turns else scene


def _scale(scene: Grid, target: Grid) -> tuple[float, float]:
    """Return how many target pixels across and down one pixel of the scene is large, in the middle of the target.

    Where the scene does not reach the target's middle, its own middle tells.
    """
    middle = np.array([target.width / 2]), np.array([target.height / 2])
    col, row = (float(value[0]) for value in _between(target, scene, *middle))
    if not (0 <= col <= scene.width and 0 <= row <= scene.height):
        col, row = scene.width / 2, scene.height / 2
    cols, rows = _between(scene, target, np.array([col, col + 1, col]), np.array([row, row, row + 1]))
    across = float(np.hypot(cols[1] - cols[0], cols[2] - cols[0]))
    down = float(np.hypot(rows[1] - rows[0], rows[2] - rows[0]))
    return (across, down) if 0 < across * down < np.inf else (1.0, 1.0)


def _name(grid: Grid) -> str:
    authority = grid.crs.to_authority()
    return ":".join(authority) if authority else "its own coordinate system"
