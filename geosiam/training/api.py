"""``geosiam.train``: train a network and write a weights file with its model card and learning curves."""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam import __version__
from geosiam.errors import OptionError, OutputError, redacted
from geosiam.files import check_writable, file_name, is_file, is_folder
from geosiam.inference.torch_engine import choose_device
from geosiam.network import DEFAULT_MODEL
from geosiam.network.weights import ModelCard, load_model, save_model
from geosiam.targets import refuse_overwriting
from geosiam.training.calibration import apply_temperature, best_threshold, calibration_error, fit_temperature
from geosiam.training.datasets import is_image, load_chips, synthetic_pairs
from geosiam.training.finetune import own_scenes, reviewed_pairs
from geosiam.training.loop import FILES_BESIDE, TrainingRun, averaged, initial_model, preserved_torch_state
from geosiam.training.recipes import FINE_TUNING, Recipe, SurveyRecipe, make_recipe, octaves, with_network
from geosiam.training.sources import Mixture
from geosiam.training.target_recipe import TargetRecipe
from geosiam.training.targets import load_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosiam.network.weights import Model
    from geosiam.training.loop import Epoch
    from geosiam.training.sources import ChipSource, TrainingSources

log = logging.getLogger(__name__)

SYNTHETIC_PAIRS = 160
"""Synthetic pairs in a training of recipe survey."""

SYNTHETIC_PAIRS_TARGET = 60
"""Synthetic pairs in a training of recipe target, where they show what else may change."""

SYNTHETIC_PAIRS_FINE_TUNING = 24
"""Synthetic pairs in a fine-tuning, where they keep the weights from forgetting what they learned before."""

OFF_NADIR_DEG = 10.0
"""Largest off-nadir angle of synthetic flights for several scales: one cannot tell lean from change."""

_CIFAR10: tuple[None] = (None,)  # the data of a training that names none


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training; the defaults suit most trainings.

    Parameters
    ----------
    out
        Weights file to write; checkpoint and learning curves are written beside it, under its stem.
    recipe
        ``"survey"`` (the default model's), ``"target"`` (one kind of object) or ``"paper"`` (the seed paper's).
    anomaly
        Objects that recipe target looks for: folders of crops or specifications, as
        :func:`geosiam.training.targets.load_target` reads them.
    data
        Images to cut chips from, as :func:`geosiam.training.datasets.load_chips` reads them. Several take equal shares.
        Without any, CIFAR-10 is downloaded, unless there are ``scenes`` or a ``review``.
    scenes
        Your own scenes to fine-tune weights on, in order of their dates: chips of them with inserted objects make up
        half of every batch. Two consecutive ones of the same place are used as a pair, and a folder may hold many pairs
        (``A``, ``B``, ``label``), see :mod:`geosiam.training.finetune`.
    review
        GeoPackage of `geosiam detect` with verdicts: rejected polygons become normal pairs, confirmed ones anomalies.
        If its two scenes have been moved, name them in ``scenes``, the earlier first.
    name
        Name of the model; by default the stem of the weights file.
    generated
        Number of synthetic pairs (two dates, known changes) that join the chips; they make up half of every batch, or a
        third with both ``scenes`` and a ``review``. None: 160, 60 for recipe target, 24 with either of these two.
    epochs, steps, learning_rate
        Length of the schedule in epochs and in steps per epoch, and peak of the learning rate; None: those of the
        recipe, or of :data:`~geosiam.training.recipes.FINE_TUNING` with ``scenes`` or ``review``. With 0 epochs the
        initial weights are only calibrated, as those of one scale are when they are used at several.
    stride
        Stride of the encoder in pixels, 8 or 4; None: that of ``init``, else the recipe's.
    subcells
        Scores per feature along each side: 2 halves the size of a cell at almost no cost; None: as for ``stride``.
    scales
        Number of scales of the image that the network sees, each half as fine as the one before: more than one let it
        see further and make it symmetric; None: as for ``stride``, else 1.
    least_cover
        Minimum share of a cell's own pixels that are anomalous for the cell to be labeled anomalous, all or nothing: a
        larger value gives tighter outlines, and loses more of the small objects. None: 0.5, and 0.125 for cells of 8 px
        and more; cells of 2 px are labeled with the share itself.
    init
        Initial weights, a name or a file; their network must be the recipe's, or have fewer subcells or one scale.
        None: random ones, or the default model for recipe target and with ``scenes`` or ``review``.
    freeze_encoder
        Train the discriminators only: faster, and what the encoder of ``init`` tells apart is not unlearned.
    average
        Weights of the same network, names or files, that are averaged with the trained ones at the end. They should be
        of the same lineage, as those of ``init`` are (see :func:`geosiam.training.loop.averaged`).
    seed, precision
        Seed and arithmetic of the training, see :class:`geosiam.training.loop.TrainingRun`.
    device
        Where to train: ``"auto"`` (a CUDA device if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    restart
        Start from scratch, even if there is a checkpoint.
    license
        License of the weights, for the model card.

    Raises
    ------
    OptionError
        A value is out of range, or does not fit the recipe.
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
    scales: int | None = None
    least_cover: float | None = None
    init: str | None = None
    freeze_encoder: bool = False
    average: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    restart: bool = False
    license: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0 if self.initial_weights else 1), ("steps", 1), ("scales", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"`{name}={value}`", "is too few", f"use {least} or more")
        if self.least_cover is not None and not 0 < self.least_cover <= 1:
            raise OptionError(f"`least_cover={self.least_cover}`", "is not a fraction", "use more than 0, up to 1")
        if self.freeze_encoder and not self.initial_weights:
            raise OptionError("`freeze_encoder`", "would keep random weights", "set `init`")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise OptionError(f"`learning_rate={self.learning_rate}`", "is not positive", "use about 0.001")
        if self.generated is not None and self.generated < 0:
            raise OptionError(f"`generated={self.generated}`", "is negative", "use 0 for none")
        self._check_recipe()

    def _check_recipe(self) -> None:
        """Refuse options that the recipe does not use, and a recipe without what it needs."""
        if self.scenes and self.recipe == "paper":
            raise OptionError("`recipe=paper`", "does not use `scenes`", "use `data`, or `recipe=survey`")
        for name, recipe in (("review", "survey"), ("anomaly", "target")):
            if getattr(self, name) and self.recipe != recipe:
                raise OptionError(f"`recipe={self.recipe}`", f"does not use `{name}`", f"use `recipe={recipe}`")
        if self.recipe == "target" and not self.anomaly:
            raise OptionError(
                "`recipe=target`", "has nothing to look for", "set `anomaly` to a folder of crops or a specification"
            )

    @property
    def fine_tuning(self) -> bool:
        """Whether existing weights are fine-tuned on the user's own scenes or verdicts."""
        return bool(self.scenes or self.review)

    @property
    def initial_weights(self) -> str | None:
        """Name or file of the initial weights; None: random ones."""
        return self.init or (DEFAULT_MODEL if self.fine_tuning or self.recipe == "target" else None)

    @property
    def synthetic_pairs(self) -> int:
        """Number of synthetic pairs."""
        if self.recipe == "paper":
            return 0
        if self.generated is not None:
            return self.generated
        if self.fine_tuning:
            return SYNTHETIC_PAIRS_FINE_TUNING
        return SYNTHETIC_PAIRS_TARGET if self.recipe == "target" else SYNTHETIC_PAIRS

    @property
    def command(self) -> str:
        """The shell command that repeats this training, for the model card; files are named without their folders."""
        words = ["geosiam", "train", "--recipe", self.recipe]
        words += [word for text in self.anomaly for word in ("--anomaly", anomaly_label(text))]
        words += _repeated("--data", self.data) + _repeated("--scenes", self.scenes)
        words += ["--review", Path(self.review).name] if self.review else []
        words += ["--seed", str(self.seed), "--precision", self.precision]
        words += ["--generated", str(self.synthetic_pairs)] if self.recipe != "paper" else []
        words += ["--init", Path(self.initial_weights).name] if self.initial_weights else []
        words += ["--freeze-encoder"] if self.freeze_encoder else []
        words += _repeated("--average", self.average)
        for option in ("stride", "subcells", "scales", "least_cover", "epochs", "steps", "learning_rate"):
            if getattr(self, option) is not None:
                words += [f"--{option.replace('_', '-')}", str(getattr(self, option))]
        return shlex.join([*words, "--output", self.out.name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return redacted(values | {"out": str(self.out)})


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Parameters
    ----------
    weights
        The weights file.
    card
        Its model card.
    history
        Losses and metrics of each epoch.
    """

    weights: Path
    card: ModelCard
    history: tuple[Epoch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        history = [asdict(epoch) for epoch in self.history]
        return {"weights": str(self.weights), "card": self.card.to_dict(), "history": history}


def train(
    options: TrainingOptions,
    on_step: Callable[[int, int, float], None] | None = None,
    recipe: Recipe | None = None,
) -> TrainingResult:
    """Train a network and write its weights; an interrupted training resumes from its last checkpoint.

    Random generators and the number of threads of the calling process are left as they were.

    Parameters
    ----------
    options
        See :class:`TrainingOptions`.
    on_step
        Called with (steps done, total steps, loss) after each step.
    recipe
        Custom recipe to use instead of the one that the options name; the command in the card does not mention it.
    """
    _check_output(options)
    with preserved_torch_state():
        init = load_model(options.initial_weights) if options.initial_weights else None
        recipe = recipe or _recipe(options, init)
        init = init and initial_model(init, recipe.network)
        models = [_load_for_averaging(name, recipe) for name in options.average]
        chips, held_out = build_sources(options, init)
        run = TrainingRun(
            recipe,
            chips,
            held_out,
            options.out.with_suffix(""),
            options.seed,
            str(choose_device(options.device)),
            options.precision,
            init=init.card.checksum if init else "",
            freeze_encoder=options.freeze_encoder,
        )
        if init is not None:
            run.network.load_state_dict(init.network.state_dict())
        if not options.restart and run.resume():
            log.info("continuing after epoch %d", len(run.history))
        run.run(on_step)
        if models:
            states = [run.network.state_dict(), *(model.network.state_dict() for model in models)]
            run.network.load_state_dict(averaged(states))
        card = _calibrate(run, options)
        return TrainingResult(options.out, save_model(run.network, card, options.out), tuple(run.history))


def build_sources(options: TrainingOptions, init: Model | None) -> TrainingSources:
    """Return the chips for training and the held-out ones.

    Synthetic pairs take as large a share of a batch as all data together. The user's own scenes take as much as both of
    these, and so do verdicts.

    Parameters
    ----------
    options
        Options of the training.
    init
        Initial weights of the recipe's network; their scores show what may have changed in own scenes that make a pair.
    """
    train: list[tuple[ChipSource, float]] = []
    held_out: list[tuple[ChipSource, float]] = []

    def add(sources: TrainingSources, share: float) -> None:
        train.append((sources[0], share))
        held_out.append((sources[1], share))

    data = options.data or (() if options.fine_tuning else _CIFAR10)
    for path in data:
        add(load_chips(path), 1 / len(data))
    if options.synthetic_pairs:
        off_nadir = OFF_NADIR_DEG if init is not None and len(init.card.network.scales) > 1 else 0.0
        add(synthetic_pairs(options.synthetic_pairs, options.seed, max_off_nadir=off_nadir), 1.0)
    share = sum(share for _, share in train) or 1.0
    scenes = _own_scenes(options, init)
    for sources in scenes:
        add(sources, share / len(scenes))
    if options.review:
        verdicts = reviewed_pairs(options.review, options.scenes)
        add((verdicts, verdicts), share)  # too few to hold any out
    if len(train) == 1:
        return train[0][0], held_out[0][0]
    return Mixture(train), Mixture(held_out)


def data_description(options: TrainingOptions) -> str:
    """Describe the training data for the model card; files are named without their folders."""
    sources = [file_name(path) for path in (*options.data, *options.scenes)]
    sources = sources or ([] if options.fine_tuning else ["CIFAR-10"])
    if options.synthetic_pairs:
        sources.append(f"{options.synthetic_pairs} synthetic pairs")
    if options.review:
        sources.append(f"verdicts in {Path(options.review).name}")
    sources += [f"anomaly {anomaly_label(text)}" for text in options.anomaly]
    return ", ".join(sources)


def anomaly_label(text: str) -> str:
    """Return the name of an anomaly in a model card: its specification, or the name of its folder of crops."""
    return Path(text).name if is_folder(text) else text


def _repeated(option: str, paths: tuple[str, ...]) -> list[str]:
    return [word for path in paths for word in (option, file_name(path))]


def _check_output(options: TrainingOptions) -> None:
    """Refuse weights that cannot be written, or that are a file of what the training reads; make their folder."""
    _make_folder(options.out)
    check_writable(options.out)
    beside = [options.out.with_name(f"{options.out.stem}{suffix}") for suffix in FILES_BESIDE]
    named = (*options.data, *options.anomaly, options.review, options.initial_weights, *options.average)
    files = [name for name in named if name is not None and is_file(name)]
    folders = [Path(name) for name in (*named, *options.scenes) if name is not None and is_folder(name)]
    if is_image(options.out):
        files += [str(file) for folder in folders for file in folder.rglob(f"*{options.out.suffix}")]
    refuse_overwriting([options.out, *beside], options.scenes, files)


def _make_folder(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(out, f"its folder cannot be created ({error.strerror})", "choose another output") from error


def _own_scenes(options: TrainingOptions, init: Model | None) -> list[TrainingSources]:
    """Return the user's scenes as sources: as pairs, unless there are verdicts on what has changed between them."""
    if init is None or options.review:
        return [load_chips(path) for path in options.scenes]
    return own_scenes(options.scenes, init)


def _recipe(options: TrainingOptions, init: Model | None) -> Recipe:
    """Return the recipe that the options name, with their network and schedule."""
    stride, subcells, scales = options.stride, options.subcells, octaves(options.scales or 0)
    if init is not None:
        stride = stride or init.card.network.window.stride
        subcells = subcells or init.card.network.subcells
        scales = scales or init.card.network.scales
    if options.recipe == "target":
        targets = tuple(load_target(text) for text in options.anomaly)
        recipe = with_network(TargetRecipe(targets), stride=stride, subcells=subcells, scales=scales or (1,))
    else:
        recipe = make_recipe(options.recipe, stride=stride, subcells=subcells, scales=scales or (1,))
    if isinstance(recipe, SurveyRecipe | TargetRecipe) and options.least_cover is not None:
        recipe = replace(recipe, least_cover=options.least_cover)
    schedule = recipe.schedule
    if options.fine_tuning:
        schedule = replace(FINE_TUNING, batch_size=schedule.batch_size)
    schedule = replace(
        schedule,
        epochs=schedule.epochs if options.epochs is None else options.epochs,
        steps=options.steps or schedule.steps,
        learning_rate=options.learning_rate or schedule.learning_rate,
    )
    return replace(recipe, schedule=schedule)  # type: ignore[type-var]  # recipes are dataclasses


def _load_for_averaging(name: str, recipe: Recipe) -> Model:
    model = load_model(name)
    if model.card.network != recipe.network:
        raise OptionError(
            f"`average` {model.source}",
            "has another network",
            "name weights of the same `stride`, `subcells` and `scales`",
        )
    return model


def _calibrate(run: TrainingRun, options: TrainingOptions) -> ModelCard:
    """Calibrate the trained network and return its card."""
    if run.history and not options.average:
        last = run.history[-1]
        metrics = last.validation_loss, last.accuracy, last.recall, last.precision
    else:  # the history is not of these weights
        metrics = run.validate()
    raw = run.held_out_cells()
    temperature = fit_temperature(raw)
    calibrated = raw.at(temperature)
    apply_temperature(run.network, temperature)
    return ModelCard(
        name=options.name or options.out.stem,
        recipe=run.recipe.name,
        summary=run.recipe.summary,
        network=run.recipe.network,
        data=data_description(options),
        seed=options.seed,
        epochs=len(run.history),
        threshold=round(best_threshold(calibrated), 3),
        temperature=round(temperature, 4),
        metrics={
            **dict(
                zip(
                    ("held-out loss", "held-out accuracy", "held-out recall", "held-out precision"),
                    metrics,
                    strict=True,
                )
            ),
            "held-out calibration error": calibration_error(calibrated),
            "held-out calibration error before": calibration_error(raw),
        },
        license=options.license,
        command=options.command,
        version=__version__,
    )
