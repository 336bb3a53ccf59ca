"""Writing the score raster: resumable while a run is under way, a cloud optimized GeoTIFF when it is done."""

from __future__ import annotations

import contextlib
import glob
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from geosiam.errors import OptionError, OutputError
from geosiam.files import FileLock, check_writable, replace_durably
from geosiam.qml import raster_qml
from geosiam.scores.working_file import (
    CACHE_CELLS,
    TILE,
    Journal,
    ScoreType,
    WorkingRaster,
    cache_bytes,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Grid, Lattice

FLUSH_SECONDS = 2.0
"""Longest time between two moments to which an interrupted run goes back."""

_ON_DISK = "check the folder's permissions and the free disk space"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completion:
    """A score raster that is being completed.

    Parameters
    ----------
    path
        A raster of the same scores and tags, there until the writer is left.
    wait
        Returns when the raster has appeared, or raises why it cannot.
    """

    path: Path
    wait: Callable[[], None]


class ScoreRasterWriter:
    """Write a score raster block by block; it appears under its name when complete, or not at all.

    A QGIS style of the same stem is put beside it unless there is one. With a lattice the run is resumable: if it is
    interrupted, hidden files beside the target keep what is done, and the next writer of the same identity goes on.

    Parameters
    ----------
    path
        The GeoTIFF to make. An existing one is replaced on success only.
    grid
        The grid of cells.
    dtype
        ``uint8`` or ``float32``.
    tags
        Provenance, written as dataset tags; names start with ``GEOSIAM_``.
        :data:`~geosiam.scores.raster.STRIDE_TAG` lets areas be given in pixels later.
    lattice
        The blocks that will be written; None: an interrupted run leaves nothing.
    identity
        What the scores depend on: a digest by its name, as in "begun with another NAME".
    restart
        Forget what an interrupted run left.
    workers
        Number of threads that compress the finished raster; None: as many as there are processors.

    Raises
    ------
    OptionError
        Another dtype.
    OutputError
        The folder is missing, not writable or full; another process writes the same raster; or an interrupted run of
        another identity was left.
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
        workers: int | None = None,
    ) -> None:
        if dtype not in ("uint8", "float32"):
            raise OptionError("score dtype", f"is {dtype!r}", "use uint8 or float32")
        self.path = Path(path)
        self._grid = grid
        self._dtype: ScoreType = dtype
        self._tags = dict(tags)
        self._identity = {"grid or type of the scores": f"{grid.shape} {dtype}", **(identity or {})}
        self._blocks = 0 if lattice is None else len(lattice)
        self._restart = restart or lattice is None
        self._lock = FileLock(self._hidden("lock"))
        self._partial = self._hidden("tif")
        self._threads = "ALL_CPUS" if workers is None else str(workers)
        self._complete = False
        self._saved = 0.0

    def _hidden(self, suffix: str) -> Path:
        """Return the path of a file beside the target that a run needs while it goes on."""
        return self.path.with_name(f".{self.path.name}.partial.{suffix}")

    def __enter__(self) -> Self:
        check_writable(self.path)
        with self._reported():
            if not self._lock.acquire():
                raise OutputError(self.path, "is being written by another run", "wait for it or choose another output")
        try:
            with self._reported():
                self._journal = self._resumed() or self._begun()
        except BaseException:
            if not self._hidden("json").exists():
                self._clean_up()
            self._lock.release()
            raise
        self._saved = time.monotonic()
        return self

    def _resumed(self) -> Journal | None:
        """Return the journal of an interrupted run, with its working raster open; None if there is none."""
        if self._restart:
            return None
        try:
            journal = Journal.load(self._hidden("json"))
        except ValueError as error:
            raise self._refusal("was left by another version of geosiam") from error
        if journal is None:
            return None
        if differing := journal.differing(self._identity):
            raise self._refusal(f"was begun with another {', another '.join(differing)}")
        try:
            self._working = WorkingRaster(self._partial, self._grid, self._dtype)
        except (OSError, RasterioError) as error:
            raise self._refusal(f"cannot be continued ({error})") from error
        _log.warning("%s: going on where a run was interrupted, %s", self.path, _progress(journal))
        return journal

    def _refusal(self, fact: str) -> OutputError:
        return OutputError(
            self.path, f"an interrupted run of it {fact}", "begin again with --restart, or choose another output"
        )

    def _begun(self) -> Journal:
        self._clean_up()
        self._working = WorkingRaster.create(self._partial, self._grid, self._dtype)
        journal = Journal(self._hidden("json"), self._identity, np.zeros(self._blocks, bool))
        if self._blocks:
            self._working.sync()
            journal.save()
        return journal

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which blocks need no scoring any more: bool (blocks,)."""
        return self._journal.done.copy()

    @property
    def outgrows_cache(self) -> bool:
        """Whether the raster is larger than what GDAL keeps of it."""
        height, width = self._grid.shape
        return height * width > CACHE_CELLS

    def write(self, block: Block, scores: NDArray[np.float32]) -> None:
        """Write one block of cells.

        Parameters
        ----------
        block
            Its cells lie inside the grid; its index is that on the lattice.
        scores
            float32 of the block's shape in [0, 1], NaN = not scored.

        Raises
        ------
        OutputError
            The disk is full or gone.
        """
        if scores.shape != block.cells.shape:
            raise ValueError(f"scores of shape {scores.shape} do not fill a block of shape {block.cells.shape}")
        with self._reported():
            self._working.write(block.cells, scores)
            if self._blocks:
                self._journal.done[block.index] = True
                if time.monotonic() - self._saved >= FLUSH_SECONDS:
                    self._save()

    def _save(self) -> None:
        self._working.sync()  # first the scores, then the word that they are there
        self._journal.save()
        self._saved = time.monotonic()

    def complete(self, tags: Mapping[str, str] | None = None) -> None:
        """Make the raster appear under its name; blocks that were never written are nodata.

        Leaving the context does it too. Until then what the run would need to go on is kept, so that whatever is made
        of the raster inside the context can be interrupted as well.

        Parameters
        ----------
        tags
            More tags, known only now.
        """
        with self.completing(tags):
            pass

    @contextlib.contextmanager
    def completing(self, tags: Mapping[str, str] | None = None) -> Iterator[Completion]:
        """Do what :meth:`complete` does in a thread, while the caller already reads the scores."""
        with self._reported():
            if self._blocks:
                self._save()
            self._working.close()
            tagged = self._tagged({**self._tags, **(tags or {})})
        cache = cache_bytes(self._dtype, self._grid.width)
        with rasterio.Env(GDAL_CACHEMAX=cache), ThreadPoolExecutor(1, "geosiam-raster") as thread:
            completed = thread.submit(self._appear, tagged)
            yield Completion(tagged, completed.result)
            completed.result()

    def _tagged(self, tags: Mapping[str, str]) -> Path:
        """Describe the working raster, with tags: changing its own header could spoil it for a resume."""
        tagged = self._hidden("vrt")
        rasterio.shutil.copy(self._partial, tagged, driver="VRT")
        with rasterio.open(tagged, "r+") as dataset:
            dataset.update_tags(**tags)
        return tagged

    def _appear(self, tagged: Path) -> None:
        with self._reported():
            made, style = self._hidden("cog.tif"), self.path.with_suffix(".qml")
            self._to_cog(tagged, made)
            replace_durably(made, self.path)
            if not style.exists():
                self._hidden("qml").write_text(raster_qml(), encoding="utf-8")
                self._hidden("qml").replace(style)
        self._complete = True

    def _to_cog(self, tagged: Path, target: Path) -> None:
        """Copy the working raster into a cloud optimized GeoTIFF."""
        rasterio.shutil.copy(
            tagged,
            target,
            driver="COG",
            compress="DEFLATE",  # read by every GIS; ZSTD is not
            level=5,  # by default it takes twice as long, for 4 % of the size
            predictor="YES" if self._dtype == "float32" else "NO",
            blocksize=TILE,
            overview_resampling="average",
            num_threads=self._threads,
            bigtiff="IF_SAFER",
        )
        # GDAL says nothing when the disk fills up while it closes the copy.
        with rasterio.open(self._partial) as made, rasterio.open(target) as copied:
            for _, window in made.block_windows(1):
                if not np.array_equal(*(raster.read(1, window=window).view(np.uint8) for raster in (made, copied))):
                    raise OSError("the finished raster does not read back as it was written")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = False
        try:
            if kind is None and not self._complete:
                self.complete()
            done = kind is None
        finally:
            self._leave(resumable=not done and bool(self._journal.done.any()))

    def _leave(self, *, resumable: bool) -> None:
        """Close everything; keep what the next run needs to go on, or nothing."""
        try:
            if resumable:
                with contextlib.suppress(OSError, ValueError):  # a full disk; a closed file, of which all is saved
                    self._save()
                self._clean_up(self._partial, self._journal.path)
                _log.warning("%s: %s and kept; the same command goes on", self.path, _progress(self._journal))
            self._working.close()
            if not resumable:
                self._clean_up()
        finally:
            self._lock.release()

    def _clean_up(self, *kept: Path) -> None:
        """Remove the files of an unfinished run, the journal first: without it the others mean nothing."""
        leftovers = set(self.path.parent.glob(f"{glob.escape(self._hidden('').name)}*")) - {self._lock.path, *kept}
        for leftover in sorted(leftovers, key=lambda path: path.suffix != ".json"):
            leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what GDAL and the system say about the disk into one line."""
        try:
            yield
        except OutputError:
            raise
        except (RasterioError, CPLE_BaseError, OSError) as error:
            fact = f"cannot be written ({error.__cause__ or error})"  # rasterio's own words often just point to GDAL's
            raise OutputError(self.path, fact, _ON_DISK) from error


def _progress(journal: Journal) -> str:
    return f"{journal.done.sum()} of {journal.done.size} blocks are scored"
