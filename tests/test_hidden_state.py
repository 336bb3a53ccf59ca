"""After any public call the caller's process is as it was: threads, random generators, warnings, environment, GDAL."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import cv2
import numpy as np
import pyogrio
import pytest
import rasterio
import torch

import geosiam as gs
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

GDAL_OPTIONS = (
    "GDAL_CACHEMAX",
    "GDAL_NUM_THREADS",
    "CPL_DEBUG",
    "OGR_SQLITE_SYNCHRONOUS",
    "OGR_GPKG_MAX_RAM_USAGE_RTREE",
)


def state() -> dict[str, object]:
    """Return all of the process that a caller may rely on."""
    return {
        "torch threads": torch.get_num_threads(),
        "torch generator": torch.random.get_rng_state().numpy().tobytes(),
        "torch determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        ),
        "opencv": (cv2.getNumThreads(), cv2.useOptimized()),
        "numpy generator": np.random.get_state()[1].tobytes(),  # noqa: NPY002 - the caller's
        "numpy errors": np.geterr(),
        "python generator": random.getstate(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "rasterio environment": rasterio.env.hasenv(),
        "gdal of rasterio": rasterio.env.getenv() if rasterio.env.hasenv() else None,
        "gdal of pyogrio": {name: pyogrio.get_gdal_config_option(name) for name in GDAL_OPTIONS},
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    return write_pair_tiles(SyntheticConfig(height=160, width=192, seed=3, objects=4), tmp_path_factory.mktemp("pair"))


def detect(scenes, folder: Path) -> None:
    gs.detect(scenes.before, scenes.after, folder / "a.gpkg", project=folder / "a.qgz")


def score(scenes, folder: Path) -> None:  # noqa: ARG001
    with gs.score(scenes.before, scenes.after) as scores:
        scores.compute()


def score_to_file(scenes, folder: Path) -> None:
    gs.score_to_file(scenes.before, scenes.after, folder / "a.tif")


def vectorize(scenes, folder: Path) -> None:
    score_to_file(scenes, folder)
    gs.vectorize(folder / "a.tif")
    gs.vectorize_to_file(folder / "a.tif", folder / "b.gpkg")


def inspect_pair(scenes, folder: Path) -> None:  # noqa: ARG001
    gs.inspect_pair(scenes.before, scenes.after)


def open_pair(scenes, folder: Path) -> None:  # noqa: ARG001
    with gs.open_pair(scenes.before, scenes.after, options=gs.PairOptions(register=True)) as pair:
        pair.read(pair.overlap)


def read_through_a_field(scenes, folder: Path) -> None:  # noqa: ARG001
    with gs.open_pair(scenes.before, scenes.after, options=gs.PairOptions(register="field")) as pair:
        assert pair.displacement.applied
        pair.read(pair.overlap)


def refused(scenes, folder: Path) -> None:
    with pytest.raises(gs.errors.SceneNotFoundError):
        gs.detect(scenes.before, folder / "none.tif", folder / "a.gpkg")


def run_batch(scenes, folder: Path) -> None:
    (folder / "pairs.csv").write_text(f"before,after\n{scenes.before},{scenes.after}\n")
    result = gs.run_batch(gs.plan_batch(folder / "pairs.csv"), folder / "out", options=gs.BatchOptions(workers=1))
    assert not result.failed


def evaluate(scenes, folder: Path) -> None:
    from geosiam.evaluation.api import Task

    detect(scenes, folder)
    gs.evaluate([Task(str(scenes.truth), prediction=str(folder / "a.tif"))])


def train(scenes, folder: Path) -> None:
    pair = (str(scenes.before), str(scenes.after))
    options = gs.TrainingOptions(folder / "weights.safetensors", scenes=pair, generated=0, epochs=1, steps=2, seed=7)
    gs.train(options)


def load_model(scenes, folder: Path) -> None:  # noqa: ARG001
    gs.load_model("survey")
    gs.available_models()


@pytest.mark.parametrize(
    "call",
    [
        detect,
        score,
        score_to_file,
        vectorize,
        inspect_pair,
        open_pair,
        read_through_a_field,
        refused,
        run_batch,
        evaluate,
        train,
        load_model,
    ],
    ids=lambda call: call.__name__,
)
def test_a_public_call_leaves_the_process_as_it_was(call, scenes, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    call_before = state()
    call(scenes, tmp_path)
    call_after = state()
    assert {key for key, value in call_before.items() if value != call_after[key]} == set()


def test_inside_the_callers_own_gdal_environment(scenes, tmp_path: Path) -> None:
    with rasterio.Env(GDAL_CACHEMAX=64_000_000, CPL_DEBUG=False):
        options = rasterio.env.getenv()
        detect(scenes, tmp_path)
        assert rasterio.env.getenv() == options
