"""The fully convolutional Siamese network of Hirokawa, "Anomaly Detections using Deep Learning (VI)".

One encoder of valid convolutions is applied to both scenes; a discriminator of two 1x1 convolutions classifies the two
features and their distance. There is no fully connected layer and no padding, so the network runs on images of any
size from one receptive field up, and each output cell depends on exactly its receptive field.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geosiam.imagery.grid import Halo
from geosiam.network.receptive_field import ReceptiveField, receptive_field, subdivided

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import EllipsisType

Distance = Literal["elementwise", "euclidean"]
Head = Literal["concat", "distance"]
Slices: TypeAlias = "tuple[EllipsisType, slice, slice]"

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
    """

    convolutions: tuple[Convolution, ...]
    channels: int = 3
    hidden: int = 64
    distance: Distance = "elementwise"
    head: Head = "concat"
    batch_norm: bool = True
    subcells: int = 1

    def __post_init__(self) -> None:
        if not self.convolutions:
            raise ValueError("an encoder has at least one convolution")
        if min(self.channels, self.hidden) < 1:
            raise ValueError(f"channels and hidden are at least 1, not {self.channels} and {self.hidden}")
        if self.subcells < 1 or self.window.stride % self.subcells:
            raise ValueError(f"{self.subcells} subcells do not divide a stride of {self.window.stride} px")
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
    def receptive_field(self) -> ReceptiveField:
        """Receptive field of an output cell: it covers the window of its feature, wherever in it the cell lies."""
        return subdivided(self.window, self.subcells)

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
        return cls(**{**values, "convolutions": layers})


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


def euclidean_distance(before: Tensor, after: Tensor) -> Tensor:
    """Return the norm of the difference of two features (n, features, rows, cols): (n, 1, rows, cols) (equation 3).

    Its gradient is finite, namely zero, where both are equal.
    """
    return ((before - after).square().sum(dim=1, keepdim=True) + _TINY).sqrt()


class Discriminator(nn.Module):
    """Two 1x1 convolutions over both features and their distance: the logit of "similar" (equations 3 and 4)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.distance = config.distance
        self.head = config.head
        channels = config.features if config.distance == "elementwise" else 1
        if config.head == "concat":
            channels += 2 * config.features
        self.layers = nn.Sequential(
            nn.Conv2d(channels, config.hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.hidden, config.subcells**2, 1),
        )
        self.subcells = config.subcells

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits of two features of shape (n, features, rows, cols): shape (n, 1, rows, cols).

        With subcells, the logits of a feature are arranged as their cells are on the ground (Shi et al., "Real-time
        single image and video super-resolution using an efficient sub-pixel convolutional neural network", 2016), so
        that rows and cols grow by that factor.
        """
        distance = (before - after).abs() if self.distance == "elementwise" else euclidean_distance(before, after)
        inputs = distance if self.head == "distance" else torch.cat([before, after, distance], dim=1)
        logits: Tensor = self.layers(inputs)
        return logits if self.subcells == 1 else pixel_shuffle(logits, self.subcells)


def normalized(images: Tensor) -> Tensor:
    """Return images in [0, 1] centered and scaled for the encoder."""
    return (images - INPUT_CENTER).div_(INPUT_SPREAD)


class SiameseNetwork(nn.Module):
    """Encoder and discriminator; the logit is of "similar", so the anomaly score is ``sigmoid(-logit)``.

    Inputs have shape (n, channels, height, width) with values in [0, 1]; a 32x32 chip gives exactly one logit.

    With the head ``"concat"`` the logit depends on the order of the scenes, as in the paper: the discriminator sees
    which feature came first. Training presents both orders equally often. With ``"distance"`` the order is irrelevant.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: nn.Sequential = Encoder(config)
        self.discriminator = Discriminator(config)

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
        """Return the features of images (n, channels, h, w) in [0, 1]: (n, features, rows, cols)."""
        features: Tensor = self.encoder(normalized(images))
        return features

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits of "similar", shape (n, 1, rows, cols), for two batches of equal shape."""
        return self.compare(torch.cat([normalized(before), normalized(after)]))

    def compare(self, images: Tensor) -> Tensor:
        """Return the logits as :meth:`forward` does, for images that are :func:`normalized` already.

        With subcells the first cell of the images must be the first of its feature: images cut out of a larger one
        must begin ``subcells * stride`` pixels, or a multiple, from its beginning.

        Parameters
        ----------
        images
            (2n, channels, h, w): the n before images, then the n after images.
        """
        cells, features = self._extent(images)
        logits: Tensor = self.discriminator(*self.encoder(images[features]).chunk(2))
        return logits[cells]

    def _extent(self, image: Tensor) -> tuple[Slices, Slices]:
        """Return the slices of the logits that are cells of the image, and of the pixels that their features need."""
        window, field, subcells = self.config.window, self.config.receptive_field, self.config.subcells
        margin = field.offset - window.offset  # a cell may be the last of its feature; the first cell is the first

        def along(size: int) -> tuple[slice, slice]:
            count = field.cells(size)
            features = -(-count // subcells)
            return slice(count), slice(margin, margin + window.size + (features - 1) * window.stride)

        rows, cols = (along(size) for size in image.shape[-2:])
        return (..., rows[0], cols[0]), (..., rows[1], cols[1])

    def for_inference(self) -> SiameseNetwork:
        """Return an equivalent copy with batch norm folded in, in eval mode and without gradients."""
        copy = SiameseNetwork.of_weights(replace(self.config), self.state_dict())
        assert isinstance(copy.encoder, Encoder)
        copy.encoder = _with_sign_bit_relu(copy.encoder.folded())
        copy.discriminator.layers = _with_sign_bit_relu(copy.discriminator.layers)
        return copy.eval().requires_grad_(requires_grad=False)


def _with_sign_bit_relu(layers: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*(SignBitReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers))


def can_expand_subcells(small: NetworkConfig, large: NetworkConfig) -> bool:
    """Return whether weights of one network can initialize another: the same one, or one with more subcells only."""
    return replace(small, subcells=large.subcells) == large and small.subcells in (1, large.subcells)


def expand_subcells(state: Mapping[str, Tensor], small: NetworkConfig, large: NetworkConfig) -> dict[str, Tensor]:
    """Return the weights of ``small`` for ``large``: all subcells give the logit of the whole cell."""
    if not can_expand_subcells(small, large):
        raise ValueError(f"weights of {small} do not fit {large}")
    copies = (large.subcells // small.subcells) ** 2
    last = ("discriminator.layers.2.weight", "discriminator.layers.2.bias")
    return {key: value.repeat_interleave(copies, 0) if key in last else value for key, value in state.items()}
