"""Score blocks with the network: a block as an array, a task for the executors, a whole scene as a lazy dask array."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias
from uuid import uuid4

import numpy as np

from geosiam.errors import OptionError, SceneUnreadableError
from geosiam.imagery.grid import Halo, Lattice, centers
from geosiam.imagery.normalization import unchanged_transform
from geosiam.imagery.pair import StoredBlock
from geosiam.network.weights import ModelFile, is_onnx, load_model, read_weights

if TYPE_CHECKING:
    import dask.array as da
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Grid, Window
    from geosiam.inference.onnx_engine import OnnxEngine
    from geosiam.inference.torch_engine import TorchEngine
    from geosiam.inference.zonal_stats import CellStatistics, ZonalStatistics
    from geosiam.network.architecture import NetworkConfig
    from geosiam.network.weights import Model

    Engine: TypeAlias = TorchEngine | OnnxEngine
    FileStamp: TypeAlias = "tuple[int, ...] | None"

_log = logging.getLogger(__name__)

BLOCK_PX = 1024
"""Side of a full block in pixels: large enough that the halo costs 5 %, small enough for the processor's cache."""

FORWARD_PX = 512
"""Side of the part of a block that one forward pass covers, in pixels: its layers stay in a core's own cache."""

_MAX_CACHED_SCORERS = 2


class Pair(Protocol):
    """Interface of a pair of scenes for scoring: :class:`geosiam.imagery.pair.ScenePair`, or arrays in tests."""

    @property
    def grid(self) -> Grid:
        """Grid of the before scene."""
        ...

    @property
    def overlap(self) -> Window:
        """Window outside of which no pixel is valid."""
        ...

    @property
    def columns_at_once(self) -> int | None:
        """Largest width in pixels of a row of blocks for which no tile is decoded twice; None: any width."""
        ...

    def stored(self, window: Window) -> StoredBlock:
        """Read both scenes, aligned, in their own values."""
        ...


@dataclass(frozen=True)
class BlockResult:
    """The result of a block: its scores, or the error of a scene that could not be read there.

    Parameters
    ----------
    block
        The block of cells.
    outcome
        float32 of the block's shape, NaN = not scored; or the error.
    cell_statistics
        Zonal statistics of the block's pixels; None if there are none, or they were not requested.
    """

    block: Block
    outcome: NDArray[np.float32] | SceneUnreadableError
    cell_statistics: CellStatistics | None = None

    @property
    def error(self) -> SceneUnreadableError | None:
        """The error; None if the block was scored."""
        return self.outcome if isinstance(self.outcome, SceneUnreadableError) else None

    @property
    def scores(self) -> NDArray[np.float32]:
        """The scores, NaN = not scored; without scores the error is raised."""
        if isinstance(self.outcome, SceneUnreadableError):
            raise self.outcome
        return self.outcome


@dataclass(frozen=True)
class Scorer:
    """A network ready to score blocks.

    Parameters
    ----------
    engine
        Computes the scores of an image that it is given as a block of both scenes.
    """

    engine: Engine

    @classmethod
    def of_model(
        cls, model: Model, *, device: str = "auto", precision: str = "auto", elsewhere: bool = False
    ) -> Scorer:
        """Prepare a model for PyTorch.

        Parameters
        ----------
        model, device, precision
            See :meth:`geosiam.inference.torch_engine.TorchEngine.of_model`.
        elsewhere
            The device is that of another machine, which calls :meth:`to_device`.

        Raises
        ------
        OptionError
            Device or precision cannot be used.
        """
        from geosiam.inference.torch_engine import TorchEngine  # noqa: PLC0415 - brings PyTorch, as the model has done

        engine = TorchEngine.of_model(model, device=device, precision=precision, elsewhere=elsewhere)
        return cls(engine) if elsewhere else cls(engine).to_device()

    def to_device(self) -> Scorer:
        """Return the scorer with its network on its device, which this machine must have.

        Raises
        ------
        OptionError
            This machine does not have the device or the precision.
        """
        side = self._aligned_cells(BLOCK_PX) * self.stride + self.config.receptive_field.size - self.stride
        return replace(self, engine=self.engine.to_device(max(side, BLOCK_PX)))

    def close(self) -> None:
        """End the threads of the engine, if there are any; the scorer cannot be used any more then."""
        self.engine.close()

    @property
    def config(self) -> NetworkConfig:
        """Architecture of the network."""
        return self.engine.config

    @property
    def blocks_waiting(self) -> int:
        """Number of blocks that may wait for a device while others are read."""
        return self.engine.blocks_waiting

    @property
    def stride(self) -> int:
        """Pixels along a side of an output cell."""
        return self.config.receptive_field.stride

    def lattice(self, grid: Grid) -> Lattice:
        """Return the canonical blocks of a scene: they depend on the scene and the strides of the network only."""
        cells = grid.coarsened(self.stride)
        side = self._aligned_cells(BLOCK_PX)
        return Lattice(cells.height, cells.width, side, side)

    def score_block(self, pair: Pair, block: Block, statistics: ZonalStatistics | None = None) -> BlockResult:
        """Score one block, NaN where the cell's center is not valid, and compute zonal statistics of its pixels.

        Raises
        ------
        SceneUnreadableError
            A scene cannot be read there.
        """
        empty = np.full(block.cells.shape, np.nan, np.float32)
        if not self._overlaps(pair, block):
            return BlockResult(block, empty)
        window = block.pixels(self.stride, self.config.halo)
        pixels = pair.stored(window)
        height, width = pair.grid.shape
        rows, cols = block.cells.slices
        center_rows = centers(rows, self.stride, height) - window.row_start
        center_cols = centers(cols, self.stride, width) - window.col_start
        valid = pixels.valid[np.ix_(center_rows, center_cols)]
        if not valid.any():
            return BlockResult(block, empty)
        scores = np.where(valid, self._probabilities(pixels, valid), np.float32(np.nan))
        cell_statistics = None if statistics is None else statistics.of_block(block, window, pixels, scores)
        return BlockResult(block, scores, cell_statistics)

    def probabilities(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return 1 - P(similar) for two images.

        Parameters
        ----------
        before, after
            float32 (channels, h, w) in [0, 1], with the channels of the network.

        Returns
        -------
        float32 (rows, cols), the cells of a valid convolution
        """
        field = self.config.receptive_field
        cells = field.cells(before.shape[1]), field.cells(before.shape[2])
        unchanged = unchanged_transform(before.shape[0])
        pixels = StoredBlock(before, after, np.ones(before.shape[1:], bool), (unchanged, unchanged))
        return self._probabilities(pixels, np.ones(cells, bool))

    def _probabilities(self, pixels: StoredBlock, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Score the parts of a block that hold a valid cell; other cells get NaN or a meaningless score."""
        field = self.config.receptive_field
        side = max(valid.shape) if self.engine.takes_blocks else self._aligned_cells(FORWARD_PX)
        scores = np.full(valid.shape, np.nan, np.float32)
        for part in Lattice(valid.shape[0], valid.shape[1], side, side):
            if valid[part.cells.slices].any():
                window = part.pixels(self.stride, Halo(0, field.size - self.stride))
                scores[part.cells.slices] = self.engine(pixels, *window.slices)
        return scores

    def _aligned_cells(self, pixels: int) -> int:
        """Return the cells along at most so many pixels, so that each part of them begins where features do."""
        alignment = self.config.alignment
        return max(1, pixels // alignment) * (alignment // self.stride)

    def _overlaps(self, pair: Pair, block: Block) -> bool:
        """Return whether a block overlaps the window outside of which no pixel is valid."""
        c, o, s = block.cells, pair.overlap, self.stride
        return (
            c.row_stop * s > o.row_start
            and c.row_start * s < o.row_stop
            and c.col_stop * s > o.col_start
            and c.col_start * s < o.col_stop
        )


@dataclass(frozen=True)
class BlockTask:
    """The function that is run on every block, on threads or on a cluster.

    Parameters
    ----------
    pair
        Scenes to score.
    scorer
        Network to score them with.
    zonal_statistics
        Computes zonal statistics of each block's pixels; None: none are computed.
    """

    pair: Pair
    scorer: Scorer
    zonal_statistics: ZonalStatistics | None = None

    def __call__(self, block: Block, *, with_statistics: bool = True) -> BlockResult:
        """Score a block, with its zonal statistics unless a full store makes them useless."""
        statistics = self.zonal_statistics if with_statistics else None
        try:
            return self.scorer.score_block(self.pair, block, statistics)
        except SceneUnreadableError as error:
            return BlockResult(block, error)


def lazy_scores(pair: Pair, scorer: Scorer) -> da.Array:
    """Return the scores of a whole scene as a lazy dask array, one chunk a block: float32, NaN = not scored."""
    import dask.array as da  # noqa: PLC0415 - slow to import, and `detect` does without

    lattice = scorer.lattice(pair.grid)

    def score_chunk(block_id: tuple[int, int]) -> NDArray[np.float32]:
        block = lattice[block_id[0] * lattice.shape[1] + block_id[1]]
        return scorer.score_block(pair, block).scores

    scores: da.Array = da.map_blocks(  # type: ignore[no-untyped-call]
        score_chunk,
        chunks=lattice.chunks,
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
        name=f"geosiam-scores-{uuid4().hex}",  # a name of its own spares dask from hashing the network
    )
    return scores


def load_scorer(
    name: str, *, engine: str = "auto", device: str = "auto", precision: str = "auto", elsewhere: bool = False
) -> tuple[ModelFile, Scorer]:
    """Load weights and prepare a scorer.

    On this machine's processor both are cached while the weights file stays the same: in a batch of small pairs,
    loading would take as long as scoring.

    Parameters
    ----------
    name
        Model name or path, as in :func:`~geosiam.network.weights.load_model`, or path of an ONNX model.
    engine
        What computes: see :func:`choose_engine`.
    device, precision, elsewhere
        See :meth:`Scorer.of_model`.

    Raises
    ------
    WeightsError
        The weights cannot be loaded.
    OptionError
        Engine, device or precision cannot be used.
    """
    if choose_engine(engine, name) == "onnx":
        return _cached_onnx_scorer(name, _file_stamp(name), device, precision)
    from geosiam.inference.torch_engine import choose_device  # noqa: PLC0415 - brings PyTorch

    if elsewhere or choose_device(device).type == "cuda":
        return _torch_scorer(name, device, precision, elsewhere=elsewhere)
    return _cached_torch_scorer(name, _file_stamp(name), device, precision)


def choose_engine(engine: str, model: str) -> str:
    """Return what computes with a model: ``torch`` or ``onnx``.

    ``auto`` is onnxruntime for an ONNX model and where PyTorch is not installed, else PyTorch.

    Raises
    ------
    OptionError
        The engine is not installed, or cannot use the model.
    """
    exported, has_torch = is_onnx(model), find_spec("torch") is not None
    if engine == "torch":
        if exported:
            raise OptionError("`engine=torch`", f"cannot compute with the ONNX model {model}", "use `engine=onnx`")
        if not has_torch:
            raise OptionError("`engine=torch`", "needs PyTorch, which is not installed", "use `engine=onnx`")
        return engine
    if engine == "onnx" or exported:
        return "onnx"
    if has_torch:
        return "torch"
    if find_spec("onnxruntime") is None:
        remedy = "pip install torch, or pip install 'geosiam[onnx]'"
        raise OptionError("`engine=auto`", "needs PyTorch or onnxruntime, and neither is installed", remedy)
    _say_once("PyTorch is not installed: onnxruntime computes, as with `engine=onnx`")
    return "onnx"


def engine_version(engine: str, model: str) -> str:
    """Return the version of what :func:`choose_engine` chooses: that of PyTorch, or "onnxruntime" with its own."""
    if choose_engine(engine, model) == "torch":
        return metadata.version("torch")
    return f"onnxruntime {metadata.version('onnxruntime')}"


@lru_cache
def _say_once(message: str) -> None:
    _log.warning(message)


def model_file(name: str) -> ModelFile:
    """Return the card of weights or of an ONNX model, by name or path.

    Raises
    ------
    WeightsError
        The file cannot be read.
    """
    if is_onnx(name):
        return _cached_onnx_scorer(name, _file_stamp(name), "auto", "auto")[0]
    weights = read_weights(name)
    return ModelFile(weights.card, weights.source)


def _file_stamp(name: str) -> FileStamp:
    """Return numbers that change when a weights file is written again; None for bundled weights."""
    with contextlib.suppress(OSError):
        status = Path(name).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def _torch_scorer(name: str, device: str, precision: str, *, elsewhere: bool = False) -> tuple[ModelFile, Scorer]:
    model = load_model(name)
    scorer = Scorer.of_model(model, device=device, precision=precision, elsewhere=elsewhere)
    return ModelFile(model.card, model.source), scorer


@lru_cache(maxsize=_MAX_CACHED_SCORERS)
def _cached_torch_scorer(name: str, _stamp: FileStamp, device: str, precision: str) -> tuple[ModelFile, Scorer]:
    return _torch_scorer(name, device, precision)


@lru_cache(maxsize=_MAX_CACHED_SCORERS)
def _cached_onnx_scorer(name: str, _stamp: FileStamp, device: str, precision: str) -> tuple[ModelFile, Scorer]:
    from geosiam.inference.onnx_engine import OnnxEngine  # noqa: PLC0415 - brings onnxruntime, an extra

    file, engine = OnnxEngine.load(name, device=device, precision=precision)
    return file, Scorer(engine)
