"""Tiled scoring against one forward pass over the whole scene, padded by numpy."""

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from geosiam.errors import OptionError
from geosiam.imagery.grid import Grid, Window, reflected
from geosiam.imagery.normalization import unchanged_transform
from geosiam.imagery.pair import StoredBlock
from geosiam.inference import scorer as scorer_module
from geosiam.inference import torch_engine as engine_module
from geosiam.inference.executor import stream_scores
from geosiam.inference.scorer import Scorer, lazy_scores
from geosiam.inference.torch_engine import choose_device, choose_precision
from geosiam.network.architecture import NetworkConfig
from geosiam.network.cpu_layers import multiplies_exactly
from geosiam.network.siamese import SiameseNetwork
from geosiam.network.weights import Model, ModelCard

INTEGERS = pytest.mark.skipif(not multiplies_exactly(), reason="this processor has no instructions for 8-bit integers")


@dataclass
class ArrayPair:
    """A pair in memory: the seam that isolates tiling from files."""

    before: np.ndarray
    after: np.ndarray
    valid: np.ndarray
    overlap: Window = field(init=False)
    grid: Grid = field(init=False)
    reads: int = 0

    def __post_init__(self) -> None:
        height, width = self.valid.shape
        self.overlap = Window(0, height, 0, width)
        self.grid = Grid(CRS.from_epsg(32633), Affine(0.5, 0, 1000, 0, -0.5, 2000), width, height)

    columns_at_once: None = None

    def stored(self, window: Window) -> StoredBlock:
        self.reads += 1
        height, width = self.valid.shape
        where = np.ix_(
            reflected(window.row_start, window.row_stop, height), reflected(window.col_start, window.col_stop, width)
        )
        images = self.before[(..., *where)], self.after[(..., *where)]
        return StoredBlock(*images, self.valid[where], (unchanged_transform(3), unchanged_transform(3)))


def random_pair(height: int, width: int, seed: int = 0) -> ArrayPair:
    rng = np.random.default_rng(seed)
    images = rng.random((2, 3, height, width), np.float32)
    return ArrayPair(images[0], images[1], np.ones((height, width), bool))


def make_model(stride: int = 8) -> Model:
    torch.manual_seed(5)
    config = NetworkConfig.of_stride(stride, width=8, features=16, hidden=8)
    network = SiameseNetwork(config)
    with torch.no_grad():
        network(torch.rand(8, 3, 48, 48), torch.rand(8, 3, 48, 48))  # moves the statistics of the batch norms
    return Model(network.eval(), ModelCard("tiny", "paper", "", config, "", 0, 0), "tiny")


MODELS = {stride: make_model(stride) for stride in (4, 8)}


def whole_scene(pair: ArrayPair, stride: int) -> np.ndarray:
    """Return the scores of one forward pass over the reflected scene, by the network as it was trained."""
    field_ = MODELS[stride].card.network.receptive_field
    height, width = pair.valid.shape
    margins = [(field_.offset, field_.overhang + -size % stride) for size in (height, width)]
    padded = [np.pad(image, ((0, 0), *margins), mode="reflect") for image in (pair.before, pair.after)]
    with torch.inference_mode():
        logits = MODELS[stride].network(*(torch.from_numpy(image)[None] for image in padded))
    return torch.sigmoid(-logits)[0, 0].numpy()


def streamed(pair: ArrayPair, scorer: Scorer, workers: int = 2) -> np.ndarray:
    lattice = scorer.lattice(pair.grid)
    scores = np.full((lattice.rows, lattice.cols), -1, np.float32)
    for result in stream_scores(pair, scorer, workers=workers):
        scores[result.block.cells.slices] = result.scores
    return scores


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(scorer_module, "BLOCK_PX", 64)


@pytest.mark.parametrize("stride", [8, 4])
@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 200), width=st.integers(1, 200), seed=st.integers(0, 3))
def test_tiled_scores_equal_the_whole_scene(stride: int, height: int, width: int, seed: int) -> None:
    pair = random_pair(height, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "BLOCK_PX", 64)
        patch.setattr(scorer_module, "FORWARD_PX", 24)
        scores = streamed(pair, Scorer.of_model(MODELS[stride], device="cpu", precision="fp32"))
    expected = whole_scene(pair, stride)
    assert scores.shape == expected.shape == (-(-height // stride), -(-width // stride))
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_every_number_of_threads_gives_the_same_bits() -> None:
    pair = random_pair(300, 210)
    scorer = Scorer.of_model(MODELS[8], device="cpu")
    one = streamed(pair, scorer, workers=1)
    for workers in (2, 3):
        np.testing.assert_array_equal(streamed(pair, scorer, workers=workers), one)


def test_the_lazy_array_gives_the_same_bits_in_any_part() -> None:
    pair = random_pair(150, 210)
    scorer = Scorer.of_model(MODELS[8], device="cpu")
    lazy = lazy_scores(pair, scorer)
    assert lazy.chunks == scorer.lattice(pair.grid).chunks
    assert pair.reads == 0
    whole = streamed(pair, scorer)
    with dask.config.set(scheduler="threads", num_workers=2):
        np.testing.assert_array_equal(lazy.compute(), whole)
        np.testing.assert_array_equal(lazy[9:11, 3:20].compute(), whole[9:11, 3:20])


def test_cells_without_a_valid_center_get_no_score_and_empty_blocks_no_forward_pass() -> None:
    pair = random_pair(128, 128)
    pair.valid[:64] = False
    pair.valid[64:, :20] = False
    pair.overlap = Window(64, 128, 0, 128)
    scores = streamed(pair, Scorer.of_model(MODELS[8], device="cpu"))
    np.testing.assert_array_equal(np.isnan(scores), ~pair.valid[4::8, 4::8])
    assert pair.reads == 2
    dark = random_pair(64, 64)
    dark.valid[:] = False
    assert np.isnan(streamed(dark, Scorer.of_model(MODELS[8], device="cpu"))).all()


def test_progress_ends_with_all_pixels() -> None:
    pair = random_pair(130, 70)
    seen: list[tuple[int, int]] = []
    for _ in stream_scores(pair, Scorer.of_model(MODELS[8], device="cpu"), on_progress=lambda *p: seen.append(p)):
        pass
    assert seen == sorted(seen)
    assert seen[-1] == (130 * 70, 130 * 70)


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=INTEGERS)])
def test_every_precision_gives_the_same_bits_for_every_number_of_threads(precision: str) -> None:
    pair = random_pair(300, 210)
    scorer = Scorer.of_model(MODELS[8], device="cpu", precision=precision)
    np.testing.assert_array_equal(streamed(pair, scorer, workers=3), streamed(pair, scorer, workers=1))


def test_bfloat16_stays_near_fp32() -> None:
    pair = random_pair(100, 100)
    exact = streamed(pair, Scorer.of_model(MODELS[8], device="cpu", precision="fp32"))
    rough = streamed(pair, Scorer.of_model(MODELS[8], device="cpu", precision="bf16"))
    assert 0 < np.abs(exact - rough).max() < 0.02


@INTEGERS
def test_integers_stay_near_fp32_and_pickled_they_are_the_same() -> None:
    pair = random_pair(100, 100)
    exact = streamed(pair, Scorer.of_model(MODELS[8], device="cpu", precision="fp32"))
    scorer = Scorer.of_model(MODELS[8], device="cpu", precision="int8")
    rough = streamed(pair, scorer)
    assert 0 < np.abs(exact - rough).max() < 0.05
    np.testing.assert_array_equal(streamed(pair, pickle.loads(pickle.dumps(scorer)).to_device()), rough)


def test_integers_are_refused_where_the_processor_cuts_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "int8_obstacle", lambda: "needs VNNI")
    sent = Scorer.of_model(MODELS[8], device="cpu", precision="int8", elsewhere=True)
    for arrive in (sent.to_device, lambda: Scorer.of_model(MODELS[8], device="cpu", precision="int8")):
        with pytest.raises(OptionError, match="VNNI"):
            arrive()


def test_auto_is_int8_only_where_processor_and_weights_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for there in (True, False):
        monkeypatch.setattr(engine_module, "multiplies_int8", lambda there=there: there)
        for quantizable in (True, False):
            chosen = choose_precision("auto", cpu, quantizable=quantizable)
            assert (chosen == torch.int8) == (there and quantizable)
    with pytest.raises(OptionError, match="for CPUs"):
        choose_precision("int8", torch.device("cuda"), quantizable=True)
    with pytest.raises(OptionError, match="batch norm"):
        choose_precision("int8", cpu)


def test_auto_is_bf16_only_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for there, chosen in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(engine_module, "multiplies_bf16", lambda there=there: there)
        assert choose_precision("auto", cpu) == chosen
        assert choose_precision("auto", torch.device("cuda")) == torch.float32
        assert choose_precision("fp32", cpu) == torch.float32


@pytest.mark.parametrize("setting", ["ATEN_CPU_CAPABILITY=avx2", "ONEDNN_MAX_CPU_ISA=AVX2", "nothing=0"])
@pytest.mark.parametrize(
    ("question", "words"),
    [("multiplies_bf16", {"avx512_bf16", "amx_bf16"}), ("multiplies_int8", {"avx512_vnni", "amx_int8"})],
)
def test_what_keeps_torch_from_instructions_is_respected(setting: str, question: str, words: set[str]) -> None:
    name, value = setting.split("=")
    script = f"from geosiam.inference.torch_engine import {question}; print({question}())"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, name: value}, capture_output=True, text=True, check=True
    )
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    expected = name == "nothing" and bool(flags & words)
    assert done.stdout.strip() == str(expected)


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("quantum", "meta", "cuda:99"):
        with pytest.raises(OptionError):
            choose_device(name)
    with pytest.raises(OptionError, match="not known"):
        choose_precision("fp8", torch.device("cpu"))
    with pytest.raises(OptionError, match="for CUDA"):
        choose_precision("fp16", torch.device("cpu"))
    with pytest.raises(OptionError, match="use 1 or more"):
        streamed(random_pair(8, 8), Scorer.of_model(MODELS[8], device="cpu"), workers=0)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pair = random_pair(200, 200)
    cpu = streamed(pair, Scorer.of_model(MODELS[8], device="cpu", precision="fp32"))
    np.testing.assert_allclose(
        streamed(pair, Scorer.of_model(MODELS[8], device="cuda", precision="fp32")), cpu, atol=1e-3
    )
