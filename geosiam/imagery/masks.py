"""Find the valid pixels of a scene: nodata values, masks, alpha bands and NaN, reduced to one rule.

A scene may mark invalid pixels in several of these ways at once. GDAL then evaluates only one of them, and another one
when it warps. Here a pixel is valid only if none of them marks it as invalid.
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


_ALPHA = ColorInterp.alpha


@dataclass(frozen=True)
class MaskRule:
    """The rule by which the valid pixels of a scene are found.

    Parameters
    ----------
    nodata
        Value that makes a pixel invalid if any one of its bands has it; None: the dataset's mask says which pixels are
        valid, in all bands at once.
    view
        XML of a virtual raster of only the bands to read, in their order, with one mask, which is read instead of the
        scene; None: the scene itself is read.
    """

    nodata: float | None
    view: str | None


def mask_rule(dataset: DatasetReader, path: str, bands: list[int]) -> MaskRule:
    """Decide how to find the valid pixels of a scene.

    Parameters
    ----------
    dataset, path
        The open scene, and the path it was opened by.
    bands
        1-based bands that are read, each once.

    Notes
    -----
    A measurement that is -9999 or NaN in one band is invalid, whatever its other bands hold. Colors, which are unsigned
    integers, are different: 0 in one band is a pure color, and a pixel is invalid only if all bands are 0.
    """
    colors = [index for index, kind in zip(dataset.indexes, colors_of(dataset), strict=True) if kind != _ALPHA]
    masked_bands = bands if _measured(dataset) else colors or bands
    nodata = dataset.nodatavals  # read once: with 65,535 bands it takes a while
    values = {str(nodata[index - 1]) for index in masked_bands}  # as text, because NaN differs from itself
    if values == {"None"}:
        return MaskRule(_nan_of_plain_floats(dataset), None)
    if len(values) > 1 or has_alpha(dataset) or has_mask(dataset):
        return MaskRule(None, _view(dataset, path, bands, masked_bands))
    return MaskRule(nodata[masked_bands[0] - 1] if _measured(dataset) else None, None)


def has_alpha(dataset: DatasetReader) -> bool:
    """Return whether one of the bands is an alpha band."""
    return _ALPHA in colors_of(dataset)


def has_mask(dataset: DatasetReader) -> bool:
    """Return whether there is a mask band, inside the file or in a sidecar file."""
    return all(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in dataset.mask_flag_enums)


def has_no_mask(dataset: DatasetReader) -> bool:
    """Return whether GDAL treats all pixels as valid: no nodata value, mask or alpha band."""
    return all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)


def _measured(dataset: DatasetReader) -> bool:
    """Return whether the values are signed or floats, hence measurements and not colors."""
    return np.dtype(dataset.dtypes[0]).kind in "if"


def _nan_of_plain_floats(dataset: DatasetReader) -> float | None:
    plain = not has_alpha(dataset) and has_no_mask(dataset)
    return float("nan") if plain and np.dtype(dataset.dtypes[0]).kind == "f" else None


def _view(dataset: DatasetReader, path: str, bands: list[int], masked_bands: list[int]) -> str:
    """Return a virtual raster whose mask combines everything that marks invalid pixels of the scene."""
    view = VirtualRaster(_grid(dataset))
    for index in bands:
        view.band(dataset.dtypes[index - 1]).add(path, index)
    mask = view.mask("min")
    _add_mask_of_values(mask, dataset, path, masked_bands)
    if has_mask(dataset):
        mask.add(path, "mask,1")
    if has_alpha(dataset):
        mask.add(path, colors_of(dataset).index(_ALPHA) + 1)
    return view.xml()


def _add_mask_of_values(mask: VirtualBand, dataset: DatasetReader, path: str, masked_bands: list[int]) -> None:
    """Add the mask of the nodata values alone, which GDAL ignores if there is another mask."""
    grid = _grid(dataset)
    bare = VirtualRaster(grid, georeferenced=False)
    dtypes, nodata = dataset.dtypes, dataset.nodatavals
    for index in masked_bands:
        bare.band(dtypes[index - 1], nodata=nodata[index - 1]).add(path, index)
    if _measured(dataset):
        for position in range(1, len(masked_bands) + 1):
            mask.add(bare.xml(), f"mask,{position}")
        return
    any_band = VirtualRaster(grid, georeferenced=False)
    band = any_band.band("uint8", function="max")
    for position in range(1, len(masked_bands) + 1):
        band.add(bare.xml(), f"mask,{position}")
    mask.add(any_band.xml(), 1)


def _grid(dataset: DatasetReader) -> Grid:
    return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)
