"""`train`: from a few options to a weights file with its card and learning curves."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam import __version__
from geosiam.errors import OptionError, OutputError
from geosiam.inference.device import choose_device
from geosiam.network.default import DEFAULT_MODEL
from geosiam.network.siamese import can_expand_subcells, expand_subcells
from geosiam.network.weights import ModelCard, load_model, save_model
from geosiam.training.calibration import apply_temperature, calibration_error, fit_temperature
from geosiam.training.datasets import FEW, GENERATED, SOME, generated_pairs, load_chips
from geosiam.training.finetune import own_scenes, reviewed_pairs
from geosiam.training.loop import TrainingRun, averaged, best_threshold
from geosiam.training.recipes import FINE_TUNING, Recipe, SurveyRecipe, make_recipe, with_network
from geosiam.training.sources import Mixture
from geosiam.training.target_recipe import TargetRecipe
from geosiam.training.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosiam.network.weights import Model
    from geosiam.training.loop import Epoch
    from geosiam.training.sources import ChipSource

    Shares = list[tuple[ChipSource, float]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """What `geosiam train` can be told.

    Parameters
    ----------
    recipe
        ``"survey"`` (the default model's), ``"target"`` (one kind of thing) or ``"paper"`` (the seed's).
    anomaly
        What recipe target is to find: folders of crops or specifications, as
        :func:`geosiam.training.targets.load_target` reads them.
    data
        Images to cut chips from, as :func:`geosiam.training.datasets.load_chips` reads them; none: CIFAR-10, fetched
        from its authors, unless there are ``scenes`` or a ``review``. Several take equal shares.
    out
        Weights file to write; checkpoint and learning curves go beside it, under its stem.
    name
        Name of the model; by default the weights file's stem.
    generated
        Number of generated surveys (two dates, known changes) that join the survey recipe's chips; they take half of
        every batch, or a third with both ``scenes`` and a ``review``. None: 160, 60 for recipe target, 24 with either.
    scenes
        The user's own scenes, to fine-tune weights on, in order of their dates: chips of them with inserted objects,
        half of every batch. Two that follow one another and show one place are learnt from as a pair, see
        :mod:`geosiam.training.finetune`.
    review
        GeoPackage of `geosiam detect` with verdicts: rejected polygons become normal pairs, confirmed ones anomalies.
        Its two scenes may be named by ``scenes``, the earlier first, where they are no longer where they were.
    epochs, steps, learning_rate
        Length of the schedule, and peak of its learning rate, where they should differ from the recipe's, or from
        :data:`FINE_TUNING` with ``scenes`` or ``review``.
    stride
        Pixels that a feature of the encoder stands for, 8 or 4; None: those of ``init``, else the recipe's.
    subcells
        Scores along each side of a stride: 2 halves the size of a cell at next to no cost; None: as for ``stride``.
    least_cover
        Share of a cell's own pixels from which on it is labelled anomalous, all or nothing: the larger, the tighter
        the outlines, and the larger the smallest object that has any cell. None: 0.5, and 0.125 for cells of 8 px and
        more; cells of 2 px are labelled by how much of them is anomalous.
    init
        Weights to begin with, a name or a file, instead of random ones; their network must be the recipe's, or have
        fewer subcells. None: random ones, or the default model for recipe target and with ``scenes`` or ``review``.
    average
        Weights of the same network, names or files: in the end the mean of these and of the trained ones is taken. They
        should be of one line, as those of ``init`` are (see :func:`geosiam.training.loop.averaged`).
    seed, precision
        As in :class:`geosiam.training.loop.TrainingRun`.
    device
        ``"auto"`` (a CUDA device if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    restart
        Start anew although there is a checkpoint.
    license
        Under which the weights may be used; goes into the card.
    """

    out: Path
    recipe: str = "survey"
    anomaly: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    review: str | None = None
    name: str | None = None
    generated: int | None = None
    epochs: int | None = None
    steps: int | None = None
    learning_rate: float | None = None
    stride: int | None = None
    subcells: int | None = None
    least_cover: float | None = None
    init: str | None = None
    average: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    restart: bool = False
    license: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} {value}", "is too few", "use 1 or more")
        if self.least_cover is not None and not 0 < self.least_cover <= 1:
            raise OptionError(f"least cover {self.least_cover}", "is no share", "use more than 0 and at most 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise OptionError(f"learning rate {self.learning_rate}", "is not positive", "use about 0.001")
        if self.generated is not None and self.generated < 0:
            raise OptionError(f"generated {self.generated}", "is negative", "use 0 for none")
        if self.scenes and self.recipe == "paper":
            raise OptionError(f"recipe {self.recipe}", "takes no scenes", "use --data, or --recipe survey")
        if self.review and self.recipe != "survey":
            raise OptionError(f"recipe {self.recipe}", "takes no review", "use --recipe survey")
        if self.anomaly and self.recipe != "target":
            raise OptionError(f"recipe {self.recipe}", "takes no anomaly", "pass --recipe target")
        if self.recipe == "target" and not self.anomaly:
            raise OptionError(
                "recipe target", "has nothing to find", "pass --anomaly, a folder of crops or a specification"
            )

    @property
    def fine_tuning(self) -> bool:
        """Whether weights are fitted to someone's own scenes."""
        return bool(self.scenes or self.review)

    @property
    def begin_with(self) -> str | None:
        """Name of the weights to begin with."""
        return self.init or (DEFAULT_MODEL if self.fine_tuning or self.recipe == "target" else None)

    @property
    def surveys(self) -> int:
        """Number of generated surveys that take part."""
        if self.recipe == "paper":
            return 0
        if self.generated is not None:
            return self.generated
        if self.fine_tuning:
            return FEW
        return SOME if self.recipe == "target" else GENERATED

    @property
    def command(self) -> str:
        """The command line that repeats this training; data are named without their folders."""
        words = ["geosiam", "train", "--recipe", self.recipe]
        words += [word for text in self.anomaly for word in ("--anomaly", named_anomaly(text))]
        words += _repeated("--data", self.data) + _repeated("--scenes", self.scenes)
        words += ["--review", Path(self.review).name] if self.review else []
        words += ["--seed", str(self.seed), "--precision", self.precision]
        words += ["--generated", str(self.surveys)] if self.recipe != "paper" else []
        words += ["--init", Path(self.begin_with).name] if self.begin_with else []
        words += _repeated("--average", self.average)
        for option in ("stride", "subcells", "least_cover", "epochs", "steps", "learning_rate"):
            if getattr(self, option) is not None:
                words += [f"--{option.replace('_', '-')}", str(getattr(self, option))]
        return shlex.join([*words, "--output", self.out.name])


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind: the weights file, its card, and what each epoch gave."""

    weights: Path
    card: ModelCard
    history: tuple[Epoch, ...]


def _repeated(option: str, paths: tuple[str, ...]) -> list[str]:
    return [word for path in paths for word in (option, Path(path).name)]


def train(
    options: TrainingOptions,
    on_step: Callable[[int, int, float], None] | None = None,
    recipe: Recipe | None = None,
) -> TrainingResult:
    """Train a recipe; an interrupted training goes on from its last epoch when called again.

    Parameters
    ----------
    options
        See :class:`TrainingOptions`.
    on_step
        Called with (steps done, steps in all, loss) after each step.
    recipe
        A recipe of one's own, instead of the one that the options name; the card's command does not know of it.
    """
    init = load_model(options.begin_with) if options.begin_with else None
    recipe = recipe or _recipe(options, init)
    others = [_of_network(recipe, name) for name in options.average]
    chips, held_out = build_sources(options, init)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(options.out, f"cannot be made ({error.strerror})", "choose another --output") from error
    device = str(choose_device(options.device))
    run = TrainingRun(recipe, chips, held_out, options.out.with_suffix(""), options.seed, device, options.precision)
    if init is not None:
        _begin_with(run, init)
    if not options.restart and run.resume():
        log.info("continuing after epoch %d", len(run.history))
    run.run(on_step)
    if others:
        states = [run.network.state_dict(), *(other.network.state_dict() for other in others)]
        run.network.load_state_dict(averaged(states))
    return _finish(run, options)


def _of_network(recipe: Recipe, name: str) -> Model:
    """Load weights that can be averaged with those of a recipe."""
    model = load_model(name)
    if model.card.network != recipe.network:
        raise OptionError(
            f"average {model.source}", "has another network", "name weights of the same --stride and --subcells"
        )
    return model


def _begin_with(run: TrainingRun, model: Model) -> None:
    if not can_expand_subcells(model.card.network, run.recipe.network):
        raise OptionError(
            f"init {model.source}",
            f"has another network, of stride {model.card.network.window.stride}",
            "choose its --stride and --subcells, or other weights",
        )
    run.network.load_state_dict(expand_subcells(model.network.state_dict(), model.card.network, run.recipe.network))
    run.init = model.card.checksum


def _recipe(options: TrainingOptions, init: Model | None) -> Recipe:
    stride, subcells = options.stride, options.subcells
    if init is not None:
        stride = stride or init.card.network.window.stride
        subcells = subcells or init.card.network.subcells
    if options.recipe == "target":
        targets = tuple(load_target(text) for text in options.anomaly)
        recipe = with_network(TargetRecipe(targets), stride=stride, subcells=subcells)
    else:
        recipe = make_recipe(options.recipe, stride=stride, subcells=subcells)
    if isinstance(recipe, SurveyRecipe | TargetRecipe) and options.least_cover is not None:
        recipe = replace(recipe, least_cover=options.least_cover)
    schedule = FINE_TUNING if options.fine_tuning else recipe.schedule
    schedule = replace(
        schedule,
        epochs=options.epochs or schedule.epochs,
        steps=options.steps or schedule.steps,
        learning_rate=options.learning_rate or schedule.learning_rate,
    )
    return replace(recipe, schedule=schedule)  # type: ignore[type-var]  # recipes are dataclasses


def _finish(run: TrainingRun, options: TrainingOptions) -> TrainingResult:
    name = options.name or options.out.stem
    last = run.history[-1]
    if options.average:  # it was of the trained weights alone
        loss, accuracy, recall, precision = run.validate()
        last = replace(last, validation_loss=loss, accuracy=accuracy, recall=recall, precision=precision)
    raw = run.held_out_cells()
    temperature = fit_temperature(raw)
    held_out = raw.at(temperature)
    apply_temperature(run.network, temperature)
    card = ModelCard(
        name=name,
        recipe=run.recipe.name,
        summary=run.recipe.summary,
        network=run.recipe.network,
        data=", ".join(ingredients(options)),
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
        license=options.license,
        command=options.command,
        version=__version__,
    )
    return TrainingResult(options.out, save_model(run.network, card, options.out), tuple(run.history))


_NO_DATA: tuple[None] = (None,)  # CIFAR-10


def build_sources(options: TrainingOptions, init: Model | None) -> tuple[ChipSource, ChipSource]:
    """Return the chips to learn from and the held-out ones.

    Generated surveys take as much of a batch as all data together; the user's own scenes take as much as both, and so
    do verdicts. `init`, what the learning begins with, says what may have changed in scenes that make a pair.
    """
    learn: Shares = []
    held_out: Shares = []

    def add(source: tuple[ChipSource, ChipSource], share: float) -> None:
        learn.append((source[0], share))
        held_out.append((source[1], share))

    data = options.data or (() if options.fine_tuning else _NO_DATA)
    for path in data:
        add(load_chips(path), 1 / len(data))
    if options.surveys:
        add(generated_pairs(options.surveys, options.seed), 1.0)
    rest = sum(share for _, share in learn) or 1.0
    for source in (own := _own_scenes(options, init)):
        add(source, rest / len(own))
    if options.review:
        verdicts = reviewed_pairs(options.review, options.scenes)
        add((verdicts, verdicts), rest)  # too few to hold any out
    if len(learn) == 1:
        return learn[0][0], held_out[0][0]
    return Mixture(learn), Mixture(held_out)


def _own_scenes(options: TrainingOptions, init: Model | None) -> list[tuple[ChipSource, ChipSource]]:
    """Return the user's scenes as sources: as pairs, unless verdicts say what has changed between them."""
    if init is None or options.review:
        return [load_chips(path) for path in options.scenes]
    return own_scenes(options.scenes, init)


def ingredients(options: TrainingOptions) -> list[str]:
    """Return what the weights were learnt from, for their card; files are named without their folders."""
    named = [Path(path).name for path in (*options.data, *options.scenes)]
    named = named or ([] if options.fine_tuning else ["CIFAR-10"])
    if options.surveys:
        named.append(f"{options.surveys} generated surveys")
    if options.review:
        named.append(f"verdicts in {Path(options.review).name}")
    named += [f"anomaly {named_anomaly(text)}" for text in options.anomaly]
    return named


def named_anomaly(text: str) -> str:
    """Return how a card names an ``--anomaly``: its specification, or its folder without those above."""
    return Path(text).name if Path(text).is_dir() else text
