"""From a block's stored values to what the network takes, on its device and in its precision."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from geosiam.network.quantized import LEVELS
from geosiam.network.siamese import normalized

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from geosiam.imagery.normalization import PixelTransform
    from geosiam.imagery.pair import StoredBlock


_MIDDLE = (LEVELS + 1) // 2  # of a byte


class InputTransform:
    """Makes the network's input of parts of blocks, both scenes in one tensor.

    Images of 8 and 16 bits are looked up: everything that is done to a pixel is in a table, in the network's own
    precision, so that the values are touched once. Others are computed. In each thread the memory is used again and
    again: asking the system for it would take as long as the work.

    Parameters
    ----------
    dtype
        The network's precision. ``torch.int8``: its input is bytes, 255 times the images in [0, 1] instead of
        normalized ones, and an image of bytes that nothing is done to is taken as it is.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = torch.uint8 if dtype == torch.int8 else dtype
        self._local = threading.local()

    def __call__(self, block: StoredBlock, rows: slice, cols: slice) -> torch.Tensor:
        """Return a part of a block as the network takes it: (2, 3, rows, cols), before and after, channels last.

        Invalid pixels are the middle of the range in both. The tensor is this thread's until it asks again.
        """
        images = block.before[:, rows, cols], block.after[:, rows, cols]
        memory = self._memory(images[0].shape)
        invalid = ~block.valid[rows, cols]
        laid_out = _as_integers(memory.laid_out.permute(0, 2, 3, 1)).numpy()
        for image, transfer, planar, pixels in zip(images, block.transforms, memory.planar, laid_out, strict=True):
            for channel, values in enumerate(self._converted(image, transfer, planar, memory.places)):
                pixels[..., channel] = values
            if invalid.any():
                pixels[invalid] = _MIDDLE if self._dtype == torch.uint8 else 0
        return memory.laid_out

    def _converted(
        self, image: NDArray[Any], transfer: PixelTransform, planar: torch.Tensor, places: torch.Tensor
    ) -> NDArray[Any]:
        """Return the bits of what the network takes, as integers: in `planar`, or the image itself if it is that."""
        table = tabulated(transfer, image.dtype.str, self._dtype)
        if table is None:
            planar.copy_(_rounded(torch.from_numpy(transfer.apply(image)), self._dtype))
        elif image.dtype == np.uint8 and torch.equal(table, _as_they_are()):
            return image
        else:
            whole = np.uint8 if image.itemsize == 1 else np.int16  # torch hardly knows uint16
            bits = torch.from_numpy(image.view(whole))
            for channel, found, result in zip(bits, _as_integers(table), _as_integers(planar), strict=True):
                places.copy_(channel)
                if bits.dtype.is_signed:
                    places.bitwise_and_(table.shape[1] - 1)
                torch.index_select(found, 0, places.view(-1), out=result.view(-1))
        return _as_integers(planar).numpy()

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
def tabulated(transfer: PixelTransform, stored: DTypeLike, dtype: torch.dtype) -> torch.Tensor | None:
    """Return what the network takes for each value that a type can store: (3, levels); None if it has too many."""
    table = transfer.table(stored)
    return None if table is None else _rounded(torch.from_numpy(table), dtype)


def _rounded(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return images in [0, 1] as the network takes them in a precision; bytes are 255 times as much."""
    return (images * LEVELS).round_().to(dtype) if dtype == torch.uint8 else normalized(images).to(dtype)


@lru_cache
def _as_they_are() -> torch.Tensor:
    """Return the table of an image whose bytes are what the network takes."""
    return torch.arange(LEVELS + 1, dtype=torch.uint8).expand(3, -1)


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's own memory as what is moved fastest."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])
