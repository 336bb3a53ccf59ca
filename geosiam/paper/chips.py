"""CIFAR-10 with blue rectangles: data and training of figures 4 and 5."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from geosiam.paper.workbench import fingerprint
from geosiam.training.datasets import load_chips
from geosiam.training.recipes import PaperRecipe, make_recipe
from geosiam.training.sources import ChipStack

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.paper.workbench import Workbench
    from geosiam.training.loop import TrainingRun

MAX_CHIPS = 50_000
_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar10*.tar.*", "cifar-10-batches-*", "cifar10")
_QUICK_EPOCHS, _QUICK_STEPS = 2, 40


def cifar_file(bench: Workbench) -> Path:
    """Return CIFAR-10's archive or folder."""
    return bench.data(*_ARCHIVES)


def load_cifar(bench: Workbench) -> tuple[ChipStack, ChipStack]:
    """Return the training images of CIFAR-10, at most 50,000, and its test images."""
    return _load_stacks(cifar_file(bench))


@lru_cache(maxsize=1)
def _load_stacks(path: Path) -> tuple[ChipStack, ChipStack]:
    train, test = load_chips(path)
    assert isinstance(train, ChipStack)
    assert isinstance(test, ChipStack)
    return ChipStack(train.chips[:MAX_CHIPS]), test


def anomaly_recipe(bench: Workbench, epochs: int | None = None) -> PaperRecipe:
    """Return the paper's recipe, shortened for a smoke test."""
    recipe = make_recipe("paper")
    assert isinstance(recipe, PaperRecipe)
    if bench.quick:
        return replace(recipe, schedule=replace(recipe.schedule, epochs=_QUICK_EPOCHS, steps=_QUICK_STEPS))
    return replace(recipe, schedule=replace(recipe.schedule, epochs=epochs or recipe.schedule.epochs))


def train_anomalies(bench: Workbench, recipe: PaperRecipe, seed: int) -> TrainingRun:
    """Train the paper's recipe on CIFAR-10 with one seed."""
    train, test = load_cifar(bench)
    label = f"anomalies-{recipe.schedule.epochs}epochs"
    return bench.train(label, recipe, train, test, seed=seed, fingerprint=_fingerprint(train))


@lru_cache(maxsize=2)
def _fingerprint(stack: ChipStack) -> str:
    return fingerprint(stack.chips)


@torch.inference_mode()
def pair_accuracy(trained: TrainingRun, source: ChipStack, batches: int, seed: int) -> float:
    """Return the fraction of random pairs classified correctly at probability 1/2."""
    generator = torch.Generator().manual_seed(seed)
    correct = count = 0
    for _ in range(batches):
        batch = trained.recipe.batch(source, generator)
        is_similar = trained.network(batch.before, batch.after) > 0
        correct += int((is_similar == (batch.similar > 0)).sum())
        count += batch.similar.numel()
    return correct / count
