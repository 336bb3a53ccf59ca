from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import array_bounds

from geosiam.imagery.grid import Block, Grid, Halo, Lattice, Window, apply_affine, centers, reflected

UTM = CRS.from_epsg(32633)
TRANSFORMS = [
    Affine(0.5, 0, 1000, 0, -0.5, 2000),
    Affine(0.5, 0, 1000, 0, 0.5, 2000),  # south-up
    Affine.translation(5, 7) @ Affine.rotation(30) @ Affine.scale(2, -2),
]
sizes = st.integers(1, 40)


@given(size=sizes, start=st.integers(-100, 0), beyond=st.integers(0, 100))
def test_reflection_is_that_of_numpy(size: int, start: int, beyond: int) -> None:
    expected = np.pad(np.arange(size), (-start, beyond), mode="reflect")
    np.testing.assert_array_equal(reflected(start, size + beyond, size), expected)


def test_nothing_cannot_be_reflected() -> None:
    with pytest.raises(ValueError, match="without pixels"):
        reflected(0, 1, 0)


@given(rows=sizes, cols=sizes, block_rows=sizes, block_cols=sizes)
def test_lattice_covers_every_cell_exactly_once(rows: int, cols: int, block_rows: int, block_cols: int) -> None:
    lattice = Lattice(rows, cols, block_rows, block_cols)
    count = np.zeros((rows, cols), int)
    for index, block in enumerate(lattice):
        assert block.index == index
        count[block.cells.slices] += 1
        assert block.cells.shape <= (block_rows, block_cols)
    assert (count == 1).all()
    assert len(lattice) == index + 1
    assert tuple(map(sum, lattice.chunks)) == (rows, cols)
    assert tuple(map(len, lattice.chunks)) == lattice.shape
    with pytest.raises(IndexError):
        lattice[len(lattice)]


def test_a_lattice_of_a_million_blocks_costs_nothing() -> None:
    lattice = Lattice(10**6, 10**6, 10, 10)
    assert lattice[len(lattice) - 1].cells == Window(10**6 - 10, 10**6, 10**6 - 10, 10**6)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_bounds_are_those_of_all_corners(transform: Affine) -> None:
    grid = Grid(UTM, transform, 30, 20)
    x, y = apply_affine(transform, np.array([0.0, 30, 30, 0]), np.array([0.0, 0, 20, 20]))
    assert grid.bounds == pytest.approx((x.min(), y.min(), x.max(), y.max()))
    assert grid.shape == (20, 30)
    if transform.is_rectilinear and transform.e < 0:
        assert grid.bounds == pytest.approx(array_bounds(20, 30, transform))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_cells_are_aligned_to_the_pixels_they_cover(transform: Affine, stride: int) -> None:
    grid = Grid(UTM, transform, 33, 17)
    cells = grid.coarsened(stride)
    assert cells.shape == (-(-17 // stride), -(-33 // stride))
    for row, col in ((0, 0), (1, 2), (2, 1)):
        assert cells.transform @ (col, row) == pytest.approx(grid.transform @ (col * stride, row * stride))
    assert cells.pixel_size == pytest.approx(tuple(stride * side for side in grid.pixel_size))


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        Grid(UTM, TRANSFORMS[0], 0, 5)
    with pytest.raises(ValueError, match="onto a line"):
        Grid(UTM, Affine(1, 0, 0, 1, 0, 0), 5, 5)
    with pytest.raises(ValueError, match="positive sizes"):
        Lattice(1, 1, 0, 1)


def test_a_block_needs_its_pixels_and_the_halo() -> None:
    block = Block(0, Window(2, 4, 0, 3))
    assert block.pixels(8, Halo(12, 13)) == Window(4, 45, -12, 37)


@given(st.lists(st.integers(-20, 20), min_size=8, max_size=8))
def test_intersection_is_what_both_cover(numbers: list[int]) -> None:
    spans = [sorted(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    a, b = Window(*spans[0], *spans[1]), Window(*spans[2], *spans[3])

    def cells(window: Window | None) -> set[tuple[int, int]]:
        if window is None:
            return set()
        rows, cols = range(window.row_start, window.row_stop), range(window.col_start, window.col_stop)
        return {(row, col) for row in rows for col in cols}

    assert cells(a.intersection(b)) == cells(a) & cells(b)


def test_centers_stay_inside_the_scene() -> None:
    np.testing.assert_array_equal(centers(slice(0, 3), 8, 18), [4, 12, 17])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
def test_stripes_go_through_each_block_once_from_top_to_bottom(down, width, across):
    lattice = Lattice(down * 4, width * 4, 4, 4)
    blocks = list(lattice.in_stripes(across))
    assert sorted(block.index for block in blocks) == list(range(down * width))
    stripes = [block.index % width // across for block in blocks]
    assert stripes == sorted(stripes)
    assert across < width or blocks == list(lattice)
    below = [(a.index, b.index) for a, b in pairwise(blocks) if a.index // width != b.index // width]
    assert all(b // width == a // width + 1 or b // width == 0 for a, b in below)
