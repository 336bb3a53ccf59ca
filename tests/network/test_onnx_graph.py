"""ONNX models, computed by onnxruntime, hold against the network in PyTorch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geosiam import __version__, export_model
from geosiam.errors import OptionError, OutputError, WeightsError
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.network.weights import ModelCard, available_models, load_model, read_weights, save_model

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "no batch norm": {"batch_norm": False},
    "Euclidean distance": {"distance": "euclidean"},
    "distance alone": {"head": "distance"},
    "subcells": {"subcells": 2},
    "symmetric": {"symmetric": True},
    "two scales": {"scales": (1, 2), "subcells": 2},
    "three scales": {"scales": (1, 2, 8), "symmetric": True},
}


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, *shape), np.uint8)


def by_torch(network: SiameseNetwork, pair: np.ndarray) -> np.ndarray:
    before, after = torch.from_numpy(pair).float() / 255
    with torch.inference_mode():
        return torch.sigmoid(-network(before, after)).numpy()


def by_onnx(path: Path, pair: np.ndarray) -> np.ndarray:
    running = session(path)
    if running.get_inputs()[0].type == "tensor(float)":
        pair = pair.astype(np.float32) / 255
    (scores,) = running.run(None, {"before": pair[0], "after": pair[1]})
    return scores


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
@pytest.mark.parametrize("card", available_models(), ids=lambda card: card.name)
def test_bundled_weights_score_as_in_pytorch_on_images_of_any_size(card: ModelCard, input_type, tmp_path) -> None:
    path = export_model(card.name, tmp_path / "model.onnx", input_type=input_type)
    network, least = load_model(card.name).network, card.receptive_field
    for height, width in ((least, least), (least + 1, least + 30), (151, 77)):
        pair = images(2, 3, height, width)
        expected = by_torch(network, pair)
        scores = by_onnx(path, pair)
        assert scores.shape == expected.shape
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_scores_as_in_pytorch(name: str, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = NetworkConfig.of_stride(stride, width=4, features=6, hidden=5, **ARCHITECTURES[name])
    network = SiameseNetwork(config)
    least = config.receptive_field.size
    with torch.no_grad():
        sample = torch.from_numpy(images(4, 3, 2 * least, 2 * least)).float() / 255
        network(*sample)  # moves the statistics of the batch norms
        logits = network.eval()(*sample)
        for level, discriminator in enumerate(network.discriminators):  # so that scores are neither all 0 nor all 1
            last, gain = discriminator.layers[2], 2 / logits.std()
            last.weight *= gain
            last.bias.copy_(gain * (last.bias - logits.mean()) if level == 0 else gain * last.bias - 1)
    card = ModelCard("tiny", "paper", "", config, "", 0, 0)
    save_model(network, card, tmp_path / "tiny.safetensors")
    path = export_model(str(tmp_path / "tiny.safetensors"), tmp_path / "tiny.onnx")
    spread = 0.0
    for height, width in ((least, least), (least + 37, least + 13), (least + 70, least + 91)):
        pair = images(2, 3, height, width)
        expected = by_torch(network, pair)
        np.testing.assert_allclose(by_onnx(path, pair), expected, atol=1e-4, rtol=0)
        spread = max(spread, float(np.ptp(expected)))
    assert spread > 0.2


def test_what_a_user_must_know_is_in_the_file(tmp_path: Path) -> None:
    path = export_model("survey", tmp_path / "survey.onnx")
    card = load_model("survey").card
    told = session(path).get_modelmeta().custom_metadata_map
    expected = {
        "name": "survey",
        "receptive_field": "34",
        "stride": "2",
        "halo": "16 16",
        "threshold": str(card.threshold),
        "license": card.license,
        "checksum": card.checksum,
        "geosiam_version": __version__,
    }
    assert {key: told[key] for key in expected} == expected
    assert ModelCard.from_dict(json.loads(told["geosiam_model_card"])) == card
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    inputs = {each.name: (each.type, each.shape) for each in session(path).get_inputs()}
    shape = ["n", 3, "height", "width"]
    assert inputs == {"before": ("tensor(uint8)", shape), "after": ("tensor(uint8)", shape)}
    assert [(each.name, each.shape) for each in session(path).get_outputs()] == [("score", ["n", 1, "rows", "cols"])]


def in_tiles(path: Path, stack: np.ndarray, step: int) -> np.ndarray:
    """Return the result of a stacked model over a stack (6, h, w) of bytes as Deepness makes it.

    Each tile gives the part that no neighbor is nearer to; tiles at the edge give what lies beyond, too.
    """
    running = session(path)
    (entry,) = running.get_inputs()
    tile = entry.shape[-1]
    assert entry.shape == ["n", 6, tile, tile]
    result = np.full(stack.shape[1:], np.nan, np.float32)
    last = [(size - tile) // step for size in stack.shape[1:]]
    margin = (tile - step) // 2
    for i in range(last[0] + 1):
        for j in range(last[1] + 1):
            rows, cols = slice(i * step, i * step + tile), slice(j * step, j * step + tile)
            pixels = np.float32(stack[:, rows, cols] * 1.0 / 255.0)[None]
            (scores,) = running.run(None, {entry.name: pixels})
            assert scores.shape == (1, 1, tile, tile)
            start = [0 if number == 0 else margin for number in (i, j)]
            stop = [tile if number == end else tile - margin for number, end in zip((i, j), last, strict=True)]
            inner = slice(start[0], stop[0]), slice(start[1], stop[1])
            result[rows, cols][inner] = scores[0, 0][inner]
    return result


@pytest.mark.parametrize("model", ["survey", "paper"])
def test_a_stacked_model_in_tiles_scores_the_whole_scene(model: str, tmp_path: Path) -> None:
    path = export_model(model, tmp_path / "stack.onnx", stacked=True, tile=128)
    card = load_model(model).card
    told = session(path).get_modelmeta().custom_metadata_map
    settings = {key: json.loads(told[key]) for key in ("model_type", "class_names", "tile_size", "seg_thresh")}
    assert settings == {
        "model_type": "Segmentor",
        "class_names": [{"0": "background", "1": "anomaly"}],
        "tile_size": 128,
        "seg_thresh": card.threshold,
    }
    overlap = int(json.loads(told["tiles_overlap"]) / 100 * 128)
    halo, stride = card.network.halo, card.stride
    assert overlap >= halo.leading + halo.trailing
    step = 88  # a multiple of both strides, so that cells of the tiles are those of the scene
    assert step <= 128 - overlap
    pair = images(3, 128 + 2 * step, 128 + step)
    margins = [(0, 0), (halo.leading, halo.trailing), (halo.leading, halo.trailing)]
    reflected = np.stack([np.pad(image, margins, mode="reflect") for image in pair])
    cells = by_torch(load_model(model).network, reflected[:, None])[0, 0]
    scores = in_tiles(path, np.concatenate(pair), step)
    np.testing.assert_allclose(scores, np.kron(cells, np.ones((stride, stride))), atol=1e-4, rtol=0)


def test_the_example_of_the_document_scores_every_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert "geosiam" not in example
    export_model("survey", tmp_path / "survey.onnx")
    monkeypatch.chdir(tmp_path)
    defined: dict[str, Any] = {}
    exec(compile(example, "docs/onnx.md", "exec"), defined)
    pair = images(3, 90, 71)
    scores = defined["scores"](*pair)
    assert scores.shape == (45, 35)
    padded = np.pad(pair, [(0, 0), (0, 0), (16, 16), (16, 16)], mode="reflect")
    np.testing.assert_allclose(scores, by_torch(load_model("survey").network, padded[:, None])[0, 0], atol=1e-4, rtol=0)


def test_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "kept.onnx").write_text("kept")
    for name, error, words in (
        ("model.pt", OptionError, "use .onnx"),
        ("absent/model.onnx", OutputError, "folder does not exist"),
    ):
        with pytest.raises(error, match=words):
            export_model("survey", tmp_path / name)
    with pytest.raises(WeightsError, match="neither a bundled model"):
        export_model("no such model", tmp_path / "kept.onnx")
    model = load_model("paper")
    save_model(model.network, model.card, tmp_path / "weights.safetensors")
    os.link(tmp_path / "weights.safetensors", tmp_path / "weights.onnx")
    with pytest.raises(OutputError, match="would be overwritten"):
        export_model(str(tmp_path / "weights.safetensors"), tmp_path / "weights.onnx")
    assert read_weights(str(tmp_path / "weights.safetensors")).card == read_weights("paper").card
    assert (tmp_path / "kept.onnx").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.onnx", "weights.onnx", "weights.safetensors"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stacked": True, "input_type": "uint8"}, "does not go with `stacked`"),
        ({"tile": 512}, "add `stacked`"),
        ({"stacked": True, "tile": 510}, "no multiple of 4"),
        ({"stacked": True, "tile": 32}, "from 36 on"),
        ({"input_type": "float64"}, "use uint8 or float32"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        export_model("survey", tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []
