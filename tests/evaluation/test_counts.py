import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from geosiam.evaluation.counts import ScoreCounts, in_cells
from geosiam.scores.working_file import FINE_STEPS


@st.composite
def scored(draw, least=2, most=80):
    size = draw(st.integers(least, most))
    score = draw(hnp.arrays(np.float64, size, elements=st.integers(0, 254).map(lambda n: n / 254)))
    truth = draw(hnp.arrays(bool, size))
    truth[0], truth[1] = True, False
    return score, truth


@given(scored())
@settings(deadline=None, max_examples=30)
def test_curves_agree_with_scikit_learn(data):
    score, truth = data
    counts = ScoreCounts.of(score, truth)
    assert counts.auroc == pytest.approx(reference.roc_auc_score(truth, score))
    assert counts.average_precision == pytest.approx(reference.average_precision_score(truth, score))
    at = counts.at(0.5)
    assert at.f1 == pytest.approx(reference.f1_score(truth, score >= 0.5))
    assert at.iou == pytest.approx(reference.jaccard_score(truth, score >= 0.5))
    assert at.recall == pytest.approx(reference.recall_score(truth, score >= 0.5))
    every = [reference.f1_score(truth, score >= t) for t in np.unique(score)]
    assert counts.best.f1 == pytest.approx(max(every))
    assert reference.f1_score(truth, score >= counts.best.threshold) == pytest.approx(max(every))
    precision, recall, thresholds = reference.precision_recall_curve(truth, score)
    curves = counts.curves()
    np.testing.assert_allclose(curves["threshold"][::-1], thresholds)
    np.testing.assert_allclose(curves["precision"][::-1], precision[:-1])
    np.testing.assert_allclose(curves["recall"][::-1], recall[:-1])


@given(scored(), st.integers(0, 80), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_parts_add_up_to_the_whole_and_rounding_keeps_uint8(data, cut, repeats):
    score, truth = data
    whole = ScoreCounts.of(np.tile(score, repeats), np.tile(truth, repeats))
    parts = ScoreCounts.sum(
        ScoreCounts.of(score[part], truth[part], steps=FINE_STEPS)
        for part in (slice(cut), slice(cut, None))
        for _ in range(repeats)
    )
    np.testing.assert_allclose(parts.values, whole.values)
    np.testing.assert_array_equal(parts.positive, whole.positive)
    np.testing.assert_array_equal(parts.negative, whole.negative)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=23)), st.sampled_from([1, 2, 4, 8]))
def test_cells_stand_for_their_pixels(mask, stride):
    changed, size = in_cells(mask, stride)
    assert changed.shape == size.shape == tuple(-(-side // stride) for side in mask.shape)
    scores = np.random.default_rng(0).random(changed.shape)
    upsampled = np.kron(scores, np.ones((stride, stride)))[: mask.shape[0], : mask.shape[1]]
    in_pixels, by_cell = ScoreCounts.of(upsampled, mask), ScoreCounts.of(scores, changed, size)
    np.testing.assert_array_equal(in_pixels.positive, by_cell.positive)
    np.testing.assert_array_equal(in_pixels.negative, by_cell.negative)


def test_what_is_not_scored_is_left_out():
    counts = ScoreCounts.of(np.array([[np.nan, 0.5], [0.2, np.nan]]), np.array([[True, True], [False, True]]))
    assert (counts.pixels, counts.positives) == (2, 1)
    assert counts.auroc == 1
    with pytest.raises(ValueError, match="one grid"):
        ScoreCounts.of(np.zeros(3), np.zeros(4, bool))


def test_missing_classes_give_nan():
    nothing, unchanged = ScoreCounts.none(), ScoreCounts.of(np.array([0.1, 0.9]), np.zeros(2, bool))
    for counts in (nothing, unchanged):
        assert np.isnan([counts.auroc, counts.average_precision, counts.best.f1, counts.at(0.5).recall]).all()
    assert unchanged.at(0.5).precision == 0
    assert np.isnan(nothing.calibration_error())
    assert nothing.calibration() == []


def test_calibration_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    score = rng.permutation(np.arange(6000)) / 6000  # no ties, so that quantile bins are the same
    truth = rng.random(6000) < score**2
    for of_equal, strategy in (("mass", "quantile"), ("width", "uniform")):
        bins = ScoreCounts.of(score, truth).calibration(15, of_equal=of_equal)
        changed, mean = calibration_curve(truth, score, n_bins=15, strategy=strategy)
        np.testing.assert_allclose([b.score for b in bins], mean, atol=1e-3)
        np.testing.assert_allclose([b.changed for b in bins], changed, atol=4e-3)
    error = ScoreCounts.of(score, truth).calibration_error()
    assert error == pytest.approx(1 / 6, abs=0.02)  # the mean of p - p^2 over [0, 1]
    honest = ScoreCounts.of(score, rng.random(6000) < score)
    assert honest.calibration_error() < 0.03


def test_calibration_sees_what_equally_wide_bins_hide():
    score = np.concatenate([np.full(9900, 0.001), np.linspace(0.001, 0.1, 100)])
    truth = np.arange(10_000) >= 9950  # the top half of a percent, which all lies in the first of 10 wide bins
    assert ScoreCounts.of(score, truth).calibration_error(200) > 0.004


def test_the_calibration_error_over_bins_of_equal_width():
    rng = np.random.default_rng(0)
    score = rng.random(200_000)

    def error(score, truth):
        return ScoreCounts.of(score, truth).calibration_error(of_equal="width")

    assert error(score, rng.random(200_000) < score) < 0.01
    assert error(np.full(1000, 0.9), np.arange(1000) < 400) == pytest.approx(0.5)
    assert error(np.ones(4), np.ones(4, bool)) == 0
    assert np.isnan(error(np.array([np.nan]), np.array([True])))
