import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosiam.scores import threshold
from geosiam.scores.threshold import POLICY, threshold_of_counts

STEPS = 254


def counted(log_odds: np.ndarray) -> np.ndarray:
    scores = np.rint(STEPS / (1 + np.exp(-log_odds))).astype(int)
    return np.bincount(scores, minlength=STEPS + 1)


@settings(deadline=None)
@given(seed=st.integers(0, 99), usual=st.floats(0.05, 0.95), changed=st.floats(0, 0.05))
def test_quiet_pairs_keep_the_models_threshold(seed: int, usual: float, changed: float) -> None:
    rng = np.random.default_rng(seed)
    ground, objects = rng.normal(-8, 2, 20_000), rng.normal(5, 1, int(20_000 * changed))
    chosen = threshold_of_counts(counted(np.concatenate([ground, objects])), usual)
    assert chosen.value == pytest.approx(usual, abs=1e-4)
    assert chosen.warning is None


@settings(deadline=None)
@given(middle=st.floats(-2, 0), spread=st.floats(0.6, 1.2), changed=st.floats(0, 0.1), seed=st.integers(0, 9))
def test_loud_pairs_ask_for_what_stands_out_from_their_ground(
    middle: float, spread: float, changed: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ground = rng.normal(middle, spread, 200_000)
    objects = rng.normal(6, 0.5, int(200_000 * changed))
    chosen = threshold_of_counts(counted(np.concatenate([ground, objects])), 0.3)
    expected = 1 / (1 + math.exp(-(middle + 3 * spread)))
    assert chosen.value <= POLICY.max_threshold
    # Objects move the middle a little, and a score has 255 steps.
    assert math.log(chosen.value / (1 - chosen.value)) == pytest.approx(
        math.log(min(expected, POLICY.max_threshold) / (1 - min(expected, POLICY.max_threshold))), abs=0.6 * spread
    )
    assert "raised from 0.3 to" in chosen.warning
    if changed == 0 and expected < POLICY.max_threshold:
        above = (1 / (1 + np.exp(-ground)) >= chosen.value).mean()
        assert above == pytest.approx(1 / 740, abs=6e-4)


@given(st.lists(st.integers(0, 400), min_size=255, max_size=255), st.floats(0.01, 0.99))
def test_percentiles_are_those_of_the_cells(counts: list[int], share: float) -> None:
    array = np.array(counts)
    if not array.any():
        array[7] = 1
    cells = np.repeat(np.arange(255), array) / STEPS
    low, high = (np.quantile(cells, share, method=how) for how in ("lower", "higher"))
    assert low - 0.51 / STEPS <= threshold._percentile(array, share) <= high + 0.51 / STEPS


def test_small_or_empty_pairs_keep_the_models_threshold() -> None:
    assert threshold_of_counts(np.zeros(255, np.int64), 0.4).value == 0.4
    assert threshold_of_counts(counted(np.full(POLICY.min_cells - 1, 1.0)), 0.4).value == 0.4
    assert threshold_of_counts(counted(np.full(POLICY.min_cells, 1.0)), 0.4).value > 0.4


@given(st.floats(0.01, 0.97))
def test_the_seed_has_twice_the_odds(value: float) -> None:
    chosen = threshold.Threshold.of(value, value, 0.0)
    assert chosen.seed / (1 - chosen.seed) == pytest.approx(2 * value / (1 - value))
    assert value < chosen.seeded(None).seed < 1
    assert chosen.seeded(value / 2).seed == value
    assert chosen.seeded(0.99).seed == 0.99
