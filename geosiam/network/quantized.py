"""An 8-bit integer encoder for inference on processors with instructions for such products (VNNI).

Quantization needs the weights only. The batch norm behind a convolution gives the distribution of its channels, so no
scene is needed to find their ranges, and the mean error that rounding the weights adds to a channel is known and
subtracted (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019). Each channel
is scaled to the whole range, which the next convolution's weights undo. Sums of integers are exact: unlike sums of
floating point numbers, they are the same in any order.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geosiam.network.architecture import INPUT_CENTER, INPUT_SPREAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

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
