"""Learning curves as a picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.training.loop import Epoch


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
