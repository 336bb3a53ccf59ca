import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import chi2
from sklearn.cross_decomposition import CCA

from geosiam.errors import OptionError
from geosiam.evaluation.baselines import BASELINES, _Variates, baseline, irmad
from geosiam.evaluation.counts import ScoreCounts

RNG = np.random.default_rng(3)


def ground(size: int = 96) -> np.ndarray:
    smooth = gaussian_filter(RNG.normal(size=(3, size, size)), (0, 3, 3)) * 2
    return (0.5 + smooth).clip(0.05, 0.95).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
    """A pair with another exposure and a bright object, and where that is."""
    before = ground()
    after = (0.8 * before + 0.07 + RNG.normal(0, 0.005, before.shape)).clip(0, 1).astype(np.float32)
    truth = np.zeros(before.shape[1:], bool)
    truth[40:60, 30:50] = True
    after[:, truth] = after[::-1, truth] + 0.35
    return before, after.clip(0, 1), truth


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "autoencoder"])
def test_every_method_sees_a_new_object_under_another_exposure(name, pair):
    before, after, truth = pair
    valid = np.ones(truth.shape, bool)
    valid[:, :10] = False
    scores = baseline(name).scores(before, after, valid)
    assert scores.dtype == np.float32
    assert np.isnan(scores[:, :10]).all()
    known = scores[valid]
    assert known.min() >= 0
    assert known.max() <= 1
    assert ScoreCounts.of(scores, truth).auroc > 0.9
    threshold = baseline(name).choose_threshold(scores)
    assert ScoreCounts.of(scores, truth).at(threshold).recall > 0.6
    np.testing.assert_array_equal(scores, baseline(name).scores(before, after, valid))


def test_the_autoencoder_sees_what_its_template_does_not_show(monkeypatch):
    from geosiam.evaluation import autoencoder

    quick = autoencoder.train_autoencoder
    monkeypatch.setattr(autoencoder, "train_autoencoder", lambda images: quick(images, steps=20))
    before = ground()
    after = before.copy()
    after[:, 30:50, 30:50] = np.array((0, 0, 1), np.float32)[:, None, None]
    scores = baseline("autoencoder").scores(before, after, np.ones((96, 96), bool))
    assert scores[32:48, 32:48].mean() > 2 * scores[:20].mean()


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "autoencoder"])
def test_scenes_without_any_difference_or_validity_are_no_error(name):
    before = ground(40)
    same = baseline(name).scores(before, before, np.ones((40, 40), bool))
    assert np.isfinite(same).all()
    assert not (same > max(baseline(name).choose_threshold(same), 0.5)).any()
    nothing = baseline(name).scores(before, before, np.zeros((40, 40), bool)) if name != "pca-kmeans" else None
    assert nothing is None or np.isnan(nothing).all()


def test_the_irmad_statistic_is_chi_square_where_nothing_changed():
    signal = RNG.normal(size=(3, 20_000))
    stacked = np.concatenate(
        [signal + RNG.normal(0, 0.3, signal.shape), 2 * signal[::-1] + RNG.normal(7, 0.5, signal.shape)]
    )
    statistic = _Variates.of(stacked, np.ones(20_000)).statistic(stacked)
    share = [(statistic > chi2.isf(p, 3)).mean() for p in (0.5, 0.1, 0.01)]
    assert share == pytest.approx([0.5, 0.1, 0.01], rel=0.25)


def test_irmad_does_not_mind_gain_and_offset():
    signal = RNG.normal(size=(3, 20_000))
    before = signal + RNG.normal(0, 0.3, signal.shape)
    mixing = np.array([[2, 0.1, 0], [0, 0.7, 0.2], [0.1, 0, 1.5]])
    after = mixing @ signal + RNG.normal(0, 0.3, signal.shape) + 7
    result = irmad(before, after)
    assert result.converged
    assert result.iterations > 2
    scaled = irmad(before * 3 - 1, after * np.array([[0.2], [1], [5]]))
    np.testing.assert_allclose(scaled.statistic, result.statistic, rtol=0.01, atol=0.01)


def test_canonical_correlations_are_those_of_scikit_learn():
    before = RNG.normal(size=(3, 4000))
    after = np.array([[1, 0.2, 0], [0, 0.5, 0.5], [0.3, 0, 0.1]]) @ before + RNG.normal(0, 0.8, before.shape)
    ours = _Variates.of(np.concatenate([before, after]), np.ones(4000)).correlations
    x, y = CCA(3, max_iter=5000, tol=1e-12).fit_transform(before.T, after.T)
    theirs = sorted(np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_sample_is_enough_for_irmad():
    before, after = ground().reshape(3, -1), ground().reshape(3, -1)
    after = (0.9 * before + 0.1 * after).astype(np.float64)
    whole, sampled = irmad(before, after), irmad(before, after, sample=4000)
    assert np.corrcoef(whole.statistic, sampled.statistic)[0, 1] > 0.98


def test_what_cannot_be_is_refused():
    with pytest.raises(OptionError, match="choose from difference, cva"):
        baseline("magic")
    with pytest.raises(OptionError, match="11 x 11"):
        baseline("ssim").scores(ground(8), ground(8), np.ones((8, 8), bool))
