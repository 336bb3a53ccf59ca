"""Figure 4: learning curves of the anomaly network on CIFAR-10, and when it converges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from geosiam.paper.chips import anomaly_recipe, cifar_file, load_cifar, pair_accuracy, train_anomalies
from geosiam.paper.results import Finding, Picture, Result, Table, spread
from geosiam.paper.workbench import save_figure

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.paper.workbench import Workbench
    from geosiam.training.loop import Epoch

NAME = "fig4"
USES_WEIGHTS = False
SHORT = 5  # epochs after which the paper's curves have settled
CONVERGED = 0.995
_BATCHES = 40
_TRAIN_SEED, _TEST_SEED = 40_000, 40_001


def inputs(bench: Workbench) -> list[Path]:
    """Return the data files that the result depends on."""
    return [cifar_file(bench)]


def run(bench: Workbench) -> Result:
    """Train with a long and a short schedule, and determine when each converges."""
    train, test = load_cifar(bench)
    runs: dict[int, list[dict[str, Any]]] = {}
    histories: dict[int, list[tuple[Epoch, ...]]] = {}
    for epochs in dict.fromkeys(recipe.schedule.epochs for recipe in (anomaly_recipe(bench), _short(bench))):
        recipe = anomaly_recipe(bench, epochs)
        for seed in bench.seeds:
            trained = train_anomalies(bench, recipe, seed)
            histories.setdefault(epochs, []).append(tuple(trained.history))
            runs.setdefault(epochs, []).append({
                "train_accuracy": pair_accuracy(trained, train, _BATCHES, _TRAIN_SEED),
                "test_accuracy": pair_accuracy(trained, test, _BATCHES, _TEST_SEED),
                "settled_at": converged_at([epoch.accuracy for epoch in trained.history]),
                "history": [vars(epoch) for epoch in trained.history],
            })  # fmt: skip
    picture = bench.path("fig4.png")
    _draw(histories, picture)
    return Result(
        name=NAME,
        title="Figure 4: learning curves",
        setup=_setup(bench, len(train), runs),
        findings=_findings(runs),
        tables=(_table(runs),),
        pictures=(Picture(picture.name, "Cross-entropy of training pairs and unseen pairs, and accuracy on unseen."),),
        notes=(
            (
                "Learning rates follow one cycle over the whole schedule, so a short schedule is not the beginning of "
                "a long one: the latter is still at its highest rate after a quarter of its epochs."
            ),
        ),
        numbers={f"{epochs} epochs": rows for epochs, rows in runs.items()},
    )


def converged_at(accuracy: list[float], level: float = CONVERGED) -> int | None:
    """Return the first epoch, from 1, after which the accuracy stays at or above a level; None if it never does."""
    below = [epoch for epoch, value in enumerate(accuracy, start=1) if value < level]
    first = max(below, default=0) + 1
    return first if first <= len(accuracy) else None


def _short(bench: Workbench) -> Any:  # noqa: ANN401
    return anomaly_recipe(bench, SHORT)


def _setup(bench: Workbench, chips: int, runs: dict[int, list[dict[str, Any]]]) -> str:
    recipe = anomaly_recipe(bench)
    layers = " - ".join(f"conv{c.kernel}/{c.stride} {c.width}" for c in recipe.network.convolutions)
    schedules = " and ".join(f"{epochs}" for epochs in runs)
    return (
        f"Two random chips of CIFAR-10 ({chips:,} training images), a blue rectangle of 1-99 % area and aspect "
        f"0.5-1.5 in each at even odds, similar = same state; schedules of {schedules} epochs, {len(bench.seeds)} "
        f"seeds. Encoder `{layers}`, receptive field {recipe.network.receptive_field.size} px. Accuracy is on "
        f"{_BATCHES * recipe.schedule.batch_size:,} pairs of training and of test images."
    )


def _table(runs: dict[int, list[dict[str, Any]]]) -> Table:
    rows = []
    for epochs, seeds in runs.items():
        epochs_to_converge = [str(row["settled_at"] or "never") for row in seeds]
        rows.append((
            f"{epochs} epochs",
            spread((row["train_accuracy"] for row in seeds), 2, percent=True),
            spread((row["test_accuracy"] for row in seeds), 2, percent=True),
            ", ".join(epochs_to_converge),
        ))  # fmt: skip
    columns = (
        "schedule",
        "training pairs correct",
        "unseen pairs correct",
        f"stays ≥ {CONVERGED:.1%} from epoch, by seed",
    )
    return Table("Convergence", columns, tuple(rows))


def _findings(runs: dict[int, list[dict[str, Any]]]) -> tuple[Finding, ...]:
    longest, shortest = max(runs), min(runs)
    late = [row["settled_at"] for row in runs[longest]]
    short = [row["test_accuracy"] for row in runs[shortest]]
    final = [row["test_accuracy"] for row in runs[longest]]
    gap = [row["train_accuracy"] - row["test_accuracy"] for row in runs[longest]]
    early = all(epoch is not None and epoch <= SHORT for epoch in late)
    return (
        Finding(
            f"Training has converged after about {SHORT} epochs",
            "holds" if early else "holds for a schedule of that length" if min(short) >= CONVERGED else "does not hold",
            f"A schedule of {shortest} epochs ends at {spread(short, 2, percent=True)} of unseen pairs, one of "
            f"{longest} at {spread(final, 2, percent=True)}; the latter stays above {CONVERGED:.1%} from epoch "
            f"{', '.join(str(epoch or 'never') for epoch in late)} (by seed).",
        ),
        Finding(
            "Unseen images are classified as well as training images",
            "holds" if np.mean(gap) < 0.001 else "does not hold",  # noqa: PLR2004 - a tenth of a percent
            f"Accuracy on training pairs minus that on unseen ones: {spread((100 * g for g in gap), 3)} points.",
        ),
    )


def _draw(histories: dict[int, list[tuple[Epoch, ...]]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    for color, (epochs, runs) in zip(("tab:blue", "tab:orange"), histories.items(), strict=False):
        for number, history in enumerate(runs):
            x = [epoch.epoch for epoch in history]
            label = {"label": f"{epochs} epochs, training"} if not number else {}
            losses.plot(x, [epoch.loss for epoch in history], color=color, linewidth=1, **label)
            label = {"label": f"{epochs} epochs, unseen"} if not number else {}
            unseen = [epoch.validation_loss for epoch in history]
            losses.plot(x, unseen, color=color, linewidth=1, linestyle="--", **label)
            label = {"label": f"{epochs} epochs"} if not number else {}
            accuracy.plot(x, [epoch.accuracy for epoch in history], color=color, linewidth=1, **label)
    losses.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    accuracy.axhline(CONVERGED, color="gray", linewidth=0.8, linestyle=":")
    accuracy.set(xlabel="epoch", ylabel="unseen pairs correct", ylim=(0.98, 1.001))
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    save_figure(figure, path)
