"""Files of a situation: what each scene sees of the ground, stored and wrapped as it says."""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import math
import os
import subprocess
import sys
import urllib.parse
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
import rasterio.shutil
import shapely
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import map_coordinates, uniform_filter
from situations import ORDERS

from bent_scenes import texture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from situations import Ground, SceneKind, Situation

TEXTURE_PX = 720
TEXTURES = 2
NODES = 9  # along a side, at which places are transformed
WAVELENGTH = 700.0  # of a bend, in pixels of the before scene
CHANNELS = ("red", "green", "blue", "infrared")
RGB_AND_ALPHA = tuple(ColorInterp[name] for name in ("red", "green", "blue", "alpha"))
LAYOUT_OPTIONS: dict[str, dict[str, Any]] = {
    "strips": {},
    "one strip": {"blockysize": 10_000},
    "tiled": {"tiled": True, "blockxsize": 64, "blockysize": 128},
    "deflate": {"compress": "deflate", "tiled": True, "blockxsize": 128, "blockysize": 128},
    "lzw": {"compress": "lzw"},
    "zstd": {"compress": "zstd", "zlevel": 1},
    "packbits": {"compress": "packbits"},
    "bands apart": {"interleave": "band", "tiled": True, "blockxsize": 64, "blockysize": 64},
    "bigtiff": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "jpeg": {"compress": "jpeg", "JPEG_QUALITY": 90, "tiled": True, "blockxsize": 128, "blockysize": 128},
    "webp": {"compress": "webp", "WEBP_LOSSLESS": True, "tiled": True, "blockxsize": 128, "blockysize": 128},
}
COPIES = {
    "cog": ("COG", ".tif", {"BLOCKSIZE": 128}),
    "png": ("PNG", ".png", {}),
    "world file": ("PNG", ".png", {"WORLDFILE": "YES"}),
    "jpg": ("JPEG", ".jpg", {"QUALITY": 92}),
    "hfa": ("HFA", ".img", {}),
    "envi": ("ENVI", ".dat", {}),
    "jp2": ("JP2OpenJPEG", ".jp2", {"REVERSIBLE": "YES", "QUALITY": 100}),
}  # fmt: skip
FILLS = {"uint8": 0, "uint16": 0, "int16": -9999, "float32": -9999, "scaled": 65535, "reflectance": -1}
SERVED = itertools.count()
LOWEST = float(np.finfo(np.float32).min)


@functools.lru_cache(32)
def ground_texture(channel: int, seed: int, averaged: int) -> NDArray[np.float32]:
    """Return a channel of the ground, which repeats itself, averaged over squares as coarse pixels see it."""
    fine = texture(TEXTURE_PX, TEXTURE_PX, 10 * seed + channel).astype(np.float32)
    return uniform_filter(fine, averaged, mode="wrap")


def rendered(situation: Situation, scene: SceneKind, *, later: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what a scene sees, (channels, rows, cols) in 0 to 255, and its valid pixels, (rows, cols)."""
    ground = situation.ground
    u, v = places(scene, ground)
    valid = scene.outside(u, v) <= 0
    averaged = max(1, round(pixel_size(u, v)))
    if later:
        waves = situation.bend * np.sin(2 * np.pi * np.stack([v, u]) / WAVELENGTH)
        u, v = u - situation.shift[0] - waves[0], v - situation.shift[1] - waves[1]
    at = [TEXTURE_PX / 2 - v, TEXTURE_PX / 2 + u]
    channels = [CHANNELS.index(name) for name in ORDERS[scene.order]]
    seed = situation.number % TEXTURES
    image = np.stack(
        [map_coordinates(ground_texture(i, seed, averaged), at, order=1, mode="grid-wrap") for i in channels]
    )
    if later != situation.vanished:
        for thing in situation.things:
            color = np.array([*thing.color, thing.color[1]], np.float32)
            image[:, thing.holds(u, v)] = color[channels, None]
    random = np.random.default_rng([situation.seed, situation.number, later])
    image = 125 + (image - 125) * scene.gain + scene.noise * random.standard_normal(image.shape, np.float32)
    return image.clip(3, 252), valid


def places(scene: SceneKind, ground: Ground) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places on the ground (rows, cols) of the middles of a scene's pixels."""
    nodes = [np.linspace(0, side, NODES) for side in (scene.height, scene.width)]
    cols, rows = np.meshgrid(nodes[1], nodes[0])
    x, y = scene.affine @ (cols, rows)
    rows, cols = (np.arange(side) + 0.5 for side in (scene.height, scene.width))
    u, v = (RectBivariateSpline(*nodes, np.asarray(part))(rows, cols) for part in ground.between(scene.system)(x, y))
    return u, v


def pixel_size(u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
    return float(
        max(math.hypot(u[0, 1] - u[0, 0], v[0, 1] - v[0, 0]), math.hypot(u[1, 0] - u[0, 0], v[1, 0] - v[0, 0]))
    )


def stored_values(image: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    if dtype == "float32":
        return (image * 4 - 300).astype(np.float32)
    if dtype == "reflectance":
        return (image / 255).astype(np.float32)
    factor, offset = {"uint8": (1, 0), "uint16": (40, 0), "int16": (40, -3000), "scaled": (10_000 / 255, 0)}[dtype]
    return (image * factor + offset).round().astype("uint16" if dtype == "scaled" else dtype)


@dataclass(frozen=True)
class Raster:
    """Values and declarations of a file: ``image`` (bands, rows, cols), ``mask`` (rows, cols) or None."""

    image: NDArray[Any]
    mask: NDArray[np.bool_] | None
    profile: dict[str, Any]
    colors: tuple[ColorInterp, ...] | None
    scale: float | None


def raster(situation: Situation, scene: SceneKind, *, later: bool) -> Raster:
    """Return the values of a scene with its invalid pixels marked as it says."""
    image, valid = rendered(situation, scene, later=later)
    image = stored_values(image, scene.dtype)
    kind, mask = scene.nodata, None
    profile: dict[str, Any] = {"crs": CRS.from_user_input(scene.system), "transform": scene.affine}
    fill = {
        "declared": FILLS[scene.dtype], "jpeg": 0, "collar": 0, "alpha": 0, "unnamed alpha": 0, "nan": np.nan,
        "fill": -32768 if scene.dtype == "int16" else -9999, "lowest": LOWEST,
        "user": {"uint8": 255, "uint16": 65535, "int16": -4321}.get(scene.dtype, 0),
    }.get(kind)  # fmt: skip
    if fill is not None:
        image[:, ~valid] = fill
    if kind in ("declared", "jpeg"):
        profile["nodata"] = fill
    if kind in ("alpha", "unnamed alpha"):
        image = np.concatenate([image, np.where(valid, 255, 0).astype(np.uint8)[None]])
    if kind in ("mask", "msk"):
        mask = valid
    return Raster(image, mask, profile, _colors(scene, len(image)), 1 / 10_000 if scene.dtype == "scaled" else None)


def _colors(scene: SceneKind, count: int) -> tuple[ColorInterp, ...] | None:
    if scene.nodata == "alpha":
        return (ColorInterp.gray, ColorInterp.alpha) if count == 2 else RGB_AND_ALPHA
    if scene.infrared_as_alpha:
        return RGB_AND_ALPHA
    if not scene.named:
        return None
    return tuple(ColorInterp.undefined if c == "infrared" else ColorInterp[c] for c in ORDERS[scene.order])


def write(content: Raster, scene: SceneKind, path: Path) -> Path:
    """Write a raster in the scene's layout, and return its path, whose suffix may be another one."""
    driver, suffix, options = COPIES.get(scene.layout, ("GTiff", ".tif", {}))
    if driver == "GTiff":
        return _write_geotiff(content, LAYOUT_OPTIONS.get(scene.layout, {}), path, scene)
    plain = _write_geotiff(content, {}, path.with_name("copied.tif"), scene)
    target = path.with_name(f"{path.name.removesuffix('.tif')}{suffix}")
    rasterio.shutil.copy(plain, target, driver=driver, **options)
    for file in plain.parent.glob("copied.tif*"):
        file.unlink()
    return target


def _write_geotiff(content: Raster, options: dict[str, Any], path: Path, scene: SceneKind) -> Path:
    count, height, width = content.image.shape
    options = dict(options)
    if options.get("blockysize", 0) > height and not options.get("tiled"):
        options["blockysize"] = height
    photometric = "minisblack"
    if content.colors and content.colors[:3] == RGB_AND_ALPHA[:3] and count in (3, 4):
        photometric = "rgb"
    if options.get("compress") == "jpeg" and count == 3:
        photometric = "ycbcr"
    profile, declared = dict(content.profile), {}
    if scene.layout == "big-endian" and "nodata" in profile:  # GDAL swaps the bytes of a strip of nodata only twice
        declared["nodata"] = profile.pop("nodata")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=scene.nodata == "mask"):
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=content.image.dtype,
            photometric=photometric, **profile, **options,
        ) as file:  # fmt: skip
            if content.colors is not None and photometric != "ycbcr":
                file.colorinterp = content.colors
            if content.scale is not None:
                file.scales, file.offsets = (content.scale,) * count, (0.0,) * count
            file.write(content.image)
            if content.mask is not None:
                file.write_mask(content.mask)
        if declared:
            with rasterio.open(path, "r+") as file:
                file.nodata = declared["nodata"]
        if scene.layout == "overviews":
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2, 4], Resampling.average)
    return path


# -- wrappers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def wrapped(content: Raster, scene: SceneKind, folder: Path, name: str) -> Iterator[Any]:
    """Write a scene into a folder, and yield what stands for it on the command line or in a call."""
    if scene.wrapper in ("folder", "pattern", "tile index"):
        yield _wrapped_tiles(content, scene, folder, name)
        return
    if scene.wrapper == "http":  # GDAL keeps what an address showed, and a later server may get the same port
        folder /= f"served-{next(SERVED)}"
        folder.mkdir()
    path = write(content, scene, folder / f"{name}.tif")
    if scene.wrapper in ("vrt", "nested vrt"):
        for _ in range(1 + (scene.wrapper == "nested vrt")):
            target = path.with_name(f"{path.stem}_.vrt")
            rasterio.shutil.copy(path, target, driver="VRT")
            path = target
        yield str(path)
    elif scene.wrapper in ("vsizip", "zip"):
        yield _zipped(path, scene.wrapper)
    elif scene.wrapper == "symlink":
        links = folder / "links"
        links.mkdir()
        for file in _parts(path):
            (links / file.name).symlink_to(file)
        yield str(links / path.name)
    elif scene.wrapper == "http":
        with _server(folder.parent) as address:
            yield f"{address}/{folder.name}/{urllib.parse.quote(path.name)}"
    elif scene.wrapper in ("dataset", "dataarray"):
        with _opened(path, scene.wrapper) as data:
            yield data
    else:
        yield {"file uri": f"file://{path}", "relative": os.path.relpath(path)}.get(scene.wrapper, str(path))


def _wrapped_tiles(content: Raster, scene: SceneKind, folder: Path, name: str) -> str:
    tiles = _tiles(content, scene, folder / name)
    index = _tile_index(tiles, folder / f"{name}.gti.gpkg", content) if scene.wrapper == "tile index" else None
    if index is not None:
        return str(index)
    if scene.wrapper == "pattern" or scene.layout == "envi":  # of a folder, only files with usual suffixes are tiles
        return f"{glob.escape(str(folder / name))}/*{tiles[0].suffix}"
    return str(folder / name)


def _parts(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if file.is_file() and file.name.startswith(path.stem)]


def _tiles(content: Raster, scene: SceneKind, folder: Path) -> list[Path]:
    """Write a scene as four tiles that meet at whole pixels."""
    folder.mkdir()
    _, height, width = content.image.shape
    paths = []
    for i, (top, bottom) in enumerate(((0, height // 2), (height // 2, height))):
        for j, (left, right) in enumerate(((0, width // 3), (width // 3, width))):
            window = Window(left, top, right - left, bottom - top)
            place = rasterio.windows.transform(window, content.profile["transform"])  # not the scene's, if it is faulty
            part = replace(
                content,
                image=content.image[:, top:bottom, left:right],
                mask=None if content.mask is None else content.mask[top:bottom, left:right],
                profile=content.profile | {"transform": place},
            )
            paths.append(write(part, scene, folder / f"tile {i}_{j}.tif"))
    return paths


def _tile_index(tiles: list[Path], path: Path, content: Raster) -> Path | None:
    """Write a tile index (GDAL's driver GTI) beside the folder of tiles; None if it gets a row or column too many."""
    boxes = []
    for tile in tiles:
        with rasterio.open(tile) as file:
            boxes.append(shapely.box(*file.bounds))
    index = geopandas.GeoDataFrame(
        {"location": [str(tile) for tile in tiles]}, geometry=boxes, crs=content.profile["crs"]
    )
    plain = path.with_name("plain.gti.gpkg")  # pyogrio reads some names in its own way
    with contextlib.chdir(path.parent):
        index.to_file(plain.name, layer="index")
    with rasterio.open(plain) as file:
        exact = file.shape == content.image.shape[1:]
    if not exact:
        plain.unlink()
        return None
    return plain.rename(path)


def _zipped(path: Path, kind: str) -> str:
    target = path.with_name("scenes.zip")
    parts = _parts(path)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in parts:
            archive.write(file, f"in/{file.name}")
    for file in parts:
        file.unlink()
    return f"/vsizip/{target}/in/{path.name}" if kind == "vsizip" else f"zip://{target}!in/{path.name}"


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[Any]:
    if kind == "dataset":
        with rasterio.open(path) as dataset:
            yield dataset
        return
    import rioxarray

    with rioxarray.open_rasterio(path) as array:
        yield array.load()


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    script = Path(__file__).parent.parent / "imagery" / "range_server.py"
    with subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@contextlib.contextmanager
def quiet_writing() -> Iterator[None]:
    """Ignore what rasterio says about files that this module makes odd on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
