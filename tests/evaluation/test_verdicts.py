import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geosiam.errors import InputError, OptionError
from geosiam.evaluation.review import _suggestion, summarize_review


def reviewed(path, scores, verdicts):
    boxes = [shapely.box(i, 0, i + 1, 1) for i in range(len(scores))]
    frame = geopandas.GeoDataFrame({"score_max": scores, "review": verdicts}, geometry=boxes, crs=32633)
    frame.to_file(path, layer="anomalies")
    return str(path)


def test_verdicts_become_precision_and_a_threshold(tmp_path):
    scores = np.round(np.linspace(0.5, 0.98, 25), 2)
    verdicts = ["rejected"] * 8 + ["confirmed", "rejected"] + ["Confirmed "] * 11 + ["unsure", "", None, "unreviewed"]
    summary = summarize_review([reviewed(tmp_path / "a.gpkg", scores, verdicts)])
    assert (summary.polygons, summary.confirmed, summary.rejected, summary.unsure, summary.unreviewed) == (
        25,
        12,
        9,
        1,
        3,
    )
    assert summary.precision == pytest.approx(12 / 21)
    assert summary.precision_low == pytest.approx(0.3402, abs=1e-3)  # Clopper and Pearson of 12 in 21, from tables
    assert summary.precision_high == pytest.approx(0.7818, abs=1e-3)
    # From the ninth on 12 of 13 are right, which is more than 0.9.
    assert scores[7] < summary.threshold < scores[8]
    assert summary.precision_then == pytest.approx(12 / 13)
    assert summary.kept == 1


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=10, max_size=60), st.sampled_from([0.5, 0.9, 1.0])
)
@settings(deadline=None)
def test_the_suggestion_is_the_lowest_threshold_that_reaches_the_target(polygons, target):
    score = np.array([s / 20 for s, _ in polygons])
    is_confirmed = np.array([confirmed for _, confirmed in polygons])
    threshold, precision, kept, _ = _suggestion(score, is_confirmed, target)
    every = {t: is_confirmed[score >= t].mean() for t in np.unique(score)}
    good = [t for t, share in every.items() if share >= target]
    if not good:
        assert threshold is None
        return
    np.testing.assert_array_equal(score >= threshold, score >= min(good))
    assert precision == pytest.approx(every[min(good)])
    assert kept == pytest.approx(is_confirmed[score >= threshold].sum() / is_confirmed.sum())


def test_few_or_hopeless_verdicts_give_no_threshold(tmp_path):
    few = summarize_review([reviewed(tmp_path / "a.gpkg", [0.5, 0.9], [None, "confirmed"])])
    assert few.threshold is None
    assert "too few" in few.note
    none = summarize_review([reviewed(tmp_path / "b.gpkg", [0.5, 0.9], ["", ""])])
    assert np.isnan(none.precision)
    twice = [str(tmp_path / "c.gpkg")] * 2
    reviewed(tmp_path / "c.gpkg", np.linspace(0.5, 1, 12), ["rejected"] * 12)
    hopeless = summarize_review(twice)
    assert (hopeless.rejected, hopeless.threshold, hopeless.precision_low) == (24, None, 0)
    assert "no threshold reaches" in hopeless.note


def test_verdicts_may_be_numbers_or_other_words(tmp_path):
    summary = summarize_review([reviewed(tmp_path / "a.gpkg", [0.5] * 4, [1.0, 0.0, np.nan, 1.0])])
    assert (summary.confirmed, summary.rejected, summary.unreviewed) == (2, 1, 1)
    summary = summarize_review([reviewed(tmp_path / "b.gpkg", [0.5] * 3, ["yes", "WRONG", "maybe"])])
    assert (summary.confirmed, summary.rejected, summary.unsure) == (1, 1, 1)


def test_what_is_no_review_is_refused(tmp_path):
    odd = reviewed(tmp_path / "a.gpkg", [0.5] * 3, ["confirmed", "perhaps", "hm"])
    with pytest.raises(InputError, match="'hm' and 1 more"):
        summarize_review([odd])
    geopandas.GeoDataFrame({"review": ["yes"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=32633).to_file(
        tmp_path / "b.gpkg"
    )
    with pytest.raises(InputError, match="no column score_max"):
        summarize_review([str(tmp_path / "b.gpkg")])
    with pytest.raises(InputError, match="not exist"):
        summarize_review([str(tmp_path / "gone.gpkg")])
    with pytest.raises(OptionError, match="target"):
        summarize_review([odd], target=1.5)
