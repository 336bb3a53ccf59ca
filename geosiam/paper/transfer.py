"""The claim that a new template needs no retraining, compared with an autoencoder, which does."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.ndimage import maximum_filter

from geosiam.evaluation.autoencoder import Autoencoder, reconstruction_error, train_autoencoder
from geosiam.evaluation.metrics import auroc, window_truth
from geosiam.network.weights import load_model
from geosiam.paper.fig6 import CELL_SHARE, SIZE_PX, WINDOW_SHARE
from geosiam.paper.results import Finding, Picture, Result, Table, interval, spread
from geosiam.paper.templates import scene_files, squares
from geosiam.paper.workbench import save_figure, score
from geosiam.synthesis.insertion import insert_anomalies, nuisance

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.network.siamese import SiameseNetwork
    from geosiam.paper.templates import Template
    from geosiam.paper.workbench import Workbench

NAME = "transfer"
USES_WEIGHTS = True
SIDE, OBJECTS = 320, 12
A_FOLDERS, B_FOLDERS = ("aerial", "landsat"), ("naip", "joplin", "drone", "planet_float32")
A_EACH, B_EACH = 8, 4
LEAST_TEMPLATES = 30
_STEPS, _QUICK_STEPS = 300, 40
METHODS = ("Siamese network, trained on no template", "autoencoder of A", "autoencoder retrained on each template")
CASES = {"blue": "paper", "flat": "survey"}
"""Weights that were trained to find each fill of the objects."""


def inputs(bench: Workbench) -> list[Path]:
    """Return the data files that the result depends on."""
    return scene_files(bench, *A_FOLDERS, *B_FOLDERS)


def run(bench: Workbench) -> Result:
    """Find rectangles in templates A and B with the network, with A's autoencoder and with one for each of B."""
    a, b = templates(bench)
    networks = {fill: load_model(model).network for fill, model in CASES.items()}
    steps = _QUICK_STEPS if bench.quick else _STEPS
    started = time.perf_counter()
    common = [train_autoencoder([t.image for t in a], steps=steps, seed=seed) for seed in bench.seeds]
    training_s = (time.perf_counter() - started) / len(common)
    rows: list[dict[str, Any]] = []
    for number, (group, template) in enumerate([*(("A", t) for t in a), *(("B", t) for t in b)]):
        bench.report_progress(number, len(a) + len(b), "transfer to new templates")
        own = train_autoencoder([template.image], steps=steps, seed=0) if group == "B" else None
        for fill, disturbed in itertools.product(CASES, (False, True)):
            figures = compare(template, networks[fill], common, own, fill=fill, seed=number, disturbed=disturbed)
            rows.append({"template": template.name, "set": group, "fill": fill, "nuisance": disturbed, **figures})
    path = bench.path("transfer.png")
    _draw(rows, path)
    return Result(
        name=NAME,
        title="No retraining for a new template",
        setup=f"{OBJECTS} rectangles of {SIZE_PX[0]}-{SIZE_PX[1]} px, blue or of random colors, in each of "
        f"{len(a)} templates A (folders {', '.join(A_FOLDERS)}) and {len(b)} templates B ({', '.join(B_FOLDERS)}), "
        f"{SIDE} px each, clean and with the nuisance of figure 6. AUROC, as in figure 6, of one set of weights that "
        "was trained on none of them (`paper` for blue, `survey` for random colors), of a convolutional autoencoder "
        f"trained on A ({steps} steps, {len(bench.seeds)} seeds), and of one trained on each template of B. The "
        "autoencoder's score of a window, or cell, is its largest reconstruction error, averaged over 5 px.",
        findings=_findings(rows, len(b), training_s),
        tables=tuple(_table(rows, fill, disturbed=d) for fill, d in itertools.product(CASES, (False, True))),
        pictures=(Picture(path.name, "AUROC on every template, clean: blue above, random colors below."),),
        notes=(
            "The autoencoder uses the second scene only, the network uses both.",
            "Pure blue is easy for both methods if nothing else is as saturated.",
        ),
        numbers={"runs": rows, "autoencoder_training_seconds": training_s},
    )


def templates(bench: Workbench) -> tuple[list[Template], list[Template]]:
    """Return the templates A, on which the autoencoder is trained, and B, which are new to all methods."""
    a = [t for file in scene_files(bench, *A_FOLDERS) for t in squares(file, SIDE, A_EACH)]
    b = [t for file in scene_files(bench, *B_FOLDERS) for t in squares(file, SIDE, B_EACH)]
    return (a[:4], b[:4]) if bench.quick else (a, b)


def compare(
    template: Template, network: SiameseNetwork, common: list[Autoencoder], own: Autoencoder | None, *, fill: str,
    seed: int, disturbed: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the AUROC of each method on one template."""
    inserted = insert_anomalies(template.image, count=OBJECTS, size_px=SIZE_PX, fill=fill, seed=seed)  # type: ignore[arg-type]
    after = nuisance(inserted.image, seed=seed) if disturbed else inserted.image
    field = network.config.receptive_field
    scores = score(network, _tensor(template.image), _tensor(after))
    dense = fill != "blue"
    side, offset = (field.stride, field.offset) if dense else (field.size, 0)
    truth = window_truth(
        inserted.mask > 0, scores.shape, receptive_field=side, stride=field.stride, offset=offset,
        min_share=CELL_SHARE if dense else WINDOW_SHARE,
    )  # fmt: skip

    def by_window(model: Autoencoder) -> float:
        error = maximum_filter(reconstruction_error(model, after), side, origin=-(side // 2))
        cells = error[offset :: field.stride, offset :: field.stride][: truth.shape[0], : truth.shape[1]]
        return auroc(cells, truth)

    return {
        METHODS[0]: auroc(scores, truth),
        METHODS[1]: float(np.mean([by_window(model) for model in common])),
        METHODS[2]: by_window(own) if own else None,
    }


def _tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).float() / 255


def _values(rows: list[dict[str, Any]], method: str, group: str, fill: str, *, disturbed: bool) -> list[float]:
    chosen = [row for row in rows if (row["set"], row["fill"], row["nuisance"]) == (group, fill, disturbed)]
    return [row[method] for row in chosen if row[method] is not None and not np.isnan(row[method])]


def _table(rows: list[dict[str, Any]], fill: str, *, disturbed: bool) -> Table:
    lines = []
    for group in "AB":
        for method in METHODS:
            values = _values(rows, method, group, fill, disturbed=disturbed)
            if values:
                least = f"{min(values):.3f}"
                lines.append((group, str(len(values)), method, spread(values), f"{np.median(values):.3f}", least))
    columns = ("set", "templates", "method", "AUROC", "median", "worst template")
    colors = "Blue" if fill == "blue" else "Random colors"
    return Table(f"{colors}, {'with nuisance' if disturbed else 'clean'}", columns, tuple(lines))


def _findings(rows: list[dict[str, Any]], count: int, training_s: float) -> tuple[Finding, ...]:
    siamese = {fill: _values(rows, METHODS[0], "B", fill, disturbed=False) for fill in CASES}
    worst = min(np.median(values) for values in siamese.values())
    words, gains = [], []
    for fill, disturbed in itertools.product(CASES, (False, True)):
        on_a, on_b = (_values(rows, METHODS[1], group, fill, disturbed=disturbed) for group in "AB")
        own = _values(rows, METHODS[2], "B", fill, disturbed=disturbed)
        gain = np.array(own) - np.array(on_b)
        gains.append(int(gain.mean() > interval(gain)))
        words.append(
            f"{fill}, {'with nuisance' if disturbed else 'clean'}: {np.mean(on_a):.3f} on A, {np.mean(on_b):.3f} on "
            f"B, retrained {np.mean(own):.3f} (gain {gain.mean():+.3f} ± {interval(gain):.3f})"
        )
    return (
        Finding(
            "One set of weights works on unseen templates",
            "holds" if worst > 0.99 else "does not hold",  # noqa: PLR2004 - almost perfect ranking
            f"AUROC over {count} templates B, clean: "
            + "; ".join(f"{fill} {spread(values)}, worst {min(values):.3f}" for fill, values in siamese.items()) + ".",
        ),
        Finding(
            "An autoencoder must be retrained for each template",
            "holds" if all(gains) else "holds in part" if any(gains) else "does not hold here",
            "; ".join(words) + f" (± 95 % confidence over templates). One training takes {training_s:.0f} s.",
        ),
    )  # fmt: skip


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    panels: list[Any] = list(figure.subplots(len(CASES), 1, sharex=True))
    for axes, fill in zip(panels, CASES, strict=True):
        clean = [row for row in rows if not row["nuisance"] and row["fill"] == fill]
        for method, mark in zip(METHODS, "o+x", strict=True):
            shown = [(place, row[method]) for place, row in enumerate(clean) if row[method] is not None]
            axes.plot(*zip(*shown, strict=True), mark, label=method, markersize=4, linestyle="none")
        axes.axvline(sum(row["set"] == "A" for row in clean) - 0.5, color="gray", linewidth=0.8)
        axes.set(ylabel=f"AUROC, {fill}")
        axes.grid(alpha=0.3)
    panels[-1].set(xlabel="template (left of the line: set A)")
    panels[0].legend(fontsize=7)
    save_figure(figure, path)
