"""Turn a block's stored values into the network's input, in its precision and memory layout."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from geosiam.network.cpu_layers import LEVELS
from geosiam.network.siamese import normalized

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from geosiam.imagery.normalization import PixelTransform
    from geosiam.imagery.pair import StoredBlock


_NEUTRAL_BYTE = (LEVELS + 1) // 2  # input of an invalid pixel where the input is bytes; otherwise it is 0


class InputTransform:
    """Build the network's input from parts of blocks, both scenes in one tensor.

    Images of 8 and 16 bits are looked up in a table that holds the complete transform of a pixel, in the network's own
    precision, so that each value is touched once. Others are computed. Each thread uses the same memory again for each
    part: allocating it would take as long as the work.

    Parameters
    ----------
    dtype
        The network's precision. ``torch.int8``: its input is bytes, 255 times the images in [0, 1] instead of
        normalized ones, and a byte image whose transform is the identity is used as it is.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = torch.uint8 if dtype == torch.int8 else dtype
        self._local = threading.local()

    def __call__(self, block: StoredBlock, rows: slice, cols: slice) -> torch.Tensor:
        """Return the input for a part of a block: (2, 3, rows, cols), before and after, channels last.

        Invalid pixels are the middle of the range in both. The tensor is valid until this thread's next call.
        """
        images = block.before[:, rows, cols], block.after[:, rows, cols]
        buffers = self._thread_buffers(images[0].shape)
        invalid = ~block.valid[rows, cols]
        channels_last = _as_integers(buffers.channels_last.permute(0, 2, 3, 1)).numpy()
        for image, transform, planar, pixels in zip(
            images, block.transforms, buffers.planar, channels_last, strict=True
        ):
            for channel, values in enumerate(self._transformed(image, transform, planar, buffers.places)):
                pixels[..., channel] = values
            if invalid.any():
                pixels[invalid] = _NEUTRAL_BYTE if self._dtype == torch.uint8 else 0
        return buffers.channels_last

    def _transformed(
        self, image: NDArray[Any], transform: PixelTransform, planar: torch.Tensor, places: torch.Tensor
    ) -> NDArray[Any]:
        """Return the bits of the input as integers: in `planar`, or the image itself if it is the input already."""
        table = lookup_table(transform, image.dtype.str, self._dtype)
        if table is None:
            planar.copy_(_network_input(torch.from_numpy(transform.apply(image)), self._dtype))
        elif image.dtype == np.uint8 and torch.equal(table, _identity_table()):
            return image
        else:
            integer = np.uint8 if image.itemsize == 1 else np.int16  # PyTorch has few operators for uint16
            bits = torch.from_numpy(image.view(integer))
            for channel, values, result in zip(bits, _as_integers(table), _as_integers(planar), strict=True):
                places.copy_(channel)
                if bits.dtype.is_signed:
                    places.bitwise_and_(table.shape[1] - 1)
                torch.index_select(values, 0, places.view(-1), out=result.view(-1))
        return _as_integers(planar).numpy()

    def _thread_buffers(self, shape: tuple[int, ...]) -> _Buffers:
        buffers: _Buffers | None = getattr(self._local, "buffers", None)
        if buffers is None or buffers.planar.shape[1:] != shape:
            buffers = self._local.buffers = _Buffers.of_shape(shape, self._dtype)
        return buffers


@dataclass(frozen=True)
class _Buffers:
    planar: torch.Tensor  # (2, 3, rows, cols)
    channels_last: torch.Tensor  # the same shape, channels last in memory
    places: torch.Tensor  # int32 (rows, cols), index into a table

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Self:
        planar = torch.empty((2, *shape), dtype=dtype)
        channels_last = torch.empty_like(planar, memory_format=torch.channels_last)
        return cls(planar, channels_last, torch.empty(shape[1:], dtype=torch.int32))


@lru_cache(maxsize=16)
def lookup_table(transform: PixelTransform, stored: DTypeLike, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the network's input for each value of a stored type: (3, levels); None if the type has too many values."""
    table = transform.table(stored)
    return None if table is None else _network_input(torch.from_numpy(table), dtype)


def _network_input(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return images in [0, 1] as the network's input in a precision; bytes are 255 times as much."""
    return (images * LEVELS).round_().to(dtype) if dtype == torch.uint8 else normalized(images).to(dtype)


@lru_cache
def _identity_table() -> torch.Tensor:
    """Return the table that leaves a byte image unchanged: it is the network's input already."""
    return torch.arange(LEVELS + 1, dtype=torch.uint8).expand(3, -1)


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of the tensor's memory as integers, which are copied fastest."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])
