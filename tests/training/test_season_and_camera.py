import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from torch import Generator

from geosiam.training.augment import (
    NuisanceConfig,
    _tables,
    apply_nuisance,
    blur,
    coarsen,
    compress,
    misregister,
    mottle,
    regrain,
    retint,
    sometimes,
    weather,
)

CHANGES = {
    "retint": lambda images, g: retint(images, 0.08, g),
    "mottle": lambda images, g: mottle(images, 0.3, g),
    "regrain": lambda images, g: regrain(images, 0.06, g),
    "blur": blur,
    "coarsen": lambda images, g: coarsen(images, 2.0, g),
    "compress": compress,
}


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def stripes(n: int, size: int = 32) -> torch.Tensor:
    """Return images whose left half is darker than their right half."""
    images = torch.full((n, 3, size, size), 0.4)
    images[..., size // 2 :] = 0.6
    return images


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), eighths=st.integers(2, 6))
def test_every_change_keeps_shape_and_range_and_is_repeatable(name: str, seed: int, n: int, eighths: int) -> None:
    images = torch.rand(n, 3, 8 * eighths, 8 * eighths, generator=generator(seed))
    kept = images.clone()
    changed = CHANGES[name](images, generator(seed))
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert -1e-6 <= changed.min() <= changed.max() <= 1 + 1e-6
    assert torch.equal(images, kept)
    assert torch.equal(changed, CHANGES[name](images, generator(seed)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_turned_colors_stay_the_same_wherever_a_color_was_the_same(seed: int) -> None:
    turned = retint(stripes(4), 0.08, generator(seed))
    for half in (turned[..., :16], turned[..., 16:]):
        assert (half - half[..., :1, :1]).abs().max() < 1e-5


def test_turned_colors_differ_by_about_what_was_asked_for() -> None:
    images = torch.full((4000, 3, 1, 1), 0.5)
    change = retint(images, 0.06, generator()) - images
    assert 0.04 < change.std() < 0.1


def test_blotches_are_broad() -> None:
    change = mottle(torch.full((50, 3, 64, 64), 0.5), 0.3, generator()) / 0.5 - 1
    assert 0.15 < change.abs().max() < 0.4
    step = (change[..., 1:] - change[..., :-1]).abs().max()
    assert step < 0.06


def test_grain_hardly_moves_the_mean() -> None:
    change = regrain(torch.full((50, 3, 64, 64), 0.5), 0.06, generator()) - 0.5
    assert change.mean(dim=(1, 2, 3)).abs().max() < 0.02
    assert 0.01 < change.std() < 0.06


def test_blur_and_coarse_pixels_only_lose_contrast() -> None:
    images = torch.rand(16, 3, 32, 32, generator=generator(1))
    for change in (blur(images, generator()), coarsen(images, 2.0, generator())):
        assert (change.std(dim=(2, 3)) <= images.std(dim=(2, 3)) + 1e-6).all()
        torch.testing.assert_close(change.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=0.02, rtol=0)


def test_the_cosine_transform_is_scipys() -> None:
    block = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    basis, _ = _tables()
    ours = basis @ torch.from_numpy(block) @ basis.T
    np.testing.assert_allclose(ours.numpy(), dctn(block, norm="ortho"), atol=1e-5)


def test_compression_harms_about_as_much_as_jpeg_does(tmp_path) -> None:
    rng = np.random.default_rng(3)
    smooth = np.kron(rng.random((3, 12, 12)), np.ones((1, 8, 8))) * 0.6 + rng.random((3, 96, 96)) * 0.2
    errors = []
    for quality in (95, 30):
        Image.fromarray((smooth.transpose(1, 2, 0) * 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=quality)
        with Image.open(tmp_path / "a.jpg") as image:
            errors.append(float(np.abs(np.asarray(image).transpose(2, 0, 1) / 255 - smooth).mean()))
    images = torch.from_numpy(smooth.astype(np.float32)).expand(40, -1, -1, -1)
    ours = (compress(images, generator()) - images).abs().mean(dim=(1, 2, 3))
    assert ours.min() < errors[0] * 1.5
    assert 0.4 * errors[1] < ours.max() < 2 * errors[1]


@given(probability=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_sometimes_changes_only_the_chosen(probability: float, seed: int) -> None:
    images = torch.zeros(64, 1, 2, 2)
    changed = sometimes(images, probability, generator(seed), lambda some: some + 1).amax(dim=(1, 2, 3))
    assert set(changed.tolist()) <= {0.0, 1.0}
    assert abs(float(changed.mean()) - probability) < 0.35
    if probability in (0.0, 1.0):
        assert (changed == probability).all()


def test_no_season_no_change() -> None:
    images = torch.rand(8, 3, 16, 16, generator=generator())
    still = NuisanceConfig(tint=0.0, mottle=0.0, grain=0.0)
    assert torch.equal(weather(images, still, generator()), images)


def test_bent_scenes_are_bent_by_no_more_than_they_are_told() -> None:
    column = torch.arange(64.0).view(1, 1, 1, -1).expand(200, 3, 64, 64)
    config = NuisanceConfig(untouched=0.0, shift_px=0.0, warp=1.0, warp_px=1.5)
    moved, _ = misregister(column, column[:, :1], config, generator())
    shift = (moved - column)[..., 4:-4, 4:-4].abs().amax(dim=(1, 2, 3))
    assert 1.0 < shift.max() < 2.2  # bicubic interpolation between knots overshoots a little
    varies = (moved - column)[..., 4:-4, 4:-4].std(dim=(1, 2, 3))
    assert varies.median() > 0.1


def test_still_pairs_stay_exactly_as_they_are_and_others_do_not() -> None:
    first = torch.rand(16, 3, 32, 32, generator=generator(1))
    second, cover = first.flip(-1), (first[:, :1] > 0.5).float()
    still = apply_nuisance(first, second, cover, NuisanceConfig(still=1.0), generator())
    for ours, theirs in zip(still, (first, second, cover), strict=True):
        assert torch.equal(ours, theirs)
    moved = apply_nuisance(first, second, cover, NuisanceConfig(still=0.0), generator())
    assert ((moved[0] - first).abs().amax(dim=(1, 2, 3)) > 0.01).float().mean() > 0.6
    assert set(moved[2].unique().tolist()) <= {0.0, 1.0}


def test_only_years_turn_colors() -> None:
    plain = torch.full((64, 3, 16, 16), 0.4)
    calm = {"still": 0.0, "untouched": 1.0, "shadow": 0.0}
    for years in (0.0, 1.0):
        first, _, _ = apply_nuisance(plain, plain, plain[:, :1], NuisanceConfig(years=years, **calm), generator())
        assert (not torch.equal(first, plain)) == bool(years)
