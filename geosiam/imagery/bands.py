"""The bands of a scene that become the three input channels of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp

from geosiam.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

CHANNELS = 3
FIRST_BANDS = "the first three bands"
_BYTE = 255.0
_COLORS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_TABLE_SIZES = {"uint8": 2**8, "uint16": 2**16}


@dataclass(frozen=True)
class Channels:
    """The bands of a scene that serve as the three channels.

    Parameters
    ----------
    indexes
        1-based band of each channel.
    table
        Color table of a palette image, float32 (entries, 4): red, green, blue and alpha of each value of its one band,
        with alpha 0 for transparent entries; None for other images.
    reason
        Why these bands were chosen, for the report.
    """

    indexes: tuple[int, int, int]
    table: NDArray[np.float32] | None
    reason: str

    @property
    def distinct(self) -> list[int]:
        """The bands to read, each once."""
        return sorted(set(self.indexes))

    @property
    def color_count(self) -> int:
        """Number of distinct channels."""
        return len(self.distinct) if self.table is None else CHANNELS

    def arrange(self, bands: NDArray[Any]) -> NDArray[Any]:
        """Return the channels (3, rows, cols) in the scene's own type, from its distinct bands (n, rows, cols)."""
        if self.table is not None:
            colors = self.table[:, :CHANNELS]
            return np.ascontiguousarray(colors[bands[0].astype(np.intp)].transpose(2, 0, 1))
        position = {band: i for i, band in enumerate(self.distinct)}
        order = [position[band] for band in self.indexes]
        return bands if order == list(range(len(bands))) else bands[order]

    def to_dict(self) -> dict[str, Any]:
        """Return the choice in plain values that JSON can hold."""
        return {"indexes": self.indexes, "reason": self.reason}

    @property
    def opaque(self) -> bool:
        """Whether no entry of the palette is transparent; True without a palette."""
        return self.table is None or bool(self.table[:, CHANNELS].all())

    def opaque_pixels(self, bands: NDArray[Any]) -> NDArray[np.bool_] | np.bool_:
        """Return the mask of opaque pixels of the distinct bands (n, rows, cols): bool (rows, cols), or one for all."""
        if self.table is None or self.opaque:
            return np.True_
        opaque: NDArray[np.bool_] = self.table[:, CHANNELS][bands[0].astype(np.intp)] > 0
        return opaque


def choose_channels(name: str, dataset: DatasetReader, bands: Sequence[int] | None, *, by_color: bool) -> Channels:
    """Choose the bands of a scene that become its channels.

    Parameters
    ----------
    name
        The scene's name, for messages.
    dataset
        The open scene.
    bands
        One or three 1-based bands that the user chose; None: choose them here.
    by_color
        Whether bands may be chosen by color interpretation: only if both scenes name red, green and blue.

    Raises
    ------
    OptionError
        ``bands`` are neither one nor three, or the scene lacks one of them.
    """
    indexes = None if bands is None else _checked_bands(name, dataset.count, bands)
    if (
        colors_of(dataset)[0] == ColorInterp.palette
        and indexes in (None, (1, 1, 1))
        and dataset.dtypes[0] in _TABLE_SIZES
    ):
        return Channels((1, 1, 1), _color_table(dataset), "palette expanded to its colors")
    if indexes is not None:
        return Channels(indexes, None, "as asked for")
    if by_color:
        red, green, blue = (colors_of(dataset).index(color) + 1 for color in _COLORS)
        return Channels((red, green, blue), None, "by color interpretation")
    colors = [i + 1 for i, kind in enumerate(colors_of(dataset)) if kind != ColorInterp.alpha]
    if len(colors) < CHANNELS:
        first = colors[0] if colors else 1
        return Channels((first, first, first), None, "one band serves all three channels")
    return Channels((colors[0], colors[1], colors[2]), None, FIRST_BANDS)


def names_its_colors(dataset: DatasetReader) -> bool:
    """Return whether the color interpretation of a scene's bands includes red, green and blue."""
    return all(color in colors_of(dataset) for color in _COLORS)


def _checked_bands(name: str, count: int, bands: Sequence[int]) -> tuple[int, int, int]:
    if len(bands) not in (1, CHANNELS):
        raise OptionError(
            f"`bands` {','.join(map(str, bands))}", "must be one or three numbers", "for example 4,3,2 or 1"
        )
    for band in bands:
        if band not in range(1, count + 1):
            raise OptionError(name, f"has no band {band}", f"choose from 1 to {count}")
    red, green, blue = bands if len(bands) == CHANNELS else (bands[0],) * 3
    return red, green, blue


def _color_table(dataset: DatasetReader) -> NDArray[np.float32]:
    table = np.zeros((_TABLE_SIZES[dataset.dtypes[0]], CHANNELS + 1), np.float32)
    table[:, CHANNELS] = _BYTE  # values that the palette lacks are black
    for index, color in dataset.colormap(1).items():
        if index < len(table):
            table[index] = color
    return table


def colors_of(dataset: DatasetReader) -> tuple[ColorInterp, ...]:
    """Return the color interpretation of each band.

    rasterio may report an error here that GDAL left behind in an earlier call, for example on broken GeoKeys. Reporting
    clears it, so a second call answers, or raises the error that is its own.
    """
    try:
        return tuple(dataset.colorinterp)
    except Exception:  # noqa: BLE001 - rasterio has no public base class for GDAL's errors
        return tuple(dataset.colorinterp)
