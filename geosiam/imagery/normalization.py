"""Make the values of two scenes comparable, in [0, 1]: a stretch, then relative radiometric normalization.

Both are decided once per pair, from a sample of valid pixels, and applied to every block alike. The sample may hold
real change, so every estimate here resists outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geosiam.errors import OptionError
from geosiam.imagery.options import RADIOMETRY_MODES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import DTypeLike, NDArray

# -- stretch: from stored values to [0, 1] -----------------------------------------------------------------------------

_BYTE = 255.0
_LOW, _HIGH = 0.5, 99.5  # percentiles that become 0 and 1
_MARGIN = 0.25  # of the range between the percentiles; see _own_stretch
_MIN_SHARE = 0.5  # of a shared range; a scene that uses less gets a range of its own
_MAX_FLOAT32 = 1e30  # float32 ends at 3e38
_MIN_RELATIVE_WIDTH = 1e-3  # of a range in float32, which has seven digits
_MAX_VALUE = 1e300  # differences of larger values are infinite
_FEW_LEVELS = 25  # of 255; masks and class maps in bytes hold no larger value
_CONSTANT_WIDTH = 1e-6  # width of the range of a constant channel, relative to its value


@dataclass(frozen=True)
class Stretch:
    """A linear function per channel, clipped to [0, 1].

    Parameters
    ----------
    low, high
        Values that become 0 and 1, for each channel.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return channels (channels, ...) of any type as a new array, float32 in [0, 1]."""
        if self == FULL_BYTE and values.dtype == np.uint8:  # the common case, in a single pass
            return np.asarray(np.multiply(values, np.float32(1 / _BYTE), dtype=np.float32))
        shape = (-1,) + (1,) * (values.ndim - 1)
        precision: type[np.floating[Any]] = np.float32 if self._fits_float32 else np.float64
        low, high = (np.array(bound, np.float64).reshape(shape).astype(precision) for bound in (self.low, self.high))
        gain = 1 / (high - low)
        with np.errstate(over="ignore"):  # values far outside are clipped
            return np.asarray(((values - low) * gain).clip(0, 1), np.float32)

    @property
    def _fits_float32(self) -> bool:
        """Whether float32 is precise and large enough for the values of the range."""
        largest = np.abs([self.low, self.high]).max()
        width = np.abs(np.subtract(self.high, self.low)).min()
        return bool(largest < _MAX_FLOAT32 and width > max(1 / _MAX_FLOAT32, _MIN_RELATIVE_WIDTH * largest))


FULL_BYTE = Stretch((0.0, 0.0, 0.0), (_BYTE, _BYTE, _BYTE))


@dataclass(frozen=True)
class Unit:
    """Scale and offset of each of the three channels: a stored value measures ``value * scale + offset``."""

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, scales: Sequence[float], offsets: Sequence[float]) -> Self:
        """Return the unit of a file's scales and offsets; invalid ones count as 1 and 0."""
        sound = np.isfinite(scales) & np.isfinite(offsets) & (np.array(scales) != 0)
        return cls(_triple(np.where(sound, scales, 1.0)), _triple(np.where(sound, offsets, 0.0)))

    def measured(self, pixels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the measured values of stored pixels (3, n)."""
        return np.asarray(pixels * np.array(self.scale)[:, None] + np.array(self.offset)[:, None], np.float64)

    def stored(self, stretch: Stretch) -> Stretch:
        """Return the stretch of stored values that is equal to a stretch of measured values."""
        low, high = ((np.array(bound) - self.offset) / self.scale for bound in (stretch.low, stretch.high))
        return Stretch(_triple(low), _triple(high))


PLAIN = Unit()


def choose_stretches(
    dtypes: tuple[str, str],
    pixels: tuple[NDArray[Any], NDArray[Any]],
    units: tuple[Unit, Unit] = (PLAIN, PLAIN),
) -> tuple[Stretch, Stretch]:
    """Return the stretches of both scenes: bytes by their full range, other types by percentiles of valid pixels.

    Scenes of the same type share one stretch, so that a difference between them stays visible, unless one of them is
    so much darker or flatter than the other that it would be squeezed into a small part of the range. A constant scene
    has no range of its own, and shares the other's. Scenes that store the same quantity in different units share the
    stretch of the measured values. Bytes that are all small, as those of masks and class maps are, would all be black:
    they share a stretch from the smallest to the largest.

    Parameters
    ----------
    dtypes
        NumPy types of the before and the after scene.
    pixels
        Valid pixels of both scenes in their own values, (3, n) each.
    units
        Units of the values of both scenes.
    """
    before, after = pixels
    if units[0] != units[1]:
        first, second = _shared_or_own(units[0].measured(before), units[1].measured(after))
        return units[0].stored(first), units[1].stored(second)
    fixed = [FULL_BYTE if dtype == "uint8" else None for dtype in dtypes]
    levels = np.concatenate(pixels, axis=1).astype(np.float64)
    few = all(has_few_levels(dtype, values) for dtype, values in zip(dtypes, pixels, strict=True))
    if few and np.ptp(levels) > 0:  # a constant has no classes
        lowest = levels.min(axis=1)
        stretch = Stretch(_triple(lowest), _triple(np.maximum(levels.max(axis=1), lowest + 1)))
        return stretch, stretch
    if fixed[0] is not None and fixed[1] is not None:
        return fixed[0], fixed[1]
    if dtypes[0] != dtypes[1]:
        return fixed[0] or _own_stretch(before), fixed[1] or _own_stretch(after)
    return _shared_or_own(before, after)


def has_few_levels(dtype: str, pixels: NDArray[Any]) -> bool:
    """Return whether a scene of bytes holds small values only, in its valid pixels (3, n)."""
    return dtype == "uint8" and bool(pixels.max() <= _FEW_LEVELS)


def _shared_or_own(first: NDArray[Any], second: NDArray[Any]) -> tuple[Stretch, Stretch]:
    before, after = _percentile_stretch(first), _percentile_stretch(second)
    shared = _percentile_stretch(np.concatenate([first, second], axis=1))
    one_is_constant = _is_constant(first) != _is_constant(second)
    squeezed = not one_is_constant and min(_share(before, shared), _share(after, shared)) < _MIN_SHARE
    return (_own_stretch(first), _own_stretch(second)) if squeezed else (shared, shared)


def _own_stretch(pixels: NDArray[Any]) -> Stretch:
    """Return the stretch of a scene that shares none with the other.

    What one scene clips and the other does not looks like a change, so values beyond the percentiles are kept up to a
    margin on each side.
    """
    stretch, values = _percentile_stretch(pixels), pixels.astype(np.float64)
    low, high = np.array(stretch.low), np.array(stretch.high)
    margin = _MARGIN * (high - low)
    lowest, highest = np.maximum(values.min(axis=1), low - margin), np.minimum(values.max(axis=1), high + margin)
    return Stretch(
        _triple(np.minimum(low, lowest)), _triple(np.maximum(high, highest))
    )  # a constant ends before `high`


def _share(stretch: Stretch, shared: Stretch) -> float:
    """Return the fraction of the shared range that a scene uses, in its median channel."""
    return float(np.median(np.subtract(stretch.high, stretch.low) / np.subtract(shared.high, shared.low)))


def _is_constant(pixels: NDArray[Any]) -> bool:
    """Return whether every channel has a single value."""
    return bool((pixels == pixels[:, :1]).all())


def _percentile_stretch(pixels: NDArray[Any]) -> Stretch:
    values = pixels.astype(np.float64).clip(-_MAX_VALUE, _MAX_VALUE)
    low, high = np.percentile(values, (_LOW, _HIGH), axis=1)
    uniform = high == low  # constant but for a few pixels, which then define the range
    low, high = np.where(uniform, values.min(axis=1), low), np.where(uniform, values.max(axis=1), high)
    constant = high - low < 1 / _MAX_VALUE
    high = np.where(constant, low + np.maximum(1, np.abs(low) * _CONSTANT_WIDTH), high)
    return Stretch(_triple(low), _triple(high))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


# -- relative radiometric normalization, in [0, 1] ---------------------------------------------------------------------

TUKEY = 4.685
"""Tuning constant of the biweight, in standard deviations: 95 % efficiency on normal residuals."""

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

_KNOTS = 33  # quantiles of histogram matching
_MIN_PIXELS = 500  # valid pixels for an estimate
_MIN_GAIN_CHANGE, _MIN_OFFSET = 0.04, 0.012  # the network is trained to ignore smaller differences
_MAX_GAIN = 10.0
_CONVERGED = 1e-4  # change of gain and offset; a fortieth of a step of 8 bits
_MAX_GAIN_RATIO = 3.0  # between channels
_MIN_CORRELATION = 0.5
_MIN_SPREAD = 1e-4  # interquartile range; below it a channel is constant


@dataclass(frozen=True)
class RadiometricNormalization:
    """A monotone piecewise linear function per channel that matches the after scene to the before scene.

    Parameters
    ----------
    mode
        Method: ``"none"``, ``"linear"`` or ``"histogram"``.
    source, target
        Knots of the functions, each float tuple (3, knots), increasing. Beyond the ends the functions continue as
        straight lines (linear) or stay constant (histogram).
    note
        Why less was done than requested; empty otherwise.
    """

    mode: Literal["none", "linear", "histogram"] = "none"
    source: tuple[tuple[float, ...], ...] = ()
    target: tuple[tuple[float, ...], ...] = ()
    note: str = ""

    def apply(self, after: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the normalized channels, float32 (3, rows, cols) in [0, 1]; the same array if the mode is 'none'."""
        if self.mode == "none":
            return after
        result = np.empty_like(after)
        for channel, (source, target) in enumerate(zip(self.source, self.target, strict=True)):
            if self.mode == "linear":
                gain = np.float32((target[1] - target[0]) / (source[1] - source[0]))
                result[channel] = (after[channel] - np.float32(source[0])) * gain + np.float32(target[0])
            else:
                result[channel] = np.interp(after[channel], source, target)
        return result.clip(0, 1, out=result)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"mode": self.mode, "source": self.source, "target": self.target, "note": self.note}


UNCHANGED = RadiometricNormalization()


def estimate_radiometry(
    before: NDArray[np.float32], after: NDArray[np.float32], mode: str = "auto"
) -> RadiometricNormalization:
    """Estimate the normalization of a pair.

    Parameters
    ----------
    before, after
        The same valid pixels of both scenes, float32 (3, n), stretched to [0, 1].
    mode
        ``"none"``; ``"linear"``: gain and offset per channel by robust orthogonal regression; ``"histogram"``:
        quantile matching, which assumes that little has changed; ``"auto"``: linear where gain or offset differ
        noticeably and the scenes correlate, none otherwise.
    """
    if mode not in RADIOMETRY_MODES:
        raise OptionError(f"`radiometry` {mode!r}", "is not known", f"use {', '.join(RADIOMETRY_MODES)}")
    if mode == "none":
        return RadiometricNormalization()
    if before.shape[1] < _MIN_PIXELS:
        return RadiometricNormalization(note=f"{before.shape[1]} valid pixels are too few for an estimate")
    if mode == "histogram":
        return _histogram(before, after)
    lines = [robust_line(x, y) for x, y in zip(after, before, strict=True)]
    if mode == "auto" and not _worth_applying(lines):
        return RadiometricNormalization()
    uncorrelated = [str(channel) for channel, line in enumerate(lines, 1) if line is None]
    if len(uncorrelated) == len(lines):
        return RadiometricNormalization(note="the scenes are not correlated in any channel, or are constant")
    note = (
        f"the scenes are not correlated in channel {', '.join(uncorrelated)}, which is unchanged"
        if uncorrelated
        else ""
    )
    gains = [line or (1.0, 0.0) for line in lines]
    source = tuple((0.0, 1.0) for _ in gains)
    return RadiometricNormalization("linear", source, tuple((offset, gain + offset) for gain, offset in gains), note)


def _worth_applying(lines: list[tuple[float, float] | None]) -> bool:
    """Return whether all channels have lines, which agree roughly and differ noticeably from no change."""
    fitted = [line for line in lines if line is not None]
    if len(fitted) < len(lines):
        return False
    gains = [gain for gain, _ in fitted]
    # Light and camera change all channels together; a channel that differs was fitted to changed pixels.
    if max(gains) > _MAX_GAIN_RATIO * min(gains):
        return False
    return any(abs(gain - 1) >= _MIN_GAIN_CHANGE or abs(offset) >= _MIN_OFFSET for gain, offset in fitted)


def _histogram(before: NDArray[np.float32], after: NDArray[np.float32]) -> RadiometricNormalization:
    levels = np.linspace(0, 1, _KNOTS)
    source, target = [], []
    for x, y in zip(after, before, strict=True):
        knots, first = np.unique(np.quantile(x, levels), return_index=True)
        source.append(tuple(map(float, knots)))
        target.append(tuple(map(float, np.quantile(y, levels)[first])))
    return RadiometricNormalization("histogram", tuple(source), tuple(target))


def robust_line(x: NDArray[np.float32], y: NDArray[np.float32], iterations: int = 20) -> tuple[float, float] | None:
    """Fit ``y = gain * x + offset`` to the pixels that did not change.

    Orthogonal regression, because both scenes are noisy, reweighted with Tukey's biweight of the distance from the
    line, so that changed pixels have little or no weight (after Canty and Nielsen, "Automatic radiometric normalization
    of multitemporal satellite imagery with the iteratively re-weighted MAD transformation", 2008).

    Returns
    -------
    gain and offset, or None if the two are not correlated or one of them is constant
    """
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    spread_x, spread_y = _spread(x64), _spread(y64)
    if min(spread_x, spread_y) < _MIN_SPREAD:
        return None
    gain = spread_y / spread_x
    offset = _median(y64) - gain * _median(x64)
    weight = np.ones_like(x64)
    for _ in range(iterations):
        distance = np.abs(y64 - gain * x64 - offset) / np.hypot(1, gain)
        scale = TUKEY * max(MAD_TO_SIGMA * _median(distance), _MIN_SPREAD)
        weight = np.square(np.clip(1 - np.square(distance / scale), 0, None))
        line = _orthogonal(x64, y64, weight)
        if line is None:
            return None
        if abs(line[0] - gain) <= _CONVERGED and abs(line[1] - offset) <= _CONVERGED:
            break
        gain, offset = line
    if not 1 / _MAX_GAIN < gain < _MAX_GAIN or _correlation(x64, y64, weight) < _MIN_CORRELATION:
        return None
    return float(gain), float(offset)


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low)


def _median(values: NDArray[np.float64]) -> float:
    """Return the median, as `np.median` does, with one partition instead of two.

    Of 30,000 values it takes 0.3 ms instead of 1.7 ms, and an estimate needs some sixty medians.
    """
    half = len(values) // 2
    parted = np.partition(values, half)
    upper = parted[half]
    return float(upper if len(values) % 2 else (parted[:half].max() + upper) / 2)


def _moments(
    x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[float, float, float, float, float]:
    total = weight.sum()
    mean_x, mean_y = (weight @ x) / total, (weight @ y) / total
    dx, dy = x - mean_x, y - mean_y
    return mean_x, mean_y, weight @ (dx * dx) / total, weight @ (dy * dy) / total, weight @ (dx * dy) / total


def _orthogonal(
    x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[float, float] | None:
    if weight.sum() <= 0:
        return None
    mean_x, mean_y, xx, yy, xy = _moments(x, y, weight)
    if xy <= 0:
        return None
    gain = (yy - xx + np.sqrt((yy - xx) ** 2 + 4 * xy * xy)) / (2 * xy)
    return gain, mean_y - gain * mean_x


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    _, _, xx, yy, xy = _moments(x, y, weight)
    return float(xy / np.sqrt(max(xx * yy, 1e-24)))


# -- both together -----------------------------------------------------------------------------------------------------

_MAX_TABLE = 2**16  # entries of a lookup table


@dataclass(frozen=True)
class PixelTransform:
    """The function per channel that is applied to every pixel of a scene: stretch, then normalization.

    Parameters
    ----------
    stretch
        Stretch of the scene's own values to [0, 1].
    radiometry
        Normalization that matches the scene to the other one.
    """

    stretch: Stretch
    radiometry: RadiometricNormalization = UNCHANGED

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the channels (3, rows, cols) of any type as a new array, float32 in [0, 1]."""
        return self.radiometry.apply(self.stretch.apply(values))

    def table(self, dtype: DTypeLike) -> NDArray[np.float32] | None:
        """Return a lookup table of all values that a type can store, or None for a type of too many values.

        Returns
        -------
        float32 (3, levels), indexed by the bits of the stored value as an unsigned number
        """
        kind = np.dtype(dtype)
        if kind.kind not in "iu" or 2 ** (8 * kind.itemsize) > _MAX_TABLE:
            return None
        levels = np.arange(2 ** (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)
        return self.apply(np.broadcast_to(levels, (3, 1, levels.size)))[:, 0]


def unchanged_transform(channels: int) -> PixelTransform:
    """Return a transform that leaves values in [0, 1] unchanged."""
    return PixelTransform(Stretch((0.0,) * channels, (1.0,) * channels))
