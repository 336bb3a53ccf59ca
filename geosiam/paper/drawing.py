"""Mosaics of chips, and PNG files small enough for a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor

ACROSS = 10
"""Number of chips along each side of a mosaic."""

_DPI = 110
_PALETTE_COLORS = 256
_KMEANS_ROUNDS = 3  # median cut alone loses rare colors, such as those of the score's color map


def mosaic(chips: Tensor, across: int = ACROSS) -> Tensor:
    """Arrange chips in a square, row by row.

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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG that depends on the figure only."""
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def shrink(path: Path) -> None:
    """Rewrite a PNG with a palette, which takes a third of the space and looks the same."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(_PALETTE_COLORS, kmeans=_KMEANS_ROUNDS)
    small.save(path, optimize=True)
