import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from geosiam.evaluation.metrics import ObjectScores, auroc, match_objects, object_scores, window_auroc, window_truth


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
def test_auroc_agrees_with_scikit_learn(data):
    score, truth = data
    assert auroc(score, truth) == pytest.approx(reference.roc_auc_score(truth, score))


@given(scored(), st.integers(0, 2**32))
@settings(deadline=None)
def test_unscored_pixels_do_not_count(data, seed):
    score, truth = data
    extra = np.random.default_rng(seed).random(score.size) > 0.5
    with_gaps = auroc(np.stack([score, np.full(score.size, np.nan)]), np.stack([truth, extra]))
    assert with_gaps == auroc(score, truth)


def test_missing_classes_give_nan_not_an_error():
    assert np.isnan(auroc(np.array([0.1, 0.7]), np.array([False, False])))
    assert np.isnan(auroc(np.array([np.nan]), np.array([True])))
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
    is_correct, is_found = match_objects(a, geopandas.GeoDataFrame(geometry=b), min_iou)
    np.testing.assert_array_equal(is_correct, meets.any(axis=1))
    np.testing.assert_array_equal(is_found, meets.any(axis=0))
    scores = object_scores(a, geopandas.GeoDataFrame(geometry=b), min_iou)
    assert (scores.found, scores.correct) == (meets.any(axis=0).sum(), meets.any(axis=1).sum())
    assert scores.recall == pytest.approx(meets.any(axis=0).mean() if truth else np.nan, nan_ok=True)
    assert scores.precision == pytest.approx(meets.any(axis=1).mean() if predicted else np.nan, nan_ok=True)


def test_touching_is_not_meeting_and_f1_is_defined():
    touching = object_scores([shapely.box(0, 0, 1, 1)], [shapely.box(1, 0, 2, 1)])
    assert touching.recall == touching.precision == touching.f1 == 0
    assert object_scores([shapely.box(0, 0, 1, 1)], [shapely.box(0, 0, 2, 1)]).f1 == 1
    assert object_scores([], []).f1 == 0


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


def test_scores_of_several_pairs_add_up():
    total = ObjectScores(1, 2, 3, 4) + ObjectScores(0, 5, 0, 6)
    assert total == ObjectScores(1, 7, 3, 10)
    assert (total.recall, total.precision) == (1 / 7, 0.3)
