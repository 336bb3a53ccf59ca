"""`train`: from a few options to a weights file with its card and learning curves."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam import __version__
from geosiam.detection.hardware import choose_device
from geosiam.errors import OptionError, OutputError
from geosiam.network.siamese import can_grow, grown
from geosiam.network.weights import ModelCard, load_model, save_model
from geosiam.training.calibration import calibration_error, cool, fit_temperature
from geosiam.training.datasets import load_chips
from geosiam.training.generated import generated_pairs
from geosiam.training.loop import TrainingRun, best_threshold
from geosiam.training.recipes import LEAST_COVER, Recipe, SurveyRecipe, make_recipe
from geosiam.training.sources import ChipSource, Mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosiam.training.loop import Epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """What `geosiam train` can be told.

    Parameters
    ----------
    recipe
        ``"survey"`` (the default model's) or ``"paper"`` (the seed's).
    data
        Images to cut chips from, as :func:`geosiam.training.datasets.load_chips` reads them; none: CIFAR-10, fetched
        from its authors. Several take equal shares.
    out
        Weights file to write; checkpoint and learning curves go beside it, under its stem.
    name
        Name of the model; by default the weights file's stem.
    generated
        Number of generated surveys (two dates, known changes) that join the survey recipe's chips; they take half of
        every batch.
    epochs, steps
        Length of the schedule where it should differ from the recipe's.
    stride
        8, or 4 for finer outlines.
    subcells
        Scores along each side of a stride: 2 halves the size of a cell at next to no cost.
    least_cover
        Share of a cell's own pixels from which on it is labelled anomalous (recipe survey): the larger, the tighter
        the outlines, and the larger the smallest object that has any cell.
    init
        Weights to begin with, a name or a file, instead of random ones; their network must be the recipe's.
    seed, precision
        As in :class:`geosiam.training.loop.TrainingRun`.
    device
        ``"auto"`` (a CUDA device if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    restart
        Start anew although there is a checkpoint.
    licence
        Under which the weights may be used; goes into the card.
    """

    out: Path
    recipe: str = "survey"
    data: tuple[str, ...] = ()
    name: str | None = None
    generated: int = 96
    epochs: int | None = None
    steps: int | None = None
    stride: int = 8
    subcells: int = 1
    least_cover: float = LEAST_COVER
    init: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    restart: bool = False
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} {value}", "is too few", "use 1 or more")
        if not 0 < self.least_cover <= 1:
            raise OptionError(f"least cover {self.least_cover}", "is no share", "use more than 0 and at most 1")
        if self.generated < 0:
            raise OptionError(f"generated {self.generated}", "is negative", "use 0 for none")

    @property
    def command(self) -> str:
        """The command line that repeats this training; data are named without their folders."""
        words = ["geosiam", "train", "--recipe", self.recipe]
        for path in self.data:
            words += ["--data", Path(path).name]
        words += ["--seed", str(self.seed), "--stride", str(self.stride), "--precision", self.precision]
        if self.recipe == "survey":
            words += ["--generated", str(self.generated)]
            words += ["--least-cover", str(self.least_cover)] if self.least_cover != LEAST_COVER else []
        words += ["--subcells", str(self.subcells)] if self.subcells != 1 else []
        words += ["--init", Path(self.init).name] if self.init else []
        for option in ("epochs", "steps"):
            if getattr(self, option) is not None:
                words += [f"--{option}", str(getattr(self, option))]
        return shlex.join([*words, "--output", self.out.name])


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind: the weights file, its card, and what each epoch gave."""

    weights: Path
    card: ModelCard
    history: tuple[Epoch, ...]


def train(options: TrainingOptions, on_step: Callable[[int, int, float], None] | None = None) -> TrainingResult:
    """Train a recipe; an interrupted training goes on from its last epoch when called again.

    Parameters
    ----------
    options
        See :class:`TrainingOptions`.
    on_step
        Called with (steps done, steps in all, loss) after each step.
    """
    recipe = _recipe(options)
    chips, held_out = _sources(options)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(options.out, f"cannot be made ({error.strerror})", "choose another --output") from error
    device = str(choose_device(options.device))
    run = TrainingRun(recipe, chips, held_out, options.out.with_suffix(""), options.seed, device, options.precision)
    if options.init:
        _begin_with(run, options.init)
    if not options.restart and run.resume():
        log.info("continuing after epoch %d", len(run.history))
    run.run(on_step)
    return _finish(run, options)


def _begin_with(run: TrainingRun, name: str) -> None:
    model = load_model(name)
    if not can_grow(model.card.network, run.recipe.network):
        raise OptionError(
            f"init {name}",
            f"has another network, of stride {model.card.stride}",
            "choose its --stride, or other weights",
        )
    run.network.load_state_dict(grown(model.network.state_dict(), model.card.network, run.recipe.network))
    run.init = model.card.checksum


def _recipe(options: TrainingOptions) -> Recipe:
    recipe = make_recipe(options.recipe, stride=options.stride, subcells=options.subcells)
    if isinstance(recipe, SurveyRecipe):
        recipe = replace(recipe, least_cover=options.least_cover)
    schedule = replace(
        recipe.schedule,
        epochs=options.epochs or recipe.schedule.epochs,
        steps=options.steps or recipe.schedule.steps,
    )
    return replace(recipe, schedule=schedule)  # type: ignore[type-var]  # recipes are dataclasses


def _sources(options: TrainingOptions) -> tuple[ChipSource, ChipSource]:
    loaded = [load_chips(path) for path in options.data or (None,)]
    if options.recipe == "survey" and options.generated:
        pairs, held_out = generated_pairs(options.generated, options.seed)
        share = float(len(loaded))
        return (
            Mixture([*((chips, 1.0) for chips, _ in loaded), (pairs, share)]),
            Mixture([*((chips, 1.0) for _, chips in loaded), (held_out, share)]),
        )
    if len(loaded) == 1:
        return loaded[0]
    return Mixture([(chips, 1.0) for chips, _ in loaded]), Mixture([(chips, 1.0) for _, chips in loaded])


def _finish(run: TrainingRun, options: TrainingOptions) -> TrainingResult:
    name = options.name or options.out.stem
    last = run.history[-1]
    raw = run.held_out_cells()
    temperature = fit_temperature(raw)
    held_out = raw.at(temperature)
    cool(run.network, temperature)
    data = [Path(path).name for path in options.data] or ["CIFAR-10"]
    if options.recipe == "survey" and options.generated:
        data.append(f"{options.generated} generated surveys")
    card = ModelCard(
        name=name,
        recipe=run.recipe.name,
        summary=run.recipe.summary,
        network=run.recipe.network,
        data=", ".join(data),
        seed=options.seed,
        epochs=len(run.history),
        threshold=round(best_threshold(held_out), 3),
        temperature=round(temperature, 4),
        metrics={
            "held-out loss": last.validation_loss,
            "held-out accuracy": last.accuracy,
            "held-out recall": last.recall,
            "held-out precision": last.precision,
            "held-out calibration error": calibration_error(held_out),
            "held-out calibration error before": calibration_error(raw),
        },
        licence=options.licence,
        command=options.command,
        version=__version__,
    )
    return TrainingResult(options.out, save_model(run.network, card, options.out), tuple(run.history))
