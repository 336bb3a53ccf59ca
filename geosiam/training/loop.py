"""The training loop: AdamW with a one-cycle learning rate, resumable checkpoints, learning curves, weight averaging."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor
from torch.optim.lr_scheduler import OneCycleLR

from geosiam.errors import OptionError, OutputError, WeightsError
from geosiam.files import atomic_write
from geosiam.network.siamese import SiameseNetwork, can_initialize, initial_weights
from geosiam.training.calibration import ANOMALOUS, HeldOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch.optim import Optimizer

    from geosiam.network.architecture import NetworkConfig
    from geosiam.network.weights import Model
    from geosiam.training.recipes import Batch, Recipe
    from geosiam.training.sources import ChipSource

log = logging.getLogger(__name__)

VALIDATION_BATCHES = 24
_VALIDATION_SEED = 1_000_003
_EPOCH_SEEDS = 1_000_000  # epochs that a seed has room for before it meets those of the next one
_PRECISIONS = ("fp32", "bf16")

_WARMUP = 0.25  # share of the steps in which the learning rate rises
_START, _FLOOR = 0.04, 1e-3  # first and last learning rate, relative to the peak


FILES_BESIDE = _CHECKPOINT, _CURVES, _PLOT = (".checkpoint.safetensors", ".curves.csv", ".curves.png")
"""Ends of the names of files that a training writes beside the weights."""


@dataclass(frozen=True)
class Epoch:
    """Losses and held-out metrics of one epoch.

    Parameters
    ----------
    epoch
        Number of the epoch, from 1.
    loss, validation_loss
        Mean of the recipe's objective over the training steps and over the held-out batches.
    accuracy
        Fraction of held-out cells classified correctly at probability 1/2.
    recall, precision
        Recall and precision of the anomalous held-out cells at probability 1/2.
    seconds
        Wall time in seconds.
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
    """A network in training, with everything that a checkpoint holds.

    Neither making nor running it changes PyTorch's global random generators.

    Parameters
    ----------
    recipe
        Recipe that makes the batches.
    source, held_out
        Chips for training and chips for validation.
    stem
        Path without suffix under which checkpoint and curves are written.
    seed
        Seed of initial weights and batches. Each epoch seeds its own generator, so that a resumed run is bit-identical
        to an uninterrupted one.
    device
        Device to train on.
    precision
        ``"fp32"`` or ``"bf16"`` (automatic mixed precision).
    init
        Checksum of the initial weights; empty if these are random.
    freeze_encoder
        Whether the encoder, with its batch norms, stays as it is.
    save_every_s
        Minimum time between two checkpoints in seconds; 0 saves after every epoch. The last epoch is always saved.

    Raises
    ------
    OptionError
        The precision is unknown.
    """

    recipe: Recipe
    source: ChipSource
    held_out: ChipSource
    stem: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    init: str = ""
    freeze_encoder: bool = False
    save_every_s: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise OptionError(f"`precision` {self.precision!r}", "is not supported in training", "use fp32 or bf16")
        self.network = initial_network(self.recipe, self.seed).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        schedule = self.recipe.schedule
        self.network.encoder.requires_grad_(not self.freeze_encoder)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        self.steps = schedule.steps or max(1, len(self.source) // schedule.batch_size)
        self.history: list[Epoch] = []

    @property
    def checkpoint(self) -> Path:
        """Path of the file that holds the network, the optimizer and the history between epochs."""
        return self._beside(_CHECKPOINT)

    def _beside(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def run(self, on_step: Callable[[int, int, float], None] | None = None) -> None:
        """Train the remaining epochs.

        Parameters
        ----------
        on_step
            Called with (steps done, total steps, loss) after each step.
        """
        epochs, epochs_done = self.recipe.schedule.epochs, len(self.history)
        if epochs_done >= epochs:
            return
        learning_rate = one_cycle(
            self.optimizer, self.recipe.schedule.learning_rate, epochs * self.steps, steps_done=epochs_done * self.steps
        )
        saved = time.perf_counter()
        for epoch in range(epochs_done, epochs):
            start = time.perf_counter()
            loss = self._train_epoch(epoch, learning_rate, on_step)
            metrics = self.validate()
            self.history.append(Epoch(epoch + 1, loss, *metrics, time.perf_counter() - start))
            log.info("epoch %d/%d: %s", epoch + 1, epochs, self.history[-1])
            if epoch + 1 == epochs or time.perf_counter() - saved >= self.save_every_s:
                self.save()
                saved = time.perf_counter()

    def _train_epoch(
        self, epoch: int, learning_rate: OneCycleLR, on_step: Callable[[int, int, float], None] | None
    ) -> float:
        """Train one epoch, counted from 0, and return its mean loss."""
        generator = Generator(self.device).manual_seed(self.seed * _EPOCH_SEEDS + epoch)
        total = self.steps * self.recipe.schedule.epochs
        losses = 0.0
        self.network.train()
        self.network.encoder.train(not self.freeze_encoder)
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            batch = self.recipe.batch(self.source, generator)
            loss = self.recipe.objective.loss(self._logits(batch), batch)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            learning_rate.step()
            losses += loss.item()
            if on_step:
                on_step(step + 1, total, loss.item())
        return losses / self.steps

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
        """Return loss, accuracy, recall and precision on the held-out pairs, which are the same in every call."""
        losses = 0.0
        true_positives = positives = anomalies = correct = cells = 0.0
        for batch, logits in self._held_out_batches():
            losses += self.recipe.objective.loss(logits, batch).item()
            positive, anomalous, counts = logits < 0, batch.similar <= ANOMALOUS, batch.weight > 0
            true_positives += (positive & anomalous & counts).sum().item()
            positives += (positive & counts).sum().item()
            anomalies += (anomalous & counts).sum().item()
            correct += ((positive == anomalous) & counts).sum().item()
            cells += counts.sum().item()
        recall, precision = true_positives / max(anomalies, 1), true_positives / max(positives, 1)
        return losses / VALIDATION_BATCHES, correct / cells, recall, precision

    @torch.inference_mode()
    def held_out_cells(self) -> HeldOut:
        """Return logits and labels of the held-out cells that count; the pairs are the same in every call."""
        logits, similar = [], []
        for batch, batch_logits in self._held_out_batches():
            counts = batch.weight > 0
            logits.append(batch_logits[counts])
            similar.append(batch.similar[counts])
        return HeldOut(torch.cat(logits), torch.cat(similar))

    def _held_out_batches(self) -> Iterator[tuple[Batch, Tensor]]:
        generator = Generator(self.device).manual_seed(_VALIDATION_SEED)
        self.network.eval()
        for _ in range(VALIDATION_BATCHES):
            batch = self.recipe.batch(self.held_out, generator)
            yield batch, self._logits(batch)

    def save(self) -> None:
        """Write checkpoint and curves, each of them completely or not at all.

        Raises
        ------
        OutputError
            One of them cannot be written.
        """
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        metadata = {
            "run": json.dumps(self._identity()),
            "history": json.dumps([vars(epoch) for epoch in self.history]),
        }
        try:
            with atomic_write(self.checkpoint) as partial:
                save_file(tensors, partial, metadata=metadata)
            save_history(self.history, self._beside(_CURVES))
            save_curves(self.history, self._beside(_PLOT), title=f"recipe {self.recipe.name}")
        except (SafetensorError, OSError) as error:
            fact = f"its checkpoint or curves cannot be written ({error})"
            raise OutputError(self.stem, fact, "free disk space, or choose another folder") from error

    def resume(self) -> bool:
        """Load the checkpoint if there is one; return whether there was.

        Raises
        ------
        WeightsError
            The checkpoint is unreadable, or of a training with other options (recipe, seed, schedule, number of chips).
        """
        if not self.checkpoint.exists():
            return False
        try:
            with safe_open(self.checkpoint, framework="pt", device=self.device) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                self.checkpoint, f"cannot be read ({error})", "delete it to start from scratch"
            ) from error
        if json.loads(metadata.get("run", "{}")) != json.loads(json.dumps(self._identity())):
            raise WeightsError(
                self.checkpoint,
                "belongs to a training with other options",
                "choose another output, or use `restart=True`",
            )
        self._restore(tensors)
        self.history = [Epoch(**row) for row in json.loads(metadata["history"])]
        return True

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        network: dict[str, Tensor] = {}
        optimizer: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            if kind == "network":
                network[name] = value
            else:
                index, name = name.split(".", 1)
                optimizer.setdefault(int(index), {})[name] = value
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": optimizer})

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": repr(self.recipe),
            "seed": self.seed,
            "steps": self.steps,
            "chips": len(self.source),
            "precision": self.precision,
            **({"init": self.init} if self.init else {}),
            **({"freeze_encoder": True} if self.freeze_encoder else {}),
        }


def initial_network(recipe: Recipe, seed: int) -> SiameseNetwork:
    """Return a recipe's network with random weights drawn from a seed; the global generators stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the CUDA devices' generators as well
        return SiameseNetwork(recipe.network)


def initial_model(init: Model, network: NetworkConfig) -> Model:
    """Return initial weights as those of a network that may have more subcells or scales.

    Raises
    ------
    OptionError
        The network differs in more.
    """
    if not can_initialize(init.card.network, network):
        raise OptionError(
            f"`init` {init.source}",
            f"has another network, of stride {init.card.network.window.stride}",
            "set `stride`, `subcells` and `scales` to those of these weights, or use other weights",
        )
    weights = initial_weights(init.network.state_dict(), init.card.network, network)
    card = replace(init.card, network=network)
    return replace(init, network=SiameseNetwork.of_weights(network, weights).eval(), card=card)


@contextlib.contextmanager
def preserved_torch_state() -> Iterator[None]:
    """Restore PyTorch's CPU generator and its number of threads when the context ends, also after an error.

    Making a network draws random weights even if others are then loaded, and scoring sets the number of threads.
    """
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def one_cycle(optimizer: Optimizer, peak: float, steps: int, *, steps_done: int = 0) -> OneCycleLR:
    """Return a one-cycle schedule: cosine from 4 % up to the peak in a quarter of the steps, then down to 0.1 %.

    After Smith and Topin, "Super-Convergence" (2018). Call its ``step`` after each step of the optimizer.

    Parameters
    ----------
    optimizer
        Optimizer whose learning rate the schedule sets.
    peak
        Largest learning rate.
    steps
        Number of steps of the whole training.
    steps_done
        Number of steps done already, from which the schedule continues.
    """
    make = partial(
        OneCycleLR,
        optimizer,
        max_lr=peak,
        total_steps=steps + 1,  # the rate reaches its floor after the last step
        pct_start=(_WARMUP * steps + 1) / (steps + 1),  # so that the peak is at a quarter of the steps
        div_factor=1 / _START,
        final_div_factor=_START / _FLOOR,
        cycle_momentum=False,
    )
    schedule = make()  # stores in the optimizer what a schedule that continues expects there
    return make(last_epoch=steps_done - 1) if steps_done else schedule


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of weights, tensor by tensor, with batch norm's statistics; its counters are those of the first.

    Weights of one lineage, fine-tuned from the same initial weights, lie close enough together for this: the loss does
    not rise on the way from one to the other (Wortsman et al., "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", 2022). The mean of unrelated weights is useless.

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


def save_history(history: Sequence[Epoch], path: Path) -> None:
    """Write the learning curves as CSV, completely or not at all."""
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Epoch.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(vars(epoch) for epoch in history)


def save_curves(history: Sequence[Epoch], path: Path, *, title: str) -> None:
    """Plot losses and held-out metrics by epoch into a PNG, which is written completely or not at all."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, metrics = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    losses.plot(epochs, [epoch.loss for epoch in history], label="training")
    losses.plot(epochs, [epoch.validation_loss for epoch in history], label="held out")
    losses.set(xlabel="epoch", ylabel="binary cross-entropy", yscale="log", title=title)
    for name in ("accuracy", "recall", "precision"):
        metrics.plot(epochs, [getattr(epoch, name) for epoch in history], label=name)
    metrics.set(xlabel="epoch", ylabel="on held-out chips, probability 1/2", ylim=(None, 1.005))
    for axes in (losses, metrics):
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
