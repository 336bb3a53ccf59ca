"""What a file says of the misregistration at each polygon: `shift_px` and `shift_fraction`."""

import numpy as np
import pytest
from array_cells import Cells
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geosiam.imagery.displacement import DisplacementField
from geosiam.imagery.grid import reflected
from geosiam.imagery.pair import PairBlock
from geosiam.inference.zonal_stats import PIXEL_COLUMNS, REACH_PX, SHIFTS, cell_statistics
from geosiam.polygons.attributes import AttributeReader
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import Origin, polygon_table

STRIDE = 2
SIDE = 128  # of the scenes in pixels


class Scenes:
    """Two gray images as a pair."""

    def __init__(self, before, after, valid=None):
        self.before, self.after = (np.float32([image] * 3).clip(0, 1) for image in (before, after))
        self.valid = np.ones(before.shape, bool) if valid is None else valid

    def read(self, window):
        rows = reflected(window.row_start, window.row_stop, self.valid.shape[0])[:, None]
        cols = reflected(window.col_start, window.col_stop, self.valid.shape[1])
        return PairBlock(self.before[:, rows, cols], self.after[:, rows, cols], self.valid[rows, cols])


def texture(seed, smooth=1.5, contrast=0.15):
    """Return an image of blobs, with noise finer than them."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), smooth, mode="wrap")
    return 0.5 + contrast * blobs / blobs.std()


def noisy(image, seed=1, sigma=0.01):
    return image + sigma * np.random.default_rng(seed).standard_normal(image.shape)


def marked(*places):
    scores = np.full((SIDE // STRIDE,) * 2, 0.1, np.float32)
    for place in places:
        scores[place] = 0.9
    return scores


def frame_of(scenes, scores, *, height=1000, workers=None, displacement=None, shift_px=None):
    cells = Cells(scores, height, stride=STRIDE)
    with AttributeReader(scenes, STRIDE, 0.5, colored=True, displacement=displacement, workers=workers) as reader:
        return polygon_table(cells, PolygonOptions(threshold=0.5), Origin(shift_px=shift_px), reader).frame()


# --- statistics of cells --------------------------------------------------------------------------------------------


def slow_differences(block, stride):
    """Return the last statistics of each cell, pixel by pixel, from the definition."""
    before, after = (np.rint(image.mean(axis=0) * 255).astype(int) for image in (block.before, block.after))
    height, width = ((side - 2 * REACH_PX) // stride for side in block.valid.shape)
    result = np.zeros((1 + len(SHIFTS), height, width), int)
    for row, col in np.ndindex(height, width):
        top, left = REACH_PX + row * stride, REACH_PX + col * stride
        pixels = [(top + i, left + j) for i in range(stride) for j in range(stride)]
        around = np.s_[top - REACH_PX : top + stride + REACH_PX, left - REACH_PX : left + stride + REACH_PX]
        if not block.valid[around].all():
            continue
        result[0, row, col] = 1
        for number, (down, right) in enumerate(SHIFTS):
            forward = sum(abs(before[i, j] - after[i + down, j + right]) for i, j in pixels)
            backward = sum(abs(after[i, j] - before[i - down, j - right]) for i, j in pixels)
            result[1 + number, row, col] = int((forward + backward) / 2 / stride**2 + 0.5)
    return result


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 12]), st.sampled_from([0.0, 0.02]))
@settings(max_examples=15, deadline=None)
def test_differences_of_cells_are_those_of_their_definition(seed, stride, invalid):
    rng = np.random.default_rng(seed)
    shape = 3 * stride + 2 * REACH_PX, 4 * stride + 2 * REACH_PX
    extreme = rng.random((2, 3, *shape)).round(int(rng.integers(0, 3)))  # up to the largest sums
    block = PairBlock(*np.float32(extreme), rng.random(shape) >= invalid)
    np.testing.assert_array_equal(cell_statistics(block, stride)[PIXEL_COLUMNS:], slow_differences(block, stride))


def test_shifts_reach_in_all_directions_to_the_margin():
    assert SHIFTS[0] == (0, 0)
    assert len(set(SHIFTS)) == len(SHIFTS) == 1 + 8 * REACH_PX
    assert np.abs(SHIFTS).max() == REACH_PX
    assert {(-down, -right) for down, right in SHIFTS} == set(SHIFTS)


# --- shift_fraction -------------------------------------------------------------------------------------------------

PLACE = np.s_[24:34, 26:38]  # in cells


@given(st.integers(0, 2**32 - 1), st.sampled_from([shift for shift in SHIFTS if np.hypot(*shift) >= 2]))
@settings(max_examples=15, deadline=None)
def test_ground_that_is_out_of_place_is_explained_by_a_shift(seed, shift):
    before = texture(seed)
    after = np.roll(before, shift, (0, 1))
    (row,) = frame_of(Scenes(noisy(before), noisy(after, 2)), marked(PLACE)).itertuples()
    assert row.shift_fraction > 0.85


@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (1, 2), (-2.4, 1.3)])
def test_an_edge_out_of_place_is_explained_by_a_shift(shift):
    inside = ndimage.gaussian_filter(np.pad(np.ones((40, 50)), ((44, 44), (39, 39))), 0.7)  # a roof
    before = 0.3 + 0.4 * inside + texture(3, contrast=0.02) - 0.5
    after = 0.3 + 0.4 * ndimage.shift(inside, shift) + texture(3, contrast=0.02) - 0.5
    edge = marked(np.s_[22, 20:44] if shift[0] else np.s_[22:42, 19:21])
    (row,) = frame_of(Scenes(noisy(before), noisy(after, 2)), edge).itertuples()
    whole = all(float(px).is_integer() for px in shift)  # the shifts that are tried are whole pixels
    assert row.shift_fraction > (0.7 if whole else 0.5)


@given(st.integers(0, 2**32 - 1), st.integers(6, 30), st.booleans(), st.sampled_from([-0.4, -0.25, 0.3]))
@settings(max_examples=15, deadline=None)
def test_what_only_one_scene_shows_is_not_explained_by_a_shift(seed, size, vanished, contrast):
    before = texture(seed, contrast=0.05)
    after = before.copy()
    after[50 : 50 + size, 60 : 60 + size] = 0.5 + contrast
    images = (noisy(after), noisy(before, 2)) if vanished else (noisy(before), noisy(after, 2))
    end = -(-size // STRIDE)
    (row,) = frame_of(Scenes(*images), marked(np.s_[25 : 25 + end, 30 : 30 + end])).itertuples()
    assert row.shift_fraction < (0.6 if size < 12 else 0.4)  # most of a small one would be moved away


def test_where_nothing_differs_or_nothing_is_valid_it_is_empty():
    ground = texture(1)
    valid = np.ones(ground.shape, bool)
    valid[50:54] = False  # all but a cell's breadth from any of its pixels
    small = marked(np.s_[24:27, 26:38])
    assert frame_of(Scenes(ground, ground), small).shift_fraction.isna().all()
    assert frame_of(Scenes(ground, np.roll(ground, 2, 0), valid), small).shift_fraction.isna().all()
    assert frame_of(Scenes(ground, np.roll(ground, 2, 0)), small).shift_fraction.notna().all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 9]), st.sampled_from([1, 3]))
@settings(max_examples=10, deadline=None)
def test_strips_and_threads_do_not_matter(seed, height, workers):
    rng = np.random.default_rng(seed)
    scenes = Scenes(texture(1), np.roll(texture(1), 2, 0), rng.random((SIDE, SIDE)) < 0.999)
    scores = np.where(rng.random((SIDE // STRIDE,) * 2) < 0.05, 0.9, 0.1).astype(np.float32)
    how = {"displacement": field(np.float32(rng.random((2, 8, 8))))}
    whole, cut = frame_of(scenes, scores, **how), frame_of(scenes, scores, height=height, workers=workers, **how)
    columns = ["shift_px", "shift_fraction"]
    assert cut[columns].equals(whole[columns])
    assert whole[columns].notna().any().all()


# --- shift_px -------------------------------------------------------------------------------------------------------


def field(local, **how):
    local = np.asarray(local, np.float32)
    zero = np.zeros_like(local)
    return DisplacementField(16, (0, 0), zero, np.ones(local.shape[1:], np.float32), local, **how)


def test_a_polygon_has_the_shift_that_is_left_in_its_place():
    local = np.zeros((2, 8, 8))
    local[0, 4:] = 3  # from row 64 of pixels on, row 32 of cells
    local[1, 4:] = 4
    local[:, :, 5:] = np.nan  # from column 40 of cells on
    local[:, 5, 2] = 19  # a wrong match in the middle of a polygon
    columns = {2: np.s_[8:10, 2:4], 20: np.s_[44:46, 20:22], 36: np.s_[50:52, 36:38], 58: np.s_[44:46, 58:60]}
    frame = frame_of(Scenes(texture(1), texture(2)), marked(*columns.values()), displacement=field(local))
    shifts = dict(zip(frame.geometry.bounds.minx.astype(int), frame.shift_px, strict=True))
    assert shifts == {2: 0, 20: 5, 36: 5, 58: pytest.approx(np.nan, nan_ok=True)}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_it_is_the_median_of_points_in_and_around_the_bounding_box(seed):
    rng = np.random.default_rng(seed)
    local = field(np.where(rng.random((8, 8)) < 0.3, np.nan, rng.random((2, 8, 8)) * 9))
    top, left = rng.integers(0, 50, 2)
    height, width = rng.integers(1, 14, 2)
    (row,) = frame_of(
        Scenes(texture(1), texture(2)), marked(np.s_[top : top + height, left : left + width]), displacement=local
    ).itertuples()
    points = [
        (down, right)
        for down in np.linspace(top * STRIDE - 16, (top + height) * STRIDE + 16, 5)
        for right in np.linspace(left * STRIDE - 16, (left + width) * STRIDE + 16, 5)
    ]
    assert row.shift_px == pytest.approx(np.nanmedian(local.remaining_at(*np.array(points).T)))


@pytest.mark.parametrize("applied", [False, True])
def test_what_is_left_at_a_place_is_what_is_left_at_its_node(applied):
    rng = np.random.default_rng(0)
    displacement, local = np.float32(rng.random((2, 2, 4, 5)))
    lattice = DisplacementField(16, (2, -1), displacement, local[0], local, applied=applied, shift=(1.0, -0.5))
    rows, cols = np.indices((4, 5)).reshape(2, -1)
    places = (rows + 2 + rng.random(20)) * 16, (cols - 1 + rng.random(20)) * 16
    np.testing.assert_array_equal(lattice.remaining_at(*places), lattice.remaining.ravel())


def test_what_is_corrected_is_not_left():
    local = np.ones((2, 8, 8), np.float32)
    exact = DisplacementField(16, (0, 0), local, local[0], local, applied=True)
    scenes, scores = Scenes(texture(1), texture(2)), marked(PLACE)
    assert frame_of(scenes, scores, displacement=exact).shift_px.tolist() == [0]
    shifted = field(local, shift=(1.0, 0.0))
    assert frame_of(scenes, scores, displacement=shifted).shift_px.tolist() == [1]


def test_without_a_field_it_is_the_shift_of_the_whole_pair():
    scenes, scores = Scenes(texture(1), texture(2)), marked(PLACE)
    assert frame_of(scenes, scores, shift_px=0.7).shift_px.tolist() == [0.7]
    unknown = field(np.full((2, 8, 8), np.nan))
    assert frame_of(scenes, scores, shift_px=0.7, displacement=unknown).shift_px.isna().all()
