"""Open whatever names or holds a scene: a path, a folder or pattern of tiles, a URL, a dataset, an array."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile

from geosiam.errors import SceneNotFoundError, SceneRefusedError
from geosiam.imagery.masks import is_lossy
from geosiam.imagery.mosaic import find_tiles, mosaic
from geosiam.imagery.scene import LOSSY, Scene, environment, ignore_missing_georeference, parts
from geosiam.imagery.vrt import is_remote, local_path
from geosiam.runtime import ignored_warnings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    import xarray

_XML_START = 1024  # bytes in which a virtual raster or another file that refers to files begins

SceneLike: TypeAlias = "str | os.PathLike[str] | DatasetReader | xarray.DataArray"
"""A path, a URL that GDAL reads, an open rasterio dataset, or a georeferenced DataArray."""


def open_scene(scene: SceneLike) -> Scene:
    """Open the scene that a path, URL, dataset or array stands for; the caller closes it.

    Raises
    ------
    InputError
        A pattern matches no file, a folder holds no rasters, tiles do not fit together, or an array is no raster.
    TypeError
        The argument is none of these.
    """
    if isinstance(scene, str | os.PathLike):
        path = os.fspath(scene)
        if not path:
            raise SceneNotFoundError("the name of a scene", "is empty", "name a raster, or a folder of tiles")
        tiles = find_tiles(path)
        return Scene(path) if tiles is None else Scene(mosaic(tiles), path, tiles=tuple(tiles))
    return Scene(scene.name) if isinstance(scene, DatasetReader) else _scene_in_memory(scene)


def files_of(scene: SceneLike, folders: Collection[Path] | None = None) -> list[Path]:
    """Return the local files that a scene is read from, directly or through others: see :func:`parts_of`."""
    if isinstance(scene, str | os.PathLike):
        path = os.fspath(scene)
        names = (find_tiles(path) or [path]) if path else []
    elif isinstance(scene, DatasetReader):
        names = [scene.name]
    else:
        source = getattr(scene, "encoding", {}).get("source")
        names = [source] if isinstance(source, str) else []
    return list(dict.fromkeys(file for file in parts_of(names, folders).values() if file is not None))


def parts_of(names: Iterable[str], folders: Collection[Path] | None = None) -> dict[str, Path | None]:
    """Return the names of all that rasters are read from, directly or through others, with the local file of each.

    These are the archive of a member, the sources of a virtual raster, which may be virtual in turn, and files beside
    a raster: georeference, mask, overviews, statistics. A name without a local file is that of remote data, of data in
    memory, or stands for its parts, which follow it.

    Parameters
    ----------
    names
        Names of the rasters.
    folders
        Resolved folders in which files beside a raster matter; None: all. Only rasters in these, and those that may
        refer to files elsewhere, are opened.
    """
    waiting = list(names)
    files: dict[str, Path | None] = {}
    listed = set(waiting)
    with environment():
        while waiting:
            name = waiting.pop()
            file = files[name] = local_path(name)
            if file is None or _refers(file) or folders is None or file.resolve().parent in folders:
                new = [part for part in _parts(name) if part not in listed]
                listed.update(new)
                waiting += new
    return files


def _refers(file: Path) -> bool:
    """Return whether a file may refer to other files: a folder, a tile index, or one of XML, as virtual rasters are."""
    if ".gti." in file.name.lower():
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(_XML_START).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
    except OSError:
        return file.is_dir()


def _parts(name: str) -> list[str]:
    """Return the names of the files that GDAL counts as parts of a raster; none of one that is remote or unreadable."""
    if is_remote(name):
        return []
    try:
        with ignore_missing_georeference(), rasterio.open(name) as dataset:
            return parts(dataset)
    except (RasterioError, ValueError):
        return []


def turned_transform(array: xarray.DataArray) -> Affine | None:
    """Return the geotransform that a rioxarray array records if its rows are turned or sheared, else None.

    Of pixels of less than 1e-5 units, such as of a meter in degrees, rioxarray takes no turn for one.
    """
    mapping = array.rio.grid_mapping
    recorded = array[mapping].attrs.get("GeoTransform") if mapping in array.coords else None
    transform = None if recorded is None else Affine.from_gdal(*map(float, str(recorded).split()))
    return transform if transform is not None and (transform.b or transform.d) else None


def _tags_of_source(array: xarray.DataArray) -> dict[str, str]:
    """Return the tags that say what an array has of the file that it was read from: the losses of its compression."""
    source = array.encoding.get("source")
    if not isinstance(source, str):
        return {}
    try:
        with ignore_missing_georeference(), rasterio.open(source) as dataset:
            return LOSSY if is_lossy(dataset) else {}
    except (RasterioError, ValueError):
        return {}


def _scene_in_memory(array: xarray.DataArray) -> Scene:
    from rioxarray.exceptions import RioXarrayError  # noqa: PLC0415 - slow to import, and files do not need it

    if not hasattr(array, "rio"):
        raise TypeError(f"a scene is a path, an open dataset or a DataArray, not a {type(array).__name__}")
    name = str(array.name if array.name is not None else "the DataArray")
    if array.rio.crs is None:
        raise SceneRefusedError(name, "has no coordinate reference system", "call .rio.write_crs() on it")
    memory = MemoryFile(ext=".tif")
    try:
        with ignored_warnings(UserWarning):  # of no geotransform, or of one that is turned
            # A copy has forgotten the file that it was read from, whose storage rioxarray would use: JPEG, for example.
            array.copy(deep=False).rio.to_raster(memory.name, driver="GTiff", tags=_tags_of_source(array))
            turned = turned_transform(array)
            if turned is not None:
                with rasterio.open(memory.name, "r+") as dataset:
                    dataset.transform = turned
    except (RioXarrayError, TypeError, ValueError) as error:
        memory.close()
        raise SceneRefusedError(
            name,
            f"cannot be converted to a raster ({error})",
            "give it dimensions (band, y, x) and a type such as uint8",
        ) from error
    return Scene(memory.name, name, memory)
