"""Find the valid pixels of a scene: nodata values, masks, alpha bands and NaN, reduced to one rule.

A scene may mark invalid pixels in several of these ways at once. GDAL then evaluates only one of them, and another one
when it warps. Here a pixel is valid only if none of them marks it as invalid.

A file may also keep silent about its invalid pixels, or call a band alpha that is none. :func:`settle_nodata` finds
that out where the pixels leave no doubt, and makes the scene a virtual raster that declares what the file does not.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy import ndimage

from geosiam.errors import OptionError
from geosiam.files import exists
from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Grid
from geosiam.imagery.scene import DECODING_ERRORS, LOSSY, TILE_INDEX, parts
from geosiam.imagery.vrt import VirtualRaster

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from geosiam.imagery.scene import Scene
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
    blurred
        Nodata value around which lossy compression has left pixels of similar values; None: it has not.
    """

    nodata: float | None
    view: str | None
    blurred: float | None = None


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
    value = nodata[masked_bands[0] - 1]
    if _measured(dataset):
        return MaskRule(value, None)
    return MaskRule(None, None, value if dataset.dtypes[0] == "uint8" and is_lossy(dataset) else None)


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


# -- lossy compression -------------------------------------------------------------------------------------------------

BLUR_PX = 16
"""Reach of a block of JPEG: so far from nodata, pixels that should be nodata may have other values."""

_BLUR_VALUES = 24  # mean of the bands; 99 % of what JPEG of quality 75 leaves beside a picture is less
_SPECK_PX = 5  # side of a square of which most is a seam, and hence its middle
_MAX_OPENED = 8  # parts of a virtual raster; the others are like them


def without_blur(
    valid: NDArray[np.bool_], bands: NDArray[Any], nodata: float, reach: int = BLUR_PX
) -> NDArray[np.bool_]:
    """Return validity without the seam that lossy compression leaves beside nodata.

    Parameters
    ----------
    valid
        bool (rows, cols): False where the value is exactly nodata.
    bands
        uint8 (bands, rows, cols).
    nodata
        The nodata value.
    reach
        Number of pixels beside nodata that may be such a seam; a group of nodata pixels less than half as wide has
        none, because it may be dark ground.
    """
    if valid.all():
        return valid
    side = max(1, reach // 2)
    solid = _opened(~valid, side)
    if not solid.any():
        return valid
    beside = ndimage.maximum_filter(solid, 2 * reach + 1)
    similar = np.abs(bands.mean(axis=0, dtype=np.float32) - nodata) <= _BLUR_VALUES
    seam = ~valid | (beside & similar)
    specks = ndimage.uniform_filter(seam.astype(np.float64), _SPECK_PX) > 1 / 2  # sums of whole numbers are exact
    without: NDArray[np.bool_] = valid & ~(seam | (beside & specks))
    return without


def _opened(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return the pixels of all squares of a side that a mask (rows, cols) and what lies beyond its edges fill."""
    wider = np.pad(mask, side, constant_values=True)  # nodata that narrows towards the edge of a scene goes on there
    eroded = ndimage.minimum_filter(wider, side, mode="constant", cval=0)
    origin = -1 if side % 2 == 0 else 0  # a square of even side has no middle
    opened: NDArray[np.bool_] = ndimage.maximum_filter(eroded, side, mode="constant", cval=0, origin=origin)
    return opened[side:-side, side:-side]


def is_lossy(dataset: DatasetReader) -> bool:
    """Return whether a raster, or a file that a virtual one or a tile index consists of, is compressed with losses."""
    tags = dataset.tags() | dataset.tags(ns="IMAGE_STRUCTURE")
    lossy = any(tags.get(key, "").startswith(value) for key, value in LOSSY.items())
    if lossy or dataset.driver == "JPEG" or "JPEG" in tags.get("COMPRESSION", ""):
        return True
    if dataset.driver not in ("VRT", TILE_INDEX):
        return False
    for name in parts(dataset)[:_MAX_OPENED]:
        try:
            with rasterio.open(name) as source:
                if source.driver != dataset.driver and is_lossy(source):
                    return True
        except RasterioError:
            continue
    return False


# -- what a file does not declare --------------------------------------------------------------------------------------

_FILL_VALUES = (-9999, -10000, -32768, -32767, -99999, -2147483648)  # of measurements
_FILL_MAGNITUDE = 1e19  # of floats; no measurement is as large
_CORNER_PX = 16
_WINDOW_PX, _WINDOWS_PER_SIDE = 256, 4  # of what is looked at in search of fill values
_WHOLE_PIXELS = 4_000_000  # of a scene that is looked at as a whole
_MAX_SIDE_PX = 1500  # of a reduced picture of the scene
_MIN_LEVELS = 32  # different values of an image; class maps have fewer
_CONNECTED = 0.9  # share of a value's pixels that are connected with the scene's edge where it means nodata
_NOTEWORTHY = 0.01  # share of a scene that may be nodata without a word about it
_SOFT = 0.5  # share of an alpha band's pixels with a value that are not opaque, which makes it another band
_COUNTS_WITH_ALPHA = (2, 4)  # of bands: gray and alpha; red, green, blue and alpha
_OPAQUE = 255
_DISTANCE = 0.02  # of an image's dark values from zero, in parts of its bright ones
_DISABLE = " (`nodata=none` disables this)"


def settle_nodata(scene: Scene, nodata: float | str | None, *, skip_unreadable: bool = False) -> list[str]:
    """Declare the nodata value that the user names, or what a file leaves out where its pixels leave no doubt.

    Parameters
    ----------
    scene
        The scene; it is read through a virtual raster afterwards if there is something to declare.
    nodata
        Nodata value that the user named; ``"none"``: as the file declares; None: find out what it does not declare.
    skip_unreadable
        Do not raise if pixels cannot be decoded.

    Returns
    -------
    what was done, or what the user could do, for the report

    Raises
    ------
    OptionError
        The value is none of the scene's type.
    SceneUnreadableError
        A server does not answer.
    """
    dataset = scene.handle()
    if isinstance(nodata, int | float):
        _check_type(scene.name, dataset.dtypes[0], nodata)
        scene.read_through(_declaring(scene, dataset, nodata=float(nodata)))
        return []
    if nodata is not None or colors_of(dataset)[0] == ColorInterp.palette:
        return []
    try:
        with contextlib.nullcontext() if skip_unreadable or not scene.remote else scene.decoding("its edges"):
            return [*_settle_alpha(scene, dataset), *_settle_value(scene, scene.handle())]
    except DECODING_ERRORS:  # whoever needs these pixels says so; a server that is silent would be waited for again
        return []


def _check_type(name: str, dtype: str, nodata: float) -> None:
    kind = np.dtype(dtype)
    if kind.kind in "iu" and not (nodata == round(nodata) and np.iinfo(kind).min <= nodata <= np.iinfo(kind).max):
        remedy = "name a value of that type, or none, for each scene, such as none,0"
        raise OptionError(f"`nodata` {nodata:.8g}", f"is no {dtype}, the type of {name}", remedy)


def _settle_alpha(scene: Scene, dataset: DatasetReader) -> list[str]:
    """Find a band that is called alpha without being so, such as the infrared band of some aerial images."""
    if not has_alpha(dataset):
        return _find_alpha(scene, dataset)
    band = colors_of(dataset).index(_ALPHA) + 1
    values = _looked_at(dataset, [band])[0]
    nonzero = values[values > 0]  # of a scene with a collar, less than half may be
    if (nonzero < nonzero.max(initial=0)).sum() <= _SOFT * len(nonzero) or len(np.unique(values)) < _MIN_LEVELS:
        return []
    scene.read_through(_declaring(scene, dataset, alpha=0))
    fact = f"band {band} of {scene.name} is called alpha but holds an image, so it masks nothing"
    return [f"{fact}{_DISABLE}"]


def _find_alpha(scene: Scene, dataset: DatasetReader) -> list[str]:
    """Find a last band that is alpha without being called so: it has two values, and the image a single one under 0."""
    last = dataset.count
    kind = colors_of(dataset)[last - 1]
    unnamed = kind in (ColorInterp.undefined, ColorInterp.gray) and _declares_nothing(scene, dataset)
    if last not in _COUNTS_WITH_ALPHA or dataset.dtypes[last - 1] != "uint8" or not unnamed:
        return []
    image = _valid_pixels(dataset, list(range(1, last + 1)))
    transparent = image[-1] == 0
    if transparent.all() or not transparent.any() or not np.isin(image[-1], (0, _OPAQUE)).all():
        return []
    colors = image[:-1, transparent]
    if (colors == np.median(colors, axis=1, keepdims=True)).all(axis=0).mean() >= _CONNECTED:
        scene.read_through(_declaring(scene, dataset, alpha=last))
        share = _percent(transparent.mean())
        return [f"band {last} of {scene.name} is 0 or 255 and counts as alpha: {share} are nodata{_DISABLE}"]
    fact = f"band {last} of {scene.name} is 0 or 255, but not called alpha"
    return [f"{fact}; if it is a mask, say so: gdal_edit.py -colorinterp_{last} alpha FILE"]


def _settle_value(scene: Scene, dataset: DatasetReader) -> list[str]:
    """Find a value that means nodata without being declared."""
    if has_alpha(dataset) or not _declares_nothing(scene, dataset):
        return []
    value, share = _fill_value(_valid_pixels(dataset, list(dataset.indexes[:3]))) if _measured(dataset) else (None, 0.0)
    certain = value is not None
    if value is None:
        value, share, certain = _collar(dataset)
    if value is None:
        return []
    if certain:
        scene.read_through(_declaring(scene, dataset, nodata=value))
        return [f"{scene.name} declares no nodata; its value {value:.8g} counts as such in {_percent(share)}{_DISABLE}"]
    if share < _NOTEWORTHY:
        return []
    fact = f"{scene.name} declares no nodata and is {value:.8g} in {_percent(share)}"
    return [f"{fact}; if these pixels are nodata, say so with `nodata={value:.8g}`"]


def _declares_nothing(scene: Scene, dataset: DatasetReader) -> bool:
    """Return whether nothing marks invalid pixels of a scene; of tiles, nothing but the gaps between them."""
    return has_no_mask(dataset) or (bool(scene.tiles) and all(map(_is_maskless, scene.tiles)))


def _is_maskless(path: str) -> bool:
    with rasterio.open(path) as tile:
        return has_no_mask(tile)


def _percent(share: float) -> str:
    return f"{share:.1%} of its pixels"


def _fill_value(image: NDArray[Any]) -> tuple[float | None, float]:
    """Return the value of measurements (bands, n) that is far from all others and known as nodata, and its share."""
    values = image[np.isfinite(image)].astype(np.float64)
    fills = np.abs(values) >= _FILL_MAGNITUDE if image.dtype.kind == "f" else np.zeros(len(values), bool)
    fills |= np.isin(values, _FILL_VALUES)
    if not fills.any() or fills.all():
        return None, 0.0
    candidates, counts = np.unique(values[fills], return_counts=True)
    value, rest = float(candidates[counts.argmax()]), values[~fills]
    if abs(value) < _FILL_MAGNITUDE and np.abs(rest - value).min() < np.ptp(rest):
        return None, 0.0
    return value, float((image == np.asarray(value, image.dtype)).any(axis=0).mean())


def _collar(dataset: DatasetReader) -> tuple[float | None, float, bool]:
    """Look for a black or white collar around an image; return its value, its share, and whether it certainly is one.

    It fills a corner, and hardly any pixels of its value lie elsewhere. Only colors that are black are certain: light
    may saturate on snow, and a measurement or a single band may be zero on the sea or where a quantity is not present,
    unless the other values keep a distance.
    """
    bands = list(dataset.indexes[:4])
    height, width = dataset.shape
    last_row, last_col = (max(0, side - _CORNER_PX) for side in (height, width))
    windows = [Window(col, row, _CORNER_PX, _CORNER_PX) for row in {0, last_row} for col in {0, last_col}]
    corners = [np.unique(dataset.read(bands, window=window)[:, _mask(dataset, window)]) for window in windows]
    values = {float(corner[0]) for corner in corners if len(corner) == 1} & {0.0, _brightest(dataset.dtypes[0])}
    if not values:
        return None, 0.0, False
    value = min(values)
    scale = max(1, max(height, width) / _MAX_SIDE_PX)
    shape = max(1, round(height / scale)), max(1, round(width / scale))
    image, covered = dataset.read(bands, out_shape=(len(bands), *shape)), _mask(dataset, out_shape=shape)
    same = (image == value).all(axis=0) & covered
    beside = ndimage.maximum_filter(same, 2 * round(BLUR_PX / scale) + 1) if is_lossy(dataset) else same
    rest = image[:, ~beside & covered]
    if len(np.unique(rest)) < _MIN_LEVELS:
        return None, 0.0, False
    labels = ndimage.label(same)[0]
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    collar = np.isin(labels, edge[edge > 0])
    low, high = np.percentile(rest, (0.1, 99.9))
    colors = not _measured(dataset) and (len(bands) > 1 or low > _DISTANCE * high)
    certain = value == 0 and colors and collar.sum() >= _CONNECTED * same.sum()
    return value, float(collar.mean()), bool(certain)


def _brightest(dtype: str) -> float:
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).max) if kind.kind == "u" else 0.0


def _looked_at(dataset: DatasetReader, bands: list[int]) -> NDArray[Any]:
    """Return pixels of a scene, (bands, n): all of a small one, else windows spread over it."""
    return np.concatenate([dataset.read(bands, window=w).reshape(len(bands), -1) for w in _windows(dataset)], axis=1)


def _valid_pixels(dataset: DatasetReader, bands: list[int]) -> NDArray[Any]:
    """Return such pixels without those in gaps between tiles."""
    parts = [dataset.read(bands, window=window)[:, _mask(dataset, window)] for window in _windows(dataset)]
    return np.concatenate(parts, axis=1)


def _mask(dataset: DatasetReader, window: Window | None = None, **options: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (rows, cols) that a tile covers."""
    covered: NDArray[np.bool_] = dataset.read_masks(1, window=window, **options) > 0
    return covered


def _windows(dataset: DatasetReader) -> list[Window]:
    height, width = dataset.shape
    if height * width <= _WHOLE_PIXELS:
        return [Window(0, 0, width, height)]
    tops, lefts = (np.linspace(0, max(0, side - _WINDOW_PX), _WINDOWS_PER_SIDE, dtype=int) for side in (height, width))
    return [Window(int(left), int(top), _WINDOW_PX, _WINDOW_PX) for top in tops for left in lefts]


def _declaring(scene: Scene, dataset: DatasetReader, *, nodata: float | None = None, alpha: int | None = None) -> str:
    """Return a virtual raster of all bands of a scene that declares a nodata value, or its alpha band (0: none)."""
    path = scene.path
    name = str(Path(path).absolute()) if not path.startswith("<") and exists(path) else path
    view = VirtualRaster(_grid(dataset))
    values, colors, block = dataset.nodatavals, list(colors_of(dataset)), dataset.block_shapes[0]
    if alpha is not None:
        colors = [ColorInterp.undefined if kind == _ALPHA else kind for kind in colors]
        if alpha:
            colors[alpha - 1] = _ALPHA
    for index in dataset.indexes:
        value = values[index - 1] if nodata is None else nodata
        band = view.band(dataset.dtypes[index - 1], nodata=value, color=colors[index - 1].name, block=block)
        band.set_scale(dataset.scales[index - 1], dataset.offsets[index - 1])
        if index == 1 and colors[0] == ColorInterp.palette:
            band.set_palette(dataset.colormap(1))
        band.add(name, index)
    has_gaps = bool(scene.tiles) and not has_alpha(dataset) and values[0] is not None  # which hold that value
    if has_mask(dataset) or has_gaps:
        view.mask().add(name, "mask,1")
    return view.xml()
