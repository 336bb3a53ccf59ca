"""The claim that position resolution depends on the training chip: how far the answer reaches beyond the object."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Generator

from geosiam.network.siamese import Convolution, NetworkConfig
from geosiam.paper.anomalous_chips import cifar_file, load_cifar
from geosiam.paper.fig6 import SIZE_PX
from geosiam.paper.result import Finding, Picture, Result, Table, spread
from geosiam.paper.templates import figure_files, figure_templates
from geosiam.paper.workbench import fingerprint, score
from geosiam.synthesis.insertion import insert_anomalies
from geosiam.training.anomalies import chance, paper_rectangles
from geosiam.training.recipes import LEAST_COVER_OF_8_PX, Batch, CrossEntropy, PaperRecipe, Schedule, dense_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.paper.templates import Template
    from geosiam.paper.workbench import Workbench
    from geosiam.training.recipes import Objective, Recipe
    from geosiam.training.sources import ChipSource

NAME = "resolution"
USES_WEIGHTS = False
OBJECTS, GAP_PX = 12, 110  # far enough apart for answers not to touch
DENSE = "dense labels, 32 px field"
_AROUND = 9  # cells on either side of an object that the picture shows
_SCHEDULE = Schedule(epochs=4, steps=150, batch_size=96)
_TAIL = {16: (), 32: (1,), 64: (1, 1, 1)}


def chip_network(chip: int) -> NetworkConfig:
    """Return an encoder of stride 8 whose receptive field is exactly a chip of 16, 32 or 64 px."""
    steps = (2, 2, 2, *_TAIL[chip])
    kernels = (4, *(3,) * (len(steps) - 1))
    widths = (32, 64, *(128,) * (len(steps) - 2))
    return NetworkConfig(tuple(Convolution(*layer) for layer in zip(kernels, steps, widths, strict=True)))


@dataclass(frozen=True)
class DenseRectangles:
    """The paper's anomaly and random pairs, but every cell is labelled by its own pixels instead of its window's."""

    network: NetworkConfig = field(default_factory=lambda: chip_network(32))
    schedule: Schedule = _SCHEDULE
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 64
    name: str = "paper, dense labels"
    summary: str = "Blue rectangles on random pairs of chips; a cell is similar where its own pixels' states agree"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Make a batch of chips of several cells each."""
        n = self.schedule.batch_size
        images, similar, weights = [], [], []
        for _ in range(2):
            clean = source.sample(n, self.chip_size, generator)
            marked = paper_rectangles(clean, chance(n, 0.5, generator), generator)
            cover = ((marked - clean).abs().amax(dim=1, keepdim=True) > 0).float()
            labels, weight = dense_labels(cover, self.network.receptive_field, LEAST_COVER_OF_8_PX)
            images.append(marked)
            similar.append(labels)
            weights.append(weight)
        return Batch(images[0], images[1], (similar[0] == similar[1]).float(), weights[0] * weights[1])


def inputs(bench: Workbench) -> list[Path]:
    """Return the data that the result depends on."""
    return [cifar_file(bench), *figure_files(bench)]


def run(bench: Workbench) -> Result:
    """Train with chips of three sizes and with dense labels, and measure how far each answer reaches."""
    train, test = load_cifar(bench)
    templates = figure_templates(bench)[: 1 if bench.quick else None]
    recipes: dict[str, Recipe] = {
        f"window labels, {chip} px chips": PaperRecipe(chip_network(chip), _SCHEDULE, chip_size=chip) for chip in _TAIL
    }
    recipes[DENSE] = DenseRectangles()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    shown: dict[str, NDArray[np.float32]] = {}
    mark = fingerprint(train.chips)
    for seed in bench.seeds:
        for name, recipe in recipes.items():
            shortened = _shortened(recipe) if bench.quick else recipe
            label = "resolution-" + name.replace(",", "").replace(" ", "-")
            network = bench.trained(label, shortened, train, test, seed=seed, fingerprint=mark).network
            answers = [answer for number, t in enumerate(templates) for answer in _answers(network, t, number)]
            found[name].append({
                "radius": float(np.median([a.radius for a in answers if a.found])) if answers else float("nan"),
                "found": float(np.mean([a.found for a in answers])),
            })  # fmt: skip
            shown.setdefault(name, np.mean([a.around for a in answers], axis=0))
    path = bench.path("resolution.png")
    _draw(shown, path)
    return _result(found, shown, path, len(templates))


@dataclass(frozen=True)
class Answer:
    """How a network answers one object.

    Parameters
    ----------
    found
        Whether any cell over it scores 1/2.
    radius
        Pixels by which the answer reaches beyond the object, mean of its four sides; NaN where it is not found.
    around
        Scores of the cells around it, float32 (cells, cells).
    """

    found: bool
    radius: float
    around: NDArray[np.float32]


def _answers(network: Any, template: Template, seed: int) -> list[Answer]:  # noqa: ANN401
    inserted = insert_anomalies(template.image, count=OBJECTS, size_px=SIZE_PX, seed=seed, min_gap_px=GAP_PX)
    scores = score(network, *(torch.from_numpy(image).float() / 255 for image in (template.image, inserted.image)))
    receptive = network.config.receptive_field
    labels, _ = ndimage.label(scores >= 0.5, structure=np.ones((3, 3)))  # noqa: PLR2004 - even odds
    boxes = ndimage.find_objects(labels)
    answers = []
    for item in inserted.truth:
        left, top, right, bottom = item.geometry.bounds
        row, col = (
            int(((a + b) / 2 - receptive.offset) // receptive.stride) for a, b in ((top, bottom), (left, right))
        )
        if not (_AROUND <= row < scores.shape[0] - _AROUND and _AROUND <= col < scores.shape[1] - _AROUND):
            continue  # too close to the edge to be seen from all sides
        around = scores[row - _AROUND : row + _AROUND + 1, col - _AROUND : col + _AROUND + 1]
        met = labels[row - 1 : row + 2, col - 1 : col + 2].max()
        if not met:
            answers.append(Answer(found=False, radius=float("nan"), around=around))
            continue
        rows, cols = boxes[met - 1]
        extent = (rows.stop - rows.start + cols.stop - cols.start) * receptive.stride
        radius = (extent - (bottom - top) - (right - left)) / 4
        answers.append(Answer(found=True, radius=radius, around=around))
    return answers


def _shortened(recipe: Any) -> Any:  # noqa: ANN401
    return replace(recipe, schedule=replace(recipe.schedule, epochs=1, steps=40))


def _result(
    found: dict[str, list[dict[str, Any]]], shown: dict[str, NDArray[np.float32]], path: Path, count: int
) -> Result:
    radius = {name: float(np.mean([row["radius"] for row in rows])) for name, rows in found.items()}
    windows = [value for name, value in radius.items() if name != DENSE]
    rows = tuple(
        (
            name,
            spread((row["radius"] for row in runs), 1),
            spread((row["found"] for row in runs), 1, percent=True),
        )
        for name, runs in found.items()
    )
    same_field = radius["window labels, 32 px chips"]
    return Result(
        name=NAME,
        title="Position resolution",
        setup=f"Blue squares of {SIZE_PX[0]}-{SIZE_PX[1]} px, at least {GAP_PX} px apart, in {count} templates of "
        f"figure 6. Networks of stride 8, trained on CIFAR-10 for {_SCHEDULE.epochs * (_SCHEDULE.steps or 0)} "
        f"batches of "
        f"{_SCHEDULE.batch_size} pairs: the paper's way, with the label of a whole chip as large as the receptive "
        "field, and with our dense labels, where a cell of the same receptive field is judged by its own 8 x 8 px. "
        "The blur "
        "radius is by how many pixels the cells from 1/2 up reach beyond the object, mean of the four sides, median "
        "over objects.",
        findings=(
            Finding(
                "Position resolution depends on the training chip",
                "holds" if windows == sorted(windows) and windows[-1] > 1.5 * windows[0] else "does not hold",
                "Blur radius " + ", ".join(f"{value:.1f} px ({name})" for name, value in radius.items()) + ".",
            ),
            Finding(
                "(ours) With dense labels it depends on the stride, not on the receptive field",
                "holds" if radius[DENSE] < same_field / 2 else "does not hold",
                f"{radius[DENSE]:.1f} px against {same_field:.1f} px with the same network.",
            ),
        ),
        tables=(Table("How far answers reach", ("training", "blur radius, px", "objects found"), rows),),
        pictures=(Picture(path.name, "Mean score around an object, one cell is 8 px; seed 0."),),
        numbers={"runs": found, "mean score around": {name: values.tolist() for name, values in shown.items()}},
    )


def _draw(shown: dict[str, NDArray[np.float32]], path: Path) -> None:
    figure = Figure(figsize=(2.7 * len(shown), 2.8), layout="constrained")
    axes: list[Any] = list(figure.subplots(1, len(shown)))
    reach = (_AROUND + 0.5) * 8
    for axis, (name, scores) in zip(axes, shown.items(), strict=True):
        image = axis.imshow(scores, cmap="inferno", vmin=0, vmax=1, extent=(-reach, reach, reach, -reach))
        axis.set_title(name, size=8)
        axis.tick_params(labelsize=6)
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
