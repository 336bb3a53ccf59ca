"""What all experiments share: options, data, results, and trained networks, which are kept for the next call."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from geosiam.errors import OptionError, OutputError, TrainingDataError
from geosiam.inference.scorer import Scorer
from geosiam.inference.torch_engine import TorchEngine
from geosiam.runtime import processor_name
from geosiam.training.loop import TrainingRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.network.siamese import SiameseNetwork
    from geosiam.training.recipes import Recipe
    from geosiam.training.sources import ChipSource

log = logging.getLogger(__name__)

_CHECKPOINT_S = 30.0  # time between checkpoints, which an interrupted training may lose


@dataclass(frozen=True)
class PaperOptions:
    """Options of `geosiam paper`.

    Parameters
    ----------
    data
        Folder with MNIST's idx files, CIFAR-10 and scenes, at any depth.
    out
        Folder for pictures, numbers, the report and trained networks.
    quick
        Whether to run a smoke test of a few minutes, with few epochs, seeds and pairs, whose numbers mean nothing.
    seeds
        Number of repetitions with different random seeds.
    precision
        Arithmetic of the training: ``"fp32"``, or ``"bf16"``, which is faster on processors with bf16 instructions.
    scenes
        Templates for figure 6, instead of those in ``data``.
    """

    data: Path
    out: Path
    quick: bool = False
    seeds: int = 5
    precision: str = "fp32"
    scenes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise OptionError(f"`seeds={self.seeds}`", "is too few", "use 1 or more")


@dataclass(frozen=True)
class Workbench:
    """One run of `geosiam paper`.

    Parameters
    ----------
    options
        Options of the run.
    on_progress
        Called with (steps done, steps in total, name of the step).
    used
        Training time in seconds of each network that the current experiment uses, whenever it was trained.
    spent
        Seconds that the current experiment itself has spent on each training.
    """

    options: PaperOptions
    on_progress: Callable[[int, int, str], None] | None = None
    used: dict[str, float] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)

    @property
    def quick(self) -> bool:
        """Whether this is a smoke test."""
        return self.options.quick

    @property
    def seeds(self) -> range:
        """Random seeds of the repetitions."""
        return range(min(self.options.seeds, 2) if self.quick else self.options.seeds)

    def data(self, *names: str) -> Path:
        """Return the first of these files or folders that exists in the folder of data, at any depth.

        Raises
        ------
        TrainingDataError
            None of them exists.
        """
        for name in names:
            paths = sorted(self.options.data.rglob(name)) if self.options.data.is_dir() else []
            if paths:
                return paths[0]
        fact = f"holds no {' or '.join(names)}"
        raise TrainingDataError(self.options.data, fact, "put it there, or set `data` to another folder")

    def path(self, name: str) -> Path:
        """Return a path in the folder of results, which is created if necessary."""
        path = self.options.out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                path.parent, f"cannot be created ({error.strerror})", "set `out` to another folder"
            ) from error
        return path

    def report_progress(self, done: int, total: int, step: str) -> None:
        """Report progress."""
        if self.on_progress:
            self.on_progress(done, total, step)

    def train(
        self, label: str, recipe: Recipe, source: ChipSource, held_out: ChipSource, *, seed: int, fingerprint: str
    ) -> TrainingRun:
        """Train a recipe, or continue the same training of an earlier call.

        Parameters
        ----------
        label
            First part of the file names.
        recipe, source, held_out, seed
            As in :class:`geosiam.training.loop.TrainingRun`.
        fingerprint
            Checksum of the data, see :func:`fingerprint`.
        """
        key = _digest(json.dumps([repr(recipe), seed, self.options.precision, fingerprint]))
        stem = self.path(f"trained/{label}-seed{seed}-{key[:10]}")
        run = TrainingRun(
            recipe, source, held_out, stem, seed, precision=self.options.precision, save_every_s=_CHECKPOINT_S
        )
        if run.resume():
            log.info("%s: continuing after epoch %d", stem.name, len(run.history))
        started = time.perf_counter()
        run.run(lambda done, total, _loss: self.report_progress(done, total, f"training {label}, seed {seed}"))
        self.spent.append(time.perf_counter() - started)
        run.network.eval()
        self.used[stem.name] = sum(epoch.seconds for epoch in run.history)
        return run


def score(network: SiameseNetwork, before: Tensor, after: Tensor) -> NDArray[np.float32]:
    """Score a pair as `geosiam detect` does: float32 (rows, cols), 1 - P(similar), without padding.

    Parameters
    ----------
    before, after
        float32 (channels, height, width) in [0, 1].
    """
    scorer = Scorer(TorchEngine(network.for_inference(), torch.device("cpu"), torch.float32))
    return scorer.probabilities(before.numpy(), after.numpy())


@torch.inference_mode()
def log_odds(network: SiameseNetwork, before: Tensor, after: Tensor) -> NDArray[np.float32]:
    """Return the log-odds of an anomaly, float32 (rows, cols), which do not saturate as scores do.

    Parameters
    ----------
    before, after
        float32 (channels, height, width) in [0, 1].
    """
    logits: Tensor = network.for_inference()(before[None], after[None])
    return -logits[0, 0].numpy()


def fingerprint(*arrays: Tensor) -> str:
    """Return a checksum of the shapes, types and contents of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((tuple(array.shape), array.dtype)).encode())
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """Return a checksum of the contents of a file, or of all files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Return a description of this machine."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- figures ----------------------------------------------------------------------------------------------------------

ACROSS = 10
"""Number of chips along each side of a mosaic."""

_DPI = 110
_PALETTE_COLORS = 256
_KMEANS_ROUNDS = 3  # median cut alone loses rare colors, such as those of the score's color map


def mosaic(chips: Tensor, across: int = ACROSS) -> Tensor:
    """Arrange chips in a square, row by row.

    Parameters
    ----------
    chips
        (across * across, channels, side, side).

    Returns
    -------
    (channels, across * side, across * side)
    """
    n, channels, side, _ = chips.shape
    if n != across * across:
        raise ValueError(f"a mosaic of {across} x {across} takes {across * across} chips, not {n}")
    grid = chips.reshape(across, across, channels, side, side).permute(2, 0, 3, 1, 4)
    return grid.reshape(channels, across * side, across * side)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG that depends on the figure only."""
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def shrink(path: Path) -> None:
    """Rewrite a PNG with a palette, which takes a third of the space and looks the same."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(_PALETTE_COLORS, kmeans=_KMEANS_ROUNDS)
    small.save(path, optimize=True)
