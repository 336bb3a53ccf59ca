import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from geosiam.imagery.pair import open_pair
from geosiam.imagery.registration import Shift, estimate_shift

RNG = np.random.default_rng(1)


def ground(size: int = 400) -> np.ndarray:
    noise = RNG.normal(size=(3, size, size))
    return (0.5 + 1.5 * gaussian_filter(noise, (0, 1.5, 1.5))).astype(np.float32)


def moved(image: np.ndarray, rows: float, cols: float) -> np.ndarray:
    """Return the image with its content moved down and right, by the Fourier theorem."""
    return np.stack([np.fft.ifft2(fourier_shift(np.fft.fft2(band), (rows, cols))).real for band in image]).astype("f4")


def patches(first: np.ndarray, second: np.ndarray, size: int = 128) -> list[tuple[np.ndarray, np.ndarray]]:
    starts = (20, 140, 252)
    cuts = [(slice(None), slice(r, r + size), slice(c, c + size)) for r in starts for c in starts]
    return [(first[cut], second[cut]) for cut in cuts]


@pytest.mark.parametrize(("rows", "cols"), [(0, 0), (0.1, -0.3), (1.3, 0.8), (-2.55, 4.2), (8.0, -7.4)])
def test_known_shifts_are_found_to_a_tenth_of_a_pixel(rows: float, cols: float) -> None:
    first = ground()
    second = moved(first, rows, cols) + RNG.normal(0, 0.02, first.shape).astype("f4")
    found = estimate_shift(patches(first, second))
    assert found is not None
    assert (found.rows, found.cols) == pytest.approx((rows, cols), abs=0.1)
    assert found.trustworthy
    assert found.length == pytest.approx(np.hypot(found.rows, found.cols))


def test_patches_that_changed_do_not_matter() -> None:
    first = ground()
    pairs = patches(first, moved(first, 2.2, -1.4))
    for i in range(3):
        pairs[i] = (pairs[i][0], ground(128))
    found = estimate_shift(pairs)
    assert found is not None
    assert (found.rows, found.cols) == pytest.approx((2.2, -1.4), abs=0.1)
    assert found.confidence == pytest.approx(6 / 9)


def test_what_cannot_be_told_is_not_told() -> None:
    flat = np.full((3, 128, 128), 0.5, np.float32)
    assert estimate_shift([(flat, flat)]) is None
    assert estimate_shift([]) is None
    assert estimate_shift([(ground(20), ground(20))]) is None
    unrelated = estimate_shift([(ground(128), ground(128)) for _ in range(9)])
    assert unrelated is None or not unrelated.trustworthy
    assert not Shift(0.0, 0.0, 1.0, 2).trustworthy


@pytest.mark.parametrize(("rows", "cols"), [(3.4, -2.3), (9.0, 4.0)])
def test_registering_removes_the_shift(rows: float, cols: float, write) -> None:
    first = ground(700).clip(0, 1)
    second = moved(first, rows, cols).clip(0, 1)
    a, b = (write(f"{i}.tif", (image * 255).round().astype(np.uint8)) for i, image in enumerate((first, second)))
    with open_pair(a, b) as pair:
        assert pair.report().shift_px == pytest.approx(np.hypot(rows, cols), abs=0.15)
        assert any("--register" in warning for warning in pair.report().warnings)
    with open_pair(a, b, register=True) as pair:
        assert pair.report().corrected
        assert pair.report().shift_px < 0.25  # resampling blurs, and the second estimate with it


def test_a_shift_that_cannot_be_estimated_is_not_corrected(write) -> None:
    a, b = (write(name, RNG.integers(0, 256, (3, 400, 400), dtype=np.uint8)) for name in ("a.tif", "b.tif"))
    with open_pair(a, b, register=True) as pair:
        assert not pair.report().corrected
        assert pair.report().shift_px is None
        assert any("not corrected" in warning for warning in pair.report().warnings)


def test_a_pair_that_lies_right_is_not_resampled(write) -> None:
    image = (ground(700).clip(0, 1) * 255).astype(np.uint8)
    path = write("a.tif", image)
    with open_pair(path, path, register=True) as pair:
        assert not pair.report().corrected
        assert pair.report().resampling == "none"
