"""Relative radiometric normalization: decided once per pair from a sample, then applied to every block alike.

Values are channels scaled to [0, 1]. The sample may hold real change, so every estimate here resists outliers.
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

    from geosiam.imagery.sampling import Sample


_KNOTS = 33
_FEWEST = 500  # valid pixels below which no estimate is worth its name
_SAME_GAIN, _SAME_OFFSET = 0.04, 0.012  # differences below these are left to the network, which learnt to ignore them
_WILDEST_GAIN = 10.0
_SETTLED = 1e-4  # a fortieth of a step of 8 bits
_LARGEST_RATIO = 3.0
_LEAST_CORRELATION = 0.5


@dataclass(frozen=True)
class RadiometricNormalization:
    """A monotone piecewise linear function per channel that makes the after-scene look like the before-scene.

    Parameters
    ----------
    mode
        What was done: ``"none"``, ``"linear"`` or ``"histogram"``.
    source, target
        Knots of the functions, each float tuple (3, knots), increasing; beyond the ends they go on as straight lines
        (linear) or stay constant (histogram).
    note
        Why less was done than was asked for; empty otherwise.
    """

    mode: Literal["none", "linear", "histogram"] = "none"
    source: tuple[tuple[float, ...], ...] = ()
    target: tuple[tuple[float, ...], ...] = ()
    note: str = ""

    def apply(self, after: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the normalized channels, float32 (3, rows, cols) in [0, 1]; unchanged where nothing is to be done."""
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


def estimate(before: NDArray[np.float32], after: NDArray[np.float32], mode: str = "auto") -> RadiometricNormalization:
    """Decide the normalization of a pair.

    Parameters
    ----------
    before, after
        float32 (3, n): the same valid pixels of both scenes, scaled to [0, 1].
    mode
        ``"none"``; ``"linear"``: gain and offset per channel by robust orthogonal regression; ``"histogram"``:
        quantile matching, which assumes that little has changed; ``"auto"``: linear where gain or offset differ
        noticeably and the scenes correlate, none otherwise.
    """
    if mode not in RADIOMETRY_MODES:
        raise OptionError(f"radiometry {mode!r}", "is not known", f"use {', '.join(RADIOMETRY_MODES)}")
    if mode == "none":
        return RadiometricNormalization()
    if before.shape[1] < _FEWEST:
        return RadiometricNormalization(note=f"{before.shape[1]} valid pixels are too few to match brightness by")
    if mode == "histogram":
        return _histogram(before, after)
    lines = [robust_line(x, y) for x, y in zip(after, before, strict=True)]
    if mode == "auto" and not _worth_applying(lines):
        return RadiometricNormalization()
    loose = [str(channel) for channel, line in enumerate(lines, 1) if line is None]
    note = f"the scenes do not hang together in channel {', '.join(loose)}, which is left as it is" if loose else ""
    if len(loose) == len(lines):
        return RadiometricNormalization(note="the scenes do not hang together in any channel, or have but one value")
    gains = [line or (1.0, 0.0) for line in lines]
    source = tuple((0.0, 1.0) for _ in gains)
    return RadiometricNormalization("linear", source, tuple((offset, gain + offset) for gain, offset in gains), note)


def _worth_applying(lines: list[tuple[float, float] | None]) -> bool:
    """Return whether all channels have a line, these agree roughly, and one of them differs from doing nothing."""
    known = [line for line in lines if line is not None]
    if len(known) < len(lines):
        return False
    gains = [gain for gain, _ in known]
    # Light and camera change the channels together; a line of its own was fitted to what changed.
    if max(gains) > _LARGEST_RATIO * min(gains):
        return False
    return any(abs(gain - 1) >= _SAME_GAIN or abs(offset) >= _SAME_OFFSET for gain, offset in known)


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
    line, so that changed pixels lose their say (after Canty and Nielsen, "Automatic radiometric normalization of
    multitemporal satellite imagery with the iteratively re-weighted MAD transformation", 2008).

    Returns
    -------
    gain and offset, or None where the two do not hang together
    """
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    spread_x, spread_y = _spread(x64), _spread(y64)
    if min(spread_x, spread_y) < 1e-4:  # noqa: PLR2004 - a channel of one value
        return None
    gain = spread_y / spread_x
    offset = _median(y64) - gain * _median(x64)
    weight = np.ones_like(x64)
    for _ in range(iterations):
        distance = np.abs(y64 - gain * x64 - offset) / np.hypot(1, gain)
        scale = 4.685 * max(1.4826 * _median(distance), 1e-4)
        weight = np.square(np.clip(1 - np.square(distance / scale), 0, None))
        line = _orthogonal(x64, y64, weight)
        if line is None:
            return None
        if abs(line[0] - gain) <= _SETTLED and abs(line[1] - offset) <= _SETTLED:
            break
        gain, offset = line
    if not 1 / _WILDEST_GAIN < gain < _WILDEST_GAIN or _correlation(x64, y64, weight) < _LEAST_CORRELATION:
        return None
    return float(gain), float(offset)


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low)


def _median(values: NDArray[np.float64]) -> float:
    """Return what `np.median` does at a fraction of its cost: numpy finds one place in the order faster than two."""
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


_BYTE = 255.0
_LOW, _HIGH = 0.5, 99.5  # percentiles that become 0 and 1
_LEAST_SHARE = 0.5  # of a shared range that each scene has to use
_LARGE = 1e30  # float32 ends at 3e38
_FINE = 1e-3  # of the largest value: float32 knows seven digits of it
_LARGEST = 1e300  # differences of larger values are infinite
_LEAST_WIDTH = 1e-6  # of the values of a channel that has but one


@dataclass(frozen=True)
class Stretch:
    """A straight line per channel, clipped to [0, 1].

    Parameters
    ----------
    low, high
        The values that become 0 and 1, for each channel.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scaled channels (channels, ...) of any type as a new array, float32 in [0, 1]."""
        if self == FULL_BYTE and values.dtype == np.uint8:  # the common case, in a single pass
            return np.asarray(np.multiply(values, np.float32(1 / _BYTE), dtype=np.float32))
        shape = (-1,) + (1,) * (values.ndim - 1)
        precision: type[np.floating[Any]] = np.float32 if self._plain else np.float64
        low, high = (np.array(ends, np.float64).reshape(shape).astype(precision) for ends in (self.low, self.high))
        gain = 1 / (high - low)
        with np.errstate(over="ignore"):  # far outside is 0 or 1 all the same
            return np.asarray(((values - low) * gain).clip(0, 1), np.float32)

    @property
    def _plain(self) -> bool:
        """Whether float32 tells the ends apart and holds what is computed with them."""
        largest = np.abs([self.low, self.high]).max()
        width = np.abs(np.subtract(self.high, self.low)).min()
        return bool(largest < _LARGE and width > max(1 / _LARGE, _FINE * largest))


FULL_BYTE = Stretch((0.0, 0.0, 0.0), (_BYTE, _BYTE, _BYTE))


@dataclass(frozen=True)
class Unit:
    """What a stored value measures, for each of the three channels: ``value * scale + offset``."""

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, scales: Sequence[float], offsets: Sequence[float]) -> Self:
        """Return a unit from what a file says, which may be nonsense."""
        sound = np.isfinite(scales) & np.isfinite(offsets) & (np.array(scales) != 0)
        return cls(_triple(np.where(sound, scales, 1.0)), _triple(np.where(sound, offsets, 0.0)))

    def measured(self, pixels: NDArray[Any]) -> NDArray[np.float64]:
        """Return what stored pixels (3, n) measure."""
        return np.asarray(pixels * np.array(self.scale)[:, None] + np.array(self.offset)[:, None], np.float64)

    def stored(self, scaling: Stretch) -> Stretch:
        """Return the scaling of stored values that does to them what this one does to measured values."""
        low, high = ((np.array(ends) - self.offset) / self.scale for ends in (scaling.low, scaling.high))
        return Stretch(_triple(low), _triple(high))


PLAIN = Unit()


def choose_scaling(
    dtypes: tuple[str, str], sample: Sample, units: tuple[Unit, Unit] = (PLAIN, PLAIN)
) -> tuple[Stretch, Stretch]:
    """Return the scaling of both scenes: bytes by their full range, other types by percentiles of valid pixels.

    Scenes of the same type share one stretch, so that what differs between them stays visible, unless one of them is
    so much darker or flatter than the other that it would be squeezed into a small part of the range. One of a single
    value has no range of its own, and shares the other's. Scenes that store the same quantity in different units share
    the stretch of what they measure.
    """
    if units[0] != units[1]:
        first, second = _stretches(units[0].measured(sample.before), units[1].measured(sample.after))
        return units[0].stored(first), units[1].stored(second)
    own = [FULL_BYTE if dtype == "uint8" else None for dtype in dtypes]
    if own[0] is not None and own[1] is not None:
        return own[0], own[1]
    if dtypes[0] != dtypes[1]:
        return own[0] or _stretch(sample.before), own[1] or _stretch(sample.after)
    return _stretches(sample.before, sample.after)


def _stretches(first: NDArray[Any], second: NDArray[Any]) -> tuple[Stretch, Stretch]:
    before, after = _stretch(first), _stretch(second)
    shared = _stretch(np.concatenate([first, second], axis=1))
    empty = _is_flat(first) != _is_flat(second)
    squeezed = not empty and min(_share(before, shared), _share(after, shared)) < _LEAST_SHARE
    return (before, after) if squeezed else (shared, shared)


def _share(own: Stretch, shared: Stretch) -> float:
    """Return how much of the shared range a scene uses, in its median channel."""
    widths = [np.subtract(scaling.high, scaling.low) for scaling in (own, shared)]
    return float(np.median(widths[0] / widths[1]))


def _is_flat(pixels: NDArray[Any]) -> bool:
    """Return whether every channel has a single value."""
    return bool((pixels == pixels[:, :1]).all())


def _stretch(pixels: NDArray[Any]) -> Stretch:
    values = pixels.astype(np.float64).clip(-_LARGEST, _LARGEST)
    low, high = np.percentile(values, (_LOW, _HIGH), axis=1)
    uniform = high == low  # a channel of one value, but for a few pixels: these are all there is to see
    low, high = np.where(uniform, values.min(axis=1), low), np.where(uniform, values.max(axis=1), high)
    flat = high - low < 1 / _LARGEST
    high = np.where(flat, low + np.maximum(1, np.abs(low) * _LEAST_WIDTH), high)
    return Stretch(_triple(low), _triple(high))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


_LARGEST_TABLE = 2**16


@dataclass(frozen=True)
class PixelTransform:
    """The function of each channel that every pixel of a scene goes through, wherever it lies.

    Parameters
    ----------
    scaling
        From the scene's own values to [0, 1].
    radiometry
        What makes it look like the other scene.
    """

    scaling: Stretch
    radiometry: RadiometricNormalization = UNCHANGED

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the channels (3, rows, cols) of any type as a new array, float32 in [0, 1]."""
        return self.radiometry.apply(self.scaling.apply(values))

    def table(self, dtype: DTypeLike) -> NDArray[np.float32] | None:
        """Return what becomes of each value that a type can store, or None for a type of too many values.

        Returns
        -------
        float32 (3, levels), indexed by the value's bits as an unsigned number
        """
        kind = np.dtype(dtype)
        if kind.kind not in "iu" or 2 ** (8 * kind.itemsize) > _LARGEST_TABLE:
            return None
        levels = np.arange(2 ** (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)
        return self.apply(np.broadcast_to(levels, (3, 1, levels.size)))[:, 0]


def identity(channels: int) -> PixelTransform:
    """Return what leaves values that are in [0, 1] already as they are."""
    return PixelTransform(Stretch((0.0,) * channels, (1.0,) * channels))
