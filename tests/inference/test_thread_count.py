"""The caller's thread count of PyTorch is after every public computation what it was before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
import torch
from test_scoring import MODELS, random_pair, streamed

from geosiam.inference import scorer as scorer_module
from geosiam.inference.scorer import Scorer, lazy_scores
from geosiam.inference.torch_engine import single_thread
from geosiam.inspection import inspect_pair
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.scoring import score
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USUAL = 3
OPTIONS = DetectOptions(workers=2, model="survey-fast", device="cpu", precision="fp32")


def in_a_new_thread() -> int:
    """Return the thread count of a thread that starts now."""
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


@pytest.fixture(autouse=True)
def usual_count() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(USUAL)
    with ThreadPoolExecutor(2) as pool, dask.config.set(pool=pool):  # dask's own threads keep counts of other tests
        yield
    assert (torch.get_num_threads(), in_a_new_thread()) == (USUAL, USUAL)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    config = SyntheticConfig(height=150, width=170, seed=5, objects=2)
    return write_pair_tiles(config, tmp_path_factory.mktemp("scenes"))


def test_the_scorer_and_its_streams_leave_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "BLOCK_PX", 64)
    scorer, pair = Scorer.of_model(MODELS[8], device="cpu"), random_pair(150, 90)
    scorer.probabilities(pair.before, pair.after)
    assert torch.get_num_threads() == USUAL
    for workers in (1, 3):
        streamed(pair, scorer, workers=workers)
        assert torch.get_num_threads() == USUAL


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_lazy_scores_leave_the_threads_of_the_caller_alone(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "BLOCK_PX", 64)
    scorer, pair = Scorer.of_model(MODELS[8], device="cpu"), random_pair(150, 210)
    with ThreadPoolExecutor(2) as pool, dask.config.set(scheduler=scheduler, pool=pool):
        lazy_scores(pair, scorer).compute()
        assert {future.result() for future in [pool.submit(torch.get_num_threads) for _ in range(8)]} == {USUAL}


@pytest.mark.parametrize(
    "public_call",
    [
        lambda scenes, folder: detect(scenes.before, scenes.after, folder / "a.gpkg", options=OPTIONS),
        lambda scenes, _: score(scenes.before, scenes.after, options=OPTIONS).compute(),
        lambda scenes, _: inspect_pair(scenes.before, scenes.after, options=OPTIONS),
    ],
    ids=["detect", "score", "inspect_pair"],
)
def test_public_calls_leave_it_alone(public_call: Callable[..., object], scenes: SyntheticPaths, tmp_path) -> None:
    public_call(scenes, tmp_path)


def test_contexts_that_overlap_in_any_order_end_where_they_began() -> None:
    """Each step of each thread is ordered by events: the first to enter leaves first."""
    entered, left = threading.Event(), threading.Event()
    seen = {}

    def other() -> None:
        with single_thread():
            entered.set()
            assert left.wait(20)
            seen["inside"] = torch.get_num_threads()
        seen["after"] = torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        with single_thread():
            future = pool.submit(other)
            assert entered.wait(20)
        assert torch.get_num_threads() == USUAL
        left.set()
        future.result()
    assert seen == {"inside": 1, "after": USUAL}


def test_one_thread_gives_the_bits_of_one_thread() -> None:
    scorer, pair = Scorer.of_model(MODELS[8], device="cpu", precision="fp32"), random_pair(150, 90)
    many = scorer.probabilities(pair.before, pair.after)
    torch.set_num_threads(1)
    one = scorer.probabilities(pair.before, pair.after)
    torch.set_num_threads(USUAL)
    np.testing.assert_array_equal(many, one)
