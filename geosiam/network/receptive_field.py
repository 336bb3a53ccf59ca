"""Receptive field arithmetic: which input pixels an output cell of a stack of valid convolutions depends on.

The recurrences are those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill, 2019), without padding or dilation. Of an image pyramid, whose scales are branches, the field is the union of
theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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


def interpolated_from(cells: range, factor: int) -> range:
    """Return the coarse cells that cells ``factor`` times as fine are bilinearly interpolated from.

    Both kinds are numbered from the same edge; a value stands at the center of its cell.
    """
    first = (2 * cells.start + 1 - factor) // (2 * factor)
    last = -(-(2 * cells.stop - 1 - factor) // (2 * factor))
    return range(first, last + 1)


@dataclass(frozen=True)
class Pyramid:
    """Which features an output cell depends on if an encoder runs at several scales of an image.

    At scale ``s`` the encoder sees the image averaged over ``s x s`` pixels. Feature 0 of every scale begins with pixel
    0, as cell 0 does, so the scales fit together only in windows that begin :attr:`alignment` pixels, or a multiple,
    from the beginning of the scene.

    Parameters
    ----------
    window
        Receptive field of a feature, in pixels of the image that the encoder sees.
    subcells
        Number of output cells along each side of a feature.
    scales
        Sides in pixels of the squares that are averaged, increasing powers of two from 1 on.
    """

    window: ReceptiveField
    subcells: int
    scales: Sequence[int]

    @property
    def alignment(self) -> int:
        """Stride in pixels of the coarsest features."""
        return self.window.stride * self.scales[-1]

    @property
    def receptive_field(self) -> ReceptiveField:
        """Receptive field of an output cell: it covers what a cell depends on wherever in a coarse feature it lies."""
        stride = self.window.stride // self.subcells
        before = after = 0
        for cell in range(self.alignment // stride):
            spans = self.pixels(range(cell, cell + 1))
            before = max(before, cell * stride - min(span.start for span in spans))
            after = max(after, max(span.stop for span in spans) - (cell + 1) * stride)
        return ReceptiveField(before + stride + after, stride)

    def logits(self, cells: range) -> list[range]:
        """Return the features of each scale whose logits cells are interpolated from, along one axis."""
        spans = [interpolated_from(cells, scale) for scale in self.scales]
        return [range(span.start // self.subcells, -(-span.stop // self.subcells)) for span in spans]

    def features(self, cells: range) -> list[range]:
        """Return the features of each scale that cells depend on along one axis.

        These are more than :meth:`logits`, since what a feature means depends on those of the coarser scales,
        interpolated at its center.
        """
        logits = self.logits(cells)
        spans = []
        for level, scale in enumerate(self.scales):
            parts = [interpolated_from(logits[finer], scale // self.scales[finer]) for finer in range(level + 1)]
            spans.append(range(min(part.start for part in parts), max(part.stop for part in parts)))
        return spans

    def pixels(self, cells: range) -> list[range]:
        """Return the pixels that the features of each scale depend on, counted from the first pixel of cell 0."""
        stride, offset, size = self.window.stride, self.window.offset, self.window.size
        return [
            range(scale * (span.start * stride - offset), scale * ((span.stop - 1) * stride - offset + size))
            for span, scale in zip(self.features(cells), self.scales, strict=True)
        ]
