"""From a block's stored values to what the network takes, on its device and in its precision."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from geosiam.network.siamese import normalised

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from geosiam.imagery.pair import StoredBlock
    from geosiam.imagery.transfer import Transfer


class Intake:
    """Makes the network's input of parts of blocks, both scenes in one tensor.

    Images of 8 and 16 bits are looked up: everything that is done to a pixel is in a table, in the network's own
    precision, so that the values are touched once. Others are computed. In each thread the memory is used again and
    again: asking the system for it would take as long as the work.

    Parameters
    ----------
    dtype
        The network's precision.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._local = threading.local()

    def __call__(self, block: StoredBlock, rows: slice, cols: slice) -> torch.Tensor:
        """Return a part of a block as the network takes it: (2, 3, rows, cols), before and after, channels last.

        Invalid pixels are 0, the middle of the range, in both. The tensor is this thread's until it asks again.
        """
        images = block.before[:, rows, cols], block.after[:, rows, cols]
        memory = self._memory(images[0].shape)
        for image, transfer, target in zip(images, block.transfers, memory.planar, strict=True):
            self._convert(image, transfer, target, memory.places)
        valid = block.valid[rows, cols]
        if not valid.all():
            memory.planar.masked_fill_(torch.from_numpy(~valid), 0)
        return memory.laid_out.copy_(memory.planar)

    def _convert(self, image: NDArray[Any], transfer: Transfer, target: torch.Tensor, places: torch.Tensor) -> None:
        table = tabulated(transfer, image.dtype.str, self._dtype)
        if table is None:
            target.copy_(normalised(torch.from_numpy(transfer.apply(image))))
            return
        bits = torch.from_numpy(image.view(np.uint8 if image.itemsize == 1 else np.int16))  # torch hardly knows uint16
        for channel, found, result in zip(bits, _as_integers(table), _as_integers(target), strict=True):
            places.copy_(channel)
            if bits.dtype.is_signed:
                places.bitwise_and_(table.shape[1] - 1)
            torch.index_select(found, 0, places.view(-1), out=result.view(-1))

    def _memory(self, shape: tuple[int, ...]) -> _Memory:
        memory: _Memory | None = getattr(self._local, "memory", None)
        if memory is None or memory.planar.shape[1:] != shape:
            memory = self._local.memory = _Memory.of_shape(shape, self._dtype)
        return memory


@dataclass(frozen=True)
class _Memory:
    planar: torch.Tensor  # (2, 3, rows, cols)
    laid_out: torch.Tensor  # the same, channels last
    places: torch.Tensor  # int32 (rows, cols), where to look in a table

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Self:
        planar = torch.empty((2, *shape), dtype=dtype)
        laid_out = torch.empty_like(planar, memory_format=torch.channels_last)
        return cls(planar, laid_out, torch.empty(shape[1:], dtype=torch.int32))


@lru_cache(maxsize=16)
def tabulated(transfer: Transfer, stored: DTypeLike, dtype: torch.dtype) -> torch.Tensor | None:
    """Return what becomes of each value that a type can store: (3, levels), normalised; None if it has too many."""
    table = transfer.table(stored)
    return None if table is None else normalised(torch.from_numpy(table)).to(dtype)


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's own memory as what is moved fastest."""
    return tensor.view(torch.int16 if tensor.itemsize == 2 else torch.int32)  # noqa: PLR2004 - bytes
