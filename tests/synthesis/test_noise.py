import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geosiam.imagery.grid import Window
from geosiam.synthesis import noise

WHOLE = Window(-40, 60, -30, 80)


@st.composite
def windows(draw):
    r0 = draw(st.integers(WHOLE.row_start, WHOLE.row_stop - 1))
    c0 = draw(st.integers(WHOLE.col_start, WHOLE.col_stop - 1))
    return Window(r0, draw(st.integers(r0 + 1, WHOLE.row_stop)), c0, draw(st.integers(c0 + 1, WHOLE.col_stop)))


def part_of_whole(array, window):
    rows = slice(window.row_start - WHOLE.row_start, window.row_stop - WHOLE.row_start)
    cols = slice(window.col_start - WHOLE.col_start, window.col_stop - WHOLE.col_start)
    return array[rows, cols]


@given(windows(), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_window_of_uniform_noise_is_part_of_the_whole(window, seed):
    np.testing.assert_array_equal(noise.uniform(window, seed), part_of_whole(noise.uniform(WHOLE, seed), window))


@given(windows(), st.integers(1, 23))
@settings(max_examples=30, deadline=None)
def test_a_window_of_smooth_noise_is_part_of_the_whole(window, pitch):
    np.testing.assert_allclose(
        noise.smooth(window, pitch, 3), part_of_whole(noise.smooth(WHOLE, pitch, 3), window), atol=1e-5
    )


def test_uniform_noise_is_uniform_and_unrelated_to_its_neighbors():
    field = noise.uniform(Window(0, 500, 0, 500), 1)
    counts, _ = np.histogram(field, bins=10, range=(0, 1))
    assert np.abs(counts / field.size - 0.1).max() < 0.005
    assert abs(np.corrcoef(field[:, :-1].ravel(), field[:, 1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1]) < 0.01


def test_smooth_noise_has_unit_spread_and_differs_by_seed():
    window = Window(0, 600, 0, 600)
    field = noise.smooth(window, 4, 1)
    assert abs(field.mean()) < 0.05
    assert abs(field.std() - 1) < 0.05
    assert abs(np.corrcoef(field.ravel(), noise.smooth(window, 4, 2).ravel())[0, 1]) < 0.05
