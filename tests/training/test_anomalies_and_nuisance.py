import pytest
import torch
from torch import Generator

from geosiam.training.anomalies import AnomalyConfig, chance, insert, paper_rectangles
from geosiam.training.augment import NuisanceConfig, misregister, photometric, shade

BLUE = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def gray(n: int, size: int = 32) -> torch.Tensor:
    return torch.full((n, 3, size, size), 0.5)


def test_paper_rectangles_are_blue_filled_and_as_large_as_the_paper_says() -> None:
    n = 500
    chosen = torch.arange(n).view(n, 1, 1, 1) % 2 == 0
    drawn = paper_rectangles(gray(n), chosen, generator())
    assert torch.equal(drawn[1::2], gray(n)[1::2])
    areas = []
    for image in drawn[::2]:
        blue = (image == BLUE).all(dim=0)
        rows, cols = blue.any(dim=1).nonzero(), blue.any(dim=0).nonzero()
        height, width = rows.max() - rows.min() + 1, cols.max() - cols.min() + 1
        assert blue.sum() == height * width
        areas.append(float(blue.float().mean()))
        if max(height, width) < 32 and min(height, width) > 8:
            assert 0.45 < width / height < 1.65  # 0.5 to 1.5, give or take the rounding to pixels
    assert min(areas) < 0.05
    assert max(areas) > 0.9
    assert 0.4 < sum(areas) / len(areas) < 0.6


def test_insertions_cover_what_they_change_and_leave_the_rest_alone() -> None:
    images = torch.rand(64, 3, 48, 48, generator=generator(1))
    config = AnomalyConfig(shadow=0.0)
    result, cover = insert(images, config, generator())
    assert torch.equal(result, insert(images, config, generator())[0])
    assert set(cover.unique().tolist()) <= {0.0, 0.5, 1.0}
    changed = (result - images).abs().amax(dim=1, keepdim=True)
    assert changed[cover == 0].max() < 0.06  # the outermost fringe of an edge, a twentieth of the object
    assert changed[cover == 1].min() > 0.04
    assert 0.02 < (cover == 1).float().mean() < 0.6


def test_no_objects_no_change() -> None:
    images = torch.rand(4, 3, 32, 32, generator=generator(1))
    result, cover = insert(images, AnomalyConfig(rate=0.0), generator())
    assert torch.equal(result, images)
    assert not cover.any()


def test_a_cast_shadow_is_no_anomaly() -> None:
    bright = torch.ones(200, 3, 32, 32)
    result, cover = insert(bright, AnomalyConfig(shadow=1.0, rate=1.0, most=1, size_px=(6, 10)), generator())
    shadowed = (result.mean(dim=1, keepdim=True) < 0.9) & (cover == 0)
    assert shadowed.any()


def test_misregistration_moves_image_and_mask_together_by_at_most_what_it_is_told() -> None:
    images = torch.zeros(100, 3, 41, 41)
    images[..., 20, 20] = 1
    config = NuisanceConfig(untouched=0.0, shift_px=2.0, warp=0.0)
    moved, masks = misregister(images, images[:, :1], config, generator())
    axis = torch.arange(41.0)
    rows = (moved[:, 0].sum(dim=2) * axis).sum(dim=1) / moved[:, 0].sum(dim=(1, 2)) - 20
    cols = (moved[:, 0].sum(dim=1) * axis).sum(dim=1) / moved[:, 0].sum(dim=(1, 2)) - 20
    for shift in (rows, cols):
        assert 1.5 < shift.abs().max() < 2.01
    for k in range(100):
        for row, col in masks[k, 0].nonzero():
            assert (row - 20 - rows[k]).abs() <= 1
            assert (col - 20 - cols[k]).abs() <= 1
    still, _ = misregister(images, images[:, :1], NuisanceConfig(untouched=1.0), generator())
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [photometric, shade])
def test_light_changes_most_images_and_stays_in_range(change) -> None:
    images = torch.rand(64, 3, 32, 32, generator=generator(2))
    changed = change(images, NuisanceConfig(), generator())
    assert 0 <= changed.min() <= changed.max() <= 1
    same = (changed == images).flatten(1).all(dim=1).float().mean()
    assert 0.02 < same < 0.9


def test_untouched_light_is_exactly_untouched() -> None:
    images = torch.rand(8, 3, 32, 32, generator=generator(2))
    assert torch.equal(photometric(images, NuisanceConfig(untouched=1.0), generator()), images)
    assert torch.equal(shade(images, NuisanceConfig(shadow=0.0), generator()), images)


def test_shadows_only_darken() -> None:
    images = torch.rand(64, 3, 32, 32, generator=generator(2))
    assert (shade(images, NuisanceConfig(shadow=1.0), generator()) <= images).all()


def test_chance_is_as_likely_as_asked() -> None:
    assert chance(10_000, 0.3, generator()).float().mean() == pytest.approx(0.3, abs=0.02)
