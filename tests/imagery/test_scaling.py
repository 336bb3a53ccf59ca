"""From own values to [0, 1]."""

import numpy as np
import pytest

from geosiam.imagery.sampling import Patch, Sample
from geosiam.imagery.scaling import FULL_BYTE, Scaling, choose_scaling

RNG = np.random.default_rng(2)


def sample(before: np.ndarray, after: np.ndarray) -> Sample:
    return Sample((Patch(before, after, np.ones(before.shape[1:], bool)),))


def own(image: np.ndarray) -> Scaling:
    low, high = np.percentile(image.reshape(3, -1), (0.5, 99.5), axis=1)
    return Scaling(tuple(low), tuple(high))


def same(scaling: Scaling, expected: Scaling) -> None:
    assert scaling.low == pytest.approx(expected.low)
    assert scaling.high == pytest.approx(expected.high)


def test_bytes_keep_their_full_range() -> None:
    image = RNG.integers(100, 110, (3, 60, 60), dtype=np.uint8)
    assert choose_scaling(("uint8", "uint8"), sample(image, image)) == (FULL_BYTE, FULL_BYTE)
    np.testing.assert_allclose(FULL_BYTE.apply(image), image / 255, rtol=1e-6)


def test_similar_scenes_share_one_stretch() -> None:
    before, after = RNG.normal(500, 100, (3, 60, 60)), RNG.normal(550, 90, (3, 60, 60))
    first, second = choose_scaling(("int16", "int16"), sample(before, after))
    assert first == second
    same(first, own(np.concatenate([before, after], axis=1)))


@pytest.mark.parametrize("gain", [0.25, 4.0])
def test_a_much_darker_scene_is_not_squeezed(gain: float) -> None:
    before, after = RNG.normal(0.5, 0.1, (3, 60, 60)), gain * RNG.normal(0.5, 0.1, (3, 60, 60))
    first, second = choose_scaling(("float32", "float32"), sample(before, after))
    same(first, own(before))
    same(second, own(after))


def test_other_types_have_their_own_stretch() -> None:
    before, after = RNG.integers(0, 200, (3, 60, 60), dtype=np.uint8), RNG.normal(1e4, 500, (3, 60, 60))
    first, second = choose_scaling(("uint8", "uint16"), sample(before, after))
    assert first == FULL_BYTE
    same(second, own(after))
