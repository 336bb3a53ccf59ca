"""Layers for inference on a CPU: 8-bit integers, 3x3 convolutions with half of the multiplications, a fast ReLU.

**8-bit integers** (:func:`quantized`) are for processors with instructions for such products (VNNI). Quantization needs
the weights only. The batch norm behind a convolution gives the distribution of its channels, so no scene is needed to
find their ranges, and the mean error that rounding the weights adds to a channel is known and subtracted (Nagel et al.,
"Data-free quantization through weight equalization and bias correction", 2019). Each channel is scaled to the whole
range, which the next convolution's weights undo. Sums of integers are exact: unlike sums of floating point numbers,
they are the same in any order.

**Winograd** (:func:`with_winograd`) is for fp32. Four output rows of a convolution with three rows of weights take six
products instead of twelve: F(4, 3) of Winograd's minimal filtering (Lavin and Gray, "Fast algorithms for convolutional
neural networks", 2016), applied along rows only. The convolution along the columns remains, and is PyTorch's own.
Rounding errors are about twice those of the plain sum. It is used where PyTorch has no bf16 or int8 instructions: on
every processor without AVX512. On a Zen 3 core (AVX2) the default model's forward pass takes a tenth less time and a
whole run of one worker 15 % less.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geosiam.network.architecture import INPUT_CENTER, INPUT_SPREAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# -- 8-bit integers ----------------------------------------------------------------------------------------------------

LEVELS = 255
"""Steps of an activation between 0 and its maximum; the input has the 255 steps of an 8-bit image."""

_WEIGHT_LEVELS = 127  # on either side of 0
_MAX_DEVIATIONS = 14  # standard deviations above a channel's mean where it is clipped: 8 clips strong contrasts
_MIN_RANGE = 1e-3  # of a channel, so that one that is always 0 causes no division by 0


class QuantizedConvolution(nn.Module):
    """A convolution of bytes without padding: uint8 (n, channels, h, w) -> (n, width, rows, cols).

    Parameters
    ----------
    weight
        Quantized weights, int8 (width, channels, kernel, kernel).
    steps
        float32 (width,), value of one step of each output channel's weights.
    bias
        Bias of each output channel, float32 (width,).
    stride
        Stride of the convolution.
    output_dtype
        ``torch.uint8``: the output is clipped to [0, 1] and stored in 255 steps; otherwise it is the plain sum, in this
        type.
    """

    def __init__(self, weight: Tensor, steps: Tensor, bias: Tensor, stride: int, output_dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.steps, self.bias = weight, steps, bias
        self.stride = [stride, stride]
        self.output_dtype = output_dtype
        self._packed: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images whose values are 255ths, channels last."""
        last = self.output_dtype != torch.uint8
        zeros = torch.zeros(len(self.steps), dtype=torch.int64)
        geometry = self.stride, [0, 0], [1, 1], 1  # stride, padding, dilation, groups
        if self._packed is None:
            prepack = torch.ops.onednn.qconv_prepack
            self._packed = prepack(self.weight, self.steps, 1 / LEVELS, 0, *geometry, list(images.shape))
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            images, 1 / LEVELS, 0, self._packed, self.steps, zeros, self.bias, *geometry,
            1.0 if last else 1 / LEVELS, 0, self.output_dtype, "none" if last else "relu", [], "",
        )  # fmt: skip
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without the weights in this processor's own layout."""
        return {**self.__dict__, "_packed": None}


@lru_cache
def int8_obstacle() -> str | None:
    """Return the reason this machine cannot use :class:`QuantizedConvolution`, as "needs ..."; None if it can.

    PyTorch's convolutions of bytes are operators without a public interface, so they may be missing or refuse to work.
    And processors without instructions for such products add two of them in 16 bits, which cuts large sums off.
    """
    largest = torch.full((1, 4, 1, 1), _WEIGHT_LEVELS, dtype=torch.int8)
    layer = QuantizedConvolution(largest, torch.full((1,), 1.0), torch.zeros(1), 1, torch.float32)
    try:
        total = layer(torch.full((1, 4, 1, 1), LEVELS, dtype=torch.uint8))
    except (AttributeError, RuntimeError):
        return "needs a PyTorch with oneDNN's convolutions of 8-bit integers, which this one does not have"
    if round(total.item()) != 4 * _WEIGHT_LEVELS:
        return "needs instructions for 8-bit integers (VNNI), which this processor does not have"
    return None


def multiplies_exactly() -> bool:
    """Return whether PyTorch convolves bytes on this machine without cutting sums off."""
    return int8_obstacle() is None


def can_be_quantized(encoder: nn.Sequential) -> bool:
    """Return whether each convolution but the last has a batch norm, which gives the distribution of its channels."""
    return all(norm is not None for _, norm in list(_layers(encoder))[:-1])


def quantized(encoder: nn.Sequential, output_dtype: torch.dtype) -> nn.Sequential:
    """Return an encoder for inference whose inputs are bytes: uint8 (n, channels, h, w), 255 times images in [0, 1].

    The input is not :func:`~geosiam.network.siamese.normalized`: the first convolution does that too.

    Parameters
    ----------
    encoder
        Encoder with batch norm behind each convolution but the last.
    output_dtype
        Type of the features.
    """
    assert can_be_quantized(encoder)
    layers = []
    scale = torch.tensor(1 / INPUT_SPREAD, dtype=torch.float64)  # of each input channel
    offset = -INPUT_CENTER / INPUT_SPREAD
    mean: Tensor | None = None
    for convolution, norm in _layers(encoder.eval()):
        folded = convolution if norm is None else fuse_conv_bn_eval(convolution, norm)
        assert folded.bias is not None
        weight, bias = folded.weight.detach().double(), folded.bias.detach().double()
        bias = bias + offset * weight.sum((1, 2, 3))
        weight = weight * scale.view(-1, 1, 1)
        if norm is not None:
            center, spread = norm.bias.detach().double(), norm.weight.detach().double().abs()
            scale = (center + _MAX_DEVIATIONS * spread).clamp_min(_MIN_RANGE)
            weight, bias = weight / scale.view(-1, 1, 1, 1), bias / scale
        integers, steps = _rounded(weight)
        if mean is not None:
            error = integers * steps.view(-1, 1, 1, 1) - weight
            bias = bias - (error * mean.view(-1, 1, 1)).sum((1, 2, 3))
        dtype = output_dtype if norm is None else torch.uint8
        (stride, _) = folded.stride
        layers.append(QuantizedConvolution(integers.to(torch.int8), steps.float(), bias.float(), stride, dtype))
        offset = 0.0
        if norm is not None:
            mean = _mean_above_zero(center, spread) / scale
    return nn.Sequential(*layers)


def _layers(encoder: nn.Sequential) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Yield each convolution with the batch norm behind it, if there is one."""
    layers = list(encoder)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            yield layer, following if isinstance(following, nn.BatchNorm2d) else None


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights as integers, and the value of one step in each output channel, shape (width,)."""
    steps = weight.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / _WEIGHT_LEVELS
    return (weight / steps.view(-1, 1, 1, 1)).round(), steps


def _mean_above_zero(center: Tensor, spread: Tensor) -> Tensor:
    """Return the mean of a normal distribution after a ReLU."""
    z = center / spread.clamp_min(torch.finfo(torch.float64).tiny)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    mean: Tensor = spread * density + center * torch.special.ndtr(z)
    return mean


# -- Winograd ----------------------------------------------------------------------------------------------------------

MIN_CHANNELS = 64
"""With fewer channels the additions cost as much as the saved multiplications."""

_KERNEL = 3
_ROWS = 4  # output rows of a tile
_TILE = _ROWS + _KERNEL - 1  # input rows of a tile
_BIASED_PRODUCT = 1  # the product that is added to each output row unscaled, so it can bring the bias
_TILES_AT_ONCE = 8  # so that intermediate results stay in a core's cache

# G of F(4, 3), from three rows of weights to six, at the points 0, 1, -1, 2, -2 and infinity.
_WEIGHT_TRANSFORM = (
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
        The convolution to compute.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert is_suitable(convolution)
        self.plain = convolution
        weight = convolution.weight.detach()
        transform = torch.tensor(_WEIGHT_TRANSFORM, dtype=torch.float64)
        products = torch.einsum("pr,oirc->poic", transform, weight.double()).to(weight.dtype)
        self.products = nn.ModuleList(
            _row_convolution(product, convolution.bias if i == _BIASED_PRODUCT else None)
            for i, product in enumerate(products)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images (n, channels, h, w); channels last is the fast layout."""
        count, _, height, width = images.shape
        rows = height - _KERNEL + 1
        tiles = rows // _ROWS
        shape = count, self.plain.out_channels, rows, width - _KERNEL + 1
        result = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
        for first in range(0, tiles, _TILES_AT_ONCE):
            start, stop = _ROWS * first, _ROWS * min(first + _TILES_AT_ONCE, tiles)
            self._convolve_tiles(images[:, :, start : stop + _KERNEL - 1], result[:, :, start:stop])
        if remaining := rows % _ROWS:
            result[:, :, -remaining:] = self.plain(images[:, :, -remaining - _KERNEL + 1 :])
        return result

    def _convolve_tiles(self, images: Tensor, result: Tensor) -> None:
        """Convolve rows of whole tiles into a part of the result."""
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


def _row_convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution along the columns with weights (width, channels, columns)."""
    width, channels, columns = weight.shape
    layer = nn.Conv2d(channels, width, (1, columns), bias=False, device="meta")  # which draws no random numbers
    layer.weight = nn.Parameter(weight[:, :, None].clone(memory_format=torch.contiguous_format))
    layer.bias = None if bias is None else nn.Parameter(bias.detach())
    return layer.requires_grad_(requires_grad=False)


def is_suitable(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a layer is a convolution that becomes faster: 3x3, stride 1, no padding, enough channels."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (_KERNEL, _KERNEL)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and min(layer.in_channels, layer.out_channels) >= MIN_CHANNELS
    )


def with_winograd(layers: nn.Sequential) -> nn.Sequential:
    """Return layers for inference with :class:`RowWinograd` in place of each convolution that it makes faster."""
    return nn.Sequential(*(RowWinograd(layer) if is_suitable(layer) else layer for layer in layers))


class SignBitReLU(nn.Module):
    """ReLU in place for inference on a CPU: numbers with the sign bit set become 0.

    The bits of a negative number, read as an integer, are negative as well, so an integer maximum with 0 is the ReLU.
    PyTorch compares integers several times as fast as bf16, and as fast as fp32. (-0.0 becomes 0.0.)
    """

    def forward(self, values: Tensor) -> Tensor:
        """Apply the ReLU to a tensor of 16- or 32-bit numbers in place and return it."""
        if values.is_cuda:
            return values.relu_()
        values.view(torch.int16 if values.itemsize == 2 else torch.int32).clamp_min_(0)  # noqa: PLR2004 - bytes
        return values


def with_sign_bit_relu(layers: nn.Sequential) -> nn.Sequential:
    """Return layers for inference with :class:`SignBitReLU` in place of each ReLU."""
    return nn.Sequential(*(SignBitReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers))
