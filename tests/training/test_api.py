import contextlib
import json
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geosiam.errors import OptionError, OutputError, WeightsError
from geosiam.network.weights import load_model
from geosiam.training.api import TrainingOptions, train


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_training_leaves_usable_weights_whose_card_says_how_they_came_about(pictures: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        out=tmp_path / "runs" / "mine.safetensors", recipe="paper", data=(str(pictures),), epochs=2, steps=2, seed=7
    )
    steps = []
    done = train(options, on_step=lambda *step: steps.append(step))
    assert len(steps) == 4
    card = load_model(done.weights).card
    assert card == done.card
    assert (card.name, card.recipe, card.seed, card.epochs, card.data) == ("mine", "paper", 7, 2, "pictures")
    assert card.metrics["held-out accuracy"] == done.history[-1].accuracy
    words = shlex.split(card.command)
    assert words[:4] == ["geosiam", "train", "--recipe", "paper"]
    assert words[words.index("--seed") + 1] == "7"
    assert sorted(path.name for path in done.weights.parent.iterdir()) == [
        "mine.checkpoint.safetensors", "mine.curves.csv", "mine.curves.png", "mine.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["finished", "interrupted", "refused"])
def test_training_leaves_the_process_as_it_was(pictures: Path, tmp_path: Path, process_state, ending: str) -> None:
    def stop(*_step: float) -> None:
        if ending == "interrupted":
            raise KeyboardInterrupt

    average = ("survey",) if ending == "refused" else ()  # of another network
    options = TrainingOptions(
        out=tmp_path / "w.safetensors", recipe="paper", data=(str(pictures),), init="paper", epochs=1, steps=2,
        average=average,
    )  # fmt: skip
    before = process_state()
    with contextlib.suppress(KeyboardInterrupt, OptionError):
        train(options, on_step=stop)
    assert options.out.exists() == (ending == "finished")
    assert process_state() == before


def test_options_and_result_are_plain_values(pictures: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        out=tmp_path / "w.safetensors", recipe="paper", data=(str(pictures),), epochs=1, steps=1, license="CC0-1.0"
    )
    values = json.loads(json.dumps(options.to_dict()))
    assert set(values) == {field.name for field in fields(TrainingOptions)}
    listed = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    assert TrainingOptions(**(listed | {"out": Path(values["out"])})) == options
    result = json.loads(json.dumps(train(options).to_dict()))
    assert result["weights"] == values["out"]
    assert result["card"]["license"] == "CC0-1.0"
    assert [row["epoch"] for row in result["history"]] == [1]


def test_calling_again_resumes_and_restart_does_not(pictures: Path, tmp_path: Path) -> None:
    kinds = {"out": tmp_path / "w.safetensors", "recipe": "paper", "data": (str(pictures),), "epochs": 1, "steps": 2}
    first = train(TrainingOptions(**kinds))
    steps: list[tuple] = []
    again = train(TrainingOptions(**kinds), on_step=lambda *step: steps.append(step))
    assert not steps
    assert again.card.checksum == first.card.checksum
    train(TrainingOptions(**kinds, restart=True), on_step=lambda *step: steps.append(step))
    assert len(steps) == 2


def test_averaged_weights_are_the_mean_of_the_trained_and_the_named_ones(pictures: Path, tmp_path: Path) -> None:
    common = {"recipe": "paper", "data": (str(pictures),), "epochs": 1, "steps": 2}
    first = train(TrainingOptions(out=tmp_path / "first.safetensors", **common)).weights
    more = {**common, "init": str(first), "seed": 1, "out": tmp_path / "more.safetensors"}
    alone = load_model(train(TrainingOptions(**more)).weights)
    done = train(TrainingOptions(**more, average=(str(first), str(first))))  # from the checkpoint, which is of it alone
    models = load_model(done.weights), alone, load_model(first)
    for mixed, trained, begun in zip(*(model.network.encoder.parameters() for model in models), strict=True):
        torch.testing.assert_close(mixed, (trained + 2 * begun) / 3)
    assert done.card.command.count("--average first.safetensors") == 2
    assert done.card.metrics["held-out loss"] != done.history[-1].validation_loss


def test_weights_of_another_network_cannot_be_averaged(pictures: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        out=tmp_path / "w.safetensors", recipe="paper", data=(str(pictures),), epochs=1, steps=1, average=("survey",)
    )
    with pytest.raises(OptionError, match="another network"):
        train(options)


def test_survey_recipe_takes_pictures_and_synthetic_pairs(pictures: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        out=tmp_path / "s.safetensors", data=(str(pictures), str(pictures)), epochs=1, steps=1, generated=1, stride=4
    )
    card = train(options).card
    assert card.data == "pictures, pictures, 1 synthetic pairs"
    assert (card.stride, card.network.window.stride) == (2, 4)
    assert "--generated 1" in card.command


def test_training_goes_on_from_given_weights(pictures: Path, tmp_path: Path) -> None:
    kinds = {"recipe": "paper", "data": (str(pictures),), "epochs": 1, "steps": 1}
    first = train(TrainingOptions(out=tmp_path / "a.safetensors", **kinds, seed=1))
    init = str(first.weights)
    second = train(TrainingOptions(out=tmp_path / "b.safetensors", **kinds, seed=2, init=init))
    alone = train(TrainingOptions(out=tmp_path / "c.safetensors", **kinds, seed=2))
    assert "--init a.safetensors" in second.card.command

    def distance(one: Path, other: Path) -> float:
        a, b = (load_model(path).network.state_dict()["encoder.0.weight"] for path in (one, other))
        return float((a - b).abs().max())

    assert 0 < distance(first.weights, second.weights) < 0.1 * distance(first.weights, alone.weights)
    with pytest.raises(WeightsError, match="other options"):  # its checkpoint began with random weights
        train(TrainingOptions(out=tmp_path / "c.safetensors", **kinds, seed=2, init=init))
    with pytest.raises(OptionError, match="another network"):
        train(TrainingOptions(out=tmp_path / "d.safetensors", **(kinds | {"stride": 4}), init=init))


def test_weights_of_one_scale_are_calibrated_and_trained_at_several(pictures: Path, tmp_path: Path) -> None:
    common = {"data": (str(pictures),), "generated": 0}
    options = TrainingOptions(out=tmp_path / "wide.safetensors", init="survey-fast", scales=2, epochs=0, **common)
    done = train(options)
    network = done.card.network
    assert (network.scales, network.symmetric, done.card.epochs, done.history) == ((1, 2), True, 0, ())
    assert "--scales 2" in done.card.command
    assert "--epochs 0" in done.card.command
    weights, single = (load_model(name).network.state_dict() for name in (done.weights, "survey-fast"))
    torch.testing.assert_close(weights["encoder.0.weight"], single["encoder.0.weight"])
    last = "discriminator.layers.2.weight"
    torch.testing.assert_close(weights[last] * 2 * done.card.temperature, single[last], atol=1e-3, rtol=1e-3)
    more = TrainingOptions(
        out=tmp_path / "more.safetensors", init=str(done.weights), epochs=1, steps=1, learning_rate=1e-4, **common
    )
    assert train(more).card.network == network


def test_without_initial_weights_there_is_nothing_to_calibrate(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="too few"):
        TrainingOptions(out=tmp_path / "w.safetensors", epochs=0)


def test_tighter_labels_stand_in_the_card(pictures: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        out=tmp_path / "s.safetensors", data=(str(pictures),), epochs=1, steps=1, generated=0, stride=4, least_cover=0.5
    )
    assert "--least-cover 0.5" in train(options).card.command


def test_nonsense_is_refused(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(OptionError, match=r"^`epochs=0`: is too few"):
        TrainingOptions(out=tmp_path / "w.safetensors", epochs=0)
    with pytest.raises(OptionError, match="negative"):
        TrainingOptions(out=tmp_path / "w.safetensors", generated=-1)
    with pytest.raises(OptionError, match="not positive"):
        TrainingOptions(out=tmp_path / "w.safetensors", learning_rate=0.0)
    with pytest.raises(OptionError, match="not a fraction"):
        TrainingOptions(out=tmp_path / "w.safetensors", least_cover=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be created"):
        train(TrainingOptions(out=tmp_path / "file" / "w.safetensors", recipe="paper", data=(str(pictures),)))
