"""The training loop: one-cycle AdamW over endless batches, resumable checkpoints, learning curves, a weights file."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from geosiam.errors import OptionError, WeightsError
from geosiam.network.siamese import SiameseNetwork
from geosiam.training.calibration import HeldOut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from geosiam.training.recipes import Batch, Recipe
    from geosiam.training.sources import ChipSource

log = logging.getLogger(__name__)

VALIDATION_BATCHES = 24
_VALIDATION_SEED = 1_000_003
_HALF = 0.5  # of a cell's pixels: where more of them are anomalous, the cell is


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; losses are means per labelled cell, the other figures are on held-out chips.

    Parameters
    ----------
    epoch
        Counted from 1.
    loss, validation_loss
        Of the recipe's objective.
    accuracy
        Share of cells judged right at probability 1/2.
    recall, precision
        Of the anomalous cells at probability 1/2.
    seconds
        Wall time.
    """

    epoch: int
    loss: float
    validation_loss: float
    accuracy: float
    recall: float
    precision: float
    seconds: float


@dataclass
class TrainingRun:
    """A network on its way: everything that a checkpoint holds.

    Parameters
    ----------
    recipe
        Makes the batches.
    source, held_out
        Chips to learn from, and chips to validate on.
    stem
        Where checkpoint and curves go: a path without suffix.
    seed
        Of weights and batches. Each epoch seeds its own generator, so that a resumed run repeats an undisturbed one.
    device
        Where to compute.
    precision
        ``"fp32"`` or ``"bf16"`` (automatic mixed precision).
    init
        Checksum of the weights it began with; empty where these were random.
    save_every_s
        Least time between two checkpoints in seconds; 0 keeps every epoch, the last one is always kept.
    """

    recipe: Recipe
    source: ChipSource
    held_out: ChipSource
    stem: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    init: str = ""
    save_every_s: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise OptionError(f"precision {self.precision!r}", "training knows fp32 and bf16", "use one of them")
        torch.manual_seed(self.seed)
        self.network = SiameseNetwork(self.recipe.network).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        schedule = self.recipe.schedule
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.steps = schedule.steps or max(1, len(self.source) // schedule.batch_size)
        self.history: list[Epoch] = []

    @property
    def checkpoint(self) -> Path:
        """Where the run keeps its state between epochs."""
        return self._beside(".checkpoint.safetensors")

    def _beside(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def run(self, on_step: Callable[[int, int, float], None] | None = None) -> None:
        """Train the epochs that are missing; call ``on_step(steps done, steps in all, loss)`` after each step."""
        epochs = self.recipe.schedule.epochs
        saved = time.perf_counter()
        for epoch in range(len(self.history), epochs):
            start = time.perf_counter()
            loss = self._epoch(epoch, on_step)
            figures = self.validate()
            self.history.append(Epoch(epoch + 1, loss, *figures, time.perf_counter() - start))
            log.info("epoch %d/%d: %s", epoch + 1, epochs, self.history[-1])
            if epoch + 1 == epochs or time.perf_counter() - saved >= self.save_every_s:
                self.save()
                saved = time.perf_counter()

    def _epoch(self, epoch: int, on_step: Callable[[int, int, float], None] | None) -> float:
        generator = Generator(self.device).manual_seed(self.seed * 1_000_000 + epoch)
        total = self.steps * self.recipe.schedule.epochs
        losses = 0.0
        self.network.train()
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.schedule.learning_rate * one_cycle(step / total)
            loss = self._loss(self.recipe.batch(self.source, generator))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses += loss.item()
            if on_step:
                on_step(step + 1, total, loss.item())
        return losses / self.steps

    def _loss(self, batch: Batch) -> Tensor:
        return self.recipe.objective.loss(self._logits(batch), batch)

    def _logits(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.recipe.objective.logits(
                self.network,
                batch.before.contiguous(memory_format=torch.channels_last),
                batch.after.contiguous(memory_format=torch.channels_last),
            )
        return logits.float()

    @torch.inference_mode()
    def validate(self) -> tuple[float, float, float, float]:
        """Return loss, accuracy, recall and precision on the same held-out pairs every time."""
        generator = Generator(self.device).manual_seed(_VALIDATION_SEED)
        self.network.eval()
        losses, hits, found, truth, cells = 0.0, 0.0, 0.0, 0.0, 0.0
        right = 0.0
        for _ in range(VALIDATION_BATCHES):
            batch = self.recipe.batch(self.held_out, generator)
            logits = self._logits(batch)
            losses += self.recipe.objective.loss(logits, batch).item()
            called, anomalous, counts = logits < 0, batch.similar <= _HALF, batch.weight > 0
            hits += (called & anomalous & counts).sum().item()
            found += (called & counts).sum().item()
            truth += (anomalous & counts).sum().item()
            right += ((called == anomalous) & counts).sum().item()
            cells += counts.sum().item()
        return losses / VALIDATION_BATCHES, right / cells, hits / max(truth, 1), hits / max(found, 1)

    @torch.inference_mode()
    def held_out_cells(self) -> HeldOut:
        """Return what the network says of the cells of held-out pairs that count: the same pairs every time."""
        generator = Generator(self.device).manual_seed(_VALIDATION_SEED)
        self.network.eval()
        logits, similar = [], []
        for _ in range(VALIDATION_BATCHES):
            batch = self.recipe.batch(self.held_out, generator)
            counts = batch.weight > 0
            logits.append(self._logits(batch)[counts])
            similar.append(batch.similar[counts])
        return HeldOut(torch.cat(logits), torch.cat(similar))

    def save(self) -> None:
        """Write checkpoint and curves; each file is complete or the one before stays."""
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        partial = self.checkpoint.with_suffix(".partial")
        save_file(tensors, partial, metadata={"run": json.dumps(self._identity()), "history": self._history_json()})
        partial.replace(self.checkpoint)
        save_history(self.history, self._beside(".curves.csv"))
        save_curves(self.history, self._beside(".curves.png"), title=f"recipe {self.recipe.name}")

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; return whether there was.

        Raises
        ------
        WeightsError
            The checkpoint is of another run (recipe, seed, schedule, number of chips) or unreadable.
        """
        if not self.checkpoint.exists():
            return False
        try:
            with safe_open(self.checkpoint, framework="pt", device=self.device) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise WeightsError(self.checkpoint, f"cannot be read ({error})", "delete it to start anew") from error
        if json.loads(metadata.get("run", "{}")) != json.loads(json.dumps(self._identity())):
            raise WeightsError(
                self.checkpoint, "belongs to a run with other settings", "choose another --output, or pass --restart"
            )
        self._restore(tensors)
        self.history = [Epoch(**row) for row in json.loads(metadata["history"])]
        return True

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        network = {}
        for key, value in tensors.items():
            kind, rest = key.split(".", 1)
            if kind == "network":
                network[rest] = value
            else:
                index, name = rest.split(".", 1)
                state.setdefault(int(index), {})[name] = value
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": repr(self.recipe),
            "seed": self.seed,
            "steps": self.steps,
            "chips": len(self.source),
            "precision": self.precision,
            **({"init": self.init} if self.init else {}),
        }

    def _history_json(self) -> str:
        return json.dumps([vars(epoch) for epoch in self.history])


def one_cycle(progress: float, warmup: float = 0.25, floor: float = 1e-3) -> float:
    """Return the factor of the learning rate at ``progress`` in [0, 1): cosine up, then cosine down to ``floor``.

    After Smith and Topin, "Super-Convergence" (2018).
    """
    if progress < warmup:
        start = 0.04
        return start + (1 - start) * (1 - math.cos(math.pi * progress / warmup)) / 2
    return floor + (1 - floor) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def save_history(history: list[Epoch], path: Path) -> None:
    """Write the learning curves as CSV."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Epoch.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(vars(epoch) for epoch in history)
    partial.replace(path)


def best_threshold(held_out: HeldOut) -> float:
    """Return the anomaly probability that gives the best F1 of the anomalous class."""
    return _best_f1(held_out.scores, held_out.similar <= _HALF)


def _best_f1(scores: Tensor, truth: Tensor) -> float:
    order = scores.argsort(descending=True)
    hits = truth[order].cumsum(0)
    called = torch.arange(1, len(scores) + 1, device=scores.device)
    best = int((2 * hits / (called + truth.sum())).argmax())
    return float(scores[order][best].clamp(0.05, 0.95))


def save_curves(history: list[Epoch], path: Path, *, title: str) -> None:
    """Draw losses and held-out figures against epochs into a PNG; the file is complete or not there."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    losses.plot(epochs, [epoch.loss for epoch in history], label="training")
    losses.plot(epochs, [epoch.validation_loss for epoch in history], label="held out")
    losses.set(xlabel="epoch", ylabel="binary cross-entropy", yscale="log", title=title)
    for name in ("accuracy", "recall", "precision"):
        figures.plot(epochs, [getattr(epoch, name) for epoch in history], label=name)
    figures.set(xlabel="epoch", ylabel="on held-out chips, probability 1/2", ylim=(None, 1.005))
    for axes in (losses, figures):
        axes.grid(alpha=0.3)
        axes.legend()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(path)


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of weights, tensor by tensor; batch norm's statistics too, its counters are those of the first.

    Weights that went on learning from the same ones lie close enough together for that: on the way from one to the
    other the loss does not rise (Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models
    improves accuracy without increasing inference time", 2022). Of weights that began apart it is no network at all.

    Parameters
    ----------
    states
        State dictionaries of one network; at least one.
    """
    first = states[0]
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in first.items()
    }
