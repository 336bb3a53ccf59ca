"""A folder or a pattern of tiles as one scene: a virtual raster of all of them, after checking that they fit."""

from __future__ import annotations

import glob
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geosiam.errors import SceneNotFoundError, SceneRefusedError
from geosiam.files import exists
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.masks import has_alpha, has_mask
from geosiam.imagery.scene import Scene, checked_grid
from geosiam.imagery.vrt import VirtualRaster

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_SUFFIXES = {".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".webp", ".asc", ".dem"}
_OFF_PX = 1e-2  # how far a tile may lie from whole pixels of the first one
_LARGEST_PX = 2**31 - 1  # of a side, to GDAL
_REMEDY = "make the tiles alike, for example with gdalwarp, or name those that are"


@dataclass(frozen=True)
class _Kind:
    """What all tiles of a scene have in common; nodata values and units are text, for NaN differs from itself."""

    coordinate_system: str
    types: tuple[str, ...]
    colors: tuple[str, ...]
    nodata: tuple[str, ...]
    scale_and_offset: tuple[str, ...]
    palette: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Tile:
    """A tile, and where it lies in pixels of the first one."""

    path: str
    kind: _Kind
    masked: bool
    block: tuple[int, int]
    place: Window


def find_tiles(scene: str) -> list[str] | None:
    """Return the files that a folder or a pattern such as ``pre/*.tif`` stands for; None if it is neither.

    Raises
    ------
    SceneNotFoundError
        There are none.
    """
    if "://" in scene or scene.startswith(("/vsi", "<")):
        return None
    if exists(scene):
        return _in_folder(Path(scene)) if Path(scene).is_dir() else None
    if not glob.has_magic(scene):
        return None
    found = sorted(path for path in glob.glob(scene, recursive=True) if Path(path).is_file())  # noqa: PTH207 - of any root
    if not found:
        raise SceneNotFoundError(scene, "matches no file", "check the pattern")
    return found


def _in_folder(folder: Path) -> list[str] | None:
    """Return the rasters of a folder; None for a folder that is itself a raster to GDAL."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            rasterio.open(folder).close()
    except RasterioError:
        files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _SUFFIXES and file.is_file()]
        found = [str(file) for file in files if not file.name.startswith(".")]
        if not found:
            raise SceneNotFoundError(
                folder, "is a folder without rasters", "name a raster, or a folder of tiles"
            ) from None
        return found
    return None


def mosaic(paths: list[str]) -> str:
    """Return the virtual raster of all tiles; where they overlap, the last one that knows a pixel counts.

    Raises
    ------
    InputError
        A tile cannot be opened or used, or it differs from the first one in its coordinate system, pixel size, bands,
        types or nodata, or lies between its pixels.
    """
    reference, first = _examined(paths[0], None)
    tiles = [first]
    for path in paths[1:]:
        grid, tile = _examined(path, reference)
        _compare(tile, grid, first, reference)
        tiles.append(tile)
    whole = first.place
    for tile in tiles:
        whole = whole.union(tile.place)
    rows, cols = whole.shape
    if max(rows, cols) > _LARGEST_PX:
        raise SceneRefusedError(paths[0], f"and the other tiles span {rows} x {cols} pixels", "leave out far ones")
    place = reference.transform @ Affine.translation(whole.col_start, whole.row_start)
    return _virtual(tiles, whole, Grid(reference.crs, place, cols, rows)).xml()


def _virtual(tiles: list[_Tile], whole: Window, grid: Grid) -> VirtualRaster:
    """Put tiles together such that what none of them covers is not known."""
    kind = tiles[0].kind
    said = kind.nodata != ("None",) * len(kind.nodata) or "alpha" in kind.colors
    masked = any(tile.masked for tile in tiles) or not (said or _all_floats(kind))
    raster = VirtualRaster(grid)
    for index, (dtype, color) in enumerate(zip(kind.types, kind.colors, strict=True), 1):
        nodata = _nodata(kind, index, masked=masked)
        band = raster.band(dtype, nodata=nodata, color=color)
        band.scaled(*map(float, kind.scale_and_offset[index - 1].split()))
        if index == 1:
            band.colored(dict(kind.palette))
        for tile in tiles:
            use_mask = tile.masked or "alpha" in kind.colors
            band.add(
                tile.path, index, tile.place.relative_to(whole), nodata=nodata, use_mask=use_mask, block=tile.block
            )
    if masked:
        mask = raster.mask()
        for tile in tiles:
            mask.add(tile.path, "mask,1", tile.place.relative_to(whole), nodata=0, block=tile.block)
    return raster


def _nodata(kind: _Kind, index: int, *, masked: bool) -> float | None:
    told = kind.nodata[index - 1]
    if told != "None":
        return float(told)
    return float("nan") if _all_floats(kind) and not masked and "alpha" not in kind.colors else None


def _all_floats(kind: _Kind) -> bool:
    return all(np.dtype(dtype).kind == "f" for dtype in kind.types)


def _examined(path: str, reference: Grid | None) -> tuple[Grid, _Tile]:
    """Return where a tile lies and what it is like."""
    source = Scene(str(Path(path).absolute()), path)
    try:
        dataset = source.handle()
        grid = checked_grid(source)
        rows, cols = (0, 0) if reference is None else _offset(grid, reference)
        place = Window(rows, rows + grid.height, cols, cols + grid.width)
        masked = has_mask(dataset) and not has_alpha(dataset)
        return grid, _Tile(source.path, _kind(dataset, grid), masked, dataset.block_shapes[0], place)
    finally:
        source.close()


def _kind(dataset: DatasetReader, grid: Grid) -> _Kind:
    palette = dataset.colormap(1) if dataset.colorinterp[0] == ColorInterp.palette else {}
    return _Kind(
        coordinate_system=str(grid.crs.to_wkt()),
        types=tuple(dataset.dtypes),
        colors=tuple(kind.name for kind in dataset.colorinterp),
        nodata=tuple(map(str, dataset.nodatavals)),
        scale_and_offset=tuple(f"{s!r} {o!r}" for s, o in zip(dataset.scales, dataset.offsets, strict=True)),
        palette=tuple(palette.items()),
    )


def _offset(grid: Grid, reference: Grid) -> tuple[int, int]:
    col, row = ~reference.transform @ (grid.transform.c, grid.transform.f)
    return round(row), round(col)


def _compare(tile: _Tile, grid: Grid, first: _Tile, reference: Grid) -> None:
    """Refuse a tile that is not like the first one."""
    other = Path(first.path).name
    for field in fields(_Kind):
        mine, its = getattr(tile.kind, field.name), getattr(first.kind, field.name)
        if mine != its and not (field.name == "coordinate_system" and grid.crs == reference.crs):
            what = field.name.replace("_", " ")
            shown = f" ({_short(mine)} and {_short(its)})" if field.name in ("types", "colors", "nodata") else ""
            raise SceneRefusedError(tile.path, f"differs from {other} in its {what}{shown}", _REMEDY)
    ends = [(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)]
    place = tile.place
    for col, row in ends:
        there = ~reference.transform @ (grid.transform @ (col, row))
        if max(abs(there[0] - col - place.col_start), abs(there[1] - row - place.row_start)) > _OFF_PX:
            same = np.allclose(grid.pixel_size, reference.pixel_size, rtol=1e-6)
            fact = "lies between the pixels of" if same else "differs in its pixel size from"
            raise SceneRefusedError(tile.path, f"{fact} {other}", _REMEDY)


def _short(values: tuple[str, ...]) -> str:
    return "/".join(dict.fromkeys(values)) if len(set(values)) == 1 else "/".join(values)
