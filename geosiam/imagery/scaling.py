"""From a scene's own values to [0, 1], decided once per pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.imagery.sampling import Sample

_BYTE = 255.0
_LOW, _HIGH = 0.5, 99.5  # percentiles that become 0 and 1
_LEAST_SHARE = 0.5  # of a shared range that each scene has to use
_LARGE = 1e30  # float32 ends at 3e38
_FINE = 1e-3  # of the largest value: float32 knows seven digits of it
_LARGEST = 1e300  # differences of larger values are infinite
_LEAST_WIDTH = 1e-6  # of the values of a channel that has but one


@dataclass(frozen=True)
class Scaling:
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


FULL_BYTE = Scaling((0.0, 0.0, 0.0), (_BYTE, _BYTE, _BYTE))


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

    def stored(self, scaling: Scaling) -> Scaling:
        """Return the scaling of stored values that does to them what this one does to measured values."""
        low, high = ((np.array(ends) - self.offset) / self.scale for ends in (scaling.low, scaling.high))
        return Scaling(_triple(low), _triple(high))


PLAIN = Unit()


def choose_scaling(
    dtypes: tuple[str, str], sample: Sample, units: tuple[Unit, Unit] = (PLAIN, PLAIN)
) -> tuple[Scaling, Scaling]:
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


def _stretches(first: NDArray[Any], second: NDArray[Any]) -> tuple[Scaling, Scaling]:
    before, after = _stretch(first), _stretch(second)
    shared = _stretch(np.concatenate([first, second], axis=1))
    empty = _is_flat(first) != _is_flat(second)
    squeezed = not empty and min(_share(before, shared), _share(after, shared)) < _LEAST_SHARE
    return (before, after) if squeezed else (shared, shared)


def _share(own: Scaling, shared: Scaling) -> float:
    """Return how much of the shared range a scene uses, in its median channel."""
    widths = [np.subtract(scaling.high, scaling.low) for scaling in (own, shared)]
    return float(np.median(widths[0] / widths[1]))


def _is_flat(pixels: NDArray[Any]) -> bool:
    """Return whether every channel has a single value."""
    return bool((pixels == pixels[:, :1]).all())


def _stretch(pixels: NDArray[Any]) -> Scaling:
    values = pixels.astype(np.float64).clip(-_LARGEST, _LARGEST)
    low, high = np.percentile(values, (_LOW, _HIGH), axis=1)
    uniform = high == low  # a channel of one value, but for a few pixels: these are all there is to see
    low, high = np.where(uniform, values.min(axis=1), low), np.where(uniform, values.max(axis=1), high)
    flat = high - low < 1 / _LARGEST
    high = np.where(flat, low + np.maximum(1, np.abs(low) * _LEAST_WIDTH), high)
    return Scaling(_triple(low), _triple(high))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
