"""The command line on a processor that cannot multiply bytes, with a stand-in for PyTorch's convolution of bytes.

    python -P benchmarks/_exact_int8.py detect before.tif after.tif -o found.gpkg --precision int8

Sums of bytes are taken in float64, which holds them exactly, so geosiam finds that int8 works and runs all of its own
code for it. This takes far longer than fp32 and is for comparing results, not for making them: what PyTorch does
between two convolutions may round otherwise.
"""

from __future__ import annotations

import os
import runpy
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line has it, before NumPy is imported

import torch

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 255


def keep(weight: Tensor, *_where_and_how: Any) -> Tensor:  # noqa: ANN401 - what PyTorch's own takes
    """Stand in for ``torch.ops.onednn.qconv_prepack``: weights need no other layout."""
    return weight


def convolve(  # noqa: PLR0917 - the parameters of PyTorch's own
    images: Tensor,
    scale: float,
    zero: int,
    weight: Tensor,
    steps: Tensor,
    _zeros: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    answer_scale: float,
    answer_zero: int,
    answers: torch.dtype,
    activation: str,
    *_more: Any,  # noqa: ANN401 - what PyTorch's own takes
) -> Tensor:
    """Stand in for ``torch.ops.onednn.qconv2d_pointwise``, without zero points."""
    assert zero == answer_zero == 0
    sums = torch.nn.functional.conv2d(images.double(), weight.double(), None, stride, padding, dilation, groups)
    values = sums * (scale * steps.double()).view(1, -1, 1, 1) + bias.double().view(1, -1, 1, 1)
    if activation == "relu":
        values = values.relu()
    values /= answer_scale
    values = values.round().clamp(0, LARGEST) if answers == torch.uint8 else values
    return values.to(answers).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    torch.ops.onednn.qconv_prepack = keep
    torch.ops.onednn.qconv2d_pointwise = convolve
    runpy.run_module("geosiam_cli", run_name="__main__", alter_sys=True)
