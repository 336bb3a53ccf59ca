import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Generator

from geosiam.evaluation.counts import ScoreCounts
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.training.calibration import HeldOut, apply_temperature, calibration_error, fit_temperature


def honest(seed: int, count: int = 40_000) -> HeldOut:
    """Return logits that mean what they say."""
    generator = Generator().manual_seed(seed)
    logits = torch.randn(count, generator=generator) * 3
    similar = (torch.rand(count, generator=generator) < logits.sigmoid()).float()
    return HeldOut(logits, similar)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.3, 4.0))
def test_the_temperature_of_overconfident_logits_is_found(seed: int, temperature: float) -> None:
    too_sure = honest(seed).at(1 / temperature)
    assert fit_temperature(too_sure) == pytest.approx(temperature, rel=0.1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.3, 4.0), count=st.integers(500, 5000))
def test_the_temperature_is_where_the_cross_entropy_is_smallest(seed: int, temperature: float, count: int) -> None:
    held_out = honest(seed, count).at(1 / temperature)
    logits, similar = held_out.logits.double(), held_out.similar.double()

    def slope(value: float) -> float:
        """Return the derivative of the cross-entropy by the inverse temperature."""
        return float((logits * ((logits / value).sigmoid() - similar)).mean())

    assert fit_temperature(held_out) == pytest.approx(brentq(slope, 0.1, 10), rel=1e-6)


@pytest.mark.parametrize(("temperature", "expected"), [(0.01, 0.1), (50.0, 10.0)])
def test_the_temperature_stays_in_its_range(temperature: float, expected: float) -> None:
    assert fit_temperature(honest(2).at(1 / temperature)) == pytest.approx(expected, rel=1e-6)


def test_the_temperature_lowers_the_calibration_error_as_the_metrics_have_it() -> None:
    raw = honest(1).at(1 / 2.5)
    fitted = raw.at(fit_temperature(raw))
    for held_out in (raw, fitted):
        ours = calibration_error(held_out)
        counts = ScoreCounts.of(held_out.scores.numpy(), np.asarray(held_out.similar == 0))
        theirs = counts.calibration_error(of_equal="width")
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert calibration_error(fitted) < 0.3 * calibration_error(raw)


def test_a_temperature_divides_the_logits_of_a_network() -> None:
    torch.manual_seed(0)
    network = SiameseNetwork(NetworkConfig.of_stride(8, width=4, features=8, hidden=8, subcells=2)).eval()
    before, after = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    expected = network(before, after) / 2.5
    apply_temperature(network, 2.5)
    torch.testing.assert_close(network(before, after), expected)
