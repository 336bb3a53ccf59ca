"""From a scene's own values to [0, 1], decided once per pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.sampling import Sample

_BYTE = 255.0
_LOW, _HIGH = 0.5, 99.5  # percentiles that become 0 and 1
_LEAST_SHARE = 0.5  # of a shared range that each scene has to use


@dataclass(frozen=True)
class Scaling:
    """A straight line per channel, clipped to [0, 1].

    Parameters
    ----------
    low, high
        The values that become 0 and 1, for each of the three channels.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scaled channels (3, ...) of any type as a new array, float32 in [0, 1]."""
        if self == FULL_BYTE and values.dtype == np.uint8:  # the common case, in a single pass
            return np.asarray(np.multiply(values, np.float32(1 / _BYTE), dtype=np.float32))
        shape = (3,) + (1,) * (values.ndim - 1)
        low = np.array(self.low, np.float32).reshape(shape)
        gain = np.float32(1) / (np.array(self.high, np.float32).reshape(shape) - low)
        return np.asarray((values - low) * gain, np.float32).clip(0, 1)


FULL_BYTE = Scaling((0.0, 0.0, 0.0), (_BYTE, _BYTE, _BYTE))


def choose_scaling(dtypes: tuple[str, str], sample: Sample) -> tuple[Scaling, Scaling]:
    """Return the scaling of both scenes: bytes by their full range, other types by percentiles of valid pixels.

    Scenes of the same type share one stretch, so that what differs between them stays visible, unless one of them is
    so much darker or flatter than the other that it would be squeezed into a small part of the range.
    """
    own = [FULL_BYTE if dtype == "uint8" else None for dtype in dtypes]
    if own[0] is not None and own[1] is not None:
        return own[0], own[1]
    before, after = own[0] or _stretch(sample.before), own[1] or _stretch(sample.after)
    if dtypes[0] != dtypes[1]:
        return before, after
    shared = _stretch(np.concatenate([sample.before, sample.after], axis=1))
    squeezed = min(_share(before, shared), _share(after, shared)) < _LEAST_SHARE
    return (before, after) if squeezed else (shared, shared)


def _share(own: Scaling, shared: Scaling) -> float:
    """Return how much of the shared range a scene uses, in its median channel."""
    widths = [np.subtract(scaling.high, scaling.low) for scaling in (own, shared)]
    return float(np.median(widths[0] / widths[1]))


def _stretch(pixels: NDArray[Any]) -> Scaling:
    low, high = np.percentile(pixels.astype(np.float64), (_LOW, _HIGH), axis=1)
    high = np.where(high > low, high, low + 1)  # a channel of one value
    return Scaling(_triple(low), _triple(high))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
