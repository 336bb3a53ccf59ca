"""The fully convolutional Siamese network of Hirokawa, "Anomaly Detections using Deep Learning (VI)".

One encoder of valid convolutions is applied to both scenes; a discriminator of two 1x1 convolutions classifies the two
features and their distance. There is no fully connected layer and no padding, so the network runs on images of any
size from one receptive field up, and each output cell depends on exactly its receptive field.

Beyond the paper, the encoder may run at several scales of the images (Adelson et al., "Pyramid methods in image
processing", 1984), so that cells as small as before have a field several times as large at little cost: an image
averaged over 2 x 2 pixels has a quarter of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, linear, pixel_shuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geosiam.network.architecture import (
    INPUT_CENTER,
    INPUT_SPREAD,
    SMALLEST_SQUARE,
    discriminator_name,
    interpolated_from,
)
from geosiam.network.cpu_layers import with_sign_bit_relu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geosiam.network.architecture import NetworkConfig

Span: TypeAlias = "tuple[range, range]"

COARSE_EVIDENCE = -1.0
"""Log-odds of a change from which on a coarser scale counts, before any training of several scales."""

_FINEST = discriminator_name(0)


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
    return ((before - after).square().sum(dim=1, keepdim=True) + SMALLEST_SQUARE).sqrt()


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
        self.layers = nn.Sequential(
            nn.Conv2d(config.discriminator_channels, config.hidden * (1 + finer), 1),
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


def can_initialize(small: NetworkConfig, large: NetworkConfig) -> bool:
    """Return whether :func:`initial_weights` can make the weights of one network from those of another."""
    grown = replace(small, subcells=large.subcells, scales=large.scales, symmetric=large.symmetric)
    same_scales = small.scales in ((1,), large.scales)
    return grown == large and small.subcells in (1, large.subcells) and same_scales


def initial_weights(state: Mapping[str, Tensor], small: NetworkConfig, large: NetworkConfig) -> dict[str, Tensor]:
    """Return the weights of ``small`` for ``large``: the same network, a symmetric one, or more subcells or scales.

    All subcells give the logit of the whole cell, and the logits of both orders are averaged. With several scales, the
    log-odds of a change are the mean of the finest scale's, and of what those of each coarser one exceed
    :data:`COARSE_EVIDENCE` by; at first no scale's discriminator uses what it sees of the coarser ones.
    """
    if not can_initialize(small, large):
        raise ValueError(f"weights of {small} do not fit {large}")
    copies = (large.subcells // small.subcells) ** 2
    result = {
        key: value.repeat_interleave(copies, 0) if key.startswith(f"{_FINEST}.layers.2.") else value
        for key, value in state.items()
    }
    if small.scales == large.scales:
        return result
    for key in [key for key in result if key.startswith(_FINEST)]:
        value, share = result[key], len(large.scales) if ".layers.2." in key else 1
        result[key] = value / share
        coarse = value + COARSE_EVIDENCE if key.endswith(".layers.2.bias") else value
        for level in range(1, len(large.scales)):
            unused = [torch.zeros_like(value)] * level if ".layers.0." in key else []
            result[key.replace(_FINEST, discriminator_name(level))] = torch.cat([coarse / share, *unused])
    return result
