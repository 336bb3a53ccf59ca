from dataclasses import astuple

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from geosiam.evaluation.metrics import (
    auroc,
    average_precision,
    expected_calibration_error,
    object_scores,
    object_scores_raster,
    pixel_scores,
    window_auroc,
    window_truth,
)


@st.composite
def scored(draw):
    size = draw(st.integers(2, 60))
    # Few distinct values make many ties.
    score = draw(hnp.arrays(np.float64, size, elements=st.integers(0, 9).map(lambda n: n / 9)))
    truth = draw(hnp.arrays(bool, size))
    truth[0], truth[1] = True, False
    return score, truth


@given(scored())
@settings(deadline=None)
def test_curves_agree_with_scikit_learn(data):
    score, truth = data
    ours = pixel_scores(score, truth, threshold=0.5)
    assert ours.auroc == pytest.approx(reference.roc_auc_score(truth, score))
    assert ours.average_precision == pytest.approx(reference.average_precision_score(truth, score))
    assert auroc(score, truth) == ours.auroc
    assert average_precision(score, truth) == ours.average_precision
    predicted = score >= 0.5
    assert ours.f1 == pytest.approx(reference.f1_score(truth, predicted))
    assert ours.iou == pytest.approx(reference.jaccard_score(truth, predicted))
    every = [reference.f1_score(truth, score >= t) for t in np.unique(score)]
    assert ours.best_f1 == pytest.approx(max(every))
    assert reference.f1_score(truth, score >= ours.best_threshold) == pytest.approx(max(every))


@given(scored(), st.integers(0, 2**32))
@settings(deadline=None)
def test_unscored_pixels_do_not_count(data, seed):
    score, truth = data
    extra = np.random.default_rng(seed).random(score.size) > 0.5
    with_gaps = pixel_scores(np.stack([score, np.full(score.size, np.nan)]), np.stack([truth, extra]))
    np.testing.assert_equal(astuple(with_gaps), astuple(pixel_scores(score, truth)))


def test_missing_classes_give_nan_not_an_error():
    scores = pixel_scores(np.array([0.1, 0.7]), np.array([False, False]))
    assert np.isnan([scores.auroc, scores.average_precision, scores.best_f1, scores.recall]).all()
    assert scores.precision == 0
    empty = pixel_scores(np.array([np.nan]), np.array([True]))
    assert empty.scored == 0
    assert np.isnan(empty.auroc)
    assert np.isnan(expected_calibration_error(np.array([np.nan]), np.array([True])))
    with pytest.raises(ValueError, match="one grid"):
        auroc(np.zeros(3), np.zeros(4, bool))


def boxes(rng, count):
    x, y, w, h = rng.uniform(0, 20, count), rng.uniform(0, 20, count), *rng.uniform(0.5, 4, (2, count))
    return [shapely.box(*b) for b in zip(x, y, x + w, y + h, strict=True)]


@given(st.integers(0, 10_000), st.integers(0, 12), st.integers(0, 12), st.sampled_from([0.0, 0.1, 0.5]))
@settings(deadline=None)
def test_objects_agree_with_brute_force(seed, predicted, truth, min_iou):
    rng = np.random.default_rng(seed)
    a, b = boxes(rng, predicted), boxes(rng, truth)
    meets = np.array([[p.intersection(t).area > min_iou * p.union(t).area for t in b] for p in a], bool).reshape(
        predicted, truth
    )
    scores = object_scores(a, geopandas.GeoDataFrame(geometry=b), min_iou)
    np.testing.assert_array_equal(scores.right, meets.any(axis=1))
    np.testing.assert_array_equal(scores.matched, meets.any(axis=0))
    assert (scores.found, scores.correct) == (meets.any(axis=0).sum(), meets.any(axis=1).sum())
    assert scores.recall == pytest.approx(meets.any(axis=0).mean() if truth else np.nan, nan_ok=True)
    assert scores.precision == pytest.approx(meets.any(axis=1).mean() if predicted else np.nan, nan_ok=True)


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
    scores = object_scores_raster(predicted, truth, min_iou)
    np.testing.assert_array_equal(scores.right, meets.any(axis=1))
    np.testing.assert_array_equal(scores.matched, meets.any(axis=0))


def test_touching_is_not_meeting_and_f1_is_defined():
    touching = object_scores([shapely.box(0, 0, 1, 1)], [shapely.box(1, 0, 2, 1)])
    assert touching.recall == touching.precision == touching.f1 == 0
    assert object_scores([shapely.box(0, 0, 1, 1)], [shapely.box(0, 0, 2, 1)]).f1 == 1
    assert object_scores([], []).f1 == 0
    with pytest.raises(ValueError, match="one shape"):
        object_scores_raster(np.zeros((2, 2), int), np.zeros((2, 3), int))


@given(
    hnp.arrays(bool, (23, 17)), st.sampled_from([(8, 4), (8, 8), (5, 2), (12, 4)]),
    st.sampled_from([None, 0, -3]), st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_windows_agree_with_counting(mask, geometry, offset, share):
    field, stride = geometry
    cells = -(-23 // stride), -(-17 // stride)
    truth = window_truth(mask, cells, receptive_field=field, stride=stride, offset=offset, min_share=share)
    start = -((field - stride) // 2) if offset is None else offset
    for i, j in np.ndindex(cells):
        r, c = i * stride + start, j * stride + start
        window = mask[max(0, r) : max(0, r + field), max(0, c) : max(0, c + field)]
        assert truth[i, j] == (window.sum() > share * field**2)


def test_window_auroc_of_a_perfect_and_a_blind_score():
    mask = np.zeros((64, 64), bool)
    mask[20:26, 30:35] = True
    perfect = window_truth(mask, (8, 8), receptive_field=32, stride=8).astype(float)
    assert window_auroc(perfect, mask, receptive_field=32, stride=8) == 1
    assert window_auroc(np.zeros((8, 8)), mask, receptive_field=32, stride=8) == 0.5


def test_calibration_error():
    rng = np.random.default_rng(0)
    score = rng.random(200_000)
    truth = rng.random(200_000) < score
    assert expected_calibration_error(score, truth) < 0.01
    assert expected_calibration_error(np.full(1000, 0.9), np.arange(1000) < 400) == pytest.approx(0.5)
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0
