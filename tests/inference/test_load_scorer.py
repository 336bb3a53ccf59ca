import os
from pathlib import Path

import pytest
import torch

from geosiam.errors import OptionError, WeightsError
from geosiam.inference.scorer import load_scorer
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.network.weights import ModelCard, load_model, save_model

HERE = {"device": "cpu", "precision": "fp32"}


def weights(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = NetworkConfig.of_stride(8, width=4, features=6, hidden=5)
    save_model(SiameseNetwork(config), ModelCard("tiny", "paper", "", config, "", 0, 0), path)
    return path


def test_weights_are_made_ready_once_for_each_device_and_precision(tmp_path: Path) -> None:
    path = str(weights(tmp_path / "a.safetensors", 0))
    model, scorer = load_scorer(path, **HERE)
    again = load_scorer(path, **HERE)
    assert again[0].card is model.card
    assert again[1] is scorer
    other = load_scorer(path, device="cpu", precision="bf16")[1]
    assert (scorer.engine.dtype, other.engine.dtype) == (torch.float32, torch.bfloat16)


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.safetensors", 0)
    first, _ = load_scorer(str(path), **HERE)
    weights(path, 1)
    os.utime(path, ns=(1, 1))
    second, scorer = load_scorer(str(path), **HERE)
    assert second.card.checksum == load_model(path).card.checksum != first.card.checksum
    kept = scorer.engine.network.state_dict()["encoder.0.bias"]
    assert torch.equal(kept, load_model(path).network.for_inference().state_dict()["encoder.0.bias"])
    path.unlink()
    with pytest.raises(WeightsError):
        load_scorer(str(path), **HERE)


def test_what_goes_to_another_machine_is_not_kept() -> None:
    first, second = (load_scorer("paper", device="cuda", precision="fp32", elsewhere=True) for _ in range(2))
    assert first[1] is not second[1]
    if not torch.cuda.is_available():
        with pytest.raises(OptionError):
            load_scorer("paper", device="cuda", precision="fp32")
