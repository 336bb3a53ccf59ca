import pytest
import torch
from torch import Generator

from geosiam.errors import TrainingDataError
from geosiam.training.sources import ChipStack, Mixture, PairStack, SceneStack


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def flat_chips(*values: int) -> ChipStack:
    return ChipStack(torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in values]))


@pytest.mark.parametrize("size", [5, 8, 20])
def test_chips_have_the_size_asked_for_and_are_repeatable(size: int) -> None:
    chips = ChipStack(torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator()))
    sample = chips.sample(7, size, generator(1))
    assert sample.shape == (7, 3, size, size)
    assert sample.dtype == torch.float32
    assert 0 <= sample.min() <= sample.max() <= 1
    assert torch.equal(sample, chips.sample(7, size, generator(1)))
    assert not torch.equal(sample, chips.sample(7, size, generator(2)))


def test_a_chip_of_native_size_is_one_of_the_chips_in_one_of_eight_orientations() -> None:
    chip = torch.arange(3 * 16, dtype=torch.uint8).reshape(1, 3, 4, 4)
    turned = [torch.rot90(flipped, k, (-1, -2)) for flipped in (chip, chip.flip(-1)) for k in range(4)]
    seen = set()
    for sample in ChipStack(chip).sample(200, 4, generator()):
        matches = [i for i, other in enumerate(turned) if torch.equal((sample * 255).round().byte(), other[0])]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(8))


def test_the_same_place_twice_has_no_change() -> None:
    first, second, cover = flat_chips(10, 200).pairs(4, 8, generator())
    assert torch.equal(first, second)
    assert not cover.any()


def test_scenes_smaller_than_a_chip_are_enlarged() -> None:
    scenes = SceneStack([torch.full((3, 5, 9), 255, dtype=torch.uint8)])
    assert torch.equal(scenes.sample(3, 16, generator()), torch.ones(3, 3, 16, 16))


def test_pairs_keep_both_dates_and_labels_together() -> None:
    scene = torch.zeros(7, 64, 64, dtype=torch.uint8)
    scene[3:6, 20:40] = 255
    scene[6, 20:40] = 255
    first, second, cover = PairStack([scene]).pairs(50, 16, generator())
    assert not first.any()
    bright = second.mean(dim=1, keepdim=True)
    assert torch.equal(cover == 1, bright > 0.8)
    assert torch.equal(cover == 0, bright <= 0.1)
    assert (cover == 1).any()


def test_a_mixture_gives_each_source_its_share() -> None:
    mixture = Mixture([(flat_chips(0), 3.0), (flat_chips(255), 1.0)])
    assert len(mixture) == 2
    assert mixture.sample(8, 8, generator()).mean() == pytest.approx(0.25)
    first, second, cover = mixture.pairs(8, 8, generator())
    assert torch.equal(first, second)
    assert first.mean() == pytest.approx(0.25)
    assert cover.shape == (8, 1, 8, 8)


def test_empty_or_misshapen_sources_are_refused() -> None:
    with pytest.raises(TrainingDataError, match="none were found"):
        ChipStack(torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TrainingDataError, match="none were found"):
        SceneStack([])
    with pytest.raises(ValueError, match="chips are uint8"):
        ChipStack(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a scene is uint8"):
        SceneStack([torch.zeros(3, 8, 8)])
