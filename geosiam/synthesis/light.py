"""Render materials and heights as a photograph: sun, shadows, lean, haze, exposure, optics, sensor, compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from geosiam.errors import OptionError
from geosiam.synthesis import noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Window

    Plane = NDArray[np.float32]
    Coordinates = NDArray[np.floating[Any]] | np.floating[Any]

_AMBIENT = np.array([0.20, 0.24, 0.31], np.float32)  # sky light relative to a flat sunlit white sheet, bluish
_WIDEST_BLUR = 5  # pixels, radius of the optics' blur at most
_STEEPEST = 1.3  # slopes are limited to this, or walls would flare
_BRIGHTEST = 1.6  # direct sun on a surface that faces it, relative to level ground, at most
_LARGEST_OFF_NADIR = 45.0  # degrees; beyond any camera of a survey
_WALL = np.float32(1.5)  # heights that rise more than this from pixel to pixel are walls


@dataclass(frozen=True)
class Flight:
    """Conditions of the flight that photographed one date.

    Parameters
    ----------
    sun_azimuth, sun_elevation
        Position of the sun, in degrees clockwise from north and above the horizon.
    gain
        Exposure relative to a well-exposed picture.
    cast
        Relative gain of red, green and blue.
    haze
        Share of gray-blue haze in the light, 0 to 1.
    season
        How far leaves have changed color: 0 = early summer, 1 = straw.
    weathering
        How much growth, harvest and rain have changed the ground since the first date, 0 to 1; 1 = years.
    noise
        Standard deviation of the sensor's noise in gray values.
    blur_px
        Standard deviation of the optics' blur in pixels; up to about 1.7.
    jpeg_quality
        Quality (1-100) of JPEG compression; None: not compressed.
    off_nadir
        Angle between the line of sight and the vertical in degrees, 0 to 45: a surface at height h appears
        ``h * tan(off_nadir)`` away from the camera, so roofs and crowns lean, hide the ground behind them and show
        their walls. 0: a true orthophoto. With ``frame_spacing``, the largest angle.
    view_azimuth
        Direction toward the camera in degrees clockwise from north; with ``frame_spacing``, that of the flight lines.
    frame_spacing
        Distance in meters between the centers of the frames that make up a mosaic. Each point is taken from the frame
        whose center is nearest, and leans away from it: not at all at the center, most in the corners. None: the
        camera is so far away that all lines of sight are parallel.

    Raises
    ------
    OptionError
        The off-nadir angle or the spacing is out of range.
    """

    sun_azimuth: float = 150.0
    sun_elevation: float = 52.0
    gain: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze: float = 0.02
    season: float = 0.0
    noise: float = 2.0
    blur_px: float = 0.55
    jpeg_quality: int | None = 92
    weathering: float = 0.0
    off_nadir: float = 0.0
    view_azimuth: float = 0.0
    frame_spacing: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.off_nadir <= _LARGEST_OFF_NADIR:
            fact, remedy = "is not an angle from the vertical", f"give 0 to {_LARGEST_OFF_NADIR:g} degrees"
            raise OptionError(f"`off_nadir={self.off_nadir}`", fact, remedy)
        if self.frame_spacing is not None and not self.frame_spacing > 0:
            fact, remedy = "is not a distance in meters", "give a positive number"
            raise OptionError(f"`frame_spacing={self.frame_spacing}`", fact, remedy)

    @property
    def toward_sun(self) -> tuple[float, float]:
        """Unit step toward the sun in rows and columns (north is up)."""
        return _step(self.sun_azimuth)

    @property
    def tangent(self) -> float:
        """Tangent of the off-nadir angle: the largest displacement relative to height."""
        return float(np.tan(np.radians(self.off_nadir)))

    def lean(self, x: Coordinates, y: Coordinates) -> NDArray[np.float32]:
        """Return the displacement of surfaces relative to their height, away from the camera.

        Parameters
        ----------
        x, y
            Where they are seen, in scene meters to the right and down; the arrays are broadcast against each other.

        Returns
        -------
        float32 (2, ...): down and to the right
        """
        down, right = _step(self.view_azimuth)
        along: Coordinates = np.full(np.broadcast_shapes(x.shape, y.shape), -self.tangent)
        across: Coordinates = np.zeros_like(along)
        if self.frame_spacing is not None:
            lattice = (y * down + x * right) / self.frame_spacing, (x * down - y * right) / self.frame_spacing
            along, across = (2**0.5 * self.tangent * (k - np.floor(k) - 0.5) for k in lattice)
        return np.stack([along * down - across * right, along * right + across * down]).astype(np.float32)

    def sun_on_facades(self, lean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return direct sun on walls that face the camera relative to level ground (Lambert), given their lean."""
        down, right = self.toward_sun
        facing = -(lean[0] * down + lean[1] * right) / np.maximum(np.hypot(*lean), np.float32(1e-9))
        cot = 1 / float(np.tan(np.radians(self.sun_elevation)))
        lit: NDArray[np.float32] = np.clip(facing * np.float32(cot), 0, _BRIGHTEST)
        return lit


def _step(azimuth: float) -> tuple[float, float]:
    """Return the unit step in rows and columns toward an azimuth in degrees clockwise from north."""
    radians = np.radians(azimuth)
    return -float(np.cos(radians)), float(np.sin(radians))


@dataclass(frozen=True)
class VisibleSurface:
    """The surface that each line of sight of a flight meets.

    Parameters
    ----------
    positions
        float32 (2, rows, cols): row and column of the map at which each line of sight ends.
    is_facade
        bool (rows, cols): the line ends at a wall, below the height that the map has there.
    """

    positions: NDArray[np.float32]
    is_facade: NDArray[np.bool_]

    @property
    def walls(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the pixels of the map at whose walls lines of sight end, (walls,) each."""
        rows, cols = self.positions[:, self.is_facade].astype(np.intp)
        return rows, cols

    def sampled(self, plane: Plane) -> Plane:
        """Return the values of a map on the visible surface, float32 (rows, cols)."""
        return _interpolated(plane, self.positions)


def _interpolated(plane: Plane, positions: NDArray[np.float32]) -> Plane:
    values: Plane = ndimage.map_coordinates(plane, positions, order=1, mode="nearest")
    return values


def visible_surface(
    height: Plane, inner: tuple[slice, slice], lean: NDArray[np.float32], tangent: float, bounds: tuple[float, float]
) -> VisibleSurface:
    """Return the visible surface at each inner pixel: the first one that its line of sight meets from above.

    Levels of height are visited from the deepest to the highest, and what is higher covers what is lower.

    Parameters
    ----------
    height
        float32 (rows, cols) in pixels, the inner part and its surroundings, between the bounds.
    inner
        Rows and columns of the pixels to return; :func:`lean_margin` says how far the surroundings must reach.
    lean
        :meth:`Flight.lean` of the inner pixels, as an array that can be broadcast to them.
    tangent
        Largest lean in the flight.
    bounds
        Largest height above and largest depth below the ground in pixels.
    """
    highest, deepest = bounds
    rows, cols = (np.arange(s.start, s.stop, dtype=np.int32) for s in inner)
    spacing = 1 / max(tangent, 1e-6)  # of the levels: a pixel of displacement
    flat, width = height.ravel(), height.shape[1]
    indices = rows[:, None] * np.int32(width) + cols
    level = np.full(indices.shape, -deepest, np.float32)
    surface, hits = level.copy(), indices.copy()
    for k in range(-int(np.ceil(deepest / spacing)), int(np.ceil(highest / spacing)) + 1):
        offset = np.rint(np.float32(-k * spacing) * lean).astype(np.int32)
        displaced = indices + offset[0] * np.int32(width) + offset[1]
        candidate = flat.take(displaced)
        reached = candidate >= (k - 0.5) * spacing
        for target, source in ((surface, candidate), (hits, displaced), (level, np.float32(k * spacing))):
            np.copyto(target, source, where=reached)
    # Surfaces lie where their height puts them, except at a brink, across which no map may be interpolated. There, maps
    # are looked up in the pixel that the line meets: in the roof above the brink, and in the wall below it.
    half = np.float32(spacing / 2)
    away = np.minimum(surface, level + half)
    exact = np.stack([rows[:, None] - away * lean[0], cols - away * lean[1]]).astype(np.float32)
    is_brink = _interpolated(height, exact) < level - half - _WALL
    is_facade = surface - level > np.where(is_brink, half, half + _WALL)
    positions = np.where(is_facade | is_brink, np.stack(np.divmod(hits, width)).astype(np.float32), exact)
    return VisibleSurface(positions, is_facade)


def lean_margin(flights: tuple[Flight, ...], bounds: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return the pixels above, below, left and right of a window that lean reaches from; none if nothing leans."""
    steps = [(0.0, 0.0)]
    for flight in flights:
        ahead, back = (bound * flight.tangent + 2 for bound in bounds)
        if flight.off_nadir and flight.frame_spacing is None:
            steps += [(length * d, length * r) for length in (ahead, -back) for d, r in [_step(flight.view_azimuth)]]
        elif flight.off_nadir:
            steps += [2 * (length,) for reach in (ahead, back) for length in (reach, -reach)]
    (up, left), (down, right) = np.min(steps, axis=0), np.max(steps, axis=0)
    return int(np.ceil(-up)), int(np.ceil(down)), int(np.ceil(-left)), int(np.ceil(right))


def shaded(height: Plane, core: tuple[slice, slice], reach: int, flight: Flight) -> Plane:
    """Return how much of the direct sun each core pixel loses to obstacles: 0 = sunlit, 1 = in full shadow.

    The highest obstacle toward the sun is found by doubling the distance in each pass, so a shadow of a hundred pixels
    costs seven passes.

    Parameters
    ----------
    height
        float32 (rows, cols) in pixels, core and surroundings.
    core
        Rows and columns to return.
    reach
        Longest shadow in pixels; the surroundings toward the sun must be as wide, or shadows are cut off.
    flight
        Conditions of the flight; only the position of the sun matters.
    """
    down, right = flight.toward_sun
    drop = float(np.tan(np.radians(flight.sun_elevation)))
    # The first steps are taken one by one: rounding them before doubling would bend the direction.
    first = 4
    obstacle = np.full_like(height, -1e6)
    for step in range(1, first + 1):
        _raise_to(obstacle, height, round(step * down), round(step * right), step * drop)
    span = first
    while span < reach:
        longer = obstacle.copy()
        _raise_to(longer, obstacle, round(span * down), round(span * right), span * drop)
        obstacle, span = longer, 2 * span
    excess = obstacle[core] - height[core]
    return np.clip(excess * np.float32(0.8) + np.float32(0.3), 0, 1, out=excess)


def _raise_to(target: Plane, source: Plane, rows: int, cols: int, drop: float) -> None:
    """Raise each target pixel to the source pixel ``(rows, cols)`` further on, minus ``drop``, within the array."""
    h, w = target.shape
    if abs(rows) >= h or abs(cols) >= w:
        return
    near = slice(max(0, -rows), min(h, h - rows)), slice(max(0, -cols), min(w, w - cols))
    far = slice(max(0, rows), min(h, h + rows)), slice(max(0, cols), min(w, w + cols))
    np.maximum(target[near], source[far] - np.float32(drop), out=target[near])


def sunlight(surface: Plane, flight: Flight) -> Plane:
    """Return direct sun on a surface relative to level ground (Lambert), float32 of the surface without its rim.

    Parameters
    ----------
    surface
        Heights in pixels, float32 (rows + 2, cols + 2).
    """
    down, right = flight.toward_sun
    elevation = np.radians(flight.sun_elevation)
    slope_y = np.clip((surface[2:, 1:-1] - surface[:-2, 1:-1]) * np.float32(0.5), -_STEEPEST, _STEEPEST)
    slope_x = np.clip((surface[1:-1, 2:] - surface[1:-1, :-2]) * np.float32(0.5), -_STEEPEST, _STEEPEST)
    cot = 1 / np.tan(elevation)
    light = 1 - slope_y * np.float32(down * cot)
    light -= slope_x * np.float32(right * cot)
    slope_y *= slope_y
    slope_x *= slope_x
    slope_y += slope_x
    slope_y += 1
    np.sqrt(slope_y, out=slope_y)
    level: Plane = np.clip(light / slope_y, 0.05, _BRIGHTEST)
    return level


def photograph(
    albedo: list[Plane],
    light: Plane,
    shadow: Plane,
    flight: Flight,
    *,
    window: Window,
    shift: tuple[float, float],
    seed: int,
    edge: int,
) -> NDArray[np.uint8]:
    """Return the picture of a lit scene.

    Parameters
    ----------
    albedo
        Linear reflectance of red, green and blue, float32 (rows + 2 * edge, cols + 2 * edge) each.
    light, shadow
        Direct sun and its loss, as the planes.
    flight
        Conditions of the flight.
    window
        The pixels to return; noise and compression blocks are anchored at its corner.
    shift
        Misregistration: rows and columns by which the content is too far down and right.
    seed
        Seed of the sensor's noise.
    edge
        Width of the planes' margin in pixels, at least :func:`margin` of the shift.

    Returns
    -------
    uint8 (3, rows, cols)
    """
    direct = light * (1 - shadow)
    out = np.empty((3, *window.shape), np.uint8)
    for band, plane in enumerate(albedo):
        lit = direct * np.float32(1 - _AMBIENT[band]) + _AMBIENT[band]
        lit *= plane
        np.sqrt(lit, out=lit)  # the response curve: that of sRGB to within a few gray values
        value = resampled(lit, window.shape, flight.blur_px, shift, edge)
        airlight = (0.72, 0.76, 0.82)[band]
        gain = flight.gain * flight.cast[band]
        value *= np.float32(255 * gain * (1 - flight.haze))
        value += np.float32(255 * gain * flight.haze * airlight)
        _add_sensor_noise(value, window, flight.noise, seed + 17 * band)
        if flight.jpeg_quality is not None:
            value = _compressed(value, flight.jpeg_quality)
        value += np.float32(0.5)
        out[band] = np.clip(value, 0, 255, out=value)
    return out


def _add_sensor_noise(value: Plane, window: Window, sigma: float, seed: int) -> None:
    if sigma <= 0:
        return
    grain = noise.uniform(window, seed)
    grain -= np.float32(0.5)
    grain *= np.float32(sigma * 12**0.5)
    value += grain


def margin(shift: tuple[float, float]) -> int:
    """Return the number of pixels around a window that :func:`resampled` needs."""
    return int(np.ceil(max(abs(s) for s in shift))) + _WIDEST_BLUR


def resampled(plane: Plane, shape: tuple[int, int], blur_px: float, shift: tuple[float, float], edge: int) -> Plane:
    """Blur and shift a plane in one separable pass, dropping its margin of ``edge`` pixels."""
    for axis in (0, 1):
        whole = round(shift[axis])
        taps = _taps(blur_px, shift[axis] - whole)
        start = edge - whole - len(taps) // 2
        out = None
        for k, weight in enumerate(taps):
            part = slice(start + k, start + k + shape[axis])
            piece = (plane[part] if axis == 0 else plane[:, part]) * weight
            out = piece if out is None else np.add(out, piece, out=out)
        assert out is not None
        plane = out
    return plane


def _taps(blur_px: float, fraction: float) -> NDArray[np.float32]:
    """Return an odd number of weights of a Gaussian sampled ``fraction`` of a pixel (-0.5 to 0.5) before its center."""
    radius = min(max(2, round(2.7 * blur_px + 0.5)), _WIDEST_BLUR)
    offsets = np.arange(-radius, radius + 1) + fraction
    weights = np.exp(-0.5 * (offsets / max(blur_px, 0.3)) ** 2)
    normed: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normed


_COSINES = np.array(
    [[(0.5 if u else 0.125**0.5) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)] for u in range(8)],
    np.float32,
)
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def _compressed(plane: Plane, quality: int) -> Plane:
    """Quantize the 8 x 8 cosine transform as JPEG does; incomplete blocks are padded and cropped again."""
    h, w = plane.shape
    down, right = -h % 8, -w % 8
    padded = np.pad(plane, ((0, down), (0, right)), mode="edge") if down or right else plane
    scale = 50 / quality if quality < 50 else 2 - quality / 50  # noqa: PLR2004 - the IJG rule
    step = np.maximum(_LUMINANCE * np.float32(scale), 1)
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8).transpose(0, 2, 1, 3)
    spectrum = _COSINES @ blocks @ _COSINES.T
    spectrum /= step
    np.rint(spectrum, out=spectrum)
    spectrum *= step
    restored = _COSINES.T @ spectrum @ _COSINES
    return np.ascontiguousarray(restored.transpose(0, 2, 1, 3).reshape(padded.shape)[:h, :w])
