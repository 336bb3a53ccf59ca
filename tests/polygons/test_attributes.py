"""What the pixels show of a component, on scenes where the truth is known."""

import numpy as np
import pytest
from array_cells import Cells
from hypothesis import given, settings
from hypothesis import strategies as st

from geosiam.errors import SceneUnreadableError
from geosiam.evaluation.counts import in_cells
from geosiam.imagery.grid import reflected
from geosiam.imagery.pair import PairBlock
from geosiam.inference.zonal_stats import REACH_PX
from geosiam.polygons.attributes import AttributeReader
from geosiam.polygons.components import component_batches
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.score_stream import ScoreStream
from geosiam.polygons.table import polygon_table
from geosiam.synthesis.pairs import SyntheticConfig, make_pair

STRIDE = 4
OBJECT = np.s_[:, 40:64, 48:72]  # in pixels
CELLS = np.s_[10:16, 12:18]


class Scenes:
    """Two arrays as a pair; parts of them may be unreadable."""

    def __init__(self, before, after, valid=None, unreadable=None):
        self.before, self.after = np.float32(before), np.float32(after)
        self.valid = np.ones(self.before.shape[1:], bool) if valid is None else valid
        self.unreadable = unreadable

    def read(self, window):
        rows = reflected(window.row_start, window.row_stop, self.valid.shape[0])[:, None]
        cols = reflected(window.col_start, window.col_stop, self.valid.shape[1])
        if self.unreadable is not None and self.unreadable[rows, cols].any():
            raise SceneUnreadableError("a.tif", "cannot be read", "copy it again")
        return PairBlock(self.before[:, rows, cols], self.after[:, rows, cols], self.valid[rows, cols])


def ground(seed=0, shape=(100, 120)):
    color = np.array([0.42, 0.5, 0.36])[:, None, None]
    return np.float32(color * (1 + 0.06 * np.random.default_rng(seed).standard_normal(shape)))


def marked(shape=(25, 30), cells=CELLS):
    scores = np.full(shape, 0.1, np.float32)
    scores[cells] = 0.9
    return scores


def frame_of(scenes, scores=None, *, height=1000, colored=True):
    cells = Cells(marked() if scores is None else scores, height, stride=STRIDE)
    with AttributeReader(scenes, STRIDE, 0.5, colored=colored) as reader:
        return polygon_table(cells, PolygonOptions(threshold=0.5), reader=reader).frame()


def attributes(scenes, **how):
    (row,) = frame_of(scenes, **how).itertuples()
    return row.shadow_fraction, row.hint


def with_object(color=(0.85, 0.2, 0.15)):
    scene = ground()
    scene[OBJECT] = np.array(color)[:, None, None]
    return scene


# --- appeared or vanished -------------------------------------------------------------------------------------------


def test_an_object_that_appears_and_one_that_vanishes():
    assert attributes(Scenes(ground(), with_object())) == (0, "appeared")
    assert attributes(Scenes(with_object(), ground())) == (0, "vanished")


def test_one_object_in_place_of_another_is_neither():
    assert attributes(Scenes(with_object(), with_object((0.15, 0.2, 0.9))))[1] is None


def test_where_nothing_differs_nothing_is_said():
    assert attributes(Scenes(ground(), ground())) == (0, None)


def test_a_component_without_surroundings_is_no_evidence():
    scenes = Scenes(ground(), ground() * 0 + 0.9)
    everything = np.full((25, 30), 0.9, np.float32)
    assert attributes(scenes, scores=everything)[1] is None


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_other_way_round_it_says_the_contrary(seed):
    rng = np.random.default_rng(seed)
    before, after = (ground(int(rng.integers(9))) for _ in range(2))
    (after if rng.random() < 0.5 else before)[OBJECT] = rng.random((3, 1, 1))
    one, other = attributes(Scenes(before, after))[1], attributes(Scenes(after, before))[1]
    assert other == {"appeared": "vanished", "vanished": "appeared", None: None}[one]


# --- shadow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.3, 0.5, 0.8])
def test_a_shadow_leaves_a_part_of_the_brightness_and_the_hue(left):
    after = ground()
    after[OBJECT] *= left
    assert attributes(Scenes(ground(), after))[0] == 1
    assert attributes(Scenes(after, ground()))[0] == 0  # one that goes away


def test_half_a_shadow_is_half():
    after = ground()
    after[:, 40:52, 48:72] *= 0.5
    assert attributes(Scenes(ground(), after))[0] == 0.5


def test_dark_paint_of_another_hue_is_no_shadow():
    assert attributes(Scenes(ground(), with_object((0.1, 0.12, 0.3))))[0] == 0


def test_without_colors_or_pixels_nothing_is_known_of_shadows():
    after = ground()
    after[OBJECT] *= 0.5
    assert np.isnan(attributes(Scenes(ground(), after), colored=False)[0])
    assert np.isnan(attributes(Scenes(ground(), after, valid=np.zeros((100, 120), bool)))[0])


def test_only_pixels_that_both_scenes_know_count():
    after = ground()
    after[:, 40:52, 48:72] *= 0.5
    valid = np.ones((100, 120), bool)
    valid[52:] = False
    assert attributes(Scenes(ground(), after, valid))[0] == 1


# --- company --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7]))
@settings(max_examples=10, deadline=None)
def test_neither_strips_nor_company_matter(seed, height):
    rng = np.random.default_rng(seed)
    scenes = Scenes(rng.random((3, 100, 120)), rng.random((3, 100, 120)))
    scores = np.where(rng.random((25, 30)) < 0.05, 0.9, 0.1).astype(np.float32)
    together, cut = frame_of(scenes, scores), frame_of(scenes, scores, height=height)
    assert cut.drop(columns="geometry").equals(together.drop(columns="geometry"))

    stream, first = ScoreStream(Cells(scores, stride=STRIDE)), 0
    with AttributeReader(scenes, STRIDE, 0.5, colored=True) as reader:
        for batch in component_batches(stream.strips(), 0.5):
            for number in range(0, len(batch), 7):
                alone = reader.attributes_of(batch.where(np.arange(len(batch)) == number), stream)
                row = together.iloc[first + number]
                assert (alone.shadow_fraction[0], alone.hint[0]) == (row.shadow_fraction, row.hint)
                np.testing.assert_equal(alone.shift_fraction[0], row.shift_fraction)
            first += len(batch)


def test_surroundings_that_cannot_be_read_are_left_out(monkeypatch):
    monkeypatch.setattr("geosiam.inference.zonal_stats.PATCH_PX", 64)
    unreadable = np.zeros((100, 120), bool)
    unreadable[64 + REACH_PX : 72] = True  # block rows 0-15 end at row 63 of pixels, and were scored with a halo
    assert attributes(Scenes(ground(), with_object(), unreadable=unreadable)) == (0, "appeared")


# --- generated pairs ------------------------------------------------------------------------------------------------


def hints_of_truth(seed):
    """Yield hint and truth of each object of a generated pair, with the truth itself as scores."""
    pair = make_pair(SyntheticConfig(height=512, width=512, seed=seed, shift_px=(0, 0), objects=24))
    changed, counted = in_cells(pair.truth_mask, STRIDE)
    scores = np.where(changed * 2 >= counted, 0.9, 0.1)
    frame = frame_of(Scenes(pair.before / 255, pair.after / 255), scores)
    in_pixels = pair.truth.affine_transform((~pair.grid.transform).to_shapely())
    truth = in_pixels.scale(1 / STRIDE, 1 / STRIDE, origin=(0, 0))
    for polygon, hint in zip(frame.geometry, frame.hint, strict=True):
        kinds = set(pair.truth.kind[truth.intersects(polygon)])
        if len(kinds) == 1:
            yield hint, {"added": "appeared", "removed": "vanished"}[kinds.pop()]


def test_hints_on_generated_pairs():
    pairs = [pair for seed in range(3) for pair in hints_of_truth(seed)]
    decided = [(hint, truth) for hint, truth in pairs if hint is not None]
    assert len(decided) > 0.7 * len(pairs) > 30
    assert sum(hint == truth for hint, truth in decided) > 0.95 * len(decided)
    assert {hint for hint, _ in decided} == {"appeared", "vanished"}
