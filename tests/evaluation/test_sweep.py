import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geosiam.evaluation.metrics import object_scores_raster
from geosiam.evaluation.sweep import sweep_objects

EIGHT = np.ones((3, 3), int)


def scene(seed, stride=4):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, (15, 18)) / 11
    scores[rng.random(scores.shape) < 0.1] = np.nan
    truth, _ = ndimage.label(rng.random((15 * stride - 1, 18 * stride - 3)) < 0.05)
    return scores, truth.astype(np.int32)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_every_threshold_agrees_with_objects_in_pixels(seed):
    scores, truth = scene(seed)
    sweep = sweep_objects(scores, truth, 4)
    pixels = np.kron(scores, np.ones((4, 4)))[: truth.shape[0], : truth.shape[1]]
    seen = np.where(np.isnan(pixels), 0, truth)
    assert sweep.truth == len(set(seen.ravel()) - {0})
    assert sweep.megapixels == pytest.approx((~np.isnan(pixels)).sum() / 1e6)
    for i, threshold in enumerate(sweep.thresholds):
        labels, _ = ndimage.label(
            np.kron(scores >= threshold, np.ones((4, 4), bool))[tuple(map(slice, truth.shape))], EIGHT
        )
        objects = object_scores_raster(labels, seen)
        assert (sweep.found[i], sweep.predicted[i]) == (objects.found, objects.predicted)
        assert sweep.alarms[i] == objects.predicted - objects.correct


def test_recall_has_its_price():
    truth = np.zeros((80, 80), np.int32)
    scores = np.zeros((80, 80))
    for number in range(4):
        truth[10 + 15 * number, 10:13] = number + 1
        scores[10 + 15 * number, 10:13] = 0.9 - 0.2 * number
    for alarm in range(3):  # between the second and the third object
        scores[20 + 10 * alarm, 60] = 0.6
    sweep = sweep_objects(scores, truth)
    assert sweep.recall_at_precision(0.9) == 0.5
    assert sweep.recall_at_precision(0.5) == 1
    assert sweep.recall_at_alarms(2 / 0.0064) == 0.5
    assert sweep.recall_at_alarms(3 / 0.0064) == 1


def test_one_polygon_over_everything_finds_nothing():
    truth = np.zeros((60, 60), np.int32)
    truth[5, 5], truth[40, 40] = 1, 2
    sweep = sweep_objects(np.ones((60, 60)), truth)
    assert sweep.found[-1] == 2
    assert sweep.recall_at_precision(0.9) == sweep.recall_at_alarms(100) == 0


def test_nothing_true_or_nothing_scored():
    assert np.isnan(sweep_objects(np.zeros((5, 5)), np.zeros((5, 5), int)).recall_at_alarms(5))
    blind = sweep_objects(np.full((5, 5), np.nan), np.ones((5, 5), int))
    assert (blind.truth, blind.megapixels) == (0, 0)
    assert np.isnan(blind.recall_at_precision(0.9))
