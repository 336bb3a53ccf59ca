"""Receptive field arithmetic: which input pixels an output cell of a stack of valid convolutions depends on.

The recurrences are those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill, 2019), without padding, dilation or branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class ReceptiveField:
    """The square of input pixels that an output cell depends on, the same along rows and columns.

    Parameters
    ----------
    size
        Side of the square in pixels.
    stride
        Distance in pixels between the squares of neighboring cells.
    """

    size: int
    stride: int

    @property
    def offset(self) -> int:
        """Pixels between the start of the field and the ``stride`` pixels in its middle that the cell stands for."""
        return (self.size - self.stride) // 2

    @property
    def overhang(self) -> int:
        """Pixels between the end of those middle pixels and the end of the field."""
        return self.size - self.stride - self.offset

    def cells(self, pixels: int) -> int:
        """Return the count of cells of a valid convolution over an axis of ``pixels`` pixels, 0 if it is too short."""
        return max(0, (pixels - self.size) // self.stride + 1)


def receptive_field(convolutions: Iterable[tuple[int, int]]) -> ReceptiveField:
    """Compute the receptive field of convolutions applied one after the other.

    Parameters
    ----------
    convolutions
        (kernel size, stride) of each convolution, from the input on.
    """
    size = stride = 1
    for kernel, step in convolutions:
        size += (kernel - 1) * stride
        stride *= step
    return ReceptiveField(size, stride)


def subdivided(window: ReceptiveField, parts: int) -> ReceptiveField:
    """Return the receptive field of cells that divide each stride of ``window`` into ``parts``.

    All parts depend on the same window and lie at different places in it. The field covers the window for each of them,
    so it is larger than the window by the distance of the first part from the last.

    Parameters
    ----------
    window
        Receptive field of the undivided cell.
    parts
        Number of cells along a stride; it must divide the stride.
    """
    stride = window.stride // parts
    return ReceptiveField(window.size + window.stride - stride, stride)
