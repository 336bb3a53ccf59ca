"""Scoring by onnxruntime, against PyTorch in fp32; and without PyTorch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyogrio
import pytest
import rasterio
from test_scoring import random_pair, streamed

from geosiam import DetectOptions, detect, export_model, inspect_pair
from geosiam.errors import OptionError, WeightsError
from geosiam.imagery.normalization import FULL_BYTE, PixelTransform, RadiometricNormalization, Stretch
from geosiam.imagery.pair import StoredBlock
from geosiam.inference import scorer as scorer_module
from geosiam.inference.scorer import choose_engine, load_scorer
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles
from geosiam_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

FP32 = {"device": "cpu", "precision": "fp32"}
LINEAR = RadiometricNormalization("linear", ((0.0, 1.0),) * 3, ((0.1, 0.9), (-0.2, 1.1), (0.0, 1.0)))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    config = SyntheticConfig(height=230, width=310, seed=4, objects=6)
    return write_pair_tiles(config, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(export_model("paper", tmp_path_factory.mktemp("model") / "paper.onnx", input_type="float32"))


def block(dtype: str) -> StoredBlock:
    rng = np.random.default_rng(1)
    before, after = (rng.random((2, 3, 97, 83)) * 200 - (50 if dtype.startswith("i") else 0)).astype(dtype)
    scaling = FULL_BYTE if dtype == "uint8" else Stretch((0.0, 10.0, 0.0), (150.0, 150.0, 180.0))
    transforms = PixelTransform(scaling), PixelTransform(scaling, LINEAR)
    return StoredBlock(before, after, rng.random((97, 83)) > 0.1, transforms)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32", "int32"])
def test_stored_values_of_every_type_score_as_in_pytorch(dtype: str) -> None:
    engines = [load_scorer("paper", engine=name, **FP32)[1].engine for name in ("onnx", "torch")]
    by_onnx, by_torch = (engine(block(dtype), slice(5, 90), slice(0, 83)) for engine in engines)
    assert by_onnx.dtype == np.float32
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4, rtol=0)


def test_bytes_are_what_a_model_of_bytes_gets(tmp_path: Path) -> None:
    path = str(export_model("paper", tmp_path / "paper.onnx"))
    of_bytes, of_floats = (load_scorer(name, engine="onnx")[1].engine for name in (path, "paper"))
    one = block("uint8")
    plain = StoredBlock(one.before, one.after, one.valid, (PixelTransform(FULL_BYTE),) * 2)
    everything = slice(None), slice(None)
    np.testing.assert_allclose(of_bytes(plain, *everything), of_floats(plain, *everything), atol=0.02, rtol=0)
    np.testing.assert_allclose(of_bytes(one, *everything), of_floats(one, *everything), atol=0.1, rtol=0)


def test_every_number_of_threads_and_another_process_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "BLOCK_PX", 64)
    pair, scorer = random_pair(300, 210), load_scorer("paper", engine="onnx")[1]
    one = streamed(pair, scorer, workers=1)
    for other in (scorer, pickle.loads(pickle.dumps(scorer)).to_device()):
        np.testing.assert_array_equal(streamed(pair, other, workers=3), one)


def test_a_cell_has_the_same_bits_in_a_window_of_any_size() -> None:
    pair, scorer = random_pair(210, 180), load_scorer("survey-fast", engine="onnx")[1]
    whole = scorer.probabilities(pair.before, pair.after)
    for rows, cols in ((slice(0, 36), slice(0, 36)), (slice(40, 151), slice(8, 180)), (slice(160, 210), slice(0, 97))):
        part = scorer.probabilities(pair.before[:, rows, cols], pair.after[:, rows, cols])
        first, start = rows.start // 4, cols.start // 4
        np.testing.assert_array_equal(part, whole[first : first + part.shape[0], start : start + part.shape[1]])


def polygons(path: Path) -> list[str]:
    return sorted(pyogrio.read_dataframe(path, layer="anomalies").geometry.to_wkt(rounding_precision=1))


def test_detect_finds_what_pytorch_finds(scenes: SyntheticPaths, tmp_path: Path) -> None:
    found, scores = {}, {}
    for engine in ("onnx", "torch"):
        path = tmp_path / f"{engine}.gpkg"
        options = DetectOptions(engine=engine, **FP32, smooth=False)
        result = detect(scenes.before, scenes.after, path, options=options)
        assert result.provenance.to_dict()["computed"] == {"device": "cpu", "precision": "fp32", "engine": engine}
        found[engine] = polygons(path)
        with rasterio.open(result.scores_path) as raster:
            scores[engine] = raster.read(1).astype(int)
    assert np.abs(scores["onnx"] - scores["torch"]).max() <= 1  # of 254 steps
    assert found["onnx"] == found["torch"]
    assert len(found["onnx"]) >= 5


def test_an_interrupted_run_is_not_resumed_by_another_engine(scenes: SyntheticPaths, tmp_path: Path) -> None:
    from geosiam.imagery.prepare import open_pair
    from geosiam.provenance import identity

    options = DetectOptions()
    with open_pair(scenes.before, scenes.after) as pair:
        torch, onnx = (
            identity(pair, *load_scorer("paper", engine=engine, **FP32), options) for engine in ("torch", "onnx")
        )
    assert {key for key in torch if torch[key] != onnx[key]} == {"engine", "version of geosiam or of its engine"}
    assert (torch["engine"], onnx["engine"]) == ("torch", "onnx")
    assert list(tmp_path.iterdir()) == []


def run(arguments: list[object], *, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, optionally as if a package was not installed."""
    code = f"""
import sys
for name in {without.split()!r}:
    sys.modules[name] = None
from geosiam_cli.main import main
code = main({[str(argument) for argument in arguments]!r})
print("torch" if sys.modules.get("torch") else "no torch", "onnx" if sys.modules.get("onnx") else "no onnx")
sys.exit(code)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", ["detect", "score", "info"])
def test_pytorch_is_not_imported(verb: str, scenes: SyntheticPaths, tmp_path: Path) -> None:
    output = [] if verb == "info" else ["-o", tmp_path / ("a.gpkg" if verb == "detect" else "a.tif")]
    done = run([verb, scenes.before, scenes.after, *output, "--engine", "onnx", "--model", "paper"])
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no torch onnx"), done.stderr
    assert "PyTorch" not in done.stderr


def test_without_pytorch_onnxruntime_computes_and_this_is_said(scenes: SyntheticPaths, tmp_path: Path) -> None:
    words = ["detect", scenes.before, scenes.after, "-o", tmp_path / "a.gpkg", "--model", "paper"]
    done = run(words, without="torch")
    assert done.returncode == 0, done.stderr
    assert "geosiam: warning: PyTorch is not installed: onnxruntime computes, as with --engine onnx\n" in done.stderr
    refused = run([*words, "--engine", "torch"], without="torch")
    assert refused.returncode == 3
    assert refused.stderr == (
        "geosiam: error: --engine torch: needs PyTorch, which is not installed; use --engine onnx\n"
    )


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("onnxruntime", "--engine onnx: needs the package onnxruntime, which is not installed; pip install"),
        ("onnx", "the package onnx is not installed; pip install 'geosiam[onnx]'"),
    ],
)
def test_missing_packages_are_named_with_the_extra(without, words: str, scenes: SyntheticPaths, tmp_path) -> None:
    done = run(["detect", scenes.before, scenes.after, "-o", tmp_path / "a.gpkg", "--engine", "onnx"], without=without)
    assert done.returncode == 3
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_needs_neither_pytorch_nor_the_package_onnx(scenes, model: str, tmp_path: Path) -> None:
    words = ["detect", scenes.before, scenes.after, "--model"]
    exported = run([*words, model, "-o", tmp_path / "a.gpkg"], without="torch onnx")
    assert (exported.returncode, exported.stdout.splitlines()[-1]) == (0, "no torch no onnx"), exported.stderr
    assert exported.stderr.count("warning") == 0
    assert main([str(word) for word in (*words, "paper", "-o", tmp_path / "b.gpkg", "--engine", "onnx")]) == 0
    with rasterio.open(tmp_path / "a.tif") as one, rasterio.open(tmp_path / "b.tif") as other:
        np.testing.assert_array_equal(one.read(1), other.read(1))


def test_the_engine_is_chosen_by_the_model_and_what_is_installed(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_engine("auto", name) for name in ("survey", model)] == ["torch", "onnx"]
    with pytest.raises(OptionError, match="cannot compute with the ONNX model"):
        choose_engine("torch", model)
    monkeypatch.setattr(scorer_module, "find_spec", lambda _name: None)
    with pytest.raises(OptionError, match="neither is installed"):
        choose_engine("auto", "survey")


def test_inspection_knows_the_engine(scenes: SyntheticPaths, model: str) -> None:
    assert inspect_pair(scenes.before, scenes.after, options=DetectOptions(model=model)).model == "paper"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda"}, "computes on the CPU"),
        ({"precision": "int8"}, "computes in fp32"),
    ],
)
def test_devices_and_precisions_of_pytorch_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load_scorer("paper", engine="onnx", **options)
    with pytest.raises(OptionError, match="not known"):
        DetectOptions(engine="tensorflow")


def test_files_that_are_no_models_of_two_scenes_are_refused(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "folder.onnx").mkdir()
    export_model("paper", tmp_path / "stack.onnx", stacked=True, tile=64)
    foreign = onnx.load(export_model("paper", tmp_path / "paper.onnx"))
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for name, words in (
        ("text", "not an ONNX model"),
        ("folder", "does not exist"),
        ("absent", "does not exist"),
        ("stack", "two inputs"),
        ("foreign", "no model card"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_scorer(str(tmp_path / f"{name}.onnx"))
