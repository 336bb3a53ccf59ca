"""A scene that threads read with a handle each, and the GDAL options under which it is read."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
from rasterio.env import get_gdal_config, getenv, hasenv, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError, WarpOperationError

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError, redacted
from geosiam.files import exists, plain_path
from geosiam.imagery.bands import colors_of
from geosiam.imagery.grid import Grid
from geosiam.imagery.vrt import is_remote
from geosiam.runtime import ignored_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rasterio.io import DatasetReader, MemoryFile

GDAL_CACHE_BYTES = 128_000_000
"""Memory for GDAL's own cache of decoded blocks, which is one for the process.

GDAL's default is 5 % of the machine's memory. The reader keeps the tiles that are needed again, so less is enough, but
without any cache each tile is decoded again for each band, and warped again for each strip.
"""

# Without limits, GDAL waits forever for a server that goes silent.
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    "GDAL_HTTP_CONNECTTIMEOUT": 30,  # seconds
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,  # bytes per second
    "GDAL_HTTP_LOW_SPEED_TIME": 60,  # seconds
    "GDAL_HTTP_MAX_RETRY": 3,
}

LOSSY = {"COMPRESSION_REVERSIBILITY": "LOSSY"}
"""GDAL's tag of a raster that is compressed with losses."""

TILE_INDEX = "GTI"
"""GDAL's driver of tile indexes, which are vector files that name rasters."""

DECODING_ERRORS = (RasterioIOError, WarpOperationError)
"""Errors that rasterio raises if pixels cannot be decoded."""

_MAX_BLOCK_BYTES = 2**30
_DECODING_REMEDY = "the file may be truncated or corrupt: copy or export it again"


class _BlockCacheLimit:
    """Limit GDAL's block cache while any thread is inside, and restore the previous limit when the last one leaves.

    The limit belongs to the process. :class:`rasterio.Env` restores it neither inside another environment nor when
    several threads enter and leave in turn.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._holders = 0
        self._previous = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._previous = get_gdal_config("GDAL_CACHEMAX")
                set_gdal_config("GDAL_CACHEMAX", self._limit)  # bytes, whereas GDAL's own option takes megabytes
            self._holders += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                set_gdal_config("GDAL_CACHEMAX", self._previous)


_BLOCK_CACHE = _BlockCacheLimit(GDAL_CACHE_BYTES)


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Set the GDAL options of this module in this thread; the options are as before when the context ends.

    Nested environments cost next to nothing: rasterio's own takes 0.1 ms, more than reading a cached window.
    """
    active = hasenv() and GDAL_OPTIONS.items() <= getenv().items()
    with contextlib.nullcontext() if active else rasterio.Env(**GDAL_OPTIONS), _BLOCK_CACHE:
        yield


@contextlib.contextmanager
def ignore_missing_georeference() -> Iterator[None]:
    """Silence rasterio's warning of a missing geotransform; :func:`checked_grid` refuses such a scene itself.

    Warning filters belong to the process, so this is used only while a scene is checked, by one thread at a time,
    and never by threads that read.
    """
    with ignored_warnings(NotGeoreferencedWarning):
        yield


class Scene:
    """A named raster with one rasterio handle per thread, because GDAL's handles are not thread-safe.

    Made of a path, URL, dataset or array by :func:`geosiam.imagery.open_scene.open_scene`.

    Parameters
    ----------
    path
        Path or URL that rasterio opens.
    name
        Name of the scene in messages and reports; None: its path.
    memory
        In-memory file behind the path, kept alive with the scene. Such a scene cannot be sent to another process.
    tiles
        Paths of the files that a virtual raster of tiles consists of.
    source
        Path or URL that was given; None: the same as the path. See :meth:`read_through`.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        memory: MemoryFile | None = None,
        tiles: tuple[str, ...] = (),
        source: str | None = None,
    ) -> None:
        self.path = path
        self.source = path if source is None else source
        self.tiles = tiles
        self.name = redacted(path if name is None else name)
        self.memory = memory
        self._local = threading.local()
        self._handles: list[DatasetReader] = []
        self._lock = threading.Lock()
        self._opened_before = False
        self._broken: SceneRefusedError | None = None

    def handle(self, view: str | None = None) -> DatasetReader:
        """Return this thread's handle of the scene, or of a virtual raster (``view``) made of the scene's bands."""
        if not hasattr(self._local, "datasets"):
            self._local.datasets = {}
        datasets: dict[str | None, DatasetReader] = self._local.datasets
        if view not in datasets:
            datasets[view] = self._open(view)
        return datasets[view]

    @property
    def remote(self) -> bool:
        """Whether the source is a URL or another name that cannot be looked up in the local file system."""
        return "://" in self.source or self.source.startswith(("/vsi", "<")) or ":" in self.source[2:]

    def read_through(self, view: str) -> None:
        """Read a virtual raster (XML) of all bands of the scene instead of the scene from now on."""
        self._close_handles()
        self.path = view

    def _open(self, view: str | None = None) -> DatasetReader:
        if not self.remote and not exists(self.source):
            raise SceneNotFoundError(self.name, "does not exist", "check the path")
        try:
            # A scene that has been opened before has a georeference, or it would have been refused.
            with contextlib.nullcontext() if self._opened_before else ignore_missing_georeference():
                dataset = rasterio.open(view or self.path)
            _ = colors_of(dataset), dataset.nodatavals  # some defects of a file show only here
        except RasterioError as error:
            raise _cannot_be_opened(self.name, error) from error
        except UnicodeEncodeError as error:
            shown = self.name.encode(errors="backslashreplace").decode()
            raise SceneRefusedError(shown, "has a name that is no UTF-8", "rename the file or its folder") from error
        with self._lock:
            self._opened_before = True
            self._handles.append(dataset)
        return dataset

    def check_parts(self, *, opening: bool = False) -> None:
        """Refuse a virtual raster or tile index if a file of it is missing or, with ``opening``, cannot be opened.

        GDAL reports such a file on the first access only, and reads it as zeros afterwards.

        Raises
        ------
        SceneRefusedError
            Names the file.
        """
        dataset = self.handle()
        for name in parts(dataset) if dataset.driver in ("VRT", TILE_INDEX) else []:
            if not (_can_be_opened(name) if opening else _can_be_looked_up(name)):
                fact = f"refers to {name}, which cannot be opened"
                self._broken = SceneRefusedError(self.name, fact, "restore that file or remove the reference")
                raise self._broken

    @contextlib.contextmanager
    def decoding(self, where: str) -> Iterator[None]:
        """Turn GDAL's decoding errors into one that names the scene and the place in it."""
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except DECODING_ERRORS as error:
            cause = error.__cause__ or error
            raise SceneUnreadableError(self.name, f"cannot be read at {where} ({cause})", _DECODING_REMEDY) from error

    def close(self) -> None:
        """Close the handles of all threads."""
        self._close_handles()
        if self.memory is not None:
            self.memory.close()

    def _close_handles(self) -> None:
        with self._lock:
            while self._handles:
                self._handles.pop().close()
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        if self.memory is not None:
            raise TypeError("a scene in this process's memory cannot be sent to another process")
        # The other process may have another working directory.
        path, source = (
            str(Path(name).absolute()) if not name.startswith("<") and exists(name) else name
            for name in (self.path, self.source)
        )
        tiles = tuple(str(Path(tile).absolute()) for tile in self.tiles)
        return {"path": path, "name": self.name, "tiles": tiles, "source": source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _cannot_be_opened(name: str, error: Exception) -> SceneUnreadableError | SceneNotFoundError:
    """Return the error for a scene that GDAL cannot open, with the remedy that fits what a server answered."""
    text = str(error)
    fact = f"cannot be opened ({text})"
    status = re.search(r"(?:HTTP|response)[^\d]{0,25}(?:code|error)?[^\d]{0,5}\b([45]\d\d)\b", text)
    code = int(status[1]) if status else 0
    if code in (404, 410):
        return SceneNotFoundError(name, f"does not exist (the server answers {code})", "check the address")
    if code in (400, 401, 403):
        return SceneUnreadableError(name, fact, "check the address, and the password or signature, which may be over")
    if code:
        return SceneUnreadableError(name, fact, "the server has a fault: try again later")
    if re.search(r"credentials|access denied|forbidden|options? not defined", text, re.IGNORECASE):
        return SceneUnreadableError(name, fact, "check the address, and the credentials in the environment")
    if re.search(r"resolve host|connect to|timed out|CURL error|SSL", text, re.IGNORECASE):
        return SceneUnreadableError(name, fact, "check the address and the connection to the server")
    return SceneUnreadableError(name, fact, "use a raster that GDAL reads")


def _can_be_looked_up(name: str) -> bool:
    """Return whether a local file exists; True for names of other data, which only opening them tells."""
    return name.startswith(("/vsi", "<")) or is_remote(name) or exists(name)


def _can_be_opened(name: str) -> bool:
    try:
        rasterio.open(name).close()
    except RasterioError:
        return False
    return True


def parts(dataset: DatasetReader) -> list[str]:
    """Return the names of what a raster is read from: the files that GDAL lists, and the tiles of a tile index."""
    names = [str(name) for name in dataset.files]
    return [*names, *_indexed_tiles(names[0])] if dataset.driver == TILE_INDEX and names else names


def _indexed_tiles(index: str) -> list[str]:
    """Return the tiles that a tile index names; none if it cannot be read, which GDAL then says itself."""
    import pyogrio  # noqa: PLC0415 - slow to import, and few scenes are tile indexes

    layer, column = None, "location"
    folder = Path(index).parent
    try:
        if index.lower().endswith(".gti"):
            settings = ET.parse(index)  # noqa: S314 - GDAL has parsed it already
            folder /= settings.findtext("IndexDataset", "")
            index, folder = str(folder), folder.parent
            layer, column = settings.findtext("IndexLayer"), settings.findtext("LocationField", column)
        with plain_path(index) as plain:
            column = (pyogrio.read_info(plain, layer=layer)["layer_metadata"] or {}).get("LOCATION_FIELD", column)
            table = pyogrio.read_dataframe(plain, layer=layer, columns=[column], read_geometry=False)
        names = [str(name) for name in table[column]]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError, ET.ParseError, KeyError):
        return []
    return [str(folder / name) if exists(folder / name) else name for name in names]


def checked_grid(scene: Scene) -> Grid:
    """Return the grid of a scene, or refuse a scene that cannot be compared with any other.

    Raises
    ------
    SceneRefusedError
        The scene has complex values, no bands, no coordinate reference system, no affine georeference, or one of its
        files is missing.
    """
    dataset = scene.handle()
    scene.check_parts()
    name = scene.name
    if not dataset.count:
        remedy = f"name a subdataset, such as {dataset.subdatasets[0]}" if dataset.subdatasets else "name a raster"
        raise SceneRefusedError(name, "holds no bands", remedy)
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
        raise SceneRefusedError(name, f"has an invalid georeference ({error})", "export it again") from error


def _refuse_large_blocks(name: str, dataset: DatasetReader) -> None:
    """Refuse a file whose smallest decodable part does not fit into memory."""
    rows, cols = dataset.block_shapes[0]
    bands = dataset.count if dataset.profile.get("interleave") == "pixel" else 1
    size = rows * cols * bands * np.dtype(dataset.dtypes[0]).itemsize
    if size > _MAX_BLOCK_BYTES:
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
