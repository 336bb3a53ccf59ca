"""The claim that position resolution depends on the training chip: how far responses reach beyond an object."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Generator

from geosiam.network.architecture import Convolution, NetworkConfig
from geosiam.paper.chips import cifar_file, load_cifar
from geosiam.paper.fig6 import SIZE_PX
from geosiam.paper.results import Finding, Picture, Result, Table, spread
from geosiam.paper.templates import figure_files, figure_templates
from geosiam.paper.workbench import fingerprint, save_figure, score
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
OBJECTS, GAP_PX = 12, 110  # far enough apart for responses not to touch
DENSE = "dense labels, 32 px field"
_MARGIN = 9  # cells on each side of an object that the picture shows
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
    """The paper's anomaly and random pairs, with each cell labeled by its own pixels instead of its window's."""

    network: NetworkConfig = field(default_factory=lambda: chip_network(32))
    schedule: Schedule = _SCHEDULE
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = 64
    name: str = "paper, dense labels"
    summary: str = "Blue rectangles on random pairs of chips; a cell is similar where its own pixels' states agree"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Draw a batch of chips with several cells each."""
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
    """Return the data files that the result depends on."""
    return [cifar_file(bench), *figure_files(bench)]


def run(bench: Workbench) -> Result:
    """Train with chips of three sizes and with dense labels, and measure how far responses reach."""
    train, test = load_cifar(bench)
    templates = figure_templates(bench)[: 1 if bench.quick else None]
    recipes: dict[str, Recipe] = {
        f"window labels, {chip} px chips": PaperRecipe(chip_network(chip), _SCHEDULE, chip_size=chip) for chip in _TAIL
    }
    recipes[DENSE] = DenseRectangles()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    mean_scores: dict[str, NDArray[np.float32]] = {}  # those of the first seed
    checksum = fingerprint(train.chips)
    for seed in bench.seeds:
        for name, recipe in recipes.items():
            shortened = _shortened(recipe) if bench.quick else recipe
            label = "resolution-" + name.replace(",", "").replace(" ", "-")
            network = bench.train(label, shortened, train, test, seed=seed, fingerprint=checksum).network
            responses = [r for number, t in enumerate(templates) for r in _responses(network, t, number)]
            runs[name].append({
                "radius": float(np.median([r.radius for r in responses if r.found])) if responses else float("nan"),
                "found": float(np.mean([r.found for r in responses])),
            })  # fmt: skip
            mean_scores.setdefault(name, np.mean([r.around for r in responses], axis=0))
    path = bench.path("resolution.png")
    _draw(mean_scores, path)
    return _result(runs, mean_scores, path, len(templates))


@dataclass(frozen=True)
class Response:
    """Response of a network to one object.

    Parameters
    ----------
    found
        Whether any cell over the object scores 1/2 or more.
    radius
        Pixels by which the response reaches beyond the object, mean of the four sides; NaN if the object is not found.
    around
        Scores of the cells around the object, float32 (cells, cells).
    """

    found: bool
    radius: float
    around: NDArray[np.float32]


def _responses(network: Any, template: Template, seed: int) -> list[Response]:  # noqa: ANN401
    inserted = insert_anomalies(template.image, count=OBJECTS, size_px=SIZE_PX, seed=seed, min_gap_px=GAP_PX)
    scores = score(network, *(torch.from_numpy(image).float() / 255 for image in (template.image, inserted.image)))
    receptive = network.config.receptive_field
    labels, _ = ndimage.label(scores >= 0.5, structure=np.ones((3, 3)))  # noqa: PLR2004 - even odds
    boxes = ndimage.find_objects(labels)
    responses = []
    for item in inserted.truth:
        left, top, right, bottom = item.geometry.bounds
        row, col = (
            int(((a + b) / 2 - receptive.offset) // receptive.stride) for a, b in ((top, bottom), (left, right))
        )
        if not (_MARGIN <= row < scores.shape[0] - _MARGIN and _MARGIN <= col < scores.shape[1] - _MARGIN):
            continue  # too close to the edge
        around = scores[row - _MARGIN : row + _MARGIN + 1, col - _MARGIN : col + _MARGIN + 1]
        label = labels[row - 1 : row + 2, col - 1 : col + 2].max()
        if not label:
            responses.append(Response(found=False, radius=float("nan"), around=around))
            continue
        rows, cols = boxes[label - 1]
        extent = (rows.stop - rows.start + cols.stop - cols.start) * receptive.stride
        radius = (extent - (bottom - top) - (right - left)) / 4
        responses.append(Response(found=True, radius=radius, around=around))
    return responses


def _shortened(recipe: Any) -> Any:  # noqa: ANN401
    return replace(recipe, schedule=replace(recipe.schedule, epochs=1, steps=40))


def _result(
    runs: dict[str, list[dict[str, Any]]], mean_scores: dict[str, NDArray[np.float32]], path: Path, count: int
) -> Result:
    radius = {name: float(np.mean([row["radius"] for row in rows])) for name, rows in runs.items()}
    windows = [value for name, value in radius.items() if name != DENSE]
    rows = tuple(
        (
            name,
            spread((row["radius"] for row in seeds), 1),
            spread((row["found"] for row in seeds), 1, percent=True),
        )
        for name, seeds in runs.items()
    )
    same_field = radius["window labels, 32 px chips"]
    return Result(
        name=NAME,
        title="Position resolution",
        setup=f"Blue squares of {SIZE_PX[0]}-{SIZE_PX[1]} px, at least {GAP_PX} px apart, in {count} templates of "
        f"figure 6. Networks of stride 8, trained on CIFAR-10 for {_SCHEDULE.epochs * (_SCHEDULE.steps or 0)} "
        f"batches of {_SCHEDULE.batch_size} pairs: as in the paper, with one label for a chip as large as the "
        "receptive field, and with our dense labels, where the label of a cell depends on its own 8 x 8 px. The blur "
        "radius is the number of pixels by which cells with a score of 1/2 or more reach beyond the object, mean of "
        "the four sides, median over objects.",
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
        tables=(Table("Blur radius", ("training", "blur radius, px", "objects found"), rows),),
        pictures=(Picture(path.name, "Mean score around an object, one cell is 8 px; seed 0."),),
        numbers={"runs": runs, "mean score around": {name: values.tolist() for name, values in mean_scores.items()}},
    )


def _draw(mean_scores: dict[str, NDArray[np.float32]], path: Path) -> None:
    figure = Figure(figsize=(2.7 * len(mean_scores), 2.8), layout="constrained")
    axes: list[Any] = list(figure.subplots(1, len(mean_scores)))
    reach = (_MARGIN + 0.5) * 8
    for axis, (name, scores) in zip(axes, mean_scores.items(), strict=True):
        image = axis.imshow(scores, cmap="inferno", vmin=0, vmax=1, extent=(-reach, reach, reach, -reach))
        axis.set_title(name, size=8)
        axis.tick_params(labelsize=6)
    figure.colorbar(image, ax=axes, shrink=0.8)
    save_figure(figure, path)
