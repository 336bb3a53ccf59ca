"""Tiles: cut, kept and put together; against the array they were cut from."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosiam.imagery.grid import Window
from geosiam.imagery.tile_cache import Tile, TileCache, TileLayout, assemble

SIZES = st.integers(1, 700)


@given(SIZES, SIZES, st.integers(1, 300), st.integers(1, 900), st.data())
def test_any_window_comes_together_from_tiles_of_whole_blocks(height, width, block_rows, block_cols, data):
    layout = TileLayout.of_blocks((height, width), (block_rows, block_cols))
    assert layout.rows in (height, layout.rows // block_rows * block_rows)
    assert layout.cols in (width, layout.cols // block_cols * block_cols)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, data.draw(st.integers(top + 1, height)), left, data.draw(st.integers(left + 1, width)))
    image = np.arange(height * width, dtype=np.int32).reshape(1, height, width)
    mask = image[0] % 7 > 0

    def cut(position):
        place = layout.window(position).slices
        return Tile(image[:, *place], None if mask[place].all() else mask[place])

    values, valid = assemble(layout, window, [cut(position) for position in layout.over(window)])
    np.testing.assert_array_equal(values, image[:, *window.slices])
    np.testing.assert_array_equal(valid, mask[window.slices])


@given(SIZES, st.integers(1, 300), st.integers(1, 1100), st.data())
def test_blocks_touch_no_more_rows_of_tiles_than_the_layout_says(height, block_rows, rows, data):
    layout = TileLayout.of_blocks((height, 50), (block_rows, 50))
    top = data.draw(st.integers(0, max(0, height - rows)))
    window = Window(top, min(top + rows, height), 0, 50)
    touched = {layout.window(position) for position in layout.over(window)}
    assert sum(place.shape[0] for place in touched) <= layout.reach(rows)


def tile(value, side=10):
    return Tile(np.full((1, side, side), value, np.uint8), None)


def test_each_tile_is_loaded_once_by_any_number_of_threads():
    cache, loaded, lock = TileCache(10**6), [], threading.Lock()
    positions = [(row, col) for row in range(8) for col in range(8)]

    def load(position):
        with lock:
            loaded.append(position)
        return tile(position[0] * 8 + position[1])

    def want(seed):
        chosen = [positions[i] for i in np.random.default_rng(seed).permutation(64)]
        return all(
            found.values[0, 0, 0] == row * 8 + col
            for (row, col), found in zip(chosen, cache.get(chosen, load), strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(want, range(40)))
    assert sorted(loaded) == positions


def test_what_is_forgotten_is_loaded_again():
    cache, loaded = TileCache(10**6), []

    def load(position):
        loaded.append(position)
        return tile(position[1])

    for _ in range(2):
        assert [found.values[0, 0, 0] for found in cache.get([(0, 1), (0, 2)], load)] == [1, 2]
        cache.clear()
        assert cache._bytes == 0
    assert loaded == [(0, 1), (0, 2)] * 2


def test_no_more_is_kept_than_the_capacity_and_the_latest_stay():
    cache, loaded = TileCache(350), []

    def load(position):
        loaded.append(position)
        return tile(0)

    for position in [(0, 0), (0, 1), (0, 2), (0, 0), (0, 3)]:
        cache.get([position], load)
    assert len(loaded) == 4
    cache.get([(0, 0), (0, 2), (0, 3)], load)
    assert len(loaded) == 4
    cache.get([(0, 1)], load)
    assert loaded[-1] == (0, 1)
    assert len(loaded) == 5


def test_more_than_the_capacity_can_be_asked_for_at_once():
    found = TileCache(0).get([(0, i) for i in range(5)], lambda position: tile(position[1]))
    assert [one.values[0, 0, 0] for one in found] == list(range(5))


def test_what_fails_is_raised_everywhere_and_tried_again():
    cache, begun, go_on = TileCache(10**6), threading.Event(), threading.Event()

    def fail(_):
        begun.set()
        go_on.wait(10)
        raise OSError("no such tile")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, [(0, 0), (0, 1)], fail)
        begun.wait(10)
        second = pool.submit(cache.get, [(0, 1)], fail)
        go_on.set()
        for waiting in (first, second):
            with pytest.raises(OSError, match="no such tile"):
                waiting.result(10)
    assert [one.values[0, 0, 0] for one in cache.get([(0, 0), (0, 1)], lambda _: tile(7))] == [7, 7]
