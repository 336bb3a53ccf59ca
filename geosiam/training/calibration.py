"""Make probabilities honest: one temperature for all logits, fitted on pairs that the training never saw.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks" (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from torch import Tensor

    from geosiam.network.siamese import SiameseNetwork

_RANGE = (0.1, 10.0)
_STEPS = 60  # of the golden section: the temperature is then known far better than the pairs tell it
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class HeldOut:
    """What a network says of held-out cells, and what is true; both are flat and of one length.

    Parameters
    ----------
    logits
        float32, of "similar".
    similar
        float32, 1 = similar, 0 = anomaly.
    """

    logits: Tensor
    similar: Tensor

    @property
    def scores(self) -> Tensor:
        """Anomaly probabilities."""
        return (-self.logits).sigmoid()

    def at(self, temperature: float) -> HeldOut:
        """Return the same with every logit divided by a temperature."""
        return HeldOut(self.logits / temperature, self.similar)


def fit_temperature(held_out: HeldOut) -> float:
    """Return the temperature, 0.1 to 10, at which the cross-entropy is least; it has one minimum (golden section)."""
    low, high = (torch.tensor(end).log().item() for end in _RANGE)

    def loss(logarithm: float) -> float:
        at = held_out.at(float(torch.tensor(logarithm).exp()))
        return binary_cross_entropy_with_logits(at.logits, at.similar).item()

    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(torch.tensor((low + high) / 2).exp())


def calibration_error(held_out: HeldOut, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap between probability and frequency, over equal bins."""
    scores = held_out.scores.double()
    index = (scores * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=scores.device)
    gaps.scatter_add_(0, index, scores - (1 - held_out.similar.double()))
    return float(gaps.abs().sum() / max(1, len(scores)))


def apply_temperature(network: SiameseNetwork, temperature: float) -> None:
    """Divide all logits of a network by a temperature, inside its last layer: scoring knows nothing of it."""
    last = network.discriminator.layers[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(temperature)
