"""Bring two surface models onto each other on stable ground, and say how exact their difference is.

*Shift.* Where the after surface lies too far right by ``s``, heights differ by ``-s`` times the slope along a row. That
is the equation of Nuth and Kääb (2011, "Co-registration and bias corrections of satellite elevation data sets for
quantifying glacier thickness change", The Cryosphere 5, eq. 3) multiplied by the tangent of the slope, so that ground
of any aspect counts, and level ground determines the bias alone. It is solved for the shift, the bias and the tilt at
once, robustly (Tukey's biweight), and again after the surface was resampled.

*Error.* Residuals on stable ground are described by their normalized median absolute deviation (NMAD; Höhle and Höhle,
2009) in classes of slope. How much less the mean over an area errs is measured: by the means of squares of several
sizes, of residuals in units of their class (as Hugonnet et al., 2022, standardize them). Where errors are correlated
over meters, as those of photogrammetry are, that is much more than pixels that err independently would leave.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from geosiam.imagery.grid import Window
from geosiam.imagery.normalization import MAD_TO_SIGMA, TUKEY
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from geosiam.heights.surfaces import SurfacePair

    Array = NDArray[np.float64]

SLOPE_DEGREES = (0.0, 5.0, 10.0, 20.0, 40.0)
"""Lower bounds of the classes of slope."""

LEVEL_95 = 1.96
"""Standard deviations of a normal error that 95 % do not exceed."""

_EDGES = np.tan(np.radians(SLOPE_DEGREES[1:]))
_WINDOW_PX = 256  # side of the windows that are read to compare the surfaces
_MAX_WINDOWS = 49  # whole surfaces up to 1792 px, spread over larger ones
_MAX_EQUATIONS = 150_000
_MIN_PIXELS = 400  # of stable ground, without which nothing is said
_MIN_CLASS = 200  # of a class of slope; smaller ones get the noise of the next one below
_STEEPEST = 1.2  # tangent: walls and crowns do not take part
_PLACE_PX = 0.25  # error in place of matching at a wall
_ROUGH = 5.0  # times the usual roughness of the ground
_FIT_STEPS, _RESAMPLINGS = 12, 8
_SMALL_PX = 0.01  # steps of the shift that are not worth another resampling
_BETTER = 0.93  # of the residual on slopes, which a shift may leave at most to be applied
_FAR_PX = 64.0  # a shift beyond was not found, but lost
_MIN_SQUARES = 12  # means of squares from which their deviation is estimated
_OUTLIER = 4.0  # standardized residuals beyond do not take part in means: what changed and is no polygon


def nmad(values: NDArray[Any]) -> float:
    """Return the normalized median absolute deviation, which is the standard deviation of normal values."""
    if not values.size:
        return float("nan")
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def gradient(heights: Array) -> tuple[Array, Array]:
    """Return the change of heights (rows, cols) per row and per column by central differences, without the margin."""
    down = (heights[2:, 1:-1] - heights[:-2, 1:-1]) / 2
    right = (heights[1:-1, 2:] - heights[1:-1, :-2]) / 2
    return down, right


def slope_class(tangent: Array) -> NDArray[np.intp]:
    """Return the class of slope of tangents, an index into :data:`SLOPE_DEGREES`; NaN counts as the steepest."""
    return np.searchsorted(_EDGES, np.where(np.isnan(tangent), np.inf, tangent), side="right")


def robust_fit(design: Array, values: Array) -> Array:
    """Return the coefficients (k,) that fit values (n,) by a design (n, k) in spite of outliers: Tukey's biweight."""
    size = np.sqrt((design**2).mean(axis=0))
    scaled = design / np.where(size > 0, size, 1)
    weights = np.ones(len(values))
    residual: Array = np.asarray(values - np.median(values), np.float64)
    coefficients: Array = np.zeros(design.shape[1])
    for _ in range(_FIT_STEPS):
        scale = max(nmad(residual), 1e-9)
        weights = np.clip(1 - (residual / (TUKEY * scale)) ** 2, 0, None) ** 2
        weighted = scaled * weights[:, None]
        normal = weighted.T @ scaled, weighted.T @ values
        new: Array = np.asarray(np.linalg.lstsq(*normal, rcond=1e-9)[0], np.float64)
        residual = np.asarray(values - scaled @ new, np.float64)
        if np.abs(new - coefficients).max() < 1e-6 * max(scale, 1e-6):
            coefficients = new
            break
        coefficients = new
    return np.asarray(coefficients / np.where(size > 0, size, 1), np.float64)


def mean_errors(windows: Sequence[Array]) -> dict[int, float]:
    """Return the standard deviation of the means of squares of values by the side of the squares in pixels.

    Parameters
    ----------
    windows
        Values (rows, cols) of mean 0, NaN = unknown; of a square, half has to be known.

    Returns
    -------
    by side 1, 2, 4...: the deviation, as long as there are enough squares
    """
    sums = [np.nan_to_num(values) for values in windows]
    counts = [np.isfinite(values).astype(np.float64) for values in windows]
    errors: dict[int, float] = {}
    side = 1
    while True:
        parts = [(s[c >= side**2 / 2] / c[c >= side**2 / 2]) for s, c in zip(sums, counts, strict=True)]
        means = np.concatenate(parts) if parts else np.empty(0)
        if len(means) < _MIN_SQUARES:
            return errors
        errors[side] = float(np.sqrt(np.mean(means**2)))
        sums, counts, side = [_halved(s) for s in sums], [_halved(c) for c in counts], 2 * side


def _halved(values: Array) -> Array:
    rows, cols = (size // 2 for size in values.shape)
    return np.asarray(values[: 2 * rows, : 2 * cols].reshape(rows, 2, cols, 2).sum(axis=(1, 3)), np.float64)


@dataclass(frozen=True)
class Coregistration:
    """How the after surface is brought onto the before surface, and how exact their difference then is.

    Parameters
    ----------
    shift
        How far the after surface lies too far down and right, in pixels.
    center
        Row and column of which `plane` is relative.
    plane
        Height by which the after surface lies too high at the center in meters, and its increase per row and column.
    pixels
        Number of pixels of stable ground that were compared; 0: too few, nothing is corrected, the error is unknown.
    noise
        NMAD in meters by class of slope, shape (5,).
    errors
        Standard deviation of means over squares, in units of `noise`, by the side of the squares in pixels.
    registration
        Standard error of the bias in units of `noise`.
    before, after
        NMAD of the difference on stable ground before and after the correction, in meters.
    """

    shift: tuple[float, float]
    center: tuple[float, float]
    plane: tuple[float, float, float]
    pixels: int
    noise: tuple[float, ...]
    errors: dict[int, float]
    registration: float
    before: float
    after: float

    @property
    def detection_95(self) -> float:
        """Level of detection: difference in meters that 95 % of unchanged pixels do not exceed, on the usual slopes."""
        return LEVEL_95 * self.after

    def correction(self, window: Window) -> Array:
        """Return the height by which the after surface lies too high at each pixel of a window, (rows, cols)."""
        rows = np.arange(window.row_start, window.row_stop)[:, None] - self.center[0]
        cols = np.arange(window.col_start, window.col_stop)[None, :] - self.center[1]
        bias, down, right = self.plane
        return np.asarray(bias + down * rows + right * cols, np.float64)

    def noise_at(self, slope: Array, pixel_m: float) -> Array:
        """Return the standard deviation of differences in meters, by the tangent of the slope (rows, cols).

        On walls and crowns, too steep to be stable ground, an error of a quarter of a pixel in place is added.
        """
        wall = np.nan_to_num(np.maximum(slope - _STEEPEST, 0)) * _PLACE_PX * pixel_m
        return np.asarray(np.hypot(np.array(self.noise)[slope_class(slope)], wall), np.float64)

    def mean_error(self, side: float, noise: float) -> float:
        """Return the standard error in meters of a mean over an area whose square root is ``side`` pixels.

        Between the sizes that were measured it is interpolated; beyond the largest one it does not fall further. What
        is left of it there, bulges and the like, is the same on any slope; the rest grows with the noise.

        Parameters
        ----------
        side
            Square root of the area in pixels.
        noise
            Mean noise of its pixels in meters, see :meth:`noise_at`.
        """
        if not self.errors:
            return float("nan")
        sides, errors = np.log2(list(self.errors)), np.log2(np.maximum(list(self.errors.values()), 1e-12))
        measured = 2 ** float(np.interp(np.log2(max(side, 1.0)), sides, errors))
        broad = min(measured, self.errors[max(self.errors)])
        fine = np.sqrt(measured**2 - broad**2)
        return float(np.sqrt((fine * noise) ** 2 + (broad**2 + self.registration**2) * self.after**2))

    def to_dict(self, surfaces: SurfacePair) -> dict[str, Any]:
        """Return plain values that JSON can hold, lengths in meters."""
        across, down = surfaces.pixel_lengths(surfaces.overlap)
        height, width = surfaces.grid.shape
        return {
            "shift_right_m": round(self.shift[1] * across, 4),
            "shift_down_m": round(self.shift[0] * down, 4),
            "bias_m": round(self.plane[0], 4),
            "tilt_down_m": round(self.plane[1] * height, 4),
            "tilt_right_m": round(self.plane[2] * width, 4),
            "stable_pixels": self.pixels,
            "nmad_before_m": _plain(self.before),
            "nmad_m": _plain(self.after),
            "level_of_detection_95_m": _plain(self.detection_95),
            "nmad_by_slope_m": {
                f"from {degrees:g} degrees": _plain(noise)
                for degrees, noise in zip(SLOPE_DEGREES, self.noise, strict=True)
            },
            "error_of_means_m": {
                f"{side * float(np.sqrt(across * down)):.3g} m": _plain(error * self.after)
                for side, error in self.errors.items()
            },
        }


def _plain(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def coregister(
    surfaces: SurfacePair, is_stable: Callable[[Window], NDArray[np.bool_]], *, workers: int | None = None
) -> Coregistration:
    """Determine the shift, bias and tilt of the after surface on stable ground, and the error of the difference.

    Parameters
    ----------
    surfaces
        Two surfaces.
    is_stable
        Returns where nothing changed in a window of the grid, bool (rows, cols).
    workers
        Number of threads that read; None: one for each processor. The result does not depend on it.
    """
    return _CoregistrationSolver(surfaces, is_stable, workers or default_workers()).result()


@dataclass(frozen=True)
class _Sample:
    """Stable ground of one window: all (rows, cols), and where it counts.

    Parameters
    ----------
    window
        Its place.
    difference
        After minus before in meters.
    down, right
        Change of the heights per row and column, the mean of both surfaces.
    slope
        Tangent of the slope.
    roughness
        Standard deviation in meters around the neighborhood's plane.
    usable
        Both heights are known around the pixel, which is stable and no wall.
    """

    window: Window
    difference: Array
    down: Array
    right: Array
    slope: Array
    roughness: Array
    usable: NDArray[np.bool_]


class _CoregistrationSolver:
    """The steps of :func:`coregister`; memory is that of the sampled windows, whatever the size of the surfaces."""

    def __init__(self, surfaces: SurfacePair, is_stable: Callable[[Window], NDArray[np.bool_]], workers: int) -> None:
        self._surfaces, self._workers = surfaces, workers
        self._windows = sample_windows(surfaces.overlap)
        self._lengths = surfaces.pixel_lengths(surfaces.overlap)
        area = surfaces.overlap
        self._center = (area.row_start + area.row_stop - 1) / 2, (area.col_start + area.col_stop - 1) / 2
        self._half = max(1.0, max(area.shape) / 2)
        self._stable = [is_stable(window) for window in self._windows]
        self._smooth_up_to = np.inf

    def result(self) -> Coregistration:
        """Return the co-registration."""
        first = self._samples((0.0, 0.0))
        roughness = np.concatenate([s.roughness[s.usable] for s in first]) if first else np.empty(0)
        if len(roughness) < _MIN_PIXELS:
            unknown = float("nan")
            return Coregistration(
                (0.0, 0.0), self._center, (0.0, 0.0, 0.0), 0, (unknown,) * len(SLOPE_DEGREES), {}, 0.0, unknown, unknown
            )
        self._smooth_up_to = _ROUGH * float(np.median(roughness))
        before = nmad(np.concatenate([s.difference[self._counts(s)] for s in first]))
        shift, samples = self._shift(first)
        plane = self._fit(samples, with_shift=False)[2:]
        return self._with_errors(shift, plane, samples, before)

    def _samples(self, shift: tuple[float, float]) -> list[_Sample]:
        """Read all windows with a shift undone."""
        surfaces = self._surfaces.shifted(shift) if any(shift) else self._surfaces

        def read(numbered: tuple[int, Window]) -> _Sample:
            number, window = numbered
            before, after = surfaces.read(window.grown(1))
            mean = (before + after) / 2
            down, right = gradient(mean)
            difference = (after - before)[1:-1, 1:-1]
            slope = np.hypot(right / self._lengths[0], down / self._lengths[1])
            usable = np.isfinite(difference) & np.isfinite(slope) & (slope < _STEEPEST) & self._stable[number]
            return _Sample(window, difference, down, right, slope, _roughness(mean)[1:-1, 1:-1], usable)

        with ThreadPoolExecutor(self._workers, "geosiam-heights") as pool:
            return list(pool.map(read, enumerate(self._windows)))

    def _counts(self, sample: _Sample) -> NDArray[np.bool_]:
        return sample.usable & (sample.roughness <= self._smooth_up_to)

    def _shift(self, samples: list[_Sample]) -> tuple[tuple[float, float], list[_Sample]]:
        """Return the shift, and the samples with it undone; no shift where it does not improve the fit on slopes."""
        unshifted, start = samples, self._misfit(samples)
        shift = np.zeros(2)
        for _ in range(_RESAMPLINGS):
            step = -self._fit(samples, with_shift=True)[:2]
            shift = shift + step
            if np.abs(shift).max() > _FAR_PX:
                return (0.0, 0.0), unshifted
            if np.abs(step).max() < _SMALL_PX:
                break
            samples = self._samples((float(shift[0]), float(shift[1])))
        # Resampling alone smooths noise: the opposite shift does so as much, and does not fit.
        opposite = self._samples((-float(shift[0]), -float(shift[1])))
        if not self._misfit(samples) <= _BETTER * min(start, self._misfit(opposite)):
            return (0.0, 0.0), unshifted
        rounded = round(float(shift[0]), 4), round(float(shift[1]), 4)
        return rounded, self._samples(rounded)

    def _misfit(self, samples: list[_Sample]) -> float:
        """Return the NMAD of what bias and tilt leave on the steeper half of the ground."""
        bias, down, right = self._fit(samples, with_shift=False)[2:]
        slope, residual = [], []
        for sample in samples:
            counts = self._counts(sample)
            rows, cols = self._places(sample.window)
            plane = bias + down * rows + right * cols
            slope.append(sample.slope[counts])
            residual.append((sample.difference - plane)[counts])
        slopes, residuals = np.concatenate(slope), np.concatenate(residual)
        return nmad(residuals[slopes >= np.median(slopes)]) if len(residuals) else float("nan")

    def _places(self, window: Window) -> tuple[Array, Array]:
        rows = np.arange(window.row_start, window.row_stop, dtype=np.float64)[:, None] - self._center[0]
        cols = np.arange(window.col_start, window.col_stop, dtype=np.float64)[None, :] - self._center[1]
        return rows, cols

    def _fit(self, samples: list[_Sample], *, with_shift: bool) -> Array:
        """Return (change per row, per column, bias, tilt per row, per column) that explain the differences."""
        parts = []
        for sample in samples:
            counts = self._counts(sample)
            rows, cols = np.broadcast_arrays(*self._places(sample.window))
            columns = (sample.down, sample.right, np.ones_like(sample.down), rows, cols, sample.difference)
            parts.append(np.stack([column[counts] for column in columns], axis=1))
        table = np.concatenate(parts)
        table = table[:: -(-len(table) // _MAX_EQUATIONS) or 1]
        if not len(table):
            return np.zeros(5)
        first = 0 if with_shift else 2
        fitted = robust_fit(table[:, first:5], table[:, 5])
        return np.concatenate([np.zeros(first), fitted])

    def _with_errors(
        self, shift: tuple[float, float], plane: Array, samples: list[_Sample], before: float
    ) -> Coregistration:
        """Return the co-registration with the noise of what is left."""
        residuals, classes = [], []
        for sample in samples:
            rows, cols = self._places(sample.window)
            residual = sample.difference - (plane[0] + plane[1] * rows + plane[2] * cols)
            residuals.append(np.where(self._counts(sample), residual, np.nan))
            classes.append(slope_class(sample.slope))
        values = np.concatenate([r[np.isfinite(r)] for r in residuals])
        members = np.concatenate([c[np.isfinite(r)] for r, c in zip(residuals, classes, strict=True)])
        noise, last = [], nmad(values)
        for number in range(len(SLOPE_DEGREES)):
            members_of_class = values[members == number]
            last = max(nmad(members_of_class), 1e-4) if len(members_of_class) >= _MIN_CLASS else last
            noise.append(last)
        scale = np.array(noise)
        standard = [r / scale[c] for r, c in zip(residuals, classes, strict=True)]
        standard = [np.where(np.abs(r) <= _OUTLIER, r, np.nan) for r in standard]
        errors = mean_errors(standard)
        independent = sum(np.isfinite(r).sum() for r in standard) / max(errors, default=1) ** 2
        registration = errors[max(errors)] / np.sqrt(max(1.0, independent / 3)) if errors else 0.0
        bias, down, right = (float(value) for value in plane)
        return Coregistration(
            shift, self._center, (bias, down, right), len(values), tuple(noise), errors, float(registration), before,
            nmad(values),
        )  # fmt: skip


def _roughness(heights: Array) -> Array:
    """Return the standard deviation of heights around the planes of 5 x 5 pixels; infinite beside voids."""
    void = ~np.isfinite(heights)
    filled = np.where(void, np.median(heights[~void]) if not void.all() else 0.0, heights)
    around = filled - ndimage.uniform_filter(filled, 5, mode="nearest")
    rough = np.sqrt(np.maximum(ndimage.uniform_filter(around**2, 5, mode="nearest"), 0))
    rough[ndimage.binary_dilation(void, np.ones((5, 5), bool))] = np.inf
    return np.asarray(rough, np.float64)


def sample_windows(area: Window) -> list[Window]:
    """Return the windows in which surfaces are compared: all of a small area, or spread over a large one."""
    starts = []
    for first, last in ((area.row_start, area.row_stop), (area.col_start, area.col_stop)):
        number, most = -(-(last - first) // _WINDOW_PX), round(_MAX_WINDOWS**0.5)
        if number <= most:
            starts.append([first + i * _WINDOW_PX for i in range(number)])
        else:
            starts.append([int(start) for start in np.linspace(first, last - _WINDOW_PX, most)])
    windows = [Window(r, r + _WINDOW_PX, c, c + _WINDOW_PX).intersection(area) for r in starts[0] for c in starts[1]]
    return [window for window in windows if window is not None]
