"""Metadata of a scene for reports, and a fingerprint that differs if a scene has changed."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj

from geosiam.errors import InputError
from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import authority_code
from geosiam.imagery.masks import has_alpha, has_mask
from geosiam.imagery.open_scene import open_scene, parts_of
from geosiam.imagery.scene import Scene, checked_grid
from geosiam.imagery.vrt import is_remote

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from geosiam.imagery.grid import Grid
    from geosiam.imagery.open_scene import SceneLike

_HEADER_BYTES = 2**20
_HTTP_TIMEOUT_S = 10


@dataclass(frozen=True)
class SceneInfo:
    """Metadata of a scene, in values that JSON can hold.

    Parameters
    ----------
    name
        Name of the scene, as it was given.
    tiles
        File names of the tiles of a mosaic; empty for a single file.
    driver
        GDAL's name of the file format.
    width, height, bands
        Size of the scene in pixels, and its number of bands.
    dtype
        NumPy type of the first band.
    crs
        Authority and code of the coordinate reference system, such as ``"EPSG:32633"``; without them its WKT.
    pixel_size
        Length of a pixel's side along a row and along a column, in units of the CRS.
    nodata
        Nodata value of the first band; None if there is none or it is not finite.
    mask
        What marks invalid pixels: ``"nodata"``, ``"alpha"``, ``"mask band"``, several of these, or ``"none"``.
    colors
        Color interpretation of each band.
    fingerprint
        See :func:`fingerprint`.
    """

    name: str
    tiles: tuple[str, ...]
    driver: str
    width: int
    height: int
    bands: int
    dtype: str
    crs: str
    pixel_size: tuple[float, float]
    nodata: float | None
    mask: str
    colors: tuple[str, ...]
    fingerprint: str


def describe(scene: Scene) -> SceneInfo:
    """Return the metadata of a scene.

    Raises
    ------
    SceneRefusedError
        See :func:`geosiam.imagery.scene.checked_grid`.
    """
    dataset = scene.handle()
    grid = checked_grid(scene)
    nodata = dataset.nodata
    return SceneInfo(
        name=scene.name,
        tiles=tuple(Path(tile).name for tile in scene.tiles),
        driver=scene.handle(scene.source).driver,
        width=dataset.width,
        height=dataset.height,
        bands=dataset.count,
        dtype=dataset.dtypes[0],
        crs=_crs_name(grid),
        pixel_size=grid.pixel_size,
        nodata=None if nodata is None or not np.isfinite(nodata) else float(nodata),
        mask=_mask_kinds(dataset),
        colors=tuple(kind.name for kind in colors_of(dataset)),
        fingerprint=fingerprint(scene),
    )


def _mask_kinds(dataset: DatasetReader) -> str:
    has_nodata = any(value is not None for value in dataset.nodatavals)
    kinds = {"alpha": has_alpha(dataset), "nodata": has_nodata, "mask band": has_mask(dataset)}
    return " and ".join(kind for kind, present in kinds.items() if present) or "none"


def _crs_name(grid: Grid) -> str:
    wkt: str = grid.crs.to_wkt()
    return authority_code(pyproj.CRS.from_wkt(wkt)) or wkt


def fingerprint(scene: Scene | SceneLike) -> str:
    """Return a text that differs if a scene has changed, without reading all of the scene.

    Of a file it is the size in bytes, the modification time in nanoseconds, and the start of the SHA-256 of the first
    mebibyte, where a GeoTIFF has its header; of tiles, of the sources of a virtual raster, and of a raster with files
    beside it such as a mask, a digest of that of each; of an array, its size and digest. Of an HTTP address it is a
    digest of the ETag, Last-Modified and Content-Length that the server sends.

    Returns
    -------
    the fingerprint; empty where nothing trustworthy is known: a server that sends neither an ETag nor a modification
    time (a length alone would call another version the same) or does not answer, another kind of address, a missing
    file. An empty fingerprint never means that a scene is unchanged.

    Raises
    ------
    InputError
        A pattern matches no file, a folder holds no rasters, tiles do not fit together, or an array is no raster.
    """
    if isinstance(scene, Scene):
        return _fingerprint(scene)
    opened = open_scene(scene)
    try:
        return _fingerprint(opened)
    finally:
        opened.close()


def _fingerprint(scene: Scene) -> str:
    if scene.memory is not None:
        content = bytes(scene.memory.getbuffer())
        return f"{len(content)}-{_digest(content[:_HEADER_BYTES])}"
    if is_remote(scene.source) and not _url_fingerprint(scene.source):
        return ""
    parts = parts_of(scene.tiles or _names(scene))
    if any(_is_unknown(name) for name, file in parts.items() if file is None):
        return ""
    readable = [name for name, file in parts.items() if is_remote(name) or (file is not None and not file.is_dir())]
    lines = set()
    for name in readable:
        file = parts[name]
        version = _url_fingerprint(name) if file is None else _file_fingerprint(file)
        if not version:
            return ""
        lines.add((name if file is None else file.name, version))
    if len(lines) == 1:
        return lines.pop()[1]
    text = "\n".join(" ".join(line) for line in sorted(lines))
    return f"{len(lines)}-{_digest(text.encode())}" if lines else ""


def _is_unknown(name: str) -> bool:
    """Return whether a name without a local file hides what it is read from, as that of a database does."""
    return not is_remote(name) and not name.startswith("<") and len(parts_of([name])) == 1


def _names(scene: Scene) -> list[str]:
    """Return the names that a scene is read by: of remote data, also those beside it, which only GDAL knows."""
    if not is_remote(scene.source):
        return [scene.source]
    try:
        return [str(name) for name in scene.handle(scene.source).files] or [scene.source]
    except InputError:
        return [scene.source]


def _url_fingerprint(name: str) -> str:
    url = name.removeprefix("/vsicurl/")
    if not url.startswith(("http://", "https://")):
        return ""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http and https only
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as response:  # noqa: S310 - likewise
            etag, modified, length = (
                response.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")
            )
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    return _digest(f"{etag}|{modified}|{length}".encode()) if etag or modified else ""


def _file_fingerprint(path: Path) -> str:
    try:
        status = path.stat()
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}-{_digest(header)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
