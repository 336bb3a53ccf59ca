"""Many raster files as one scene: a virtual raster of all tiles, after checking that they fit together."""

from __future__ import annotations

import glob
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from geosiam.errors import SceneNotFoundError, SceneRefusedError
from geosiam.files import exists
from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.masks import has_alpha, has_mask
from geosiam.imagery.scene import Scene, checked_grid, ignore_missing_georeference
from geosiam.imagery.vrt import VirtualRaster

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

TILE_SUFFIXES = {".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".webp", ".asc", ".dem"}
"""Suffixes of the files of a folder that are its tiles."""

_MAX_OFFSET_PX = 1e-2  # of a tile from whole pixels of the first one
_MAX_SIDE_PX = 2**31 - 1  # GDAL's limit
_REMEDY = "make the tiles alike, for example with gdalwarp, or name only those that are"


@dataclass(frozen=True)
class _Kind:
    """Properties that all tiles must share; nodata values and units are text, because NaN differs from itself."""

    coordinate_system: str
    types: tuple[str, ...]
    colors: tuple[str, ...]
    nodata: tuple[str, ...]
    scale_and_offset: tuple[str, ...]
    palette: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Tile:
    """A tile and its window, in pixels of the first tile."""

    path: str
    kind: _Kind
    masked: bool
    block: tuple[int, int]
    place: Window


def find_tiles(scene: str) -> list[str] | None:
    """Return the files of a folder or a pattern such as ``pre/*.tif``; None for any other scene.

    Raises
    ------
    SceneNotFoundError
        There are no such files.
    """
    if "://" in scene or scene.startswith(("/vsi", "<")):
        return None
    if exists(scene):
        return _in_folder(Path(scene)) if Path(scene).is_dir() else None
    if not glob.has_magic(scene):
        return None
    files = sorted(path for path in glob.glob(scene, recursive=True) if Path(path).is_file())  # noqa: PTH207 - of any root
    if not files:
        raise SceneNotFoundError(scene, "matches no file", "check the pattern")
    return files


def _in_folder(folder: Path) -> list[str] | None:
    """Return the rasters of a folder; None for a folder that GDAL opens as one raster."""
    try:
        with ignore_missing_georeference():
            rasterio.open(folder).close()
    except (RasterioError, UnicodeEncodeError):
        files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TILE_SUFFIXES and file.is_file()]
        tiles = [str(file) for file in files if not file.name.startswith(".")]
        if not tiles:
            raise SceneNotFoundError(
                folder, "is a folder without rasters", "name a raster, or a folder of tiles"
            ) from None
        return tiles
    return None


def mosaic(paths: list[str]) -> str:
    """Return the XML of a virtual raster of all tiles; where they overlap, the last valid pixel counts.

    Raises
    ------
    InputError
        A tile cannot be opened or used, differs from the first one in its coordinate system, pixel size, bands, types
        or nodata, or lies between its pixels.
    """
    reference, first = _examine(paths[0], None)
    tiles = [first]
    for path in paths[1:]:
        grid, tile = _examine(path, reference)
        _compare(tile, grid, first, reference)
        tiles.append(tile)
    extent = first.place
    for tile in tiles:
        extent = extent.union(tile.place)
    rows, cols = extent.shape
    if max(rows, cols) > _MAX_SIDE_PX:
        raise SceneRefusedError(paths[0], f"and the other tiles span {rows} x {cols} pixels", "leave out distant ones")
    transform = reference.transform @ Affine.translation(extent.col_start, extent.row_start)
    return _virtual(tiles, extent, Grid(reference.crs, transform, cols, rows)).xml()


def _virtual(tiles: list[_Tile], extent: Window, grid: Grid) -> VirtualRaster:
    """Combine tiles such that pixels that no tile covers are invalid."""
    kind = tiles[0].kind
    marked = kind.nodata != ("None",) * len(kind.nodata) or "alpha" in kind.colors
    masked = any(tile.masked for tile in tiles) or not (marked or _all_floats(kind))
    raster = VirtualRaster(grid)
    for index, (dtype, color) in enumerate(zip(kind.types, kind.colors, strict=True), 1):
        nodata = _nodata(kind, index, masked=masked)
        band = raster.band(dtype, nodata=nodata, color=color)
        band.set_scale(*map(float, kind.scale_and_offset[index - 1].split()))
        if index == 1:
            band.set_palette(dict(kind.palette))
        for tile in tiles:
            use_mask = tile.masked or "alpha" in kind.colors
            band.add(
                tile.path, index, tile.place.relative_to(extent), nodata=nodata, use_mask=use_mask, block=tile.block
            )
    if masked:
        mask = raster.mask()
        for tile in tiles:
            mask.add(tile.path, "mask,1", tile.place.relative_to(extent), nodata=0, block=tile.block)
    return raster


def _nodata(kind: _Kind, index: int, *, masked: bool) -> float | None:
    nodata = kind.nodata[index - 1]
    if nodata != "None":
        return float(nodata)
    return float("nan") if _all_floats(kind) and not masked and "alpha" not in kind.colors else None


def _all_floats(kind: _Kind) -> bool:
    return all(np.dtype(dtype).kind == "f" for dtype in kind.types)


def _examine(path: str, reference: Grid | None) -> tuple[Grid, _Tile]:
    """Return the grid of a tile, and the tile with its window in pixels of the reference."""
    scene = Scene(str(Path(path).absolute()), path)
    try:
        dataset = scene.handle()
        grid = checked_grid(scene)
        rows, cols = (0, 0) if reference is None else _offset(grid, reference)
        place = Window(rows, rows + grid.height, cols, cols + grid.width)
        masked = has_mask(dataset) and not has_alpha(dataset)
        return grid, _Tile(scene.path, _kind(dataset, grid), masked, dataset.block_shapes[0], place)
    finally:
        scene.close()


def _kind(dataset: DatasetReader, grid: Grid) -> _Kind:
    palette = dataset.colormap(1) if colors_of(dataset)[0] == ColorInterp.palette else {}
    return _Kind(
        coordinate_system=str(grid.crs.to_wkt()),
        types=tuple(dataset.dtypes),
        colors=tuple(kind.name for kind in colors_of(dataset)),
        nodata=tuple(map(str, dataset.nodatavals)),
        scale_and_offset=tuple(f"{s!r} {o!r}" for s, o in zip(dataset.scales, dataset.offsets, strict=True)),
        palette=tuple(palette.items()),
    )


def _offset(grid: Grid, reference: Grid) -> tuple[int, int]:
    col, row = ~reference.transform @ (grid.transform.c, grid.transform.f)
    return round(row), round(col)


def _compare(tile: _Tile, grid: Grid, first: _Tile, reference: Grid) -> None:
    """Refuse a tile that does not fit the first one."""
    first_name = Path(first.path).name
    for field in fields(_Kind):
        value, expected = getattr(tile.kind, field.name), getattr(first.kind, field.name)
        if value != expected and not (field.name == "coordinate_system" and grid.crs == reference.crs):
            quality = field.name.replace("_", " ")
            if len(tile.kind.types) != len(first.kind.types):
                fact = f"has {len(tile.kind.types)} bands, {first_name} has {len(first.kind.types)}"
                raise SceneRefusedError(tile.path, fact, _REMEDY)
            values = f" ({_short(value)} and {_short(expected)})" if field.name in ("types", "colors", "nodata") else ""
            raise SceneRefusedError(tile.path, f"differs from {first_name} in its {quality}{values}", _REMEDY)
    corners = [(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)]
    place = tile.place
    for col, row in corners:
        x, y = ~reference.transform @ (grid.transform @ (col, row))
        if max(abs(x - col - place.col_start), abs(y - row - place.row_start)) > _MAX_OFFSET_PX:
            same_size = np.allclose(grid.pixel_size, reference.pixel_size, rtol=1e-6)
            fact = "lies between the pixels of" if same_size else "differs in its pixel size from"
            raise SceneRefusedError(tile.path, f"{fact} {first_name}", _REMEDY)


def _short(values: tuple[str, ...]) -> str:
    return "/".join(dict.fromkeys(values)) if len(set(values)) == 1 else "/".join(values)
