from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Generator

from geosiam.errors import InputError, OptionError, TrainingDataError
from geosiam.network.weights import load_model
from geosiam.training.anomalies import AnomalyConfig
from geosiam.training.api import TrainingOptions
from geosiam.training.augment import NuisanceConfig
from geosiam.training.recipes import Schedule
from geosiam.training.sources import ChipStack
from geosiam.training.target_recipe import TargetRecipe, pair_rule, recolored
from geosiam.training.targets import TEXTURES, CropTarget, SpecTarget, TargetSpec, load_target, parse_spec, read_crops
from geosiam_cli.main import main

BLUE = "color=70,100,200 spread=25 texture=folds size=8-60"
CHIPS = ChipStack(torch.randint(200, (40, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0)))
GRAY = ChipStack(torch.full((4, 3, 32, 32), 128, dtype=torch.uint8))
SHAPE = (24, 3, 96, 96)

numbers = st.floats(0, 127).map(lambda value: round(value, 2))
specs = st.builds(
    TargetSpec,
    st.tuples(*[st.integers(0, 255)] * 3).filter(any),
    numbers.filter(lambda value: value < 127),
    st.sampled_from(TEXTURES),
    st.tuples(st.integers(1, 500), st.integers(0, 500)).map(lambda pair: (float(pair[0]), float(sum(pair)))),
)


@given(specs, st.randoms(use_true_random=False))
def test_a_specification_reads_back_whatever_the_order_of_its_words(spec: TargetSpec, order) -> None:
    words = str(spec).split()
    order.shuffle(words)
    assert parse_spec(" ".join(words)) == spec


@given(st.text(max_size=60))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_spec(text)
    assert "\n" not in str(refused.value)


def test_only_the_color_must_be_said() -> None:
    assert parse_spec("color=1,2,3") == TargetSpec((1, 2, 3))


def test_the_british_spelling_is_accepted_and_the_american_one_is_printed() -> None:
    spec = parse_spec("texture=folds colour=70,100,200")
    assert spec == parse_spec("color=70,100,200 texture=folds")
    assert str(spec).startswith("color=70,100,200 ")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "names no color"),
        ("texture=folds", "names no color"),
        ("color=1,2", "3 numbers"),
        ("color=1,2,300", "not a color of 0 to 255"),
        ("color=1,2,2.5", "not made of whole numbers"),
        (f"color=1,2,{'9' * 400}", "not made of whole numbers"),
        (f"color=1,2,3 size=1-{'9' * 400}", "is not a range from"),
        ("color=0,0,0", "black in any light"),
        ("color=1,2,3 color=1,2,3", "gives color twice"),
        ("color=1,2,3 colour=1,2,3", "gives color twice"),
        ("color=1,2,3 shape=round", "the word 'shape=round'"),
        ("color=1,2,3 blue", "the word 'blue'"),
        ("color=1,2,3 spread=200", "is out of range"),
        ("color=1,2,3 spread=-1", "instead of a number"),
        ("color=1,2,3 texture=velvet", "use one of plain, grain, stripes, folds"),
        ("color=1,2,3 size=60-8", "is not a range from"),
        ("color=1,2,3 size=0-8", "is not a range from"),
        ("color=1,2,3 size=8", "2 numbers"),
    ],
)
def test_nonsense_is_refused_with_the_reason(text: str, fact: str) -> None:
    with pytest.raises(OptionError, match=fact):
        parse_spec(text)


def crop(side: int = 12, color: tuple[int, int, int] = (200, 40, 30)) -> Image.Image:
    """Return a disc of one color, its alpha 0 outside."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.where(x**2 + y**2 <= (side / 2 - 1) ** 2, 255, 0)
    return Image.fromarray(np.dstack([np.full((side, side, 3), color), alpha]).astype(np.uint8))


def test_crops_come_with_alpha_or_with_a_mask_and_mean_the_same(tmp_path: Path) -> None:
    crop().save(tmp_path / "a.png")
    crop().convert("RGB").save(tmp_path / "b.bmp")
    crop().getchannel("A").save(tmp_path / "b_mask.png")
    first, second = read_crops(tmp_path)
    assert torch.equal(first, second)
    assert first.shape == (4, 10, 10)  # trimmed to what is opaque
    assert first[:3, 5, 5].tolist() == [200, 40, 30]


def test_things_of_crops_look_like_them_at_any_place(tmp_path: Path) -> None:
    crop(24).save(tmp_path / "a.png")
    target = CropTarget.read(tmp_path)
    fill, alpha = target.draw(SHAPE, Generator().manual_seed(1))
    solid = (alpha > 0.99).expand(-1, 3, -1, -1)
    assert 0.005 < (alpha > 0.5).float().mean() < 0.12  # a disc of 22 px, at a scale of 0.6 to 1.6, partly outside
    red, green, blue = fill.transpose(0, 1)[:, solid[:, 0]]
    assert ((green / red - 40 / 200).abs() < 0.1).float().mean() > 0.95
    assert ((blue / red - 30 / 200).abs() < 0.1).float().mean() > 0.95
    assert target.resembles(torch.tensor([200.0, 40, 30]).view(1, 3, 1, 1) / 255).all()
    assert not target.resembles(torch.tensor([60.0, 120, 60]).view(1, 3, 1, 1) / 255).any()


@pytest.mark.parametrize("texture", TEXTURES)
def test_things_of_a_specification_keep_its_hue_in_any_light(texture: str) -> None:
    target = SpecTarget(parse_spec(f"color=70,100,200 spread=0 texture={texture} size=20-60"))
    fill, alpha = target.draw(SHAPE, Generator().manual_seed(0))
    solid = fill.transpose(0, 1)[:, (alpha > 0.9)[:, 0]]
    red, green, blue = solid[:, solid.amax(dim=0) < 0.99]  # where no channel is saturated
    assert torch.allclose(red / blue, torch.tensor(70 / 200), atol=1e-3)
    assert torch.allclose(green / blue, torch.tensor(100 / 200), atol=1e-3)
    assert blue.quantile(0.95) > 1.5 * blue.quantile(0.05)  # sun and shade


def test_look_alikes_are_told_by_hue() -> None:
    colors = torch.tensor([[35.0, 50, 100], [100, 140, 255], [128, 128, 128], [200, 100, 70], [10, 12, 14]]) / 255
    alike = SpecTarget(parse_spec(BLUE)).resembles(colors.view(-1, 3, 1, 1))
    assert alike.flatten().tolist() == [True, True, False, False, False]


def test_the_pair_rule_is_the_papers() -> None:
    there, absent = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    assert pair_rule(there, absent, absent).item() == 1
    assert pair_rule(absent, there, absent).item() == 1
    assert pair_rule(absent, absent, absent).item() == 0
    assert pair_rule(there, there, absent).item() == 0  # two things at one place: there at both dates
    assert pair_rule(absent, absent, there).item() == 0
    assert pair_rule(there / 2, absent, absent).item() == 0.5


def recipe(**options: object) -> TargetRecipe:
    schedule = Schedule(epochs=1, steps=1, batch_size=48)
    return TargetRecipe((load_target(BLUE),), schedule=schedule, **options)  # type: ignore[arg-type]


def test_labels_follow_what_can_be_seen_in_still_pairs() -> None:
    still = NuisanceConfig(still=1.0)
    batch = recipe(nuisance=still, elsewhere=0.0).batch(GRAY, Generator().manual_seed(2))
    field = recipe().network.receptive_field
    own = slice(field.offset, field.offset + 32 * field.stride)
    blueish = [image[:, 2] > 1.35 * image[:, :2].amax(dim=1) for image in (batch.before, batch.after)]
    differs = torch.nn.functional.avg_pool2d((blueish[0] ^ blueish[1])[:, None, own, own].float(), field.stride)
    same = torch.nn.functional.avg_pool2d((blueish[0] & blueish[1])[:, None, own, own].float(), field.stride)
    counts = batch.weight > 0
    assert (batch.similar[counts & (differs == 1)] == 0).float().mean() > 0.9  # the rest are other blue things
    assert (batch.similar[counts & (same == 1)] == 1).float().mean() > 0.97
    assert (batch.similar[counts & (differs == 0)] == 1).float().mean() > 0.97
    assert (differs == 1).any()
    assert (same == 1).any()


def test_other_objects_other_places_and_all_nuisance_are_similar() -> None:
    batch = recipe(rate=0.0, elsewhere=0.5).batch(CHIPS, Generator().manual_seed(0))
    assert (batch.before - batch.after).abs().mean() > 0.1
    assert batch.similar.all()


def test_the_same_things_in_another_color_are_similar() -> None:
    still = NuisanceConfig(still=1.0)
    alone = recipe(rate=1.0, most=0, elsewhere=0.0, others=AnomalyConfig(rate=0.0), nuisance=still)
    batch = alone.batch(GRAY, Generator().manual_seed(3))
    differs = (batch.before - batch.after).abs().amax(dim=1) > 0.1
    assert 0.05 < differs.float().mean() < 0.9
    assert batch.similar.all()
    without = replace(alone, misses=0).batch(GRAY, Generator().manual_seed(3))
    assert torch.equal(without.before, without.after)


def test_another_color_is_hardly_ever_the_right_one() -> None:
    target = SpecTarget(parse_spec("color=70,100,200 spread=10 texture=folds size=20-60"))
    fill, _ = target.draw((200, 3, 8, 8), Generator().manual_seed(0))
    other = recolored(fill, Generator().manual_seed(1))
    assert 0 <= other.min() <= other.max() <= 1
    assert target.resembles(fill).float().mean() > 0.95
    assert target.resembles(other).float().mean() < 0.15
    paler = (other.amax(dim=1) - other.amin(dim=1)).flatten(1).mean(dim=1) < 0.12
    assert 0.2 < paler.float().mean() < 0.8  # and the rest is of another hue


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_batches_are_labelled_images(seed: int) -> None:
    batch = recipe().batch(CHIPS, Generator().manual_seed(seed))
    for image in (batch.before, batch.after):
        assert image.shape == (48, 3, 96, 96)
        assert 0 <= image.min() <= image.max() <= 1
    assert {0.0, 1.0} <= set(batch.similar.unique().tolist()) <= {quarter / 4 for quarter in range(5)}
    assert 0 <= batch.weight.min() <= batch.weight.max() == 1
    assert batch.weight.mean() > 0.5


def refuse(folder: Path, name: str) -> str:
    if name == "empty":
        return "holds no crops"
    if name == "no alpha":
        crop().convert("RGB").save(folder / "a.png")
        return "a.png: has neither alpha nor a mask"
    if name == "transparent":
        crop(2).save(folder / "a.png")
        return "shows nothing"
    if name == "other size":
        crop().save(folder / "a.png")
        crop(14).getchannel("A").save(folder / "a_mask.png")
        return "a_mask.png: is 14 x 14 px, but a.png is 12 x 12"
    (folder / "a.png").write_text("no picture")
    return "is not a readable image"


@pytest.mark.parametrize("name", ["empty", "no alpha", "transparent", "other size", "broken"])
def test_folders_without_usable_crops_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingDataError, match=refuse(tmp_path, name)):
        load_target(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"recipe": "target"}, "has nothing to look for"),
        ({"anomaly": (BLUE,)}, "does not use `anomaly`"),
        ({"recipe": "target", "anomaly": (BLUE,), "review": "found.gpkg"}, "does not use `review`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        TrainingOptions(out=Path("w.safetensors"), **options)


@pytest.mark.parametrize("name", ["a/missing/folder", "file"])
def test_what_is_neither_folder_nor_specification_is_refused(tmp_path: Path, name: str) -> None:
    if name == "file":
        crop().save(tmp_path / "file.png")
        name = str(tmp_path / "file.png")
    with pytest.raises(TrainingDataError, match=r"is a file|neither a folder of crops nor"):
        load_target(name)


def train(tmp_path: Path, *anomalies: str) -> int:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    words = ["train", "--recipe", "target", "--data", str(folder), "--generated", "0", "--epochs", "1", "--steps", "2"]
    words += [word for anomaly in anomalies for word in ("--anomaly", anomaly)]
    return main([*words, "-o", str(tmp_path / "mine.safetensors")])


def test_two_steps_by_the_command_line_leave_weights_that_say_what_they_look_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    crop().save(crops / "a.png")
    assert train(tmp_path, BLUE, str(crops)) == 0
    card = load_model(tmp_path / "mine.safetensors").card
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "mine.safetensors"
    assert card.recipe == "target"
    assert card.network == load_model("survey").card.network
    assert f"--anomaly '{BLUE}' --anomaly crops" in card.command
    assert "--init survey" in card.command
    assert card.data == f"pictures, anomaly {BLUE}, anomaly crops"


def test_nonsense_by_the_command_line_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "color=blue") == 3
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.strip().splitlines()) == 1
    assert "color=blue" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
