"""Volumes and evidence from whole numbers: against geometry, against rasterio, in any blocks."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import geometry_mask
from surface_files import correlated

from geosiam.heights.coregistration import Coregistration
from geosiam.heights.volumes import HeightStats, Size, Tally, likely_lean, parts_inside, stats, within_lean

ERRORS = Coregistration(
    (0.0, 0.0), (0.0, 0.0), (0.0, 0.0, 0.0), 9999, (0.05,) * 5, {1: 1.0, 2: 0.8, 4: 0.5, 8: 0.25}, 0.0, 0.05, 0.05
)
SQUARE = Affine(0.5, 0, 0, 0, -0.5, 50)


def measured(dz: np.ndarray, parts: np.ndarray | None = None, *, noise: float = 0.05) -> HeightStats:
    tally = Tally()
    tally.add(np.full(dz.shape, 16) if parts is None else parts, dz, np.full(dz.shape, noise))
    return stats(tally, 0.25, ERRORS)


def test_parts_are_the_area_of_the_outline() -> None:
    circle = shapely.Point(22.3, 27.1).buffer(9.4)
    parts = parts_inside(circle, SQUARE, (100, 100))
    assert parts.sum() / 16 * 0.25 == pytest.approx(circle.area, rel=0.003)
    inside = geometry_mask([circle], (100, 100), SQUARE, invert=True)
    assert (parts[inside] >= 6).all()  # a pixel whose center is inside has more than a third of it inside
    assert parts.max() == 16


@given(st.integers(0, 99), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_gain_less_loss_is_the_sum_whatever_the_noise(seed: int, offset: float) -> None:
    dz = np.round(offset + correlated(30, 40, 2, seed), 3)
    row = measured(dz)
    assert row.volume_gain_m3 - row.volume_loss_m3 == pytest.approx(0.25 * dz.sum(), abs=1e-6)
    assert min(row.volume_gain_m3, row.volume_loss_m3) >= 0
    assert (row.dz_min, row.dz_max) == (dz.min(), dz.max())
    assert row.dz_mean == pytest.approx(dz.mean())
    assert row.dz_median == pytest.approx(np.median(dz), abs=0.02)


@given(st.integers(1, 29), st.integers(1, 39), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_any_blocks_give_the_same(row: int, col: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dz, parts = rng.normal(size=(30, 40)).round(3), rng.integers(0, 17, (30, 40))
    dz[rng.random((30, 40)) < 0.1] = np.nan
    noise = rng.uniform(0.01, 0.3, (30, 40))
    whole, cut = Tally(), Tally()
    whole.add(parts, dz, noise)
    for part in (np.s_[:row, :col], np.s_[row:, col:], np.s_[:row, col:], np.s_[row:, :col]):
        cut.add(parts[part], dz[part], noise[part])
    assert stats(whole, 0.25, ERRORS) == stats(cut, 0.25, ERRORS)


def test_noise_of_level_ground_is_neither_gain_nor_loss() -> None:
    level = np.random.default_rng(1).normal(scale=0.05, size=(60, 60))
    row = measured(level)
    rectified = 0.25 * np.maximum(level, 0).sum()
    assert row.volume_gain_m3 + row.volume_loss_m3 < 0.35 * 2 * rectified
    assert row.height_evidence == "level"


@pytest.mark.parametrize(("height", "evidence"), [(1.0, "raised"), (-1.0, "lowered"), (0.02, "level")])
def test_evidence(height: float, evidence: str) -> None:
    dz = np.full((20, 20), height)
    dz[:, :8] = 0  # the outline is wider than the object
    assert measured(dz).height_evidence == evidence


def test_voids_get_the_mean_and_make_it_uncertain() -> None:
    full = np.tile([1.0, 2.0], (20, 10))
    holed = full.copy()
    holed[:8, :10] = np.nan
    assert measured(holed).volume_gain_m3 == pytest.approx(measured(full).volume_gain_m3)
    assert measured(holed).volume_sigma_m3 > measured(full).volume_sigma_m3
    holed[:, :11] = np.nan
    row = measured(holed)
    assert row.height_evidence == "unknown"
    assert np.isnan(row.volume_gain_m3)
    assert row.height_fraction == pytest.approx(0.45)
    nothing = measured(np.full((4, 4), np.nan))
    assert nothing.height_evidence == "unknown"
    assert np.isnan(nothing.dz_mean)


def test_what_the_outline_cuts_off_is_part_of_the_error() -> None:
    tight, loose = Tally(), Tally()
    for tally, outside in ((tight, 0.8), (loose, 0.0)):
        tally.add(np.full((10, 10), 16), np.full((10, 10), 1.0), np.full((10, 10), 0.05))
        tally.add_edge(np.full((2, 20), 16), np.full((2, 20), outside))
    assert stats(tight, 0.25, ERRORS).volume_sigma_m3 > 2 * stats(loose, 0.25, ERRORS).volume_sigma_m3


def house(size: int = 60, *, height: float = 5.0) -> np.ndarray:
    ground = np.zeros((size, size))
    ground[20:40, 20:40] = height
    return ground


def test_lean_reaches_as_far_as_height_times_tangent() -> None:
    reached = within_lean(house(), (0.5, 0.5), tangent=0.4)  # a step of 5 m, less the least one, leans by 1.8 m
    assert reached[30, 17]
    assert not reached[30, 14]
    assert reached[30, 22]
    assert not reached[30, 28]
    assert not within_lean(np.add.outer(np.arange(60) * 0.4, np.zeros(60)), (0.5, 0.5)).any()  # a slope of 40 degrees


def test_lean_of_a_tower_may_reach_beyond_the_picture() -> None:
    strip = np.zeros((50, 400))
    strip[20:25, 100:110] = 120
    square = np.full((400, 400), np.nan)
    square[:50] = strip
    reached = within_lean(strip, (0.5, 0.5))
    assert reached[20:25, 200].all()
    np.testing.assert_array_equal(reached, within_lean(square, (0.5, 0.5))[:50])


LEVEL = HeightStats(0.0, 0.0, -0.1, 0.1, 0.0, 0.0, 1.0, 1.0, "level")
RAISED = LEVEL._replace(dz_mean=5.0, dz_median=5.0, height_evidence="raised")


@pytest.mark.parametrize(
    ("where", "row", "marked"),
    [
        (np.s_[20:40, 17:20], LEVEL, True),  # beside the wall
        (np.s_[20:40, 17:20], RAISED, False),  # a new annex
        (np.s_[29:31, 29:31], LEVEL, True),  # a skylight
        (np.s_[20:40, 20:40], LEVEL, False),  # a new cover of the whole roof
        (np.s_[5:9, 5:9], LEVEL, False),  # a sheet on the lawn
    ],
)
def test_what_is_likely_lean(where: tuple[slice, slice], row: HeightStats, *, marked: bool) -> None:
    parts = np.zeros((60, 60), np.int64)
    parts[where] = 16
    rows, cols = (s.stop - s.start for s in where)
    size = Size(rows * cols * 0.25, 2 * rows * cols * 0.25 / (rows + cols))
    surfaces = np.stack([house(), house()])
    assert likely_lean(parts, surfaces, (0.5, 0.5), row, size=size, shift_fraction=np.nan) == marked
