"""What a training learns from: the chips, scenes, generated surveys and verdicts that its options name, in shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.training.datasets import load_chips
from geosiam.training.generated import generated_pairs
from geosiam.training.review import reviewed_pairs
from geosiam.training.revisits import own_scenes
from geosiam.training.sources import Mixture

if TYPE_CHECKING:
    from geosiam.network.weights import Model
    from geosiam.training.api import TrainingOptions
    from geosiam.training.sources import ChipSource

    Shares = list[tuple[ChipSource, float]]

_NO_DATA: tuple[None] = (None,)  # CIFAR-10


def gathered(options: TrainingOptions, init: Model | None) -> tuple[ChipSource, ChipSource]:
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
