"""The network's architecture in numbers: its layers, and which input pixels an output cell depends on.

The recurrences of the receptive field are those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
Neural Networks" (Distill, 2019), without padding or dilation. Of an image pyramid, whose scales are branches, the field
is the union of theirs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from geosiam.imagery.grid import Halo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Distance = Literal["elementwise", "euclidean"]
Head = Literal["concat", "distance"]

BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
"""Names of a batch norm's tensors, in the order of its formula, but for the count of batches it was trained with."""

INPUT_CENTER = 0.5
"""Value of an image in [0, 1] that the encoder sees as 0."""

INPUT_SPREAD = 0.25
"""Difference of values of an image in [0, 1] that the encoder sees as 1."""

SMALLEST_SQUARE = 1e-12
"""Added to a squared Euclidean distance, so that the norm has a finite gradient where both features agree."""


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


@dataclass(frozen=True)
class Convolution:
    """One convolution of the encoder: side of its square kernel, stride, and number of output channels."""

    kernel: int
    stride: int
    width: int

    def __post_init__(self) -> None:
        if min(self.kernel, self.stride, self.width) < 1:
            raise ValueError(f"kernel, stride and width of a convolution are at least 1, not {self}")


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture of the network.

    Parameters
    ----------
    convolutions
        The encoder, from the input on. The width of the last one is the feature dimension.
    channels
        Number of bands of the input images.
    hidden
        Number of channels between the two 1x1 convolutions of the discriminator.
    distance
        ``"elementwise"``: ``|f1 - f2|``, a vector (the paper's listing); ``"euclidean"``: the norm of ``f1 - f2``,
        one number (the paper's equation 3).
    head
        Input of the discriminator: ``"concat"``: ``[f1, f2, distance]`` (equation 4); ``"distance"``: the distance
        alone (the paper's figure 2c).
    batch_norm
        Whether a batch norm follows each convolution of the encoder but the last.
    subcells
        Number of output cells along each side of a feature: 1, or more for outlines finer than the encoder's stride.
        The cells of one feature share its window.
    scales
        Sides in pixels of the squares over which the image is averaged before the encoder sees it, increasing powers of
        two from 1 on; ``(1,)``: the image alone, as in the paper.
    symmetric
        Whether the logit is the mean of both orders of the scenes, so that it does not depend on their order.
    """

    convolutions: tuple[Convolution, ...]
    channels: int = 3
    hidden: int = 64
    distance: Distance = "elementwise"
    head: Head = "concat"
    batch_norm: bool = True
    subcells: int = 1
    scales: tuple[int, ...] = (1,)
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not self.convolutions:
            raise ValueError("an encoder has at least one convolution")
        if min(self.channels, self.hidden) < 1:
            raise ValueError(f"channels and hidden are at least 1, not {self.channels} and {self.hidden}")
        if self.subcells < 1 or self.window.stride % self.subcells:
            raise ValueError(f"{self.subcells} subcells do not divide a stride of {self.window.stride} px")
        if not self.scales or self.scales[0] != 1 or not all(map(_is_octave, self.scales, self.scales[1:])):
            raise ValueError(f"scales are increasing powers of two from 1 on, not {self.scales}")
        if len(self.scales) > 1 and (self.window.size - self.window.stride) % 2:
            raise ValueError("with several scales, stride and receptive field of the encoder are both even or both odd")
        if self.distance not in ("elementwise", "euclidean"):
            raise ValueError(f"distance is 'elementwise' or 'euclidean', not {self.distance!r}")
        if self.head not in ("concat", "distance"):
            raise ValueError(f"head is 'concat' or 'distance', not {self.head!r}")

    @classmethod
    def of_stride(cls, stride: int = 8, *, width: int = 32, features: int = 128, **options: Any) -> Self:  # noqa: ANN401
        """Return an encoder whose receptive field is exactly 32 px, with stride 8 (the default) or 4.

        Parameters
        ----------
        stride
            Pixels an output cell stands for: 8, or 4 for finer outlines at about three times the cost.
        width
            Channels of the first convolution; the following have twice and four times as many.
        features
            Feature dimension, the channels of the last convolution.
        options
            Further fields of the config.

        Raises
        ------
        ValueError
            There is no ready-made encoder of this stride, or an option does not fit it.
        """
        if stride == 8:  # noqa: PLR2004
            stack = [(4, 2, width), (3, 2, 2 * width), (3, 2, 4 * width), (3, 1, features)]
        elif stride == 4:  # noqa: PLR2004
            stack = [(4, 2, width), (3, 2, 2 * width), (3, 1, 2 * width), (3, 1, 4 * width), (3, 1, features)]
        else:
            raise ValueError(f"there is a ready-made encoder of stride 8 and one of stride 4, not of {stride}")
        return cls(tuple(Convolution(*layer) for layer in stack), **options)

    @property
    def features(self) -> int:
        """Feature dimension."""
        return self.convolutions[-1].width

    @property
    def window(self) -> ReceptiveField:
        """Receptive field of a feature, computed from the layers."""
        return receptive_field((layer.kernel, layer.stride) for layer in self.convolutions)

    @property
    def pyramid(self) -> Pyramid:
        """Arithmetic of the scales: which features and pixels a cell depends on."""
        return Pyramid(self.window, self.subcells, self.scales)

    @property
    def receptive_field(self) -> ReceptiveField:
        """Receptive field of an output cell: it covers the windows of its features, wherever in them the cell lies."""
        return self.pyramid.receptive_field

    @property
    def alignment(self) -> int:
        """Pixels; images cut out of a larger one must begin a multiple of them from its beginning."""
        return self.pyramid.alignment

    @property
    def halo(self) -> Halo:
        """Margin around the cell's own pixels that its score depends on."""
        field = self.receptive_field
        return Halo(field.offset, field.overhang)

    @property
    def discriminator_channels(self) -> int:
        """Channels that a discriminator sees: both features and their distance, or the distance alone."""
        distance = self.features if self.distance == "elementwise" else 1
        return distance if self.head == "distance" else 2 * self.features + distance

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the network's weights, by its name in :class:`SiameseNetwork`."""
        shapes: dict[str, tuple[int, ...]] = {}
        place, channels = 0, self.channels
        for number, layer in enumerate(self.convolutions, 1):
            shapes[f"encoder.{place}.weight"] = layer.width, channels, layer.kernel, layer.kernel
            if self.batch_norm and number < len(self.convolutions):
                place += 1
                shapes |= {f"encoder.{place}.{name}": (layer.width,) for name in BATCH_NORM_TENSORS}
                shapes[f"encoder.{place}.num_batches_tracked"] = ()
            else:
                shapes[f"encoder.{place}.bias"] = (layer.width,)
            place, channels = place + 2, layer.width
        for level in range(len(self.scales)):
            first, last = (f"{discriminator_name(level)}.layers.{place}" for place in (0, 2))
            width = self.hidden * (1 + level)
            shapes |= {f"{first}.weight": (width, self.discriminator_channels, 1, 1), f"{first}.bias": (width,)}
            shapes |= {f"{last}.weight": (self.subcells**2, self.hidden, 1, 1), f"{last}.bias": (self.subcells**2,)}
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the config that :meth:`to_dict` wrote."""
        layers = tuple(Convolution(**layer) for layer in values["convolutions"])
        return cls(**{**values, "convolutions": layers, "scales": tuple(values.get("scales", (1,)))})


def discriminator_name(level: int) -> str:
    """Return the name of a scale's discriminator in the network's weights; level 0 is the finest scale."""
    return "discriminator" if level == 0 else f"coarser.{level - 1}"


def _is_octave(finer: int, coarser: int) -> bool:
    """Return whether a scale is 2, 4, 8, ... times another one."""
    factor, rest = divmod(coarser, finer)
    return not rest and factor > 1 and factor.bit_count() == 1
