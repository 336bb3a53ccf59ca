import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.exposure import match_histograms

from geosiam.errors import OptionError
from geosiam.imagery.normalization import RadiometricNormalization, _median, estimate_radiometry, robust_line

RNG = np.random.default_rng(0)


def scene(n: int = 20_000) -> np.ndarray:
    """Return values as scenes have them: several materials with texture."""
    materials = RNG.choice([0.15, 0.3, 0.45, 0.7], n)
    return np.clip(materials + RNG.normal(0, 0.05, (3, n)), 0, 1).astype(np.float32)


def changed(pixels: np.ndarray, share: float) -> np.ndarray:
    """Return pixels of which a share became something else."""
    other = pixels.copy()
    where = RNG.random(pixels.shape[1]) < share
    other[:, where] = RNG.uniform(0.6, 1, (3, where.sum()))
    return other


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-10, 10)))
def test_the_median_is_numpys_to_the_bit(values: np.ndarray) -> None:
    assert _median(values) == np.median(values)


def test_the_same_scene_is_left_alone_exactly() -> None:
    pixels = scene()
    found = estimate_radiometry(pixels, pixels)
    assert found == RadiometricNormalization()
    assert found.apply(pixels) is pixels


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_gain_and_offset_are_found_although_much_has_changed(share: float) -> None:
    before = scene()
    gain, offset = 0.7, 0.1
    after = changed((before + RNG.normal(0, 0.01, before.shape)) * gain + offset, share).astype(np.float32)
    found = estimate_radiometry(before, after, "linear")
    assert found.mode == "linear"
    for channel in range(3):
        low, high = found.target[channel]
        assert high - low == pytest.approx(1 / gain, rel=0.02)
        assert low == pytest.approx(-offset / gain, abs=0.01)
    unchanged = np.abs(found.apply(before * np.float32(gain) + np.float32(offset)) - before)
    assert np.quantile(unchanged, 0.99) < 0.02
    assert estimate_radiometry(before, after).mode == "linear"


def test_auto_leaves_scenes_alone_that_do_not_hang_together() -> None:
    before, after = scene(), scene()
    assert robust_line(RNG.random(5000).astype(np.float32), RNG.random(5000).astype(np.float32)) is None
    assert estimate_radiometry(before, after) == RadiometricNormalization()
    assert estimate_radiometry(np.zeros_like(before), after) == RadiometricNormalization()
    assert robust_line(before[0], 1 - before[0]) is None


def test_auto_leaves_scenes_alone_whose_channels_disagree() -> None:
    before = scene()
    after = before * np.float32([[0.2], [0.9], [0.9]])
    assert estimate_radiometry(before, after) == RadiometricNormalization()
    assert estimate_radiometry(before, after, "linear").mode == "linear"


def test_small_differences_are_left_to_the_network() -> None:
    before = scene()
    assert estimate_radiometry(before, (before * 1.01).clip(0, 1)) == RadiometricNormalization()


def test_histograms_are_matched_as_scikit_image_does() -> None:
    before = scene()
    after = np.clip(before**1.5 * 0.8, 0, 1).astype(np.float32)
    found = estimate_radiometry(before, after, "histogram")
    for channel in range(3):
        expected = match_histograms(after[channel], before[channel])
        assert np.abs(found.apply(after)[channel] - expected).mean() < 0.01
    json.dumps(found.to_dict())


def test_too_few_pixels_and_unknown_modes() -> None:
    few = scene(100)
    for mode in ("auto", "linear", "histogram"):
        found = estimate_radiometry(few, few * 0.5, mode)
        assert (found.mode, found.note) == ("none", "100 valid pixels are too few for an estimate")
    assert estimate_radiometry(scene(), scene() * np.float32(0.5), "none") == RadiometricNormalization()
    with pytest.raises(OptionError, match="use auto, none, linear, histogram"):
        estimate_radiometry(few, few, "magic")


def test_what_could_not_be_fitted_is_said() -> None:
    before = scene()
    after = before * np.float32(0.5)
    noise = np.random.default_rng(5).uniform(0, 1, before.shape).astype(np.float32)
    assert "are not correlated in any channel" in estimate_radiometry(before, noise, "linear").note
    after[1] = noise[1]
    found = estimate_radiometry(before, after, "linear")
    assert (found.mode, found.note) == (
        "linear",
        "the scenes are not correlated in channel 2, which is unchanged",
    )
    np.testing.assert_array_equal(found.apply(after)[1], after[1])
    assert estimate_radiometry(before, before * np.float32(0.5), "linear").note == ""
