import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from scipy.ndimage import fourier_shift, gaussian_filter

from geosiam.imagery.grid import Window as GridWindow
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.registration import DEFAULT_POLICY, NO_SHIFT, RegistrationPolicy, Shift, estimate_shift
from geosiam.imagery.sampling import Patch, Sample
from geosiam.synthesis.insertion import nuisance

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


@given(st.integers(-8, 8), st.integers(-8, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_patches_with_a_shift_undone_show_the_same_ground(rows: int, cols: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 256, (3, 60, 70), np.uint8)
    valid = np.ones((40, 50), bool)
    before, after = scene[:, 10:50, 10:60], scene[:, 10 - rows : 50 - rows, 10 - cols : 60 - cols]
    sample = Sample((Patch(before, after, valid),)).moved(rows, cols)
    assert sample is not None
    (patch,) = sample.patches
    assert np.array_equal(patch.before, patch.after)
    assert patch.before.shape[1:] == patch.valid.shape == (40 - abs(rows), 50 - abs(cols))
    assert sample.correlation() == pytest.approx(1)


def test_patches_with_gaps_do_not_tell_what_a_shift_would_show() -> None:
    image, valid = np.zeros((3, 40, 40), np.uint8), np.ones((40, 40), bool)
    assert Sample((Patch(image, image, valid),)).correlation() == -1
    valid[3, 3] = False
    assert Sample((Patch(image, image, valid),)).moved(1, 0) is None


def test_patches_that_changed_do_not_matter() -> None:
    first = ground()
    pairs = patches(first, moved(first, 2.2, -1.4))
    for i in range(3):
        pairs[i] = (pairs[i][0], ground(128))
    found = estimate_shift(pairs)
    assert found is not None
    assert (found.rows, found.cols) == pytest.approx((2.2, -1.4), abs=0.1)
    assert found.confidence == pytest.approx(6 / 9)


def test_what_changed_does_not_hide_whether_a_correction_helps() -> None:
    scene = ground(240)
    before = scene.copy()
    before[:, 30:70, 40:80], before[:, 130:160, 130:160] = 9, -9
    scenes = (before, moved(scene, 0.2, 0.2), moved(scene, 2.0, 1.0))
    first, corrected, away = (image[:, 9:201, 9:201] for image in scenes)
    valid = np.ones(first.shape[1:], bool)
    assert Sample((Patch(first, corrected, valid),)).correlation() > 0.8
    assert Sample((Patch(first, away, valid),)).correlation() < 0.6


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
    with open_pair(a, b, options=PairOptions(register=False)) as pair:
        assert pair.report.moved_px == (0, 0)
        assert pair.report.shift_px == pytest.approx(np.hypot(rows, cols), abs=0.15)
        assert any("`register=auto`" in warning for warning in pair.report.warnings)
    with open_pair(a, b, options=PairOptions(register=True)) as pair:
        assert pair.report.moved_px == pytest.approx((rows, cols), abs=0.15)
        assert pair.report.shift_px < 0.25  # resampling blurs, and the second estimate with it


@pytest.mark.parametrize("tail", [(0.3, -0.2), (0.0, 0.0)])
def test_unasked_a_scene_is_moved_by_whole_pixels_and_read_as_it_is(tail: tuple[float, float], write) -> None:
    first = ground(700).clip(0, 1)
    second = moved(first, 3 + tail[0], -2 + tail[1]).clip(0, 1)
    a, b = (write(f"{i}.tif", (image * 255).round().astype(np.uint8)) for i, image in enumerate((first, second)))
    with open_pair(a, b) as pair:
        report = pair.report
        stored = pair.stored(GridWindow(100, 300, 100, 300))
    assert (report.moved_px, report.resampling) == ((3, -2), "none")
    assert report.shift_px == pytest.approx(np.hypot(*tail), abs=0.1)
    assert any(
        "is shifted; it was moved by -3 rows and +2 columns (`register=none` disables this)" in warning
        for warning in report.warnings
    )
    with rasterio.open(b) as scene:
        assert np.array_equal(stored.after, scene.read(window=((103, 303), (98, 298))))


def test_unasked_a_scene_stays_where_moving_it_does_not_help(write, monkeypatch) -> None:
    image = (ground(700).clip(0, 1) * 255).astype(np.uint8)
    path = write("a.tif", image)
    monkeypatch.setattr(Sample, "shift", lambda _self, _stretches: Shift(4.0, 4.0, 1.0, 9))  # wrong, and sure of itself
    with open_pair(path, path) as pair:
        assert pair.report.moved_px == (0, 0)


def test_unasked_a_scene_that_is_resampled_anyway_is_moved_by_all_of_it(write) -> None:
    first = ground(700).clip(0, 1)
    a, b = (
        write(
            f"{i}.tif",
            (image * 255).round().astype(np.uint8),
            transform=Affine(0.5, 0, 400_000 + i / 8, 0, -0.5, 5_000_000),
        )
        for i, image in enumerate((first, moved(first, 1.4, -2.6).clip(0, 1)))
    )
    with open_pair(a, b) as pair:
        assert pair.report.moved_px == pytest.approx((1.4, -2.35), abs=0.15)
        assert pair.report.shift_px < 0.4  # of 2.7; resampling blurs, and the second estimate with it


def test_a_shift_that_cannot_be_estimated_is_not_corrected(write) -> None:
    a, b = (write(name, RNG.integers(0, 256, (3, 400, 400), dtype=np.uint8)) for name in ("a.tif", "b.tif"))
    with open_pair(a, b, options=PairOptions(register=True)) as pair:
        assert pair.report.moved_px == (0, 0)
        assert pair.report.shift_px is None
        assert any("not corrected" in warning for warning in pair.report.warnings)


def test_a_pair_that_lies_right_is_not_resampled(write) -> None:
    image = (ground(700).clip(0, 1) * 255).astype(np.uint8)
    path = write("a.tif", image)
    with open_pair(path, path, options=PairOptions(register=True)) as pair:
        assert pair.report.moved_px == (0, 0)
        assert pair.report.resampling == "none"


@pytest.mark.parametrize("length", [0.1, 0.5, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("scene", ["aerial/5b90f92da0d7280005fab355_4310.tif", "drone/fotomap_small.tif"])
def test_shifts_of_real_scenes_are_found_to_a_tenth_of_a_pixel(data_dir, scene: str, length: float) -> None:
    """Under another exposure, blur and noise, in a direction that differs from length to length."""
    image = real(data_dir / "scenes" / scene, 500)
    rows, cols = length * np.cos(9 * length), length * np.sin(9 * length)
    second = nuisance(moved_picture(image, rows, cols), shift_px=(0.0, 0.0), blur_px=0.7, gamma=1.1, seed=2)
    inner = [(picture[:, 20:-20, 20:-20] / 255).astype("f4") for picture in (image, second)]
    found = estimate_shift(patches(*inner, size=192))
    assert found is not None
    assert found.trustworthy
    assert (found.rows, found.cols) == pytest.approx((rows, cols), abs=0.1)


@pytest.mark.parametrize(("rows", "cols"), [(45.5, -30.2), (-70.4, 70.0), (99.0, -12.7)])
def test_surveys_without_ground_control_are_brought_together(data_dir, write, rows: float, cols: float) -> None:
    image = real(data_dir / "scenes" / "aerial/5b90f92da0d7280005fab355_4310.tif", 1000)
    second = nuisance(moved_picture(image, rows, cols), shift_px=(0.0, 0.0), blur_px=0.7, seed=3)
    a, b = (write(f"{i}.tif", np.ascontiguousarray(p[:, 100:-100, 100:-100])) for i, p in enumerate((image, second)))
    with open_pair(a, b, options=PairOptions(register=True)) as pair:
        report = pair.report
    assert report.moved_px == pytest.approx((rows, cols), abs=0.1)
    assert (report.shift["rows"], report.shift["cols"]) == pytest.approx((rows, cols), abs=0.1)
    assert report.shift_px < 0.25  # resampling blurs, and the second estimate with it


def test_a_shift_by_more_than_half_a_patch_is_not_taken_for_its_mirror_image() -> None:
    first = ground(600)
    second = moved(first, 98.0, -15.0)
    cuts = [(slice(None), slice(r, r + 192), slice(c, c + 192)) for r in (110, 200, 290) for c in (110, 200, 290)]
    found = estimate_shift([(first[cut], second[cut]) for cut in cuts])
    assert found is not None
    assert (found.rows, found.cols) == pytest.approx((98, -15), abs=0.3)


def test_what_was_known_and_what_was_found_beside_it_add_up() -> None:
    assert Shift(40.0, -3.0, 0.6, 9) + Shift(0.4, 0.1, 0.9, 12) == Shift(40.4, -2.9, 0.9, 12)


def real(path, size: int) -> np.ndarray:
    """Return the middle of a scene, uint8 (3, size, size)."""
    with rasterio.open(path) as scene:
        row, col = (scene.height - size) // 2, (scene.width - size) // 2
        return scene.read([1, 2, 3], window=Window(col, row, size, size))


def moved_picture(image: np.ndarray, rows: float, cols: float) -> np.ndarray:
    return moved(image.astype("f4"), rows, cols).round().clip(0, 255).astype(np.uint8)


# -- which shifts are corrected --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "requested", "resampled", "expected"),
    [
        (Shift(3.3, -2.2, 1.0, 9), False, False, (3.0, -2.0)),
        (Shift(0.4, -0.4, 1.0, 9), False, False, (0.0, 0.0)),
        (Shift(3.3, -2.2, 1.0, 9), False, True, (3.3, -2.2)),
        (Shift(0.3, 0.3, 1.0, 9), False, True, (0.0, 0.0)),
        (Shift(0.3, 0.3, 1.0, 9), True, False, (0.3, 0.3)),
        (Shift(0.05, 0.05, 1.0, 9), True, False, (0.0, 0.0)),
        (Shift(3.3, -2.2, 0.4, 9), True, True, (0.0, 0.0)),
        (Shift(3.3, -2.2, 1.0, 2), True, True, (0.0, 0.0)),
        (Shift(90.0, 90.0, 1.0, 9), True, True, (0.0, 0.0)),
        (None, True, True, (0.0, 0.0)),
    ],
)
def test_the_correction_of_a_shift(shift, requested: bool, resampled: bool, expected) -> None:  # noqa: FBT001
    assert DEFAULT_POLICY.correction(shift, requested=requested, resampled=resampled) == expected


def test_another_policy_corrects_other_shifts() -> None:
    shift = Shift(3.3, -2.2, 1.0, 9)
    assert "not plausible" in RegistrationPolicy(max_shift_px=3).objection(shift)
    assert RegistrationPolicy(max_shift_px=3).correction(shift, requested=True, resampled=True) == NO_SHIFT
    assert RegistrationPolicy(far_px=3).is_far(shift)
    assert not DEFAULT_POLICY.is_far(shift)
