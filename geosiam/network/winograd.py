"""3x3 convolutions with half of the multiplications, for inference on a processor in fp32.

Four rows of a convolution with three rows of weights are six products instead of twelve: F(4, 3) of Winograd's minimal
filtering (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016), applied along rows only. What is
left of the convolution runs along the columns and is PyTorch's own, so this is fast wherever that is. Rounding errors
are about twice those of the plain sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

LEAST_CHANNELS = 64
"""With fewer channels the additions cost as much as the multiplications that they save."""

_KERNEL = 3
_ROWS = 4  # rows of the output that are made of one product
_TILE = _ROWS + _KERNEL - 1  # rows of the input that these need
_INTO_ALL_ROWS = 1  # the product that is added to each of these rows as it is
_TILES_AT_ONCE = 8  # so that what lies between the steps stays in a core's cache

# From three rows of weights to six: G of F(4, 3), at the points 0, 1, -1, 2, -2 and infinity.
_WEIGHTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class RowWinograd(nn.Module):
    """A 3x3 convolution of stride 1 without padding: (n, channels, h, w) -> (n, width, h - 2, w - 2).

    Parameters
    ----------
    convolution
        What it computes.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert suits(convolution)
        self.plain = convolution
        weight = convolution.weight.detach()
        change = torch.tensor(_WEIGHTS, dtype=torch.float64)
        products = torch.einsum("pr,oirc->poic", change, weight.double()).to(weight.dtype)
        self.products = nn.ModuleList(
            _along_columns(product, convolution.bias if i == _INTO_ALL_ROWS else None)
            for i, product in enumerate(products)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images (n, channels, h, w); channels last is what is fast."""
        count, _, height, width = images.shape
        rows = height - _KERNEL + 1
        tiles = rows // _ROWS
        shape = count, self.plain.out_channels, rows, width - _KERNEL + 1
        result = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
        for first in range(0, tiles, _TILES_AT_ONCE):
            start, stop = _ROWS * first, _ROWS * min(first + _TILES_AT_ONCE, tiles)
            self._tiles(images[:, :, start : stop + _KERNEL - 1], result[:, :, start:stop])
        if rest := rows % _ROWS:
            result[:, :, -rest:] = self.plain(images[:, :, -rest - _KERNEL + 1 :])
        return result

    def _tiles(self, images: Tensor, result: Tensor) -> None:
        """Convolve rows that are whole tiles into a part of the result."""
        stop = images.shape[2] - _TILE + 1
        d0, d1, d2, d3, d4, d5 = (images[:, :, i : i + stop : _ROWS] for i in range(_TILE))
        odd, even = d3 - d1, d4 - d2
        m0 = self.products[0](torch.add(even, d0 - d2, alpha=4))
        m5 = self.products[5](torch.sub(d5 - d3, odd, alpha=4))
        m3 = self.products[3](torch.add(even, odd, alpha=2))
        m4 = self.products[4](torch.sub(even, odd, alpha=2))
        odd, even = torch.sub(d3, d1, alpha=4), torch.sub(d4, d2, alpha=4)
        m1 = self.products[1](even + odd)
        m2 = self.products[2](even - odd)
        sums, differences = (m1 + m2, m3 + m4), (m1.sub_(m2), m3.sub_(m4))
        rows = [result[:, :, i::_ROWS] for i in range(_ROWS)]
        torch.add(m0.add_(sums[0]), sums[1], out=rows[0])
        torch.add(differences[0], differences[1], alpha=2, out=rows[1])
        torch.add(sums[0], sums[1], alpha=4, out=rows[2])
        torch.add(m5.add_(differences[0]), differences[1], alpha=8, out=rows[3])


def _along_columns(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return the convolution of each row by itself whose weights these are, (width, channels, columns)."""
    width, channels, columns = weight.shape
    layer = nn.Conv2d(channels, width, (1, columns), bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight[:, :, None])
    layer.bias = None if bias is None else nn.Parameter(bias.detach())
    return layer.requires_grad_(requires_grad=False)


def suits(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether a layer is a convolution that becomes faster: 3x3, stride 1, no padding, enough channels."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (_KERNEL, _KERNEL)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and min(layer.in_channels, layer.out_channels) >= LEAST_CHANNELS
    )


def with_winograd(layers: nn.Sequential) -> nn.Sequential:
    """Return layers, for inference, of which those that become faster are :class:`RowWinograd`."""
    return nn.Sequential(*(RowWinograd(layer) if suits(layer) else layer for layer in layers))
