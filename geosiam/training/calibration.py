"""Calibrate a trained network on held-out cells: the temperature of its logits, and the threshold of its scores.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks" (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from torch import Tensor

    from geosiam.network.siamese import SiameseNetwork

ANOMALOUS = 0.5
"""Largest value of ``similar`` at which a cell counts as anomalous: at least half of its pixels are."""

_TEMPERATURES = (0.1, 10.0)
_TOLERANCE = 1e-8  # of the temperature's logarithm
_THRESHOLDS = (0.05, 0.95)


@dataclass(frozen=True)
class HeldOut:
    """Logits and labels of held-out cells; both tensors are flat and of the same length.

    Parameters
    ----------
    logits
        float32, logits of "similar".
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
        """Return the same cells with every logit divided by a temperature."""
        return HeldOut(self.logits / temperature, self.similar)


def fit_temperature(held_out: HeldOut) -> float:
    """Return the temperature, 0.1 to 10, at which the cross-entropy is smallest."""
    logits, similar = held_out.logits.double(), held_out.similar.double()

    def cross_entropy(logarithm: float) -> float:
        return binary_cross_entropy_with_logits(logits / math.exp(logarithm), similar).item()

    low, high = map(math.log, _TEMPERATURES)
    fit = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": _TOLERANCE})
    return math.exp(fit.x)


def apply_temperature(network: SiameseNetwork, temperature: float) -> None:
    """Divide all logits of a network by a temperature, in the weights of its last layers."""
    with torch.no_grad():
        for discriminator in network.discriminators:
            for parameter in discriminator.layers[-1].parameters():
                parameter.div_(temperature)


def calibration_error(held_out: HeldOut, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap between probability and frequency, over equal bins."""
    scores = held_out.scores.double()
    index = (scores * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=scores.device)
    gaps.scatter_add_(0, index, scores - (1 - held_out.similar.double()))
    return float(gaps.abs().sum() / max(1, len(scores)))


def best_threshold(held_out: HeldOut) -> float:
    """Return the anomaly probability with the best F1 of the anomalous class, limited to 0.05 to 0.95."""
    return _best_f1(held_out.scores, held_out.similar <= ANOMALOUS)


def _best_f1(scores: Tensor, anomalous: Tensor) -> float:
    order = scores.argsort(descending=True)
    true_positives = anomalous[order].cumsum(0)
    positives = torch.arange(1, len(scores) + 1, device=scores.device)
    best = int((2 * true_positives / (positives + anomalous.sum())).argmax())
    return float(scores[order][best].clamp(*_THRESHOLDS))
