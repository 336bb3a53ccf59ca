import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from geosiam.errors import OutputError, WeightsError
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.network.weights import ModelCard, available_models, load_model, read_card, save_model

CONFIG = NetworkConfig.of_stride(8, width=4, features=6, hidden=5)
CARD = ModelCard("tiny", "paper", "nothing", CONFIG, "noise", seed=3, epochs=1, threshold=0.6, metrics={"loss": 0.5})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(SiameseNetwork(CONFIG), CARD, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_weights_and_card_come_back(weights: Path) -> None:
    torch.manual_seed(0)
    original = SiameseNetwork(CONFIG).state_dict()
    model = load_model(weights)
    assert replace(model.card, checksum="") == CARD
    assert (model.card.stride, model.card.receptive_field) == (8, 32)
    assert read_card(weights) == model.card
    for key, value in model.network.state_dict().items():
        torch.testing.assert_close(value, original[key], rtol=0, atol=0)
    assert [path.name for path in weights.parent.iterdir()] == ["tiny.safetensors"]


def test_all_recipes_ship_and_the_default_comes_first() -> None:
    cards = available_models()
    assert [card.name for card in cards] == ["survey", "paper", "survey-fast", "tarp"]
    for card in cards:
        model = load_model(card.name)
        assert model.card == card
        assert card.network.window.size == 32
        assert card.command.startswith("geosiam train")
        assert card.metrics


def tamper(weights: Path, *, card: dict | None = None, tensors: dict | None = None) -> None:
    with safe_open(weights, framework="pt") as file:
        metadata = json.loads(file.metadata()["geosiam_model_card"])
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata.update(card or {})
    held.update(tensors or {})
    save_file(held, weights, metadata={"geosiam_model_card": json.dumps(metadata)})


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a bundled model nor a weights file"):
        load_model("nonesuch")
    with pytest.raises(WeightsError, match="neither a bundled model nor a weights file"):
        load_model(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_model(text)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_card(text)
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(1)}, plain)
    with pytest.raises(WeightsError, match="no model card"):
        load_model(plain)


def test_tensors_must_fit_card_and_checksum(weights: Path) -> None:
    tamper(weights, tensors={"discriminator.layers.2.bias": torch.tensor([9.0])})
    with pytest.raises(WeightsError, match="checksum"):
        load_model(weights)
    tamper(weights, card={"network": NetworkConfig.of_stride(4).to_dict()})
    with pytest.raises(WeightsError, match="do not fit the architecture"):
        load_model(weights)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder does not exist"):
        save_model(SiameseNetwork(CONFIG), CARD, tmp_path / "absent" / "w.safetensors")


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        replace(CARD, threshold=1.5)
