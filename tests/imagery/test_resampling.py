"""Resampling through a field, against direct arithmetic, SciPy and GDAL."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from geosiam.imagery.resampling import averaged, interpolated, resample

DTYPES = ["uint8", "uint16", "int16", "float32", "float64", "uint32", "int8"]


def image(dtype: str, height: int = 40, width: int = 50, bands: int = 3) -> np.ndarray:
    rng = np.random.default_rng(7)
    low, high = {"uint8": (0, 256), "int8": (-128, 128), "int16": (-20_000, 20_000)}.get(dtype, (0, 60_000))
    return rng.integers(low, high, (bands, height, width)).astype(dtype)


def places(height: int = 40, width: int = 50, margin: float = 2.0, shape: tuple[int, int] = (30, 35)):
    """Return random positions that OpenCV interpolates at, in multiples of 1/32 pixel."""
    rng = np.random.default_rng(8)
    return tuple(np.round(rng.uniform(margin, side - 1 - margin, shape) * 32) / 32 for side in (height, width))


def keys(t: np.ndarray, a: float = -0.75) -> list[np.ndarray]:
    """Return the four weights of cubic convolution (Keys, 1981) with a parameter, at fractions of a pixel."""

    def weight(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return [weight(t + 1), weight(t), weight(1 - t), weight(2 - t)]


def cubic(band: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Evaluate cubic convolution at positions, one pixel after the other."""
    row, col = np.floor(rows).astype(int), np.floor(cols).astype(int)
    result = np.zeros(rows.shape)
    for i, down in zip(range(-1, 3), keys(rows - row), strict=True):
        for j, right in zip(range(-1, 3), keys(cols - col), strict=True):
            result += down * right * band[row + i, col + j]
    return result


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return the values that a type can hold."""
    if np.dtype(dtype).kind == "f":
        return values
    limits = np.iinfo(dtype)
    return values.round().clip(limits.min, limits.max)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cubic_interpolation_is_keys(dtype: str) -> None:
    bands, (rows, cols) = image(dtype), places()
    values, valid = resample(bands, np.ones(bands.shape[1:], bool), rows, cols, cv2.INTER_CUBIC)
    assert (values.dtype, values.shape) == (bands.dtype, (3, *rows.shape))
    assert valid.all()
    expected = np.stack([rounded(cubic(band.astype(float), rows, cols), dtype) for band in bands])
    tolerance = 1 if np.dtype(dtype).kind in "iu" else 0.05  # OpenCV's weights of bytes have 15 bits
    assert np.abs(values.astype(float) - expected).max() <= tolerance
    assert (np.abs(values.astype(float) - expected) > 0.1).mean() < 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_interpolation_is_scipys(dtype: str) -> None:
    bands, (rows, cols) = image(dtype), places(margin=0)
    values, valid = resample(bands, np.ones(bands.shape[1:], bool), rows, cols, cv2.INTER_LINEAR)
    assert valid.all()
    expected = np.stack([map_coordinates(band.astype(float), (rows, cols), order=1) for band in bands])
    tolerance = 0.51 if np.dtype(dtype).kind in "iu" else 0.05
    assert np.abs(values.astype(float) - expected).max() <= tolerance


def test_nearest_takes_values_as_they_are() -> None:
    bands, (rows, cols) = image("uint8"), places(margin=0)
    away = np.abs(rows % 1 - 0.5) > 0.1, np.abs(cols % 1 - 0.5) > 0.1
    values, _ = resample(bands, np.ones(bands.shape[1:], bool), rows, cols, cv2.INTER_NEAREST)
    expected = bands[:, np.rint(rows).astype(int), np.rint(cols).astype(int)]
    assert np.array_equal(values[:, away[0] & away[1]], expected[:, away[0] & away[1]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST])
def test_at_whole_pixels_values_are_those_of_the_scene(dtype: str, kernel: int) -> None:
    bands = image(dtype)
    rows, cols = np.indices(bands.shape[1:], float)
    values, valid = resample(bands, np.ones(bands.shape[1:], bool), rows, cols, kernel)
    assert np.array_equal(values, bands)
    assert valid.all()


def test_beyond_the_outline_nothing_is_valid() -> None:
    bands = image("uint8", 10, 12)
    rows, cols = np.meshgrid([-0.53125, -0.5, 4, 9.5, 9.53125], [-0.53125, -0.5, 5, 11.5, 11.53125], indexing="ij")
    for kernel in (cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST):
        values, valid = resample(bands, np.ones((10, 12), bool), rows, cols, kernel)
        assert np.array_equal(valid, np.outer([0, 1, 1, 1, 0], [0, 1, 1, 1, 0]).astype(bool))
        assert not values[:, ~valid].any()
        continued = np.pad(bands, ((0, 0), (3, 3), (3, 3)), "edge")
        expected = [rounded(cubic(band, rows + 3, cols + 3), "uint8")[2, 1] for band in continued]
        assert np.abs(values[:, 2, 1] - (expected if kernel == cv2.INTER_CUBIC else bands[:, 4, 0])).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_margin_the_scene_is_continued(dtype: str) -> None:
    """Where the kernel reaches beyond the scene, values are those of a scene with its margin repeated."""
    bands = image(dtype, 8, 9)
    if np.dtype(dtype).kind == "f":
        bands = bands / np.array(60_000, dtype)  # reflectances
    rows, cols = np.meshgrid(np.arange(-0.5, 7.6, 0.25), np.arange(-0.5, 8.6, 0.125), indexing="ij")
    values, valid = resample(bands, np.ones((8, 9), bool), rows, cols, cv2.INTER_CUBIC)
    assert valid.all()
    continued = np.pad(bands.astype(float), ((0, 0), (3, 3), (3, 3)), "edge")
    expected = np.stack([rounded(cubic(band, rows + 3, cols + 3), dtype) for band in continued])
    difference = np.abs(values.astype(float) - expected)
    assert difference.max() <= (1 if np.dtype(dtype).kind in "iu" else 1e-5)
    assert (difference > 0.1).mean() < 0.1


def extreme(dtype: str) -> float:
    return 1e30 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST])
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_no_value_is_taken_from_invalid_pixels(dtype: str, kernel: int, seed: int) -> None:
    """Whatever lies under the mask, the result is the same, and within the range of the valid values around."""
    rng = np.random.default_rng(seed)
    valid = rng.random((30, 36)) < rng.choice([0.5, 0.9, 0.99])
    valid[10:20, 10:20] = False
    bands = np.full((2, 30, 36), 100, dtype)
    other = bands.copy()
    other[:, ~valid] = extreme(dtype)
    rows, cols = (np.round(rng.uniform(-1, side, (40, 40)) * 32) / 32 for side in (30, 36))
    results = [resample(image, valid, rows, cols, kernel) for image in (bands, other)]
    (values, inside), (same, same_inside) = results
    assert np.array_equal(inside, same_inside)
    assert np.array_equal(values, same)
    assert inside.any()
    assert np.abs(values[:, inside].astype(float) - 100).max() < 1e-3
    assert not values[:, ~inside].any()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_place_is_valid_if_all_pixels_around_it_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((20, 24)) < 0.8
    rows, cols = (np.round(rng.uniform(0, side - 1, (50, 50)) * 32) / 32 for side in valid.shape)
    _, inside = resample(np.ones((1, *valid.shape), np.uint8), valid, rows, cols, cv2.INTER_CUBIC)
    corners = [
        valid[f(rows).astype(int), g(cols).astype(int)] for f in (np.floor, np.ceil) for g in (np.floor, np.ceil)
    ]
    assert np.array_equal(inside, np.all(corners, axis=0))


def test_beside_a_mask_interpolation_is_linear() -> None:
    bands = image("float64", bands=1)
    valid = np.ones(bands.shape[1:], bool)
    valid[:, 25:] = False
    rows, cols = np.meshgrid(np.arange(5, 30, 0.25), np.arange(15, 24.1, 0.25), indexing="ij")
    values, inside = resample(bands, valid, rows, cols, cv2.INTER_CUBIC)
    assert inside.all()
    beside = cols > 23
    linear = map_coordinates(bands[0], (rows, cols), order=1)
    assert np.allclose(values[0][beside], linear[beside], rtol=1e-4)
    assert np.allclose(values[0][cols <= 22], cubic(bands[0], rows, cols)[cols <= 22], rtol=1e-4, atol=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_samples_are_averaged_where_at_least_half_are_valid(dtype: str, side: int) -> None:
    rng = np.random.default_rng(4)
    values, valid = image(dtype, 6 * side, 8 * side), rng.random((6 * side, 8 * side)) < 0.6
    means, inside = averaged(np.where(valid, values, 0), valid, side)
    assert (means.dtype, means.shape) == (values.dtype, (3, 6, 8))
    assert {True, False} == set(inside.flat)
    for i, j in np.ndindex(6, 8):
        part = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
        chosen = valid[part]
        assert inside[i, j] == (chosen.mean() >= 0.5)
        if inside[i, j]:
            expected = values[:, *part][:, chosen].astype(float).mean(axis=1)
            assert (
                np.abs(means[:, i, j].astype(float) - rounded(expected, dtype)).max() <= 1e-6 * np.abs(expected).max()
            )


# -- interpolation between nodes -------------------------------------------------------------------------------------


def test_interpolation_passes_through_the_nodes() -> None:
    nodes = np.random.default_rng(0).normal(size=(9, 7))
    for axis, size in enumerate(nodes.shape):
        inner = np.arange(1, size - 2)
        assert np.array_equal(interpolated(nodes, axis, inner.astype(float)), nodes.take(inner, axis))


@given(st.floats(-50, 50), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_linear_fields_are_exact(constant: float, down: float, right: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, cols = np.indices((12, 14))
    at_rows, at_cols = np.sort(rng.uniform(1, 10, 30)), np.sort(rng.uniform(1, 12, 40))
    found = interpolated(interpolated(constant + down * rows + right * cols, 0, at_rows), 1, at_cols)
    expected = constant + down * at_rows[:, None] + right * at_cols
    assert np.allclose(found, expected, rtol=0, atol=1e-11)


def test_quadratic_fields_are_exact() -> None:
    """Keys's cubic of third order: what no shorter kernel does."""
    at = np.linspace(1, 7.99, 200)
    nodes = np.arange(10.0)[None] ** 2
    assert np.allclose(interpolated(nodes, 1, at), at**2, rtol=0, atol=1e-12)
