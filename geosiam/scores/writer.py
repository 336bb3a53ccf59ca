"""Write a score raster: resumable while blocks are written, a cloud optimized GeoTIFF (COG) in the end."""

from __future__ import annotations

import contextlib
import glob
import logging
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from rasterio.errors import RasterioError, RasterioIOError

from geosiam.errors import OptionError, OutputError
from geosiam.files import atomic_write_files, check_writable, companions, locked, replace_durably
from geosiam.qml import raster_qml
from geosiam.runtime import release_freed_memory
from geosiam.scores.working_file import (
    CACHE_CELLS,
    TILE,
    UNKNOWN,
    Journal,
    ScoreType,
    StoredEstimates,
    WorkingRaster,
    cache_bytes,
    hidden_file,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Grid, Lattice, Window

FLUSH_SECONDS = 2.0
"""Longest time between two saves of the journal in seconds: an interrupted run loses no more than this."""

_COG: dict[str, str | int] = {
    "compress": "DEFLATE",  # read by every GIS; ZSTD is not
    "level": 5,  # the default level takes twice as long and saves 4 % of the size
    "blocksize": TILE,
    "overview_resampling": "average",
    "bigtiff": "IF_SAFER",
}
_NOT_AS_WRITTEN = "the finished raster does not read back as it was written"
_DISK_REMEDY = "check the folder's permissions and the free disk space"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PendingScoreRaster:
    """A score raster whose COG is being made in a thread, while its scores can be read already.

    Parameters
    ----------
    path
        A raster of the same scores and tags, readable until the writer's context ends.
    completed
        Future of the thread that makes the COG.
    """

    path: Path
    completed: Future[None] = field(repr=False)

    def wait(self) -> None:
        """Return when the COG has its final name.

        Raises
        ------
        OutputError
            It cannot be made.
        """
        self.completed.result()


class ScoreRasterWriter:
    """Write a score raster block by block; it appears under its name when complete, or not at all.

    A QGIS style of the same stem is put beside it unless there is one. With a lattice the run is resumable: if it is
    interrupted, hidden files beside the target hold the finished blocks, and the next writer of the same identity
    resumes. The writer is a context manager; leaving it completes the raster, unless an error is raised.

    Parameters
    ----------
    path
        Path of the GeoTIFF. An existing one is replaced on success only.
    grid
        Grid of cells.
    dtype
        ``uint8`` or ``float32``.
    tags
        Provenance, written as dataset tags; names start with ``GEOSIAM_``. Areas can be given in pixels later if
        :data:`~geosiam.scores.raster.STRIDE_TAG` is among them.
    lattice
        Blocks that will be written; None: an interrupted run cannot be resumed.
    identity
        Digests of everything that the scores depend on, by a name that fits into "started with another NAME".
    restart
        Whether to discard what an interrupted run left.
    estimates
        Estimates that the scores depend on, kept for a run that resumes; None: there are none.
    workers
        Number of threads that compress the COG; None: one for each processor.

    Raises
    ------
    OptionError
        `dtype` is not supported.
    OutputError
        The folder is missing, not writable or full; another process writes the same raster; or there is an interrupted
        run of another identity.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        grid: Grid,
        *,
        dtype: ScoreType = "uint8",
        tags: Mapping[str, str],
        lattice: Lattice | None = None,
        identity: Mapping[str, str] | None = None,
        restart: bool = False,
        estimates: StoredEstimates | None = None,
        workers: int | None = None,
    ) -> None:
        if dtype not in ("uint8", "float32"):
            raise OptionError(f"`score_type={dtype}`", "is not supported", "use uint8 or float32")
        self.path = Path(path)
        self._grid = grid
        self._dtype: ScoreType = dtype
        self._tags = dict(tags)
        self._identity = {"grid or type of the scores": f"{grid.shape} {dtype}", **(identity or {})}
        self._blocks = 0 if lattice is None else len(lattice)
        self._restart = restart or lattice is None
        self._estimates = estimates if self._blocks else None
        self._lock_path = self._hidden("lock")
        self._working_path = self._hidden("tif")
        self._threads = "ALL_CPUS" if workers is None else str(workers)
        self._context = contextlib.ExitStack()
        self._pending: PendingScoreRaster | None = None
        self._saved = 0.0

    def _hidden(self, suffix: str) -> Path:
        """Return the path of a file beside the target that exists during a run only."""
        return hidden_file(self.path, suffix)

    def __enter__(self) -> Self:
        check_writable(self.path)
        with contextlib.ExitStack() as context:
            with self._disk_errors():
                context.enter_context(locked(self._lock_path, self.path))
            try:
                with self._disk_errors():
                    self._journal = self._resume() or self._begin()
            except BaseException:
                if not self._hidden("json").exists():
                    self._clean_up()
                raise
            self._context = context.pop_all()
        self._saved = time.monotonic()
        return self

    def _resume(self) -> Journal | None:
        """Open the working raster of an interrupted run and return its journal; None if there is no such run."""
        if self._restart:
            return None
        try:
            journal = Journal.load(self._hidden("json"))
        except ValueError as error:
            raise self._refusal("was started by another version of geosiam") from error
        if journal is None:
            return None
        if len(journal.finished) != self._blocks:
            raise self._refusal("has a damaged journal")
        if journal.identity.keys() != self._identity.keys():
            raise self._refusal("was started by another version of geosiam")
        if differing := journal.differing(self._identity):
            raise self._refusal(f"was started with another {', another '.join(differing)}")
        if unknown := [name for name, digest in self._identity.items() if digest == UNKNOWN]:
            _log.warning(
                "%s: starting again, because nothing tells whether the %s has changed since the interrupted run",
                self.path,
                " or the ".join(unknown),
            )
            return None
        if self._estimates is not None:
            self._estimates.save()
        try:
            self._working = WorkingRaster(self._working_path, self._grid, self._dtype)
        except (OSError, RasterioError) as error:
            raise self._refusal(f"cannot be resumed ({error})") from error
        _log.warning("%s: resuming an interrupted run, %s", self.path, _progress(journal))
        return journal

    def _refusal(self, fact: str) -> OutputError:
        remedy = "start from scratch with `restart=True`, or choose another output"
        return OutputError(self.path, f"an interrupted run for this output {fact}", remedy)

    def _begin(self) -> Journal:
        self._clean_up()
        if self._estimates is not None:
            self._estimates.save()
        self._working = WorkingRaster.create(self._working_path, self._grid, self._dtype)
        journal = Journal(self._hidden("json"), self._identity, np.zeros(self._blocks, bool))
        if self._blocks:
            self._working.sync()
            journal.save()
        return journal

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Blocks that need no scoring any more: bool (blocks,)."""
        return self._journal.finished.copy()

    def write(self, block: Block, scores: NDArray[np.float32]) -> None:
        """Write one block of cells.

        Parameters
        ----------
        block
            A block of the lattice, or any cells inside the grid if there is none.
        scores
            float32 of the block's shape in [0, 1], NaN = not scored.

        Raises
        ------
        OutputError
            The disk is full or gone.
        """
        if scores.shape != block.cells.shape:
            raise ValueError(f"scores of shape {scores.shape} do not fill a block of shape {block.cells.shape}")
        with self._disk_errors():
            self._working.write(block.cells, scores)
            if self._blocks:
                self._journal.finished[block.index] = True
                if time.monotonic() - self._saved >= FLUSH_SECONDS:
                    self._save()

    def _save(self) -> None:
        self._working.sync()  # first the scores, then the journal that lists them
        self._journal.save()
        self._saved = time.monotonic()

    def finish(self, tags: Mapping[str, str] | None = None) -> PendingScoreRaster:
        """Start to make the COG in a thread, and return a raster of the scores that can be read at once.

        Blocks that were never written are nodata. Leaving the writer's context waits for the COG; until then everything
        needed to resume is kept, so an interruption of what the caller makes of the scores costs no score.

        Parameters
        ----------
        tags
            More tags.

        Raises
        ------
        OutputError
            The disk is full or gone.
        """
        with self._disk_errors():
            if self._blocks:
                self._save()
            self._working.close()
            described = self._describe({**self._tags, **(tags or {})})
        height, width = self._grid.shape
        if height * width > CACHE_CELLS:  # compressing takes memory of another kind than scoring
            self._context.enter_context(release_freed_memory())
        self._context.enter_context(rasterio.Env(GDAL_CACHEMAX=cache_bytes(self._dtype, width)))
        thread = self._context.enter_context(ThreadPoolExecutor(1, "geosiam-raster"))
        self._pending = PendingScoreRaster(described, thread.submit(self._make_cog, described))
        return self._pending

    def _describe(self, tags: Mapping[str, str]) -> Path:
        """Make a VRT of the working raster with tags: changing its own header could spoil it for a resume."""
        path = self._hidden("vrt")
        _copy_raster(self._working_path, path, driver="VRT")
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**tags)
            dataset.crs = self._grid.crs  # a GeoTIFF has some in a sidecar file, which a resumed run does not find
        return path

    def _make_cog(self, described: Path) -> None:
        with self._disk_errors():
            cog, style = self._hidden("cog.tif"), self.path.with_suffix(".qml")
            self._to_cog(described, cog)
            for companion in companions(self.path):  # overviews and statistics of the raster that is replaced
                companion.unlink(missing_ok=True)
            sidecar = cog.with_name(f"{cog.name}.aux.xml")
            if sidecar.exists():  # with a coordinate system that a GeoTIFF cannot say
                replace_durably(sidecar, self.path.with_name(f"{self.path.name}.aux.xml"))
            replace_durably(cog, self.path)
            if not style.exists():
                self._hidden("qml").write_text(raster_qml(), encoding="utf-8")
                self._hidden("qml").replace(style)

    def _to_cog(self, described: Path, target: Path) -> None:
        """Copy the working raster into a cloud optimized GeoTIFF."""
        _copy_raster(
            described,
            target,
            driver="COG",
            predictor="YES" if self._dtype == "float32" else "NO",
            num_threads=self._threads,
            **_COG,
        )
        # GDAL does not report a disk that is full when it closes the copy.
        with rasterio.open(self._working_path) as working, rasterio.open(target) as cog:
            for _, window in working.block_windows(1):
                if not np.array_equal(*(raster.read(1, window=window).view(np.uint8) for raster in (working, cog))):
                    raise OSError(_NOT_AS_WRITTEN)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._context:  # waits for the COG's thread, then unlocks
            complete = False
            try:
                if kind is None:
                    (self._pending or self.finish()).wait()
                    complete = True
                elif self._pending:
                    wait([self._pending.completed])
            finally:
                self._close(resumable=not complete and bool(self._journal.finished.any()))

    def _close(self, *, resumable: bool) -> None:
        """Close everything; keep what the next run needs to resume, or nothing."""
        if resumable:
            with contextlib.suppress(OSError, ValueError):  # a full disk; a closed file, of which all is saved
                self._save()
            estimates = [] if self._estimates is None else [self._estimates.path]
            self._clean_up(self._working_path, self._journal.path, *estimates)
            _log.warning("%s: %s and kept; the same command resumes the run", self.path, _progress(self._journal))
        self._working.close()
        if not resumable:
            self._clean_up()

    def _clean_up(self, *keep: Path) -> None:
        """Remove the files of an unfinished run, the journal first: without it the others mean nothing."""
        leftovers = set(self.path.parent.glob(f"{glob.escape(self._hidden('').name)}*")) - {self._lock_path, *keep}
        for leftover in sorted(leftovers, key=lambda path: path.suffix != ".json"):
            leftover.unlink(missing_ok=True)

    def _disk_errors(self) -> contextlib.AbstractContextManager[None]:
        return _as_output_error(self.path)


def write_bands(
    path: str | os.PathLike[str],
    grid: Grid,
    bands: Mapping[str, str],
    blocks: Iterable[tuple[Window, NDArray[np.float32]]],
    *,
    tags: Mapping[str, str],
    workers: int | None = None,
) -> None:
    """Write a raster of named bands as a COG, which appears under its name when complete, or not at all.

    Parameters
    ----------
    path
        Path of the GeoTIFF. An existing one is replaced on success only.
    grid
        Grid of the pixels.
    bands
        Names of the bands, which become descriptions, and their units of measurement.
    blocks
        Windows that cover the grid, and their values: float32 (bands, rows, cols), NaN = nodata.
    tags
        Tags of the dataset.
    workers
        Number of threads that compress; None: one for each processor.

    Raises
    ------
    OutputError
        The folder is missing, not writable or full.
    """
    check_writable(path)
    size = {"width": grid.width, "height": grid.height, "count": len(bands), "dtype": "float32", "nodata": np.nan}
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "bigtiff": "IF_SAFER"}
    with _as_output_error(path), atomic_write_files(path, durable=True) as cog:
        working = cog.with_name("working.tif")
        with rasterio.open(
            working, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, **size, **tiles
        ) as out:
            for window, values in blocks:
                out.write(values, window=rasterio.windows.Window.from_slices(*window.slices))
            out.descriptions, out.units = tuple(bands), tuple(bands.values())
            out.update_tags(**tags)
        threads = "ALL_CPUS" if workers is None else str(workers)
        _copy_raster(working, cog, driver="COG", predictor="YES", num_threads=threads, **_COG)
        with rasterio.open(working) as made, rasterio.open(cog) as written:
            for _, window in made.block_windows(1):  # GDAL does not report a disk that is full when it closes the copy
                if not np.array_equal(made.read(window=window), written.read(window=window), equal_nan=True):
                    raise OSError(_NOT_AS_WRITTEN)
        for part in (working, working.with_name(f"{working.name}.aux.xml")):
            part.unlink(missing_ok=True)
        for companion in companions(Path(path)):  # overviews and statistics of the raster that is replaced
            companion.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_output_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of GDAL and of the system into one line."""
    try:
        yield
    except OutputError:
        raise
    except (RasterioError, OSError) as error:
        reason = error.__cause__ or error  # rasterio's own message often just refers to GDAL's
        fact = f"cannot be written ({reason})"
        raise OutputError(path, fact, _DISK_REMEDY) from error


def _copy_raster(source: str | Path, target: Path, **options: str | int) -> None:
    """Copy a raster with GDAL.

    Raises
    ------
    RasterioIOError
        It cannot be copied.
    """
    try:
        rasterio.shutil.copy(source, target, **options)
    except RasterioError:
        raise
    except Exception as error:  # rasterio lets GDAL's own errors through here, whose classes are private
        raise RasterioIOError(str(error)) from error


def _progress(journal: Journal) -> str:
    return f"{journal.finished.sum()} of {journal.finished.size} blocks are scored"
