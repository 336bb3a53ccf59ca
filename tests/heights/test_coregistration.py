"""Shift, bias and tilt are found on stable ground, and the error of means is that of means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from surface_files import correlated, hills, write

from geosiam.heights.coregistration import coregister, gradient, mean_errors, nmad, robust_fit, sample_windows
from geosiam.heights.surfaces import open_surfaces
from geosiam.imagery.grid import Window

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLS = 200, 260


def everything(window: Window) -> np.ndarray:
    return np.ones(window.shape, bool)


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (1.3, -0.7), (-2.4, 3.1)])
def test_shift_bias_and_tilt_are_found_in_spite_of_what_changed(tmp_path: Path, right: float, down: float) -> None:
    before = hills(ROWS, COLS) + 0.03 * correlated(ROWS, COLS, 1, 1)
    after = hills(ROWS, COLS, right=right, down=down) + 0.03 * correlated(ROWS, COLS, 1, 2)
    row, col = np.mgrid[:ROWS, :COLS]
    tilt = 0.1 + 0.0005 * (col - (COLS - 1) / 2) - 0.0004 * (row - (ROWS - 1) / 2)
    after = after + tilt
    after[40:70, 50:90] += 4.0  # a heap that nobody outlined
    with open_surfaces([write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)]) as surfaces:
        found = coregister(surfaces, everything, workers=2)
        again = coregister(surfaces, everything, workers=1)
    assert found == again
    assert found.shift == pytest.approx((down, right), abs=0.05)
    correction = found.correction(Window(0, ROWS, 0, COLS))
    assert np.abs(correction - tilt).max() < 0.02
    assert found.after == pytest.approx(0.03 * 2**0.5, rel=0.35)  # resampling smooths the noise of one
    assert found.detection_95 == pytest.approx(1.96 * found.after)


def test_level_ground_has_no_shift(tmp_path: Path) -> None:
    noise = [0.05 * correlated(ROWS, COLS, 1, seed) for seed in (1, 2)]
    with open_surfaces([write(tmp_path / f"{i}.tif", noise[i] + 0.2 * i) for i in (0, 1)]) as surfaces:
        found = coregister(surfaces, everything)
    assert found.shift == (0.0, 0.0)
    assert found.plane[0] == pytest.approx(0.2, abs=0.01)


def test_without_stable_ground_nothing_is_said(tmp_path: Path) -> None:
    with open_surfaces([write(tmp_path / f"{i}.tif", hills(50, 50)) for i in (0, 1)]) as surfaces:
        found = coregister(surfaces, lambda window: np.zeros(window.shape, bool))
    assert found.pixels == 0
    assert np.isnan(found.noise).all()
    assert np.isnan(found.mean_error(3, 0.05))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_third_of_outliers_does_not_matter(a: float, b: float, c: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    design = np.column_stack([rng.normal(size=600), rng.normal(size=600), np.ones(600)])
    values = design @ [a, b, c] + rng.normal(scale=0.05, size=600)
    values[:180] += rng.uniform(5, 50, 180)
    assert np.abs(robust_fit(design, values) - [a, b, c]).max() < 0.05


def test_the_error_of_means_is_that_of_means() -> None:
    """Independent pixels: one over the side. Correlated ones: as measured on other noise of the same kind."""
    white = [np.random.default_rng(seed).normal(size=(256, 256)) for seed in range(4)]
    for side, error in mean_errors(white).items():
        assert error == pytest.approx(1 / side, rel=0.25)
    smooth = [correlated(256, 256, 3, seed) for seed in range(6)]
    other = np.stack([correlated(256, 256, 3, seed) for seed in range(10, 16)])
    errors = mean_errors(smooth)
    for side in (8, 16):
        means = other.reshape(6, 256 // side, side, 256 // side, side).mean(axis=(2, 4))
        assert errors[side] == pytest.approx(means.std(), rel=0.1)
        assert errors[side] > 3 / side  # far more than independent pixels would leave


@given(hnp.arrays(float, st.integers(1, 40), elements=st.floats(-1e3, 1e3)), st.floats(-50, 50), st.floats(0.1, 9))
def test_nmad_is_that_of_a_scale(values: np.ndarray, offset: float, factor: float) -> None:
    assert nmad(values * factor + offset) == pytest.approx(factor * nmad(values), rel=1e-6, abs=1e-6)


def test_gradient_is_numpys() -> None:
    ground = hills(30, 40)
    down, right = np.gradient(ground)
    for own, expected in zip(gradient(ground), (down, right), strict=True):
        np.testing.assert_allclose(own, expected[1:-1, 1:-1])


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(0, 50))
def test_windows_lie_inside_and_are_few(rows: int, cols: int, start: int) -> None:
    area = Window(start, start + rows, start, start + cols)
    windows = sample_windows(area)
    assert 1 <= len(windows) <= 49
    assert all(window.intersection(area) == window for window in windows)
    if max(rows, cols) <= 1792:
        assert sum(window.shape[0] * window.shape[1] for window in windows) == rows * cols
