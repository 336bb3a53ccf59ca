"""The claim of position invariance: the same anomaly scores the same wherever it lies, cropped as in the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import logit

from geosiam.network.weights import load_model
from geosiam.paper.result import Finding, Picture, Result, Table
from geosiam.paper.templates import figure_files, figure_templates
from geosiam.paper.workbench import log_odds

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.network.siamese import SiameseNetwork
    from geosiam.paper.templates import Template
    from geosiam.paper.workbench import Workbench

NAME = "position"
USES_WEIGHTS = True
MODELS = ("paper", "survey")
OBJECT_PX = 5
SIDE, SPOT = 128, 48
PLACES, CROPS = 20, 20
TOLERANCE = 1e-4  # of log-odds, whose magnitude is some tens; single precision has seven digits
_BLUE = np.array((0, 0, 255), np.uint8)[:, None, None]


def inputs(bench: Workbench) -> list[Path]:
    """Return the data that the result depends on."""
    return figure_files(bench)


def run(bench: Workbench) -> Result:
    """Move one blue square over all offsets within a stride, by whole strides, and crop."""
    places, crops = (3, 3) if bench.quick else (PLACES, CROPS)
    rng = np.random.default_rng(60_000)
    templates = figure_templates(bench)
    rows: list[dict[str, Any]] = []
    maps = {}
    for model in MODELS:
        network = load_model(model).network
        offsets = [peaks_by_offset(network, *_spot(templates, rng)) for _ in range(places)]
        maps[model] = np.mean(offsets, axis=0)
        rows.append({
            "model": model,
            "peak_mean": float(np.mean(offsets)),
            "peak_least": float(np.min(offsets)),
            "peak_deviation": float(np.mean([peaks.std() for peaks in offsets])),
            "found": float(np.mean(np.array(offsets) >= logit(load_model(model).card.threshold))),
            "moved_by_strides": max(moved_by_strides(network, *_spot(templates, rng)) for _ in range(places)),
            "cropped": max(cropped(network, _pair(*_spot(templates, rng)), rng) for _ in range(crops)),
        })  # fmt: skip
        bench.tell(len(rows), len(MODELS), "position invariance")
    path = bench.path("position.png")
    _draw(maps, path)
    return _result(rows, places, crops, path)


def _result(rows: list[dict[str, Any]], places: int, crops: int, path: Path) -> Result:
    exact = max(max(row["moved_by_strides"], row["cropped"]) for row in rows)
    varies = ", ".join(f"{row['peak_deviation']:.2f} of {row['peak_mean']:.1f} (`{row['model']}`)" for row in rows)
    columns = ("weights", "found at the threshold", "peak log-odds", "least", "deviation over offsets",
               "moved by whole strides", "cropped against whole")  # fmt: skip
    return Result(
        name=NAME,
        title="Position invariance",
        setup=f"A blue square of {OBJECT_PX} px at {places} places of the templates of figure 6, at every offset "
        "within one stride: the highest log-odds of an anomaly of any cell that sees it. Then moved by whole strides "
        f"over a periodic ground, where the map must move along; and {crops} crops on the stride's lattice against "
        "the same part of the whole map.",
        findings=(
            Finding(
                "The same anomaly gives the same score wherever it lies",
                "holds to the stride" if exact <= TOLERANCE else "does not hold",
                f"By whole strides exactly (largest difference {exact:.1e}); within a stride the peak varies by "
                f"{varies} (standard deviation over offsets, log-odds), because a larger or smaller part of "
                "the object falls into a cell's window.",
            ),
            Finding(
                "A part of a scene is judged as in the whole",
                "holds" if max(row["cropped"] for row in rows) <= TOLERANCE else "does not hold",
                f"Largest difference {max(row['cropped'] for row in rows):.1e} over {crops} crops.",
            ),
        ),
        tables=(
            Table(
                "One blue square",
                columns,
                tuple(
                    (
                        f"`{row['model']}`", f"{row['found']:.2%}", f"{row['peak_mean']:.2f}",
                        f"{row['peak_least']:.2f}", f"{row['peak_deviation']:.2f}", f"{row['moved_by_strides']:.1e}",
                        f"{row['cropped']:.1e}",
                    )
                    for row in rows
                ),
            ),
        ),
        pictures=(Picture(path.name, "Peak log-odds by the offset of the square within a stride, mean over places."),),
        numbers={"models": rows},
    )  # fmt: skip


def peaks_by_offset(network: SiameseNetwork, ground: NDArray[np.uint8], row: int, col: int) -> NDArray[np.float32]:
    """Return the highest log-odds that a square gets at every offset within a stride: (stride, stride)."""
    stride = network.config.window.stride
    peaks = np.empty((stride, stride), np.float32)
    for down, right in np.ndindex(stride, stride):
        peaks[down, right] = log_odds(network, *_pair(ground, row + down, col + right)).max()
    return peaks


def moved_by_strides(network: SiameseNetwork, ground: NDArray[np.uint8], _row: int, _col: int) -> float:
    """Return by how much the map differs from its moved self when the square moves by whole strides.

    The ground is made periodic with the stride, so that it looks the same at both places.
    """
    stride, parts = network.config.window.stride, network.config.subcells
    periodic = np.tile(ground[:, :stride, :stride], (1, SIDE // stride, SIDE // stride))
    first = log_odds(network, *_pair(periodic, SPOT, SPOT))
    second = log_odds(network, *_pair(periodic, SPOT + 3 * stride, SPOT + 5 * stride))
    down, right = 3 * parts, 5 * parts
    return float(np.abs(first[:-down, :-right] - second[down:, right:]).max())


def cropped(network: SiameseNetwork, pair: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator) -> float:
    """Return by how much the map of a random crop, by whole strides, differs from the same part of the whole map."""
    field, parts = network.config.receptive_field, network.config.subcells
    whole = log_odds(network, *pair)
    top, left = rng.integers(0, (whole.shape[0] - 8) // parts, 2) * parts
    rows, cols = rng.integers(1, 9, 2)
    pixels = (
        slice(None),
        slice(top * field.stride, (top + rows - 1) * field.stride + field.size),
        slice(left * field.stride, (left + cols - 1) * field.stride + field.size),
    )
    part = log_odds(network, pair[0][pixels], pair[1][pixels])
    return float(np.abs(part - whole[top : top + rows, left : left + cols]).max())


def _spot(templates: list[Template], rng: np.random.Generator) -> tuple[NDArray[np.uint8], int, int]:
    """Return a random square piece of a random template, and where in it the object goes."""
    image = templates[rng.integers(len(templates))].image
    row, col = (int(rng.integers(size - SIDE + 1)) for size in image.shape[1:])
    return image[:, row : row + SIDE, col : col + SIDE], SPOT, SPOT


def _pair(ground: NDArray[np.uint8], row: int, col: int) -> tuple[torch.Tensor, torch.Tensor]:
    after = ground.copy()
    after[:, row : row + OBJECT_PX, col : col + OBJECT_PX] = _BLUE
    return tuple(torch.from_numpy(np.ascontiguousarray(image)).float() / 255 for image in (ground, after))  # type: ignore[return-value]


def _draw(maps: dict[str, NDArray[np.float32]], path: Path) -> None:
    figure = Figure(figsize=(3.2 * len(maps), 2.8), layout="constrained")
    axes: list[Any] = list(np.atleast_1d(figure.subplots(1, len(maps))))
    for axis, (model, peaks) in zip(axes, maps.items(), strict=True):
        image = axis.imshow(peaks, cmap="inferno")
        figure.colorbar(image, ax=axis, shrink=0.8)
        axis.set(title=model, xlabel="offset right, px", ylabel="offset down, px")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
