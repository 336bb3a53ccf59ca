"""One scene: opened by name in any thread, checked once, read in windows."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader, MemoryFile

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists
from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Grid
from geosiam.imagery.masks import has_alpha, has_mask
from geosiam.runtime import ignored_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray

SceneLike: TypeAlias = "str | os.PathLike[str] | DatasetReader | xarray.DataArray"
"""A path, a URL that GDAL reads, an open rasterio dataset, or a georeferenced DataArray."""

GDAL_CACHE_BYTES = 128_000_000
"""Memory that GDAL may keep decoded blocks in, in this process.

Its default is 5 % of the machine's memory. The reader keeps what is needed again, so less is enough, but without any
each tile is decoded again for each band, and warped again for each strip.
"""

# Unlike GDAL's own option, where small numbers are megabytes, rasterio takes bytes for the cache.
# GDAL does not give up on a server that goes silent, unless it is told when.
ENVIRONMENT = {
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES,
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    "GDAL_HTTP_CONNECTTIMEOUT": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,  # bytes a second
    "GDAL_HTTP_LOW_SPEED_TIME": 60,
    "GDAL_HTTP_MAX_RETRY": 3,
}

_inside = threading.local()


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Run GDAL by the options above in this thread; within itself it costs nothing, which rasterio's own does."""
    if getattr(_inside, "environment", False):
        yield
        return
    with rasterio.Env(**ENVIRONMENT):
        _inside.environment = True
        try:
            yield
        finally:
            _inside.environment = False


DECODING_ERRORS = (RasterioIOError, rasterio.errors.WarpOperationError, CPLE_BaseError)
"""What rasterio raises where pixels cannot be decoded."""

_HEADER_BYTES = 2**20
_HEAD_SECONDS = 10
_LARGEST_BLOCK = 2**30
_DECODING = "the file may be truncated or corrupt: copy or export it again"


class Scene:
    """A scene by name, with one rasterio handle a thread (GDAL's handles are not thread-safe).

    Parameters
    ----------
    path
        Path or URL to open.
    name
        What messages and reports call the scene; None: its path.
    memory
        The in-memory file behind the path, kept alive with the source; such a source cannot go to another process.
    tiles
        The files that a virtual raster of tiles is made of.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        memory: MemoryFile | None = None,
        tiles: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.tiles = tiles
        self.name = path if name is None else name
        self.memory = memory
        self._local = threading.local()
        self._open: list[DatasetReader] = []
        self._lock = threading.Lock()
        self._broken: SceneRefusedError | None = None

    @classmethod
    def of(cls, scene: SceneLike) -> Scene:
        """Make a source of whatever names or holds a scene."""
        if isinstance(scene, str | os.PathLike):
            return cls._of_path(os.fspath(scene))
        return cls(scene.name) if isinstance(scene, DatasetReader) else cls._of_array(scene)

    @classmethod
    def _of_path(cls, path: str) -> Scene:
        from geosiam.imagery.mosaic import find_tiles, mosaic  # noqa: PLC0415 - tiles are sources themselves

        tiles = find_tiles(path)
        return cls(path) if tiles is None else cls(mosaic(tiles), path, tiles=tuple(tiles))

    @classmethod
    def _of_array(cls, array: xarray.DataArray) -> Scene:
        from rioxarray.exceptions import RioXarrayError  # noqa: PLC0415 - slow to import, and a file does not need it

        if not hasattr(array, "rio"):
            raise TypeError(f"a scene is a path, an open dataset or a DataArray, not a {type(array).__name__}")
        name = str(array.name if array.name is not None else "the DataArray")
        if array.rio.crs is None:
            raise SceneRefusedError(name, "has no coordinate reference system", "call .rio.write_crs() on it")
        memory = MemoryFile(ext=".tif")
        try:
            with ignored_warnings(NotGeoreferencedWarning):  # the pair is refused with a better message
                array.rio.to_raster(memory.name, driver="GTiff")
        except (RioXarrayError, TypeError, ValueError) as error:
            memory.close()
            raise SceneRefusedError(
                name,
                f"cannot be taken for a raster ({error})",
                "give it dimensions (band, y, x) and a type such as uint8",
            ) from error
        return cls(memory.name, name, memory)

    def handle(self, view: str | None = None) -> DatasetReader:
        """Return this thread's handle of the scene, or of a virtual raster that shows the scene in another way."""
        if not hasattr(self._local, "datasets"):
            self._local.datasets = {}
        datasets: dict[str | None, DatasetReader] = self._local.datasets
        if view not in datasets:
            datasets[view] = self._opened(view)
        return datasets[view]

    @property
    def remote(self) -> bool:
        """Whether the path is none of this machine's file system, or none that can be looked up there."""
        return "://" in self.path or self.path.startswith(("/vsi", "<")) or ":" in self.path[2:]

    def _opened(self, view: str | None = None) -> DatasetReader:
        if not self.remote and not exists(self.path):
            raise SceneNotFoundError(self.name, "does not exist", "check the path")
        try:
            with ignored_warnings(NotGeoreferencedWarning):  # the pair is refused with a better message
                dataset = rasterio.open(view or self.path)
                _ = colors_of(dataset), dataset.nodatavals  # some of what is broken shows only now
        except (RasterioError, CPLE_BaseError) as error:
            raise SceneUnreadableError(
                self.name, f"cannot be opened ({error})", "use a raster that GDAL reads"
            ) from error
        with self._lock:
            self._open.append(dataset)
        return dataset

    def check_parts(self, *, opening: bool = False) -> None:
        """Refuse a virtual raster of which a file is missing or, on demand, cannot be opened.

        GDAL reports such a file the first time it is asked for, and reads it as zeros from then on.

        Raises
        ------
        SceneRefusedError
            It names the file.
        """
        dataset = self.handle()
        for name in dataset.files if dataset.driver == "VRT" else []:
            if not (_can_be_opened(name) if opening else name.startswith("/vsi") or exists(name)):
                fact = f"is made of files of which {name} cannot be opened"
                self._broken = SceneRefusedError(self.name, fact, "bring it back, or do without it")
                raise self._broken

    @contextlib.contextmanager
    def decoding(self, where: str) -> Iterator[None]:
        """Turn GDAL's errors while reading into one that names the scene and the place."""
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except DECODING_ERRORS as error:
            cause = error.__cause__ or error
            raise SceneUnreadableError(self.name, f"cannot be read at {where} ({cause})", _DECODING) from error

    def close(self) -> None:
        """Close the handles of all threads."""
        with self._lock:
            while self._open:
                self._open.pop().close()
        self._local = threading.local()
        if self.memory is not None:
            self.memory.close()

    def __getstate__(self) -> dict[str, Any]:
        if self.memory is not None:
            raise TypeError("a scene that lives in this process's memory cannot be sent to another one")
        path = str(Path(self.path).absolute()) if exists(self.path) else self.path  # others work elsewhere
        return {"path": path, "name": self.name, "tiles": tuple(str(Path(tile).absolute()) for tile in self.tiles)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


@dataclass(frozen=True)
class SceneFacts:
    """What a scene says of itself, as JSON can hold it; a scene of tiles names these."""

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


def _can_be_opened(name: str) -> bool:
    try:
        rasterio.open(name).close()
    except (RasterioError, CPLE_BaseError):
        return False
    return True


def checked_grid(source: Scene) -> Grid:
    """Return the grid of a scene, or refuse the scene.

    Raises
    ------
    SceneRefusedError
        Complex values, no bands, no coordinate reference system, no affine georeference, or a file of it missing.
    """
    dataset = source.handle()
    source.check_parts()
    name = source.name
    if not dataset.count:
        layers = f"it has subdatasets, such as {dataset.subdatasets[0]}" if dataset.subdatasets else "name a raster"
        raise SceneRefusedError(name, "holds no bands", layers)
    if any(dtype.startswith("complex") for dtype in dataset.dtypes):
        raise SceneRefusedError(
            name, f"holds complex values ({dataset.dtypes[0]})", "compute amplitude or intensity first"
        )
    if dataset.transform.is_identity:
        _refuse_without_transform(name, dataset)
    if dataset.crs is None:
        raise SceneRefusedError(
            name, "has no coordinate reference system", "assign one: gdal_edit.py -a_srs EPSG:... FILE"
        )
    _refuse_large_blocks(name, dataset)
    try:
        return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)
    except ValueError as error:
        raise SceneRefusedError(name, f"has an impossible georeference ({error})", "export it again") from error


def _refuse_large_blocks(name: str, dataset: DatasetReader) -> None:
    """Refuse a file of which the smallest part that can be decoded does not fit into memory."""
    rows, cols = dataset.block_shapes[0]
    together = dataset.count if dataset.profile.get("interleave") == "pixel" else 1
    size = rows * cols * together * np.dtype(dataset.dtypes[0]).itemsize
    if size > _LARGEST_BLOCK:
        fact = f"is stored in blocks of {rows} x {cols} pixels, {size / 2**30:.3g} GiB each"
        raise SceneRefusedError(
            name, fact, "store it in tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT"
        )


def _refuse_without_transform(name: str, dataset: DatasetReader) -> None:
    if dataset.gcps[0]:
        raise SceneRefusedError(name, "is georeferenced by control points only", "warp it first: gdalwarp IN OUT")
    if dataset.rpcs is not None:
        raise SceneRefusedError(name, "is georeferenced by RPCs only", "orthorectify it first: gdalwarp -rpc IN OUT")
    raise SceneRefusedError(
        name, "is not georeferenced", "use a GeoTIFF, or a world file and gdal_edit.py -a_srs EPSG:..."
    )


def facts(source: Scene) -> SceneFacts:
    """Gather what a scene says of itself."""
    dataset = source.handle()
    grid = checked_grid(source)
    nodata = dataset.nodata
    return SceneFacts(
        name=source.name,
        tiles=tuple(Path(tile).name for tile in source.tiles),
        driver=dataset.driver,
        width=dataset.width,
        height=dataset.height,
        bands=dataset.count,
        dtype=dataset.dtypes[0],
        crs=_crs_name(grid),
        pixel_size=grid.pixel_size,
        nodata=None if nodata is None or not np.isfinite(nodata) else float(nodata),
        mask=_mask_kind(dataset),
        colors=tuple(kind.name for kind in colors_of(dataset)),
        fingerprint=_fingerprint(source),
    )


def files_of(scene: SceneLike) -> list[str]:
    """Return the names of the files that a scene is read from."""
    from geosiam.imagery.mosaic import find_tiles  # noqa: PLC0415 - tiles are sources themselves

    if isinstance(scene, str | os.PathLike):
        path = os.fspath(scene)
        return find_tiles(path) or [path]
    return [scene.name] if isinstance(scene, DatasetReader) else []


def fingerprint(scene: SceneLike) -> str:
    """Return what tells a changed scene from an unchanged one, without reading all of it.

    Size in bytes, time of change in nanoseconds, and the start of the SHA-256 of the first mebibyte, where a GeoTIFF
    has its header; of all tiles where a scene has any. An array has no time of change. For an HTTP address it is what
    the server says of the file's version; of other places nothing is known: "".
    """
    source = Scene.of(scene)
    try:
        return _fingerprint(source)
    finally:
        source.close()


def _fingerprint(source: Scene) -> str:
    if source.memory is not None:
        content = bytes(source.memory.getbuffer())
        return f"{len(content)}-{_digest(content[:_HEADER_BYTES])}"
    if source.tiles:
        marks = [f"{Path(tile).name} {_fingerprint_of_file(Path(tile))}" for tile in source.tiles]
        return f"{len(marks)}-{_digest(chr(10).join(marks).encode())}"
    address = source.path.removeprefix("/vsicurl/")
    if address.startswith(("http://", "https://")):
        return _fingerprint_of_address(address)
    return _fingerprint_of_file(Path(source.path))


def _fingerprint_of_address(address: str) -> str:
    """Return a digest of the version, time and size of a file that a server names without sending it."""
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - its scheme was looked at
    try:
        with urllib.request.urlopen(request, timeout=_HEAD_SECONDS) as answer:  # noqa: S310
            told = [answer.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")]
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    # A length alone would call another version the same.
    return _digest("|".join(map(str, told)).encode()) if told[0] or told[1] else ""


def _fingerprint_of_file(path: Path) -> str:
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}-{_digest(head)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _mask_kind(dataset: DatasetReader) -> str:
    named = any(value is not None for value in dataset.nodatavals)
    kinds = {"alpha": has_alpha(dataset), "nodata": named, "mask band": has_mask(dataset)}
    return " and ".join(kind for kind, there in kinds.items() if there) or "none"


def _crs_name(grid: Grid) -> str:
    authority = grid.crs.to_authority()
    return ":".join(authority) if authority else str(grid.crs.to_wkt())
