"""Blocks handed to devices: the CPU serves as one here, so that all but CUDA's own calls is run everywhere."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from geosiam.imagery.normalization import FULL_BYTE, PixelTransform, RadiometricNormalization, Stretch
from geosiam.imagery.pair import StoredBlock
from geosiam.inference import gpu
from geosiam.inference import torch_engine as engine_module
from geosiam.inference.gpu import BLOCKS_PER_BATCH, GpuBatcher
from geosiam.inference.scorer import Scorer
from geosiam.inference.torch_engine import InputTransform, choose_precision, cuda_devices
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.network.weights import Model, ModelCard

SIDE = 120
LINEAR = RadiometricNormalization("linear", ((0.0, 1.0),) * 3, ((0.1, 0.9), (-0.2, 1.1), (0.0, 1.0)))
CPU = torch.device("cpu")


def make_scorer(precision: str = "fp32") -> Scorer:
    torch.manual_seed(5)
    config = NetworkConfig.of_stride(8, width=8, features=16, hidden=8)
    network = SiameseNetwork(config)
    with torch.no_grad():
        network(torch.rand(8, 3, 48, 48), torch.rand(8, 3, 48, 48))
    model = Model(network.eval(), ModelCard("tiny", "paper", "", config, "", 0, 0), "tiny")
    return Scorer.of_model(model, device="cpu", precision=precision)


SCORER = make_scorer()


def block(seed: int, dtype: str = "uint8", shape: tuple[int, int] = (SIDE, SIDE)) -> StoredBlock:
    rng = np.random.default_rng(seed)
    images = (rng.random((2, 3, *shape)) * 200 - (50 if dtype.startswith("i") else 0)).astype(dtype)
    scaling = FULL_BYTE if dtype == "uint8" else Stretch((0.0, 10.0, 0.0), (150.0, 150.0, 180.0))
    valid = np.ones(shape, bool) if seed % 2 else rng.random(shape) > 0.1
    return StoredBlock(images[0], images[1], valid, (PixelTransform(scaling), PixelTransform(scaling, LINEAR)))


def direct(one: StoredBlock) -> np.ndarray:
    cells = tuple(SCORER.config.receptive_field.cells(side) for side in one.valid.shape)
    return SCORER._probabilities(one, np.ones(cells, bool))


def served(blocks: list[StoredBlock], devices: int = 1, threads: int = 8) -> list[np.ndarray]:
    behind = GpuBatcher(SCORER.engine.network, InputTransform(torch.float32), [CPU] * devices, SIDE)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(behind.scores, blocks))
    finally:
        behind.close()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32", "int32"])
def test_scores_are_those_of_the_thread_that_computes_itself(dtype):
    blocks = [block(seed, dtype) for seed in range(2 * BLOCKS_PER_BATCH + 1)]
    for found, one in zip(served(blocks), blocks, strict=True):
        np.testing.assert_allclose(found, direct(one), atol=1e-5)


def test_blocks_of_different_sizes_and_kinds_wait_in_one_queue():
    kinds = [("uint8", (SIDE, SIDE)), ("uint16", (64, 72)), ("float32", (32, SIDE)), ("uint8", (40, 48))]
    blocks = [block(seed, *kinds[seed % 4]) for seed in range(24)]
    for found, one in zip(served(blocks, devices=2, threads=6), blocks, strict=True):
        np.testing.assert_allclose(found, direct(one), atol=1e-5)


def test_the_company_of_a_block_changes_no_bit_of_its_scores():
    blocks = [block(seed) for seed in range(3 * BLOCKS_PER_BATCH)]
    alone = served(blocks, threads=1)
    for devices, threads in ((1, 5), (2, 12)):
        for found, expected in zip(served(blocks, devices, threads), alone, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_fails_on_the_device_is_raised_where_the_scores_are_waited_for(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu._Batches, "_forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        served([block(1)])


def test_a_block_too_large_for_its_place_is_refused():
    with pytest.raises(ValueError, match="larger than"):
        served([block(1, shape=(SIDE + 8, SIDE))])


def test_threads_end_with_the_accelerator():
    import threading

    before = {thread for thread in threading.enumerate() if thread.name == "geosiam-cpu"}
    behind = GpuBatcher(SCORER.engine.network, InputTransform(torch.float32), [CPU, CPU], SIDE)
    behind.scores(block(1))
    threads = [thread for thread in threading.enumerate() if thread.name == "geosiam-cpu" and thread not in before]
    assert len(threads) == 2
    behind.close()
    assert not any(thread.is_alive() for thread in threads)
    behind.close()
    with pytest.raises(RuntimeError, match="closed"):
        behind.scores(block(1))


def test_a_scorer_ends_its_threads():
    behind = GpuBatcher(SCORER.engine.network, InputTransform(torch.float32), [CPU], SIDE)
    with contextlib.closing(replace(SCORER, engine=replace(SCORER.engine, batcher=behind))) as scorer:
        assert scorer.blocks_waiting == 2 * BLOCKS_PER_BATCH
        assert all(thread.is_alive() for thread in behind._threads)
    assert not any(thread.is_alive() for thread in behind._threads)
    SCORER.close()  # without devices nothing is to be done


def test_one_device_by_number_and_all_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert cuda_devices(torch.device("cuda:1")) == [torch.device("cuda", 1)]
    assert cuda_devices(torch.device("cuda")) == [torch.device("cuda", index) for index in range(3)]


@pytest.mark.parametrize(
    ("generation", "expected"), [((6, 1), torch.float32), ((7, 5), torch.float16), ((9, 0), torch.bfloat16)]
)
def test_automatic_precision_is_what_the_slowest_device_multiplies(monkeypatch, generation, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engine_module, "cuda_devices", lambda _: [0, 1])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation if device else (9, 0))
    assert choose_precision("auto", torch.device("cuda")) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_cuda_device_gives_what_the_cpu_gives(precision, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    engine = replace(make_scorer().engine, dtype=engine_module.choose_precision(precision, torch.device("cuda")))
    network = engine.network.to(engine.dtype).to(memory_format=torch.channels_last)
    behind = GpuBatcher(network, InputTransform(engine.dtype), cuda_devices(torch.device("cuda")), SIDE)
    blocks = [block(seed, dtype) for seed in range(40)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found, again = (list(pool.map(behind.scores, blocks)) for _ in range(2))
    behind.close()
    for scores, repeated, one in zip(found, again, blocks, strict=True):
        np.testing.assert_array_equal(scores, repeated)
        np.testing.assert_allclose(scores, direct(one), atol=1e-4 if precision == "fp32" else 0.05)
