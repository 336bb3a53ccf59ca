"""Figure 2: how three-dimensional features of unseen digits cluster, for several ways of training the encoder."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from geosiam.errors import OptionError
from geosiam.evaluation.metrics import auroc
from geosiam.paper.chips import CLASSES, VARIANTS, Variant, digit_folder, load_digits, train_variant
from geosiam.paper.results import Finding, Picture, Result, Table, interval, spread
from geosiam.paper.workbench import save_figure

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.paper.chips import DigitStack
    from geosiam.paper.workbench import Workbench
    from geosiam.training.loop import TrainingRun

NAME = "fig2"
USES_WEIGHTS = False
PAIRS = 10_000
NEIGHBORS = 5
_SILHOUETTE_DIGITS = 5_000  # the silhouette compares all pairs of points
_DRAWN_POINTS = 2_000
_PAIR_SEED = 20_000


@dataclass(frozen=True)
class Clustering:
    """Metrics of how well features of unseen digits cluster by digit.

    Parameters
    ----------
    silhouette
        Mean silhouette coefficient, -1 to 1, larger is better (Rousseeuw, 1987).
    davies_bouldin
        Davies-Bouldin index, smaller is better (1979).
    knn_accuracy
        Fraction of unseen digits that are classified correctly by their 5 nearest training digits.
    size_spread
        Standard deviation over mean of the sizes of the clusters; the size is the root mean square distance from the
        center. The paper's stated symptom of (c): some clusters are large, others small.
    size_ratio
        Largest size over smallest size.
    accuracy, auroc
        Of the decision "same digit or not" for 10,000 unseen pairs, half of which show the same digit.
    """

    silhouette: float
    davies_bouldin: float
    knn_accuracy: float
    size_spread: float
    size_ratio: float
    accuracy: float
    auroc: float


def inputs(bench: Workbench) -> list[Path]:
    """Return the data files that the result depends on."""
    return [digit_folder(bench)]


def run(bench: Workbench) -> Result:
    """Train each variant with each seed, and measure and draw the features."""
    _require_scikit_learn()
    train, test = load_digits(bench)
    clusterings: dict[str, list[Clustering]] = {variant.name: [] for variant in VARIANTS}
    points_of: dict[str, NDArray[np.float32]] = {}  # those of the first seed
    for seed in bench.seeds:
        for variant in VARIANTS:
            trained = train_variant(bench, variant, train, test, seed)
            points = features(trained, test)
            clusterings[variant.name].append(_clustering(trained, points, train, test))
            points_of.setdefault(variant.name, points)
    picture = bench.path("fig2.png")
    _draw(points_of, test.labels.numpy(), picture)
    return Result(
        name=NAME,
        title="Figure 2: clusters of digits",
        setup=_setup(bench),
        findings=_findings(clusterings),
        tables=(_table(clusterings),),
        pictures=(Picture(picture.name, "Features of unseen digits, seed 0; one color per digit."),),
        notes=(
            (
                "The distance is the Euclidean norm of equation 3, except in the last row, which has the element-wise "
                "|f1 - f2| of the paper's listing."
            ),
            (
                "The square root in the paper's listing has the gradient NaN if both features are equal; ours has 0. "
                "Equation 5 is printed without its minus sign; we minimize the cross-entropy."
            ),
        ),
        numbers={name: [asdict(run) for run in runs] for name, runs in clusterings.items()},
    )


@torch.inference_mode()
def features(trained: TrainingRun, digits: DigitStack) -> NDArray[np.float32]:
    """Return the encoder's features of all digits: float32 (n, 3)."""
    parts = [trained.network.encode(digits.chips(index)) for index in torch.split(torch.arange(len(digits)), 1000)]
    return torch.cat(parts).flatten(1).numpy()


@torch.inference_mode()
def pair_logits(
    trained: TrainingRun, digits: DigitStack, count: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the logits of "similar" of random pairs, float32 (count,), and whether they show the same digit."""
    a, b = digits.draw(count, torch.Generator().manual_seed(seed))
    logits_of = trained.recipe.objective.logits
    logits = [
        logits_of(trained.network, digits.chips(i), digits.chips(j)).flatten()
        for i, j in zip(torch.split(a, 1000), torch.split(b, 1000), strict=True)
    ]
    return torch.cat(logits).numpy(), (digits.labels[a] == digits.labels[b]).numpy()


def cluster_sizes(points: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the root mean square distance of each cluster's points from its center.

    Parameters
    ----------
    points
        float (n, features).
    labels
        int (n,).
    """
    groups = [points[labels == label] for label in np.unique(labels)]
    return np.array([np.sqrt(((group - group.mean(axis=0)) ** 2).sum(axis=1).mean()) for group in groups], np.float64)


def _require_scikit_learn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise OptionError("geosiam paper", "needs scikit-learn", "pip install 'geosiam[paper]'")


def _clustering(trained: TrainingRun, points: NDArray[np.float32], train: DigitStack, test: DigitStack) -> Clustering:
    from sklearn.metrics import davies_bouldin_score, silhouette_score  # noqa: PLC0415 - an extra
    from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415

    labels = test.labels.numpy()
    logits, same = pair_logits(trained, test, PAIRS, _PAIR_SEED)
    neighbors = KNeighborsClassifier(NEIGHBORS).fit(features(trained, train), train.labels.numpy())
    sizes = cluster_sizes(points, labels)
    return Clustering(
        silhouette=float(silhouette_score(points, labels, sample_size=_SILHOUETTE_DIGITS, random_state=0)),
        davies_bouldin=float(davies_bouldin_score(points, labels)),
        knn_accuracy=float((neighbors.predict(points) == labels).mean()),
        size_spread=float(sizes.std() / sizes.mean()),
        size_ratio=float(sizes.max() / sizes.min()),
        accuracy=float(((logits > 0) == same).mean()),
        auroc=auroc(logits, same),
    )


def _setup(bench: Workbench) -> str:
    recipe = VARIANTS[0].recipe(quick=bench.quick)
    schedule = recipe.schedule
    pairs = (schedule.steps or 0) * schedule.batch_size
    layers = " - ".join(f"conv{c.kernel}/{c.stride} {c.width}" for c in recipe.network.convolutions)
    return (
        f"MNIST, {pairs:,} random training pairs per epoch (half of them of one digit, drawn again in each epoch), "
        f"{schedule.epochs} epochs, {len(bench.seeds)} seeds. Encoder `{layers}`, valid convolutions only, receptive "
        f"field {recipe.network.receptive_field.size} px: one digit gives one cell of three features. All figures are "
        "on the 10,000 test digits, which no training saw: mean ± standard deviation over seeds."
    )


def _table(clusterings: dict[str, list[Clustering]]) -> Table:
    columns = ("training", "silhouette ↑", "Davies-Bouldin ↓", "5-NN accuracy ↑", "spread of sizes ↓",
               "largest / smallest ↓", "pair accuracy ↑", "pair AUROC ↑")  # fmt: skip
    rows = []
    for variant in VARIANTS:
        runs = clusterings[variant.name]
        rows.append((
            variant.title,
            spread(r.silhouette for r in runs),
            spread(r.davies_bouldin for r in runs),
            spread((r.knn_accuracy for r in runs), 2, percent=True),
            spread(r.size_spread for r in runs),
            spread((r.size_ratio for r in runs), 2),
            spread((r.accuracy for r in runs), 2, percent=True),
            spread((r.auroc for r in runs), 4),
        ))  # fmt: skip
    return Table("Clusters of unseen digits", columns, tuple(rows))


def _findings(clusterings: dict[str, list[Clustering]]) -> tuple[Finding, ...]:
    clusters, pairs = ("silhouette", "davies_bouldin", "knn_accuracy"), ("accuracy",)
    sizes = ("size_spread", "size_ratio")
    claims = (
        ("Concatenating features and distance clusters better than the distance alone (b against c)",
         "concatenation", "distance", clusters),
        ("Concatenating separates unseen pairs better than the distance alone (b against c)",
         "concatenation", "distance", pairs),
        ("With the distance alone the clusters differ more in size (c)", "concatenation", "distance", sizes),
        ("The discriminator clusters better than the contrastive loss (b against a)",
         "concatenation", "contrastive", clusters),
        ("The discriminator separates unseen pairs better than the contrastive loss (b against a)",
         "concatenation", "contrastive", pairs),
    )  # fmt: skip
    return tuple(_compare(clusterings, *claim) for claim in claims)


_SMALLER_IS_BETTER = {"davies_bouldin", "size_spread", "size_ratio"}


def _compare(
    clusterings: dict[str, list[Clustering]], claim: str, better: str, worse: str, metrics: tuple[str, ...]
) -> Finding:
    """Decide a claim by the differences of metrics, seed by seed, at 95 % confidence."""
    words, signs = [], []
    for name in metrics:
        gain = np.array(
            [getattr(a, name) - getattr(b, name) for a, b in zip(clusterings[better], clusterings[worse], strict=True)]
        )
        gain = -gain if name in _SMALLER_IS_BETTER else gain
        error = interval(gain)
        signs.append(0 if abs(gain.mean()) <= error else int(np.sign(gain.mean())))
        word = {1: "better", 0: "undecided", -1: "worse"}[signs[-1]]
        words.append(f"{name.replace('_', ' ')} {word} ({gain.mean():+.3f} ± {error:.3f})")
    evidence = f"{better} against {worse}, positive = better: {'; '.join(words)} (mean over seeds, ± 95 % confidence)."
    if min(signs) > 0:
        verdict = "holds"
    elif max(signs) > 0:
        verdict = "holds in part"
    else:
        verdict = "does not hold" if min(signs) < 0 else "undecided"
    return Finding(claim, verdict, evidence)


def _draw(points_of: dict[str, NDArray[np.float32]], labels: NDArray[np.uint8], path: Path) -> None:
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    by_name: dict[str, Variant] = {variant.name: variant for variant in VARIANTS}
    for place, (name, points) in enumerate(points_of.items(), start=1):
        axes = figure.add_subplot(1, len(points_of), place, projection="3d")
        shown = np.random.default_rng(0).permutation(len(points))[:_DRAWN_POINTS]
        x, y, z = points[shown].T
        dots = axes.scatter(x, y, z, c=labels[shown], cmap="tab10", s=2, vmin=-0.5, vmax=CLASSES - 0.5)
        axes.set_title(by_name[name].title, size=8)
        axes.tick_params(labelsize=5, pad=-3)
    bar = figure.colorbar(dots, ax=figure.axes, shrink=0.7, ticks=range(CLASSES), pad=0.02)
    bar.ax.tick_params(labelsize=7, size=0)
    save_figure(figure, path)
