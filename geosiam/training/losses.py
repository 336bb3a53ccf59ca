"""The seed paper's two objectives, each with the logit of "similar" that goes with it.

Both are means over the cells that count, so a chip with one cell and a chip with many weigh alike per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch.nn.functional import binary_cross_entropy_with_logits

from geosiam.network.siamese import euclidean_distance

if TYPE_CHECKING:
    from torch import Tensor

    from geosiam.network.siamese import SiameseNetwork


class Labelled(Protocol):
    """What a loss needs of a batch: labels and weights of its cells, float32 (n, 1, rows, cols) each."""

    @property
    def similar(self) -> Tensor:
        """Return 1 for similar, 0 for an anomaly."""
        ...

    @property
    def weight(self) -> Tensor:
        """Return 0 where the label must not count."""
        ...


class Objective(Protocol):
    """How a network judges a pair, and what it is trained for."""

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return the logit of "similar" of every cell, (n, 1, rows, cols), of images (n, channels, h, w) in [0, 1]."""
        ...

    def loss(self, logits: Tensor, batch: Labelled) -> Tensor:
        """Return the scalar to make small."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Binary cross-entropy of the discriminator's logit (equation 5).

    The paper prints ``y log p + (1 - y) log(1 - p)`` without the minus sign: small where the network is wrong. Meant,
    and used here as in the paper's own listing, is its negative, with the sigmoid inside for numerical stability.
    """

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return what the discriminator says."""
        judged: Tensor = network(before, after)
        return judged

    def loss(self, logits: Tensor, batch: Labelled) -> Tensor:
        """Return the cross-entropy in nats, mean over the cells that count."""
        losses = binary_cross_entropy_with_logits(logits, batch.similar, weight=batch.weight, reduction="sum")
        return losses / batch.weight.sum().clamp(min=1)


@dataclass(frozen=True)
class Contrastive:
    """Contrastive loss (equation 2; Hadsell, Chopra and LeCun, 2006): similar together, others ``margin`` apart.

    The distance is Euclidean, without the discriminator. Its gradient is finite, namely zero, where both features
    agree; a bare square root, as in the paper's listing, gives NaN there.

    Parameters
    ----------
    margin
        The paper's r: from this distance on, dissimilar pairs cost nothing. Pairs closer than half of it are judged
        similar.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"the margin is a distance greater than 0, not {self.margin}")

    def logits(self, network: SiameseNetwork, before: Tensor, after: Tensor) -> Tensor:
        """Return half the margin less the distance."""
        return self.margin / 2 - euclidean_distance(network.encode(before).float(), network.encode(after).float())

    def loss(self, logits: Tensor, batch: Labelled) -> Tensor:
        """Return ``y d^2 + (1 - y) max(0, margin - d)^2``, mean over the cells that count."""
        distance = self.margin / 2 - logits
        apart = (self.margin - distance).clamp(min=0)
        losses = batch.similar * distance.square() + (1 - batch.similar) * apart.square()
        return (losses * batch.weight).sum() / batch.weight.sum().clamp(min=1)
