"""Objects in label rasters and at every threshold, which `benchmarks/accuracy.py` compares by."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from sweep import match_labels, object_scores_raster, recall_of_strongest, sweep_objects

EIGHT = np.ones((3, 3), int)


def scene(seed, stride=4):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, (15, 18)) / 11
    scores[rng.random(scores.shape) < 0.1] = np.nan
    truth, _ = ndimage.label(rng.random((15 * stride - 1, 18 * stride - 3)) < 0.05)
    return scores, truth.astype(np.int32)


@given(
    hnp.arrays(np.int32, (9, 11), elements=st.integers(-1, 4)),
    hnp.arrays(np.int32, (9, 11), elements=st.sampled_from([0, 0, 3, 70_000])),
    st.sampled_from([0.0, 0.2]),
)
def test_label_rasters_agree_with_brute_force(predicted, truth, min_iou):
    labels_a, labels_b = (np.unique(x[x > 0]) for x in (predicted, truth))
    meets = np.zeros((len(labels_a), len(labels_b)), bool)
    for i, p in enumerate(labels_a):
        for j, t in enumerate(labels_b):
            common, union = ((predicted == p) & (truth == t)).sum(), ((predicted == p) | (truth == t)).sum()
            meets[i, j] = common > min_iou * union
    is_correct, is_found = match_labels(predicted, truth, min_iou)
    np.testing.assert_array_equal(is_correct, meets.any(axis=1))
    np.testing.assert_array_equal(is_found, meets.any(axis=0))
    scores = object_scores_raster(predicted, truth, min_iou)
    assert (scores.found, scores.correct) == (is_found.sum(), is_correct.sum())
    assert (scores.truth, scores.predicted) == (len(labels_b), len(labels_a))


def test_label_rasters_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        object_scores_raster(np.zeros((2, 2), int), np.zeros((2, 3), int))


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


def test_who_looks_at_the_strongest_first_finds_these_until_there_are_too_many_alarms() -> None:
    objects = np.zeros((40, 100), int)
    truth = np.zeros((40, 100), int)
    for number in range(1, 7):
        objects[5:10, 15 * number - 10 : 15 * number - 5] = number
    truth[5:10, 5:10], truth[5:8, 35:38], truth[8:10, 35:38], truth[30:35, 5:10] = 7, 9, 3, 12  # objects 1, 3, 3, none
    strength = np.array([0.2, 0.9, 0.8, 0.5, 0.4, 0.3])
    by_alarms = [recall_of_strongest(objects, strength, truth, alarms) for alarms in range(6)]
    assert by_alarms == [0, 0.5, 0.5, 0.5, 0.75, 0.75]


def test_an_object_too_small_for_a_pixel_is_no_alarm() -> None:
    objects = np.zeros((20, 20), int)
    objects[3, 3] = 2
    assert recall_of_strongest(objects, np.array([0.9, 0.8]), (objects == 2).astype(int), 0) == 1


def test_of_equally_strong_objects_the_alarms_come_first() -> None:
    objects, truth = np.zeros((30, 30), int), np.zeros((30, 30), int)
    objects[0, 0], objects[0, 5], truth[0, 0] = 1, 2, 1
    assert recall_of_strongest(objects, np.array([0.5, 0.5]), truth, 0) == 0
    assert recall_of_strongest(objects, np.array([0.6, 0.5]), truth, 0) == 1


def test_one_object_over_everything_finds_nothing_and_without_truth_there_is_no_recall() -> None:
    truth = np.zeros((20, 20), int)
    truth[5, 5] = 1
    assert recall_of_strongest(np.ones((20, 20), int), np.ones(1), truth, 100) == 0
    assert recall_of_strongest(np.zeros((20, 20), int), np.zeros(0), truth, 100) == 0
    assert np.isnan(recall_of_strongest(np.ones((20, 20), int), np.ones(1), np.zeros((20, 20), int), 100))
