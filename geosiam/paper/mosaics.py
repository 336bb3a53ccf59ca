"""Many small images as one large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ACROSS = 10


def mosaic(chips: Tensor, across: int = ACROSS) -> Tensor:
    """Lay chips out row by row.

    Parameters
    ----------
    chips
        (across * across, channels, side, side).

    Returns
    -------
    (channels, across * side, across * side)
    """
    n, channels, side, _ = chips.shape
    if n != across * across:
        raise ValueError(f"a mosaic of {across} x {across} takes {across * across} chips, not {n}")
    grid = chips.reshape(across, across, channels, side, side).permute(2, 0, 3, 1, 4)
    return grid.reshape(channels, across * side, across * side)
