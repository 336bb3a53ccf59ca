"""Open whatever names or holds a scene: a path, a folder or pattern of tiles, a URL, a dataset, an array."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from rasterio.io import DatasetReader, MemoryFile

from geosiam.errors import SceneRefusedError
from geosiam.imagery.mosaic import find_tiles, mosaic
from geosiam.imagery.scene import Scene, ignore_missing_georeference

if TYPE_CHECKING:
    import xarray

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
        tiles = find_tiles(path)
        return Scene(path) if tiles is None else Scene(mosaic(tiles), path, tiles=tuple(tiles))
    return Scene(scene.name) if isinstance(scene, DatasetReader) else _scene_in_memory(scene)


def files_of(scene: SceneLike) -> list[str]:
    """Return the names of the files that a scene is read from; none for an array."""
    if isinstance(scene, str | os.PathLike):
        path = os.fspath(scene)
        return find_tiles(path) or [path]
    return [scene.name] if isinstance(scene, DatasetReader) else []


def _scene_in_memory(array: xarray.DataArray) -> Scene:
    from rioxarray.exceptions import RioXarrayError  # noqa: PLC0415 - slow to import, and files do not need it

    if not hasattr(array, "rio"):
        raise TypeError(f"a scene is a path, an open dataset or a DataArray, not a {type(array).__name__}")
    name = str(array.name if array.name is not None else "the DataArray")
    if array.rio.crs is None:
        raise SceneRefusedError(name, "has no coordinate reference system", "call .rio.write_crs() on it")
    memory = MemoryFile(ext=".tif")
    try:
        with ignore_missing_georeference():
            array.rio.to_raster(memory.name, driver="GTiff")
    except (RioXarrayError, TypeError, ValueError) as error:
        memory.close()
        raise SceneRefusedError(
            name,
            f"cannot be converted to a raster ({error})",
            "give it dimensions (band, y, x) and a type such as uint8",
        ) from error
    return Scene(memory.name, name, memory)
