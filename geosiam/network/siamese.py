"""The fully convolutional Siamese network of Hirokawa, "Anomaly Detections using Deep Learning (VI)".

One encoder of valid convolutions is applied to both scenes; a discriminator of two 1x1 convolutions classifies the two
features and their distance. There is no fully connected layer and no padding, so the network runs on images of any
size from one receptive field up, and each output cell depends on exactly its receptive field.

Beyond the paper, the encoder may run at several scales of the images (Adelson et al., "Pyramid methods in image
processing", 1984), so that cells as small as before have a field several times as large at little cost: an image
averaged over 2 x 2 pixels has a quarter of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, linear, pixel_shuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geosiam.imagery.grid import Halo
from geosiam.network.receptive_field import Pyramid, ReceptiveField, interpolated_from, receptive_field
from geosiam.network.winograd import with_sign_bit_relu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Distance = Literal["elementwise", "euclidean"]
Head = Literal["concat", "distance"]
Span: TypeAlias = "tuple[range, range]"

INPUT_CENTER = 0.5
INPUT_SPREAD = 0.25
_TINY = 1e-12  # keeps the gradient of the Euclidean norm finite where both features agree


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

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the config that :meth:`to_dict` wrote."""
        layers = tuple(Convolution(**layer) for layer in values["convolutions"])
        return cls(**{**values, "convolutions": layers, "scales": tuple(values.get("scales", (1,)))})


def _is_octave(finer: int, coarser: int) -> bool:
    """Return whether a scale is 2, 4, 8, ... times another one."""
    factor, rest = divmod(coarser, finer)
    return not rest and factor > 1 and factor.bit_count() == 1


class Encoder(nn.Sequential):
    """Valid convolutions with ReLU between them: (n, channels, h, w) -> (n, features, rows, cols)."""

    def __init__(self, config: NetworkConfig) -> None:
        layers: list[nn.Module] = []
        channels = config.channels
        for i, conv in enumerate(config.convolutions):
            last = i == len(config.convolutions) - 1
            normalized = config.batch_norm and not last
            layers.append(nn.Conv2d(channels, conv.width, conv.kernel, conv.stride, bias=not normalized))
            if normalized:
                layers.append(nn.BatchNorm2d(conv.width))
            if not last:
                layers.append(nn.ReLU(inplace=True))
            channels = conv.width
        super().__init__(*layers)

    def folded(self) -> nn.Sequential:
        """Return the same function for inference, each batch norm folded into the convolution before it."""
        layers: list[nn.Module] = []
        for layer in self.eval():
            if isinstance(layer, nn.BatchNorm2d):
                convolution = layers.pop()
                assert isinstance(convolution, nn.Conv2d)
                layers.append(fuse_conv_bn_eval(convolution, layer))
            else:
                layers.append(layer)
        return nn.Sequential(*layers)


def euclidean_distance(before: Tensor, after: Tensor) -> Tensor:
    """Return the norm of the difference of two features (n, features, rows, cols): (n, 1, rows, cols) (equation 3).

    Its gradient is finite, namely zero, where both are equal.
    """
    return ((before - after).square().sum(dim=1, keepdim=True) + _TINY).sqrt()


class Discriminator(nn.Module):
    """Two 1x1 convolutions over both features and their distance: the logit of "similar" (equations 3 and 4).

    Parameters
    ----------
    config
        Architecture of the network.
    finer
        Number of finer scales, whose discriminators see this one's features as well: the first convolution computes
        what they mean for each of them.
    """

    def __init__(self, config: NetworkConfig, finer: int = 0) -> None:
        super().__init__()
        self.distance = config.distance
        self.head = config.head
        self.symmetric = config.symmetric and config.head == "concat"
        channels = config.features if config.distance == "elementwise" else 1
        if config.head == "concat":
            channels += 2 * config.features
        self.layers = nn.Sequential(
            nn.Conv2d(channels, config.hidden * (1 + finer), 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.hidden, config.subcells**2, 1),
        )
        self.hidden = config.hidden
        self.subcells = config.subcells

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits of two features of shape (n, features, rows, cols): shape (n, 1, rows, cols)."""
        return self.logits(self.evidence(torch.cat([before, after]))[0])

    def evidence(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the first convolution's output, before the ReLU, for the own scale and each finer one, finest last.

        Parameters
        ----------
        features
            (2n, features, rows, cols): those of the n before images, then those of the n after images.

        Returns
        -------
        (n, hidden, rows, cols) each; (2n, hidden, rows, cols), one order of the scenes after the other, if symmetric
        """
        before, after = features.chunk(2)
        distance = (before - after).abs() if self.distance == "elementwise" else euclidean_distance(before, after)
        if self.symmetric:
            evidence = self._evidence_of_both_orders(features, distance)
        else:
            inputs = distance if self.head == "distance" else torch.cat([before, after, distance], dim=1)
            evidence = self.layers[0](inputs)
        return tuple(evidence[:, first : first + self.hidden] for first in range(0, evidence.shape[1], self.hidden))

    def _evidence_of_both_orders(self, features: Tensor, distance: Tensor) -> Tensor:
        """Return the first convolution's output for ``[f1, f2, distance]``, and for ``[f2, f1, distance]``.

        What a feature contributes as the first and as the second one is computed once for both orders.
        """
        first = self.layers[0]
        assert isinstance(first, nn.Conv2d)
        count, weight = features.shape[1], first.weight.flatten(1)
        roles = torch.cat([weight[:, :count], weight[:, count : 2 * count]])
        as_first, as_second = _pointwise(features, roles).chunk(2, 1)
        shared = _pointwise(distance, weight[:, 2 * count :], first.bias)
        swapped = as_second.roll(len(distance), 0)
        return as_first + swapped + shared.repeat(2, 1, 1, 1)

    def logits(self, evidence: Tensor) -> Tensor:
        """Return the logits of evidence of one scale, both orders averaged: (n, 1, rows, cols).

        With subcells, the logits of a feature are arranged as their cells are on the ground (Shi et al., "Real-time
        single image and video super-resolution using an efficient sub-pixel convolutional neural network", 2016), so
        that rows and cols grow by that factor.
        """
        hidden = self.layers[1](evidence)
        if self.symmetric:
            first, second = hidden.chunk(2)
            hidden = (first + second) / 2
        logits: Tensor = self.layers[2](hidden)
        return logits if self.subcells == 1 else pixel_shuffle(logits, self.subcells)


def _pointwise(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve values (n, channels, rows, cols) by 1x1 with weights (width, channels), as a product of matrices.

    With one thread PyTorch's own 1x1 convolution takes several times as long, and the order of its sums depends on n.
    """
    return linear(values.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def normalized(images: Tensor) -> Tensor:
    """Return images in [0, 1] centered and scaled for the encoder."""
    return (images - INPUT_CENTER).div_(INPUT_SPREAD)


def averaged(images: Tensor, side: int) -> Tensor:
    """Return the means of squares of pixels, (n, channels, rows, cols); bytes are rounded to bytes, halves up."""
    if side == 1:
        return images
    if images.dtype != torch.uint8:
        return avg_pool2d(images, side)
    sums = images.to(torch.int16)
    for _ in range(side.bit_length() - 1):
        sums = sums[..., ::2, :] + sums[..., 1::2, :]
        sums = sums[..., ::2] + sums[..., 1::2]
    return ((sums + side**2 // 2) >> 2 * (side.bit_length() - 1)).to(torch.uint8)


def interpolated(values: Tensor, factor: int, source: Span, target: Span) -> Tensor:
    """Interpolate values (n, channels, rows, cols) bilinearly to cells ``factor`` times as fine.

    Parameters
    ----------
    values
        Values of the cells ``source``, each at the center of its cell.
    factor
        Number of fine cells along a coarse one, a power of two.
    source, target
        Rows and columns of the coarse and of the fine cells, both numbered from the same corner.
    """
    if factor > 1:
        inner = [interpolated_from(span, factor) for span in target]
        rows, cols = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, source, strict=True))
        fine = interpolate(values[..., rows, cols], scale_factor=float(factor), mode="bilinear", align_corners=False)
        source, values = tuple(range(factor * span.start, factor * span.stop) for span in inner), fine  # type: ignore[assignment]
    rows, cols = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(target, source, strict=True))
    return values[..., rows, cols]


class SiameseNetwork(nn.Module):
    """Encoder and discriminator; the logit is of "similar", so the anomaly score is ``sigmoid(-logit)``.

    Inputs have shape (n, channels, height, width) with values in [0, 1]; images as large as the receptive field give
    exactly one logit.

    With the head ``"concat"`` the logit depends on the order of the scenes, as in the paper: the discriminator sees
    which feature came first. Training presents both orders equally often. With ``"distance"`` the order is irrelevant,
    and so it is if the network is symmetric.

    With several scales, each has a discriminator of its own. It sees the features of its scale and of all coarser ones,
    interpolated: what a difference of texture means depends on what surrounds it. The logit of a cell is the sum of
    their logits, interpolated as well, those of the coarser scales cut off above 0: from afar a small thing cannot be
    seen, so a coarse scale gives evidence of a change or none, and the bias of its logit says from where on.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: nn.Sequential = Encoder(config)
        self.discriminator = Discriminator(config)
        self.coarser = nn.ModuleList(Discriminator(config, finer) for finer in range(1, len(config.scales)))

    @property
    def discriminators(self) -> list[Discriminator]:
        """The discriminator of each scale, the finest first."""
        return [self.discriminator, *self.coarser]

    @classmethod
    def of_weights(cls, config: NetworkConfig, weights: Mapping[str, Tensor]) -> Self:
        """Return a network with given weights; unlike the constructor, it draws no random numbers.

        Raises
        ------
        RuntimeError
            The weights do not fit the configuration.
        """
        with torch.device("meta"):  # where layers have shapes only
            network = cls(config)
        # Assigned, not copied into empty layers: `to_empty` imports sympy, which changes the caller's warnings.
        network.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
        return network

    def encode(self, images: Tensor) -> Tensor:
        """Return the features of images (n, channels, h, w) in [0, 1] at full scale: (n, features, rows, cols)."""
        features: Tensor = self.encoder(normalized(images))
        return features

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits of "similar", shape (n, 1, rows, cols), for two batches of equal shape."""
        return self.compare(torch.cat([normalized(before), normalized(after)]))

    def compare(self, images: Tensor) -> Tensor:
        """Return the logits as :meth:`forward` does, for images that are :func:`normalized` already.

        The first cell of the images must be the first of its feature at every scale: images cut out of a larger one
        must begin :attr:`NetworkConfig.alignment` pixels, or a multiple, from its beginning.

        Parameters
        ----------
        images
            (2n, channels, h, w): the n before images, then the n after images.
        """
        field = self.config.receptive_field
        cells = range(field.cells(images.shape[-2])), range(field.cells(images.shape[-1]))
        pixels = (self.config.pyramid.pixels(span) for span in cells)
        features = []
        for scale, *spans in zip(self.config.scales, *pixels, strict=True):
            rows, cols = (slice(span.start + field.offset, span.stop + field.offset) for span in spans)
            features.append(self.encoder(averaged(images[..., rows, cols], scale)))
        return self._discriminate(features, cells)

    def _discriminate(self, features: Sequence[Tensor], cells: Span) -> Tensor:
        """Return the logits of cells from the features of each scale."""
        scales, subcells, pyramid = self.config.scales, self.config.subcells, self.config.pyramid
        sources = list(zip(*(pyramid.features(axis) for axis in cells), strict=True))
        targets = list(zip(*(pyramid.logits(axis) for axis in cells), strict=True))
        evidence = [part.evidence(values) for part, values in zip(self.discriminators, features, strict=True)]
        total = None
        for level in reversed(range(len(scales))):
            own = interpolated(evidence[level][0], 1, sources[level], targets[level])
            for coarser in range(level + 1, len(scales)):
                factor = scales[coarser] // scales[level]
                own = own + interpolated(evidence[coarser][coarser - level], factor, sources[coarser], targets[level])
            rows, cols = (range(axis.start * subcells, axis.stop * subcells) for axis in targets[level])
            logits = self.discriminators[level].logits(own)
            if level > 0:
                logits = logits.clamp(max=0)
            logits = interpolated(logits, scales[level], (rows, cols), cells)
            total = logits if total is None else total + logits
        assert total is not None
        return total

    def for_inference(self) -> SiameseNetwork:
        """Return an equivalent copy with batch norm folded in, in eval mode and without gradients."""
        copy = SiameseNetwork.of_weights(replace(self.config), self.state_dict())
        assert isinstance(copy.encoder, Encoder)
        copy.encoder = with_sign_bit_relu(copy.encoder.folded())
        for discriminator in copy.discriminators:
            discriminator.layers = with_sign_bit_relu(discriminator.layers)
        return copy.eval().requires_grad_(requires_grad=False)
