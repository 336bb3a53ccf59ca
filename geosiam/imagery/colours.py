"""What the bands of a file stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rasterio._err import CPLE_BaseError

if TYPE_CHECKING:
    from rasterio.enums import ColorInterp
    from rasterio.io import DatasetReader


def colours_of(dataset: DatasetReader) -> tuple[ColorInterp, ...]:
    """Return the colour interpretation of each band.

    rasterio takes a complaint that an earlier call left behind for an error of this one; asked again, it answers.
    """
    try:
        return tuple(dataset.colorinterp)
    except CPLE_BaseError:
        return tuple(dataset.colorinterp)
