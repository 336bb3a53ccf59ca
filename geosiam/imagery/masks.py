"""How a scene says which of its pixels are known, brought to one of three ways that are read alike, warped or not.

A scene may say so by a value (nodata), by a mask, by an alpha band, or by NaN, and by several of these at once. GDAL
then looks at one of them and at another one when it warps; a pixel is known only if none of them says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Grid
from geosiam.imagery.vrt import VirtualRaster

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from geosiam.imagery.vrt import VirtualBand


@dataclass(frozen=True)
class Validity:
    """How to tell a scene's known pixels.

    Parameters
    ----------
    hole
        The value that makes a hole wherever any one of the bands read has it; None: holes concern all bands at once,
        and the dataset's mask tells them.
    view
        A virtual raster of just the bands to read, in their order, with one mask, to be read instead of the scene;
        None: the scene itself.
    """

    hole: float | None
    view: str | None


def validity(dataset: DatasetReader, path: str, bands: list[int]) -> Validity:
    """Decide how to tell the known pixels of a scene.

    Parameters
    ----------
    dataset, path
        The scene, and what it was opened by.
    bands
        1-based bands that are read, each once.

    Notes
    -----
    A measured quantity that is -9999 or NaN in one band is not known there, whatever the others say. A color of
    unsigned integers is another matter: 0 in one band is a pure color, and a hole only if all bands are 0.
    """
    colors = [index for index, kind in zip(dataset.indexes, colors_of(dataset), strict=True) if kind != _ALPHA]
    counted = bands if _measured(dataset) else colors or bands
    told = dataset.nodatavals  # asked for once: of 65,535 bands it takes a while
    values = {_text(told[index - 1]) for index in counted}
    if values == {"None"}:
        return Validity(_nan_of_plain_floats(dataset), None)
    if len(values) > 1 or has_alpha(dataset) or has_mask(dataset):
        return Validity(None, _view(dataset, path, bands, counted))
    return Validity(told[counted[0] - 1] if _measured(dataset) else None, None)


def has_alpha(dataset: DatasetReader) -> bool:
    """Return whether one of the bands is an alpha band."""
    return _ALPHA in colors_of(dataset)


def has_mask(dataset: DatasetReader) -> bool:
    """Return whether there is a mask, inside the file or beside it."""
    return all(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in dataset.mask_flag_enums)


def _measured(dataset: DatasetReader) -> bool:
    return np.dtype(dataset.dtypes[0]).kind in "if"


def _nan_of_plain_floats(dataset: DatasetReader) -> float | None:
    plain = not has_alpha(dataset) and all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)
    return float("nan") if plain and np.dtype(dataset.dtypes[0]).kind == "f" else None


def _view(dataset: DatasetReader, path: str, bands: list[int], counted: list[int]) -> str:
    """Return a virtual raster whose mask is what all that the scene says of its pixels comes to."""
    view = VirtualRaster(_grid(dataset))
    for index in bands:
        view.band(dataset.dtypes[index - 1]).add(path, index)
    mask = view.mask("min")
    _add_mask_of_values(mask, dataset, path, counted)
    if has_mask(dataset):
        mask.add(path, "mask,1")
    if has_alpha(dataset):
        mask.add(path, colors_of(dataset).index(_ALPHA) + 1)
    return view.xml()


def _add_mask_of_values(mask: VirtualBand, dataset: DatasetReader, path: str, counted: list[int]) -> None:
    """Add what the nodata values alone say, which GDAL leaves aside where there is a mask."""
    grid = _grid(dataset)
    bare = VirtualRaster(grid, placed=False)
    dtypes, told = dataset.dtypes, dataset.nodatavals
    for index in counted:
        bare.band(dtypes[index - 1], nodata=told[index - 1]).add(path, index)
    if _measured(dataset):
        for position in range(1, len(counted) + 1):
            mask.add(bare.xml(), f"mask,{position}")
        return
    most = VirtualRaster(grid, placed=False)
    band = most.band("uint8", function="max")
    for position in range(1, len(counted) + 1):
        band.add(bare.xml(), f"mask,{position}")
    mask.add(most.xml(), 1)


def _grid(dataset: DatasetReader) -> Grid:
    return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)


def _text(value: float | None) -> str:
    return str(value)  # NaN is not equal to itself


_ALPHA = ColorInterp.alpha
