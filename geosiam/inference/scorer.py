"""Score blocks with the network: one block as an array, a whole scene as a lazy dask array."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import uuid4

import numpy as np
import torch

from geosiam.errors import OptionError, SceneUnreadableError
from geosiam.imagery.grid import Halo, Lattice, centers
from geosiam.imagery.normalization import unchanged_transform
from geosiam.imagery.pair import StoredBlock
from geosiam.inference.device import choose_device, choose_precision, cuda_devices, multiplies_bf16, named_device
from geosiam.inference.gpu import BLOCKS_AT_ONCE, GpuBatcher
from geosiam.inference.preprocess import InputTransform
from geosiam.network.quantized import can_be_quantized, multiplies_exactly, quantized
from geosiam.network.weights import load_model
from geosiam.network.winograd import with_winograd

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array as da
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Block, Grid, Window
    from geosiam.network.siamese import SiameseNetwork
    from geosiam.network.weights import Model

    Stamp: TypeAlias = "tuple[int, ...] | None"

BLOCK_PX = 1024
"""Side of a full block in pixels: large enough that the halo costs 5 %, small enough for the processor's cache."""

FORWARD_PX = 512
"""Side in pixels of what one forward pass of a block covers: its layers then stay in a core's own cache."""


class Pair(Protocol):
    """What scoring needs of a pair of scenes; :class:`geosiam.imagery.pair.ScenePair` is one."""

    @property
    def grid(self) -> Grid:
        """The before-scene's grid."""
        ...

    @property
    def overlap(self) -> Window:
        """Pixels outside of which nothing is valid."""
        ...

    @property
    def columns_at_once(self) -> int | None:
        """How many pixel columns a row of blocks can have without anything being decoded twice; None: all."""
        ...

    def stored(self, window: Window) -> StoredBlock:
        """Read both scenes, aligned, in their own values."""
        ...


class ZonalStatistics(Protocol):
    """Who sees the pixels of a block together with its scores, wherever it is scored; it can be pickled."""

    def __call__(self, block: Block, window: Window, pixels: StoredBlock, scores: NDArray[np.float32], /) -> Any:  # noqa: ANN401
        """Return what is worth noting of a block, the window of pixels read for it, these, and the scores, or None."""
        ...


@dataclass(frozen=True)
class Scorer:
    """A network ready to score blocks on a device at a precision.

    Parameters
    ----------
    network
        For inference, on its device and in its precision.
    device
        Where it computes.
    dtype
        Precision of the forward pass; logits are turned into probabilities in float32. ``torch.int8``: the encoder's
        convolutions, from bytes to features, are of integers.
    accelerator
        What brings the blocks to CUDA devices; None: the calling thread computes.
    """

    network: SiameseNetwork
    device: torch.device
    dtype: torch.dtype
    accelerator: GpuBatcher | None = None

    @classmethod
    def of_model(
        cls, model: Model, *, device: str = "auto", precision: str = "auto", elsewhere: bool = False
    ) -> Scorer:
        """Prepare a model: batch norm folded, weights in its precision, channels last, on the device.

        Parameters
        ----------
        model
            The weights.
        device, precision
            Names; ``"auto"`` chooses.
        elsewhere
            The device is another machine's: this scorer must first arrive there, see :meth:`to_device`.

        Raises
        ------
        OptionError
            The device is not there, or the precision is unknown or unfit for it.
        """
        where = named_device(device) if elsewhere else choose_device(device)
        dtype = choose_precision(precision, where, quantizable=can_be_quantized(model.network.encoder))
        scorer = cls(_prepare(model.network, where, dtype), where, dtype)
        return scorer if elsewhere else scorer.to_device()

    def to_device(self) -> Scorer:
        """Return the scorer with its network on its device, on the machine that has this device.

        Raises
        ------
        OptionError
            This machine does not have the device, or its processor cannot multiply integers as int8 wants them.
        """
        device = choose_device(str(self.device))
        if self.dtype == torch.int8 and not multiplies_exactly():
            fact = "needs instructions for 8-bit integers (VNNI), which this processor does not have"
            raise OptionError("precision int8", fact, "use fp32 or bf16")
        if device.type != "cuda":
            return self
        side = BLOCK_PX // self.stride * self.stride + self.network.config.receptive_field.size - self.stride
        accelerator = GpuBatcher(self.network, self.dtype, cuda_devices(device), max(side, BLOCK_PX))
        return replace(self, accelerator=accelerator)

    @property
    def blocks_waiting(self) -> int:
        """How many blocks may wait for a device while others are read."""
        return 0 if self.accelerator is None else 2 * BLOCKS_AT_ONCE * len(self.accelerator.devices)

    @property
    def stride(self) -> int:
        """Pixels an output cell stands for."""
        return self.network.config.receptive_field.stride

    def lattice(self, grid: Grid) -> Lattice:
        """Return the canonical blocks for a scene: they depend on scene and stride only."""
        cells = grid.coarsened(self.stride)
        side = max(1, BLOCK_PX // self.stride)
        return Lattice(cells.height, cells.width, side, side)

    def block(self, pair: Pair, block: Block, show: Callable[..., None] | None = None) -> NDArray[np.float32]:
        """Score one block: float32 (rows, cols), anomaly probability, NaN where the cell's center is not valid.

        `show` gets what a :class:`ZonalStatistics` gets, if there is anything to see.
        """
        config = self.network.config
        if self._surely_empty(pair, block):
            return np.full(block.cells.shape, np.nan, np.float32)
        window = block.pixels(self.stride, config.halo)
        pixels = pair.stored(window)
        height, width = pair.grid.shape
        rows, cols = block.cells.slices
        center_rows = centers(rows, self.stride, height) - window.row_start
        center_cols = centers(cols, self.stride, width) - window.col_start
        valid = pixels.valid[np.ix_(center_rows, center_cols)]
        if not valid.any():
            return np.full(block.cells.shape, np.nan, np.float32)
        scores = np.where(valid, self._scored(pixels, valid), np.float32(np.nan))
        if show is not None:
            show(block, window, pixels, scores)
        return scores

    def probabilities(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return 1 - P(similar) for two images.

        Parameters
        ----------
        before, after
            float32 (channels, h, w) in [0, 1], of as many channels as the network takes.

        Returns
        -------
        float32 (rows, cols) of a valid convolution
        """
        field = self.network.config.receptive_field
        cells = field.cells(before.shape[1]), field.cells(before.shape[2])
        unchanged = unchanged_transform(before.shape[0])
        whole = StoredBlock(before, after, np.ones(before.shape[1:], bool), (unchanged, unchanged))
        return self._scored(whole, np.ones(cells, bool))

    def _scored(self, pixels: StoredBlock, wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Score the parts of a block that hold a wanted cell; elsewhere NaN, or a score that nobody wants."""
        if self.accelerator is not None:
            return self.accelerator.scores(pixels)
        # One thread a block: blocks run side by side, and a sum split over threads would depend on their number.
        torch.set_num_threads(1)
        field = self.network.config.receptive_field
        side = max(1, FORWARD_PX // self.stride)
        scores = np.full(wanted.shape, np.nan, np.float32)
        for part in Lattice(wanted.shape[0], wanted.shape[1], side, side):
            if not wanted[part.cells.slices].any():
                continue
            window = part.pixels(self.stride, Halo(0, field.size - self.stride))
            scores[part.cells.slices] = self._forward(self._input_transform(pixels, *window.slices))
        return scores

    def _forward(self, both: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self.network.compare(both)
            scores: NDArray[np.float32] = torch.sigmoid(-logits.float())[0, 0].numpy()
        return scores

    @property
    def _input_transform(self) -> InputTransform:
        return _input_transform(self.dtype)

    def _surely_empty(self, pair: Pair, block: Block) -> bool:
        c, o, s = block.cells, pair.overlap, self.stride
        return (
            c.row_stop * s <= o.row_start
            or c.row_start * s >= o.row_stop
            or c.col_stop * s <= o.col_start
            or c.col_start * s >= o.col_stop
        )


def _prepare(network: SiameseNetwork, device: torch.device, dtype: torch.dtype) -> SiameseNetwork:
    """Return a network for inference in a precision, laid out as is fastest."""
    ready = network.for_inference()
    if dtype == torch.int8:
        features = torch.bfloat16 if multiplies_bf16() else torch.float32
        ready.discriminator.to(features)
        ready.encoder = quantized(network.encoder, features)
    else:
        ready.to(dtype)
        if device.type == "cpu" and dtype == torch.float32:  # bf16 is too coarse for it
            ready.encoder = with_winograd(ready.encoder)
    ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return ready


@lru_cache(maxsize=4)
def _input_transform(dtype: torch.dtype) -> InputTransform:
    return InputTransform(dtype)


Outcome: TypeAlias = "NDArray[np.float32] | SceneUnreadableError"
"""The scores of a block, or why a scene could not be read there."""


@dataclass(frozen=True)
class Answer:
    """What became of a block.

    Parameters
    ----------
    outcome
        Its scores, or why there are none.
    notes
        What the lookout noted, if there was one and anything to note.
    """

    outcome: Outcome
    notes: Any = None


@dataclass(frozen=True)
class Job:
    """The function that every block goes through, wherever that happens."""

    pair: Pair
    scorer: Scorer
    lookout: ZonalStatistics | None = None

    def __call__(self, block: Block, *, looking: bool = True) -> Answer:
        """Score a block; what cannot be decoded is an outcome, so that the blocks around it are not lost."""
        notes: list[Any] = []

        def show(*seen: Any) -> None:  # noqa: ANN401 - what a lookout gets
            if looking and self.lookout is not None:
                notes.append(self.lookout(*seen))

        try:
            return Answer(self.scorer.block(self.pair, block, show), *notes)
        except SceneUnreadableError as error:
            return Answer(error)


def lazy_scores(pair: Pair, scorer: Scorer) -> da.Array:
    """Return the scores of a whole scene as a lazy dask array, one chunk a block: float32 (rows, cols), NaN = none."""
    import dask.array as da  # noqa: PLC0415 - slow to import, and `detect` does without

    lattice = scorer.lattice(pair.grid)

    def one(block_id: tuple[int, int]) -> NDArray[np.float32]:
        return scorer.block(pair, lattice[block_id[0] * lattice.shape[1] + block_id[1]])

    scores: da.Array = da.map_blocks(  # type: ignore[no-untyped-call]
        one,
        chunks=lattice.chunks,
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
        name=f"geosiam-scores-{uuid4().hex}",  # a name of its own spares dask from hashing the network
    )
    return scores


_KEPT = 2  # models


def load_scorer(name: str, *, device: str, precision: str, elsewhere: bool = False) -> tuple[Model, Scorer]:
    """Return weights and what scores with them.

    On this machine's processor both are kept and given again as long as the file is the same: small pairs would spend
    as long on them as on their pixels. Neither may be changed.

    Parameters
    ----------
    name
        As :func:`~geosiam.network.weights.load_model` takes it.
    device, precision, elsewhere
        As :meth:`~geosiam.inference.scorer.Scorer.of_model` takes them.

    Raises
    ------
    WeightsError, OptionError
        As these do.
    """
    if elsewhere or choose_device(device).type == "cuda":
        model = load_model(name)
        return model, Scorer.of_model(model, device=device, precision=precision, elsewhere=elsewhere)
    return _kept(name, _stamp(name), device, precision)


def _stamp(name: str) -> Stamp:
    """Return what changes with a file; None for bundled weights."""
    with contextlib.suppress(OSError):
        found = Path(name).stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


@lru_cache(maxsize=_KEPT)
def _kept(name: str, _stamp: Stamp, device: str, precision: str) -> tuple[Model, Scorer]:
    model = load_model(name)
    return model, Scorer.of_model(model, device=device, precision=precision)
