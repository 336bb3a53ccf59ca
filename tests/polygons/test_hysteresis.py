"""Hysteresis keeps what scikit-image and scipy keep: components with a cell from the seed threshold up, whole."""

import numpy as np
import pytest
from array_cells import polygons
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

LOW, HIGH = 0.4, 0.8
VALUES = st.sampled_from([np.nan, 0.1, LOW, 0.5, 0.7, HIGH, 1.0])
RASTERS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=VALUES)


def kept(scores, connectivity, height=1000):
    frame = polygons(scores, height, threshold=LOW, seed_threshold=HIGH, connectivity=connectivity)
    if frame.empty:
        return np.zeros(scores.shape, bool)
    return rasterize(frame.geometry, out_shape=scores.shape).astype(bool)


@given(RASTERS, st.sampled_from([1, 3, 1000]))
@settings(max_examples=80, deadline=None)
def test_what_is_kept_is_what_scikit_image_keeps(scores, height):
    """scikit-image asks for more than the thresholds, and for neighbors by their sides."""
    known = np.nan_to_num(scores, nan=0.0)
    low, high = (float(np.nextafter(np.float32(value), np.float32(0))) for value in (LOW, HIGH))
    assert np.array_equal(kept(scores, 4, height), apply_hysteresis_threshold(known, low, high))


@given(RASTERS)
@settings(max_examples=80, deadline=None)
def test_by_corners_it_is_what_spreads_from_the_seeds(scores):
    seeds, weak = scores >= np.float32(HIGH), scores >= np.float32(LOW)
    assert np.array_equal(kept(scores, 8), ndimage.binary_propagation(seeds, np.ones((3, 3)), mask=weak))


@given(RASTERS, st.sampled_from([4, 8]))
@settings(max_examples=50, deadline=None)
def test_it_only_leaves_polygons_out(scores, connectivity):
    every = polygons(scores, threshold=LOW, connectivity=connectivity)
    some = polygons(scores, threshold=LOW, seed_threshold=HIGH, connectivity=connectivity)
    expected = every[every.score_max >= np.float32(HIGH)]
    assert some.geometry.tolist() == expected.geometry.tolist()
    assert some.score_mean.tolist() == expected.score_mean.tolist()
    assert some.id.tolist() == list(range(1, len(some) + 1))


def test_a_seed_threshold_like_the_threshold_changes_nothing():
    scores = np.random.default_rng(0).random((30, 30)).astype(np.float32)
    assert polygons(scores, seed_threshold=0.5).equals(polygons(scores))
    assert len(polygons(scores, threshold=0.9, seed_threshold=0.999)) < len(polygons(scores, threshold=0.9))


@pytest.mark.parametrize("seed", [0.80001, 1.0])
def test_a_seed_just_below_does_not_count(seed):
    scores = np.full((3, 3), 0.8, np.float32)
    assert polygons(scores, seed_threshold=seed).empty
