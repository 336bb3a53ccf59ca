"""Statistics collected while blocks are scored are those that reading the cells afterwards gives."""

import numpy as np
import pytest
from array_cells import Cells
from hypothesis import given, settings
from hypothesis import strategies as st

from geosiam.imagery.grid import Halo, Lattice, Window, reflected
from geosiam.imagery.normalization import unchanged_transform
from geosiam.imagery.pair import StoredBlock
from geosiam.inference.zonal_stats import (
    BUFFER_CELLS,
    COLUMNS,
    PIXEL_COLUMNS,
    REACH_PX,
    UNIT,
    CellStatistics,
    ZonalStatistics,
    ZonalStatsStore,
    cell_statistics,
)
from geosiam.polygons.attributes import AttributeReader
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_table

STRIDE = 4
CELLS = (23, 31)
SHAPE = (90, 122)  # in pixels: the last cells are partial
HALO = Halo(3 * STRIDE, 3 * STRIDE + 1)


class Scenes:
    """Noise that differs here and there; counts the pixels that are read."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.before = np.float32(rng.random((3, *SHAPE)))
        self.after = np.where(rng.random(SHAPE) < 0.5, self.before, np.float32(rng.random((3, *SHAPE))))
        self.valid = rng.random(SHAPE) < 0.9
        self.pixels_read = 0

    def stored(self, window):
        rows = reflected(window.row_start, window.row_stop, SHAPE[0])
        cols = reflected(window.col_start, window.col_stop, SHAPE[1])
        images = (image[:, rows][:, :, cols] for image in (self.before, self.after))
        return StoredBlock(*images, self.valid[rows][:, cols], (unchanged_transform(3), unchanged_transform(3)))

    def read(self, window):
        self.pixels_read += window.shape[0] * window.shape[1]
        return self.stored(window).comparable()


def scored(seed, share=0.03):
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(CELLS) < share, 0.9, 0.1).astype(np.float32)
    scores[rng.random(CELLS) < 0.05] = np.nan
    return scores


def stored_statistics(scenes, scores, side=8, halo=HALO, **how):
    store = ZonalStatsStore(ZonalStatistics(CELLS, STRIDE, 0.5), **how)
    for block in Lattice(*CELLS, side, side):
        window = block.pixels(STRIDE, halo)
        statistics = store.statistics.of_block(block, window, scenes.stored(window), scores[block.cells.slices])
        if statistics is not None:
            store.add(statistics)
    return store


def polygons(scenes, scores, threshold, store=None):
    with AttributeReader(scenes, STRIDE, threshold, colored=True, zonal_stats=store) as reader:
        return polygon_table(
            Cells(scores, 10, stride=STRIDE), PolygonOptions(threshold=threshold), reader=reader
        ).frame()


def everywhere():
    row, col = (places.ravel() for places in np.indices(CELLS))
    return row, col


def near(scores):
    """Return which cells lie close to a high one, the slow way."""
    result = np.zeros(CELLS, bool)
    for row, col in np.argwhere(scores >= 0.5):
        result[
            max(0, row - BUFFER_CELLS) : row + BUFFER_CELLS + 1, max(0, col - BUFFER_CELLS) : col + BUFFER_CELLS + 1
        ] = True
    return result


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.1]), st.integers(3, 40))
@settings(max_examples=40, deadline=None)
def test_high_cells_and_those_around_them_are_noted_as_they_are(seed, share, side):
    scenes, scores = Scenes(seed % 5), scored(seed, share)
    known, sums = stored_statistics(scenes, scores, side).lookup(*everywhere())
    assert np.array_equal(known.reshape(CELLS), near(scores))
    whole = cell_statistics(scenes.read(Window(0, CELLS[0], 0, CELLS[1]).scaled(STRIDE).grown(REACH_PX)), STRIDE)
    assert np.array_equal(sums, whole.reshape(COLUMNS, -1).T[known])


@pytest.mark.parametrize("halo", [HALO, Halo(0, 0), Halo(STRIDE, 1)])
@pytest.mark.parametrize("max_bytes", [0, 6_000, 10_000_000])
def test_polygons_say_the_same_with_and_without(halo, max_bytes):
    scenes, scores = Scenes(1), scored(1)
    store = stored_statistics(scenes, scores, halo=halo, max_bytes=max_bytes)
    looked = polygons(scenes, scores, 0.5)
    assert looked.equals(polygons(scenes, scores, 0.5, store))
    assert looked.shadow_fraction.notna().any()


def test_what_was_noted_is_not_read_again():
    scenes, scores = Scenes(2), scored(2)
    assert len(polygons(scenes, scores, 0.5, stored_statistics(scenes, scores)))
    assert scenes.pixels_read == 0


def test_a_raised_threshold_makes_more_cells_surroundings():
    scenes, scores = Scenes(3), scored(3)
    store = stored_statistics(scenes, np.where(scores == 0.9, np.float32(0.6), scores))
    scores[5:7, 5:7] = 0.9
    assert polygons(scenes, scores, 0.8).equals(polygons(scenes, scores, 0.8, store))


def test_a_score_that_the_raster_rounds_up_to_the_threshold_counts():
    scores = np.full(CELLS, 0.1, np.float32)
    scores[10, 10] = 126.6 / 254  # stored as 127 of 254
    known, _ = stored_statistics(Scenes(0), scores).lookup(np.array([10]), np.array([10]))
    assert known.all()


def test_the_largest_sum_fits_where_it_is_kept():
    for stride in (1, 2, 3, 4, 8):
        window = Window(0, 4 * stride, 0, 4 * stride).grown(REACH_PX)
        white = np.ones((3, *window.shape), np.float32)
        block = StoredBlock(
            white, white, np.ones(white.shape[1:], bool), (unchanged_transform(3), unchanged_transform(3))
        )
        scores = np.full((4, 4), 0.9, np.float32)
        found = ZonalStatistics((4, 4), stride, 0.5).of_block(Lattice(4, 4, 4, 4)[0], window, block, scores)
        assert len(found.cells) == 16
        assert found.values.max() == stride**2 * UNIT


def test_memory_is_bounded():
    scenes, everything = Scenes(4), np.full(CELLS, 0.9, np.float32)
    known, _ = stored_statistics(scenes, everything, max_bytes=30_000).lookup(*everywhere())
    assert 0 < known.sum() <= 30_000 / (COLUMNS + PIXEL_COLUMNS)  # bytes and twice as many


def test_a_store_is_full_when_a_block_does_not_fit():
    store = ZonalStatsStore(ZonalStatistics(CELLS, STRIDE, 0.5), max_bytes=1000)
    block = CellStatistics(
        np.arange(20), np.zeros((20, PIXEL_COLUMNS), np.uint16), np.zeros((20, COLUMNS - PIXEL_COLUMNS), np.uint8)
    )
    assert not store.full
    store.add(block)
    assert store.full
    assert not store.lookup(*everywhere())[0].any()
