"""An encoder that multiplies integers of 8 bits, for inference on processors with instructions for that (VNNI).

Nothing but the weights is needed. The batch norm behind a convolution says how its channels are spread, so no scene
has to be shown to find their ranges, and what rounding the weights adds to a channel on average is known and taken
away again (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019). Each channel
is scaled to the whole range, which the next convolution's weights undo. Sums of integers are exact: unlike those of
floating point, they are the same in any order.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geosiam.network.siamese import INPUT_CENTER, INPUT_SPREAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

LEVELS = 255
"""Steps of an activation between nothing and the largest; those of the input are the 255 of an 8-bit image."""

_WEIGHT_LEVELS = 127  # on either side of 0
_DEVIATIONS = 14  # of a channel above its mean, from which on it is cut off: 8 cuts what has strong contrasts
_LEAST = 1e-3  # of a channel's range, so that one that is always 0 divides nothing by 0


class QuantizedConvolution(nn.Module):
    """A convolution of bytes without padding: uint8 (n, channels, h, w) -> (n, width, rows, cols).

    Parameters
    ----------
    weight
        int8 (width, channels, kernel, kernel).
    steps
        float32 (width,), what one step of each output channel's weights stands for.
    bias
        float32 (width,).
    stride
        Of the convolution.
    answers
        ``torch.uint8``: what is between 0 and 1 in 255 steps, so negative sums become 0; otherwise the plain sums, in
        that type.
    """

    def __init__(self, weight: Tensor, steps: Tensor, bias: Tensor, stride: int, answers: torch.dtype) -> None:
        super().__init__()
        self.weight, self.steps, self.bias = weight, steps, bias
        self.stride = [stride, stride]
        self.answers = answers
        self._packed: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images whose values are 255ths, channels last."""
        last = self.answers != torch.uint8
        zeros = torch.zeros(len(self.steps), dtype=torch.int64)
        where = self.stride, [0, 0], [1, 1], 1
        if self._packed is None:
            kernels = torch.ops.onednn.qconv_prepack
            self._packed = kernels(self.weight, self.steps, 1 / LEVELS, 0, *where, list(images.shape))
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            images, 1 / LEVELS, 0, self._packed, self.steps, zeros, self.bias, *where,
            1.0 if last else 1 / LEVELS, 0, self.answers, "none" if last else "relu", [], "",
        )  # fmt: skip
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Return what can be pickled: not the weights as this processor wants them laid out."""
        return {**self.__dict__, "_packed": None}


@lru_cache
def multiplies_exactly() -> bool:
    """Return whether PyTorch convolves bytes on this machine, and without cutting sums off.

    Processors without instructions for it add two products in 16 bits, which the largest do not fit into.
    """
    most = torch.full((1, 4, 1, 1), _WEIGHT_LEVELS, dtype=torch.int8)
    layer = QuantizedConvolution(most, torch.full((1,), 1.0), torch.zeros(1), 1, torch.float32)
    try:
        found = layer(torch.full((1, 4, 1, 1), LEVELS, dtype=torch.uint8))
    except (AttributeError, RuntimeError):  # PyTorch without oneDNN
        return False
    return bool(round(found.item()) == 4 * _WEIGHT_LEVELS)


def can_be_quantized(encoder: nn.Sequential) -> bool:
    """Tell whether a batch norm says how the channels of each convolution but the last are spread."""
    return all(norm is not None for _, norm in list(_layers(encoder))[:-1])


def quantized(encoder: nn.Sequential, answers: torch.dtype) -> nn.Sequential:
    """Return an encoder for inference of images that are bytes: uint8 (n, channels, h, w), 255 times those in [0, 1].

    They are not :func:`~geosiam.network.siamese.normalized`: that is in the first convolution.

    Parameters
    ----------
    encoder
        With batch norm behind each convolution but the last.
    answers
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
            scale = (center + _DEVIATIONS * spread).clamp_min(_LEAST)
            weight, bias = weight / scale.view(-1, 1, 1, 1), bias / scale
        whole, steps = _rounded(weight)
        if mean is not None:
            error = whole * steps.view(-1, 1, 1, 1) - weight
            bias = bias - (error * mean.view(-1, 1, 1)).sum((1, 2, 3))
        kind = answers if norm is None else torch.uint8
        (stride, _) = folded.stride
        layers.append(QuantizedConvolution(whole.to(torch.int8), steps.float(), bias.float(), stride, kind))
        offset = 0.0
        if norm is not None:
            mean = _mean_above_zero(center, spread) / scale
    return nn.Sequential(*layers)


def _layers(encoder: nn.Sequential) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Give each convolution with the batch norm behind it, if there is one."""
    layers = list(encoder)
    for layer, behind in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            yield layer, behind if isinstance(behind, nn.BatchNorm2d) else None


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights as whole numbers, and what one of them stands for in each output channel, shape (width,)."""
    steps = weight.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / _WEIGHT_LEVELS
    return (weight / steps.view(-1, 1, 1, 1)).round(), steps


def _mean_above_zero(center: Tensor, spread: Tensor) -> Tensor:
    """Return the mean of what a ReLU leaves of a normal distribution."""
    z = center / spread.clamp_min(torch.finfo(torch.float64).tiny)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    mean: Tensor = spread * density + center * torch.special.ndtr(z)
    return mean
