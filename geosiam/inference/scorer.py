"""Score blocks with the network: a block as an array, a task for the executors, a whole scene as a lazy dask array."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias
from uuid import uuid4

import numpy as np
import torch

from geosiam.errors import OptionError, SceneUnreadableError
from geosiam.imagery.grid import Halo, Lattice, centers
from geosiam.imagery.normalization import unchanged_transform
from geosiam.imagery.pair import StoredBlock
from geosiam.inference.device import (
    choose_device,
    choose_precision,
    cuda_devices,
    multiplies_bf16,
    named_device,
    single_thread,
)
from geosiam.inference.gpu import BLOCKS_PER_BATCH, GpuBatcher
from geosiam.inference.preprocess import InputTransform
from geosiam.network.quantized import can_be_quantized, int8_obstacle, quantized
from geosiam.network.weights import load_model
from geosiam.network.winograd import with_winograd

if TYPE_CHECKING:
    import dask.array as da
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Grid, Window
    from geosiam.inference.zonal_stats import CellStatistics, ZonalStatistics
    from geosiam.network.siamese import SiameseNetwork
    from geosiam.network.weights import Model

    FileStamp: TypeAlias = "tuple[int, ...] | None"

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
    """A network ready to score blocks on a device at a precision.

    Parameters
    ----------
    network
        Network for inference, on its device and in its precision.
    device
        Device that computes.
    dtype
        Precision of the forward pass; logits are turned into probabilities in float32. ``torch.int8``: the encoder's
        convolutions, from bytes to features, multiply integers.
    batcher
        Batcher that computes on CUDA devices; None: the calling thread computes.
    """

    network: SiameseNetwork
    device: torch.device
    dtype: torch.dtype
    batcher: GpuBatcher | None = None

    @classmethod
    def of_model(
        cls, model: Model, *, device: str = "auto", precision: str = "auto", elsewhere: bool = False
    ) -> Scorer:
        """Prepare a model: batch norm folded, weights in its precision, channels last, on the device.

        Parameters
        ----------
        model
            The network and its weights.
        device, precision
            Names of device and precision; ``"auto"`` chooses.
        elsewhere
            The device is that of another machine, which calls :meth:`to_device`.

        Raises
        ------
        OptionError
            This machine does not have the device, or the precision is unknown or unsuitable for device or weights.
        """
        target = named_device(device) if elsewhere else choose_device(device)
        dtype = choose_precision(precision, target, quantizable=can_be_quantized(model.network.encoder))
        scorer = cls(_prepare(model.network, target, dtype), target, dtype)
        return scorer if elsewhere else scorer.to_device()

    def to_device(self) -> Scorer:
        """Return the scorer with its network on its device, which this machine must have.

        Raises
        ------
        OptionError
            This machine does not have the device, or cannot compute in int8.
        """
        device = choose_device(str(self.device))
        if self.dtype == torch.int8 and (obstacle := int8_obstacle()):
            raise OptionError("`precision=int8`", obstacle, "use fp32 or bf16")
        if device.type != "cuda":
            return self
        side = self._aligned_cells(BLOCK_PX) * self.stride + self.network.config.receptive_field.size - self.stride
        batcher = GpuBatcher(self.network, self.dtype, cuda_devices(device), max(side, BLOCK_PX))
        return replace(self, batcher=batcher)

    def close(self) -> None:
        """End the threads that serve CUDA devices, if there are any; the scorer cannot be used any more then."""
        if self.batcher is not None:
            self.batcher.close()

    @property
    def blocks_waiting(self) -> int:
        """Number of blocks that may wait for a device while others are read."""
        return 0 if self.batcher is None else 2 * BLOCKS_PER_BATCH * len(self.batcher.devices)

    @property
    def stride(self) -> int:
        """Pixels along a side of an output cell."""
        return self.network.config.receptive_field.stride

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
        config = self.network.config
        empty = np.full(block.cells.shape, np.nan, np.float32)
        if not self._overlaps(pair, block):
            return BlockResult(block, empty)
        window = block.pixels(self.stride, config.halo)
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
        field = self.network.config.receptive_field
        cells = field.cells(before.shape[1]), field.cells(before.shape[2])
        unchanged = unchanged_transform(before.shape[0])
        pixels = StoredBlock(before, after, np.ones(before.shape[1:], bool), (unchanged, unchanged))
        return self._probabilities(pixels, np.ones(cells, bool))

    def _probabilities(self, pixels: StoredBlock, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Score the parts of a block that hold a valid cell; other cells get NaN or a meaningless score."""
        if self.batcher is not None:
            return self.batcher.scores(pixels)
        field = self.network.config.receptive_field
        side = self._aligned_cells(FORWARD_PX)
        scores = np.full(valid.shape, np.nan, np.float32)
        # One thread a block: blocks run side by side, and a sum split over threads would depend on their number.
        with single_thread(), torch.inference_mode():
            for part in Lattice(valid.shape[0], valid.shape[1], side, side):
                if not valid[part.cells.slices].any():
                    continue
                window = part.pixels(self.stride, Halo(0, field.size - self.stride))
                images = _input_transform(self.dtype)(pixels, *window.slices)
                logits = self.network.compare(images)
                scores[part.cells.slices] = torch.sigmoid(-logits.float())[0, 0].numpy()
        return scores

    def _aligned_cells(self, pixels: int) -> int:
        """Return the cells along at most so many pixels, so that each part of them begins where features do."""
        alignment = self.network.config.alignment
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


def _prepare(network: SiameseNetwork, device: torch.device, dtype: torch.dtype) -> SiameseNetwork:
    """Return a copy of a network for inference in a precision, in the fastest memory layout."""
    prepared = network.for_inference()
    if dtype == torch.int8:
        features = torch.bfloat16 if multiplies_bf16() else torch.float32
        for discriminator in prepared.discriminators:
            discriminator.to(features)
        prepared.encoder = quantized(network.encoder, features)
    else:
        prepared.to(dtype)
        if device.type == "cpu" and dtype == torch.float32:  # bf16 is too coarse for it
            prepared.encoder = with_winograd(prepared.encoder)
    prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return prepared


@lru_cache(maxsize=4)
def _input_transform(dtype: torch.dtype) -> InputTransform:
    return InputTransform(dtype)


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


def load_scorer(name: str, *, device: str, precision: str, elsewhere: bool = False) -> tuple[Model, Scorer]:
    """Load weights and prepare a scorer.

    On this machine's processor both are cached while the weights file stays the same: in a batch of small pairs,
    loading would take as long as scoring. The model is the caller's own copy; the network of the scorer is shared.

    Parameters
    ----------
    name
        Model name or path, as in :func:`~geosiam.network.weights.load_model`.
    device, precision, elsewhere
        See :meth:`Scorer.of_model`.

    Raises
    ------
    WeightsError
        The weights cannot be loaded.
    OptionError
        Device or precision cannot be used.
    """
    if elsewhere or choose_device(device).type == "cuda":
        model = load_model(name)
        return model, Scorer.of_model(model, device=device, precision=precision, elsewhere=elsewhere)
    model, scorer = _cached_scorer(name, _file_stamp(name), device, precision)
    return replace(model, network=copy.deepcopy(model.network)), scorer


def _file_stamp(name: str) -> FileStamp:
    """Return numbers that change when a weights file is written again; None for bundled weights."""
    with contextlib.suppress(OSError):
        status = Path(name).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


@lru_cache(maxsize=_MAX_CACHED_SCORERS)
def _cached_scorer(name: str, _stamp: FileStamp, device: str, precision: str) -> tuple[Model, Scorer]:
    model = load_model(name)
    return model, Scorer.of_model(model, device=device, precision=precision)
