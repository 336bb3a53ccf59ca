"""From a scene's stored values to what the network compares: scaling and relative radiometry in one function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.imagery.radiometry import UNCHANGED, Radiometry
from geosiam.imagery.scaling import Scaling

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_LARGEST_TABLE = 2**16


@dataclass(frozen=True)
class Transfer:
    """The function of each channel that every pixel of a scene goes through, wherever it lies.

    Parameters
    ----------
    scaling
        From the scene's own values to [0, 1].
    radiometry
        What makes it look like the other scene.
    """

    scaling: Scaling
    radiometry: Radiometry = UNCHANGED

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


def identity(channels: int) -> Transfer:
    """Return what leaves values that are in [0, 1] already as they are."""
    return Transfer(Scaling((0.0,) * channels, (1.0,) * channels))
