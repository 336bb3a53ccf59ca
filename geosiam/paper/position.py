"""The claim of position invariance: an anomaly has the same score at every position, and in a crop of the scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import logit

from geosiam.network.weights import load_model
from geosiam.paper.results import Finding, Picture, Result, Table
from geosiam.paper.templates import figure_files, figure_templates
from geosiam.paper.workbench import log_odds, save_figure

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
TOLERANCE = 1e-4  # of log-odds, which are around 10 to 40; single precision has seven digits
_BLUE = np.array((0, 0, 255), np.uint8)[:, None, None]


def inputs(bench: Workbench) -> list[Path]:
    """Return the data files that the result depends on."""
    return figure_files(bench)


def run(bench: Workbench) -> Result:
    """Move a blue square over all offsets within a stride and by whole strides, and crop the scene."""
    places, crops = (3, 3) if bench.quick else (PLACES, CROPS)
    rng = np.random.default_rng(60_000)
    templates = figure_templates(bench)
    rows: list[dict[str, Any]] = []
    maps = {}
    for model in MODELS:
        network = load_model(model).network
        offsets = [peaks_by_offset(network, *_random_ground(templates, rng)) for _ in range(places)]
        maps[model] = np.mean(offsets, axis=0)
        rows.append({
            "model": model,
            "peak_mean": float(np.mean(offsets)),
            "peak_least": float(np.min(offsets)),
            "peak_deviation": float(np.mean([peaks.std() for peaks in offsets])),
            "found": float(np.mean(np.array(offsets) >= logit(load_model(model).card.threshold))),
            "moved_by_strides": max(shift_error(network, *_random_ground(templates, rng)) for _ in range(places)),
            "cropped": max(crop_error(network, _pair(*_random_ground(templates, rng)), rng) for _ in range(crops)),
        })  # fmt: skip
        bench.report_progress(len(rows), len(MODELS), "position invariance")
    path = bench.path("position.png")
    _draw(maps, path)
    return _result(rows, places, crops, path)


def _result(rows: list[dict[str, Any]], places: int, crops: int, path: Path) -> Result:
    exact = max(max(row["moved_by_strides"], row["cropped"]) for row in rows)
    varies = ", ".join(f"{row['peak_deviation']:.2f} of {row['peak_mean']:.1f} (`{row['model']}`)" for row in rows)
    columns = ("weights", "found at the threshold", "peak log-odds", "minimum", "deviation over offsets",
               "moved by whole strides", "cropped against whole")  # fmt: skip
    return Result(
        name=NAME,
        title="Position invariance",
        setup=f"A blue square of {OBJECT_PX} px at {places} places of the templates of figure 6, at every offset "
        "within one stride: the highest log-odds of all cells whose window contains it. Then the square is moved by "
        f"whole strides over periodic ground, which must move the map likewise; and {crops} crops at multiples of "
        "the stride are compared with the same part of the whole map.",
        findings=(
            Finding(
                "An anomaly has the same score at every position",
                "holds for whole strides" if exact <= TOLERANCE else "does not hold",
                f"Exactly for whole strides (largest difference {exact:.1e}); within a stride the peak varies by "
                f"{varies} (standard deviation over offsets, log-odds), because a larger or smaller part of "
                "the object is inside a cell's window.",
            ),
            Finding(
                "A part of a scene has the same scores as in the whole scene",
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
    """Return the highest log-odds of a square at every offset within a stride: (stride, stride)."""
    stride = network.config.window.stride
    peaks = np.empty((stride, stride), np.float32)
    for down, right in np.ndindex(stride, stride):
        peaks[down, right] = log_odds(network, *_pair(ground, row + down, col + right)).max()
    return peaks


def shift_error(network: SiameseNetwork, ground: NDArray[np.uint8], _row: int, _col: int) -> float:
    """Return the largest difference between the map, moved by whole strides, and the map of the moved square.

    The ground is periodic with the stride, so that it looks the same at both positions.
    """
    stride, parts = network.config.window.stride, network.config.subcells
    periodic = np.tile(ground[:, :stride, :stride], (1, SIDE // stride, SIDE // stride))
    first = log_odds(network, *_pair(periodic, SPOT, SPOT))
    second = log_odds(network, *_pair(periodic, SPOT + 3 * stride, SPOT + 5 * stride))
    down, right = 3 * parts, 5 * parts
    return float(np.abs(first[:-down, :-right] - second[down:, right:]).max())


def crop_error(network: SiameseNetwork, pair: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator) -> float:
    """Return the largest difference between the map of a random crop and the same part of the whole map."""
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


def _random_ground(templates: list[Template], rng: np.random.Generator) -> tuple[NDArray[np.uint8], int, int]:
    """Return a random square part of a random template, and the position of the object in it."""
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
    save_figure(figure, path)
