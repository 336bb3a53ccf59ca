"""From a block's stored values to what the network takes, on its device and in its precision."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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
        planar, laid_out = self._memory(images[0].shape)
        for image, transfer, target in zip(images, block.transfers, planar, strict=True):
            self._convert(image, transfer, target)
        valid = block.valid[rows, cols]
        if not valid.all():
            planar.masked_fill_(torch.from_numpy(~valid), 0)
        return laid_out.copy_(planar)

    def _convert(self, image: NDArray[Any], transfer: Transfer, target: torch.Tensor) -> None:
        table = tabulated(transfer, image.dtype.str, self._dtype)
        if table is None:
            target.copy_(normalised(torch.from_numpy(transfer.apply(image))))
            return
        levels = image.view(f"u{image.dtype.itemsize}")
        for channel, found, result in zip(levels, _bits(table), _bits(target), strict=True):
            # Every level has its place and nothing is ever clipped, but to make sure of it numpy would take a copy.
            np.take(found, channel, out=result, mode="clip")

    def _memory(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        if getattr(self._local, "shape", None) != shape:
            self._local.shape = shape
            self._local.planar = torch.empty((2, *shape), dtype=self._dtype)
            self._local.laid_out = torch.empty_like(self._local.planar, memory_format=torch.channels_last)
        return self._local.planar, self._local.laid_out


@lru_cache(maxsize=16)
def tabulated(transfer: Transfer, stored: DTypeLike, dtype: torch.dtype) -> torch.Tensor | None:
    """Return what becomes of each value that a type can store: (3, levels), normalised; None if it has too many."""
    table = transfer.table(stored)
    return None if table is None else normalised(torch.from_numpy(table)).to(dtype)


def _bits(tensor: torch.Tensor) -> NDArray[Any]:
    """Return the tensor's own memory for numpy, which knows no bf16 but can move it."""
    return (tensor.view(torch.int16) if tensor.itemsize == 2 else tensor).numpy()  # noqa: PLR2004 - bytes
