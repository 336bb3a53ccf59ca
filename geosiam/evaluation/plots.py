"""Figures of results: a panel of one pair with its scores and outlines, and the curves of evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geosiam.evaluation.counts import CALIBRATION_BINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from geosiam.evaluation.agreement import Agreement
    from geosiam.imagery.grid import Grid

_PREDICTED_COLOR, _TRUE_COLOR = "#ff2d55", "#00e5ff"
_METHOD_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_TEXT_COLOR, _FRAME_COLOR, _DIAGONAL_COLOR, _NODATA_COLOR = "#1b1f24", "#57606a", "#8c959f", "#d0d7de"
_FONT = "DejaVu Sans"
_PANEL_DPI, _CURVES_DPI = 200, 150
_MAX_PANEL_PX = 1400  # longest side of a scene that one panel can show
_TITLE_IN, _NO_TITLE_IN = 0.42, 0.22  # height above the panels in inches
_METERS_PER_DEGREE = 111_320.0  # of longitude at the equator


def save_panel(
    path: Path,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    scores: NDArray[np.floating[Any]],
    *,
    grid: Grid,
    predicted: Iterable[Any] = (),
    truth: Iterable[Any] = (),
    title: str = "",
    width_px: int = 1600,
) -> None:
    """Write a PNG of four panels: before, after, scores, and after with outlines.

    Parameters
    ----------
    path
        File to write.
    before, after
        uint8 (3, rows, cols) or (rows, cols).
    scores
        float (cell rows, cell cols) of any stride over the same ground, 0 to 1, NaN = not scored.
    grid
        Grid of ``before``, for the outlines and the scale bar.
    predicted, truth
        Predicted and true polygons in the CRS of the grid: GeoDataFrames or iterables of geometries.
    title
        Line above the panels.
    width_px
        Width of the figure in pixels.
    """
    rows, cols = before.shape[-2:]
    width_in, title_in = width_px / _PANEL_DPI, _TITLE_IN if title else _NO_TITLE_IN
    figure = Figure(figsize=(width_in, _panel_height_in(rows / cols, width_in, title_in)), dpi=_PANEL_DPI)
    FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    layout = figure.subplots(2, 2)
    top = 1 - title_in / figure.get_figheight()
    figure.subplots_adjust(left=0.015, right=0.985, bottom=0.015, top=top, wspace=0.03, hspace=0.07)
    axes: list[Axes] = list(layout.ravel())
    extent = (0, cols, rows, 0)
    names = ("Before", "After", "Anomaly score", "Found")
    for axis, name, image in zip(axes, names, (before, after, None, after), strict=True):
        _draw_frame(axis, name)
        if image is not None:
            axis.imshow(_downsample(image), extent=extent, interpolation="antialiased")
    _draw_scores(figure, axes[2], scores, extent)
    _draw_outlines(axes[3], predicted, grid, _PREDICTED_COLOR, "found")
    _draw_outlines(axes[3], truth, grid, _TRUE_COLOR, "truth")
    _draw_legend(axes[3])
    _draw_scale_bar(axes[0], grid)
    for axis in axes:
        axis.set_xlim(0, cols)
        axis.set_ylim(rows, 0)
    if title:
        y = 1 - 0.08 / figure.get_figheight()
        figure.text(0.015, y, title, size=9, weight="bold", va="top", color=_TEXT_COLOR, family=_FONT)
    _save(figure, path)


def save_curves(path: Path, agreements: Sequence[tuple[str, Agreement]]) -> None:
    """Write a PNG of ROC, precision-recall and calibration curves.

    Parameters
    ----------
    path
        File to write.
    agreements
        Name and agreement of each method; those without scores have no curves.
    """
    figure = Figure(figsize=(12, 4.2), dpi=_CURVES_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    roc, precision, calibration = axes = list(figure.subplots(1, 3))
    _label_axes(roc, "ROC", "false alarm rate", "recall")
    _label_axes(precision, "Precision and recall", "recall", "precision")
    _label_axes(calibration, "Calibration", "score", "fraction of changed pixels")
    for axis in (roc, calibration):
        axis.plot([0, 1], [0, 1], color=_DIAGONAL_COLOR, lw=0.8, ls=":")
    for number, (name, agreement) in enumerate(agreements):
        color = _METHOD_COLORS[number % len(_METHOD_COLORS)]
        line = "-" if number < len(_METHOD_COLORS) else "--"
        _draw_curves(axes, name, agreement, {"color": color, "lw": 1.6, "ls": line})
    for axis, corner in ((roc, "lower right"), (precision, "center"), (calibration, "upper left")):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False, loc=corner)
    _save(figure, path)


def _panel_height_in(aspect: float, width_in: float, title_in: float) -> float:
    """Return the height of the figure in inches at which there are no blank margins around the panels."""
    panel = width_in * 0.97 / 2.03
    return panel * aspect * 2.07 + title_in + 0.03


def _draw_frame(axis: Axes, name: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(name, loc="left", size=7.5, pad=3, color=_TEXT_COLOR, family=_FONT)
    for spine in axis.spines.values():
        spine.set_linewidth(0.4)
        spine.set_color(_FRAME_COLOR)


def _downsample(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image as rows, cols, bands, averaged if it has more pixels than a panel can show."""
    image = image[None].repeat(3, axis=0) if image.ndim == 2 else image  # noqa: PLR2004 - a gray image
    step = -(-max(image.shape[1:]) // _MAX_PANEL_PX)
    if step > 1:
        h, w = (n // step * step for n in image.shape[1:])
        blocks = image[:, :h, :w].reshape(3, h // step, step, w // step, step)
        image = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return np.moveaxis(image, 0, -1)


def _draw_scores(
    figure: Figure, axis: Axes, scores: NDArray[np.floating[Any]], extent: tuple[float, float, float, float]
) -> None:
    step = -(-max(scores.shape) // _MAX_PANEL_PX)
    axis.set_facecolor(_NODATA_COLOR)
    # Downsampled by the maximum: a small object must not vanish from the figure of a large scene.
    downsampled = _block_maxima(scores, step) if step > 1 else scores
    image = axis.imshow(downsampled, extent=extent, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    inset = axis.inset_axes((0.62, 0.035, 0.35, 0.022))
    bar = figure.colorbar(image, cax=inset, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.outline.set_edgecolor("white")
    bar.outline.set_linewidth(0.5)
    inset.xaxis.set_ticks_position("top")
    inset.tick_params(size=0, pad=1.5, labelsize=6, labelcolor="white")


def _block_maxima(scores: NDArray[np.floating[Any]], step: int) -> NDArray[np.floating[Any]]:
    """Return the largest score of every ``step x step`` cells, NaN if none is scored."""
    h, w = (n // step * step for n in scores.shape)
    filled = np.where(np.isnan(scores), -np.inf, scores)[:h, :w]
    maxima = filled.reshape(h // step, step, w // step, step).max(axis=(1, 3))
    return np.where(np.isinf(maxima), np.nan, maxima)


def _draw_outlines(axis: Axes, polygons: Iterable[Any], grid: Grid, color: str, label: str) -> None:
    """Draw the rings of polygons in pixels of the grid."""
    geometries = list(getattr(polygons, "geometry", polygons))
    inverse = ~grid.transform
    rings = []
    for geometry in geometries:
        for ring in shapely.get_rings(shapely.get_parts(geometry)):
            x, y = shapely.get_coordinates(ring).T
            rings.append(np.column_stack(inverse @ (x, y)))
    # A dark line underneath keeps the colors readable on any ground.
    axis.add_collection(LineCollection(rings, colors="black", linewidths=2.0, alpha=0.45))
    axis.add_collection(LineCollection(rings, colors=color, linewidths=0.9, label=f"{label}: {len(geometries)}"))


def _draw_legend(axis: Axes) -> None:
    labels = [str(c.get_label()) for c in axis.collections if not str(c.get_label()).startswith("_")]
    lines = [Line2D([], [], color=color, linewidth=1.4) for color in (_PREDICTED_COLOR, _TRUE_COLOR)]
    legend = axis.legend(
        lines,
        labels,
        loc="lower right",
        prop={"size": 6.5, "family": _FONT},
        framealpha=0.85,
        handlelength=1.4,
        borderpad=0.5,
    )
    legend.get_frame().set_linewidth(0)


def _draw_scale_bar(axis: Axes, grid: Grid) -> None:
    """Draw a bar of a round length in meters on the ground, about a fifth of the width."""
    meters_per_px = _meters_per_pixel(grid)
    max_length_m = 0.22 * grid.width * meters_per_px
    power = 10.0 ** np.floor(np.log10(max_length_m))
    length_m = power * max(n for n in (1, 2, 5) if n * power <= max_length_m)
    x0, y0 = 0.035 * grid.width, grid.height - 0.04 * grid.width
    x1 = x0 + length_m / meters_per_px
    for color, width in (("black", 3.4), ("white", 2.0)):
        axis.plot([x0, x1], [y0, y0], color=color, linewidth=width, solid_capstyle="butt", alpha=0.9)
    label = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"  # noqa: PLR2004 - 1 km
    box = {"facecolor": "black", "alpha": 0.45, "linewidth": 0, "pad": 1.2}
    axis.text(
        (x0 + x1) / 2, y0 - 0.018 * grid.width, label, size=6.5, color="white", ha="center", va="bottom", bbox=box
    )


def _meters_per_pixel(grid: Grid) -> float:
    """Return the width of a pixel in meters; on a geographic grid, at its central latitude."""
    size = grid.pixel_size[0]
    if grid.crs.is_geographic:
        latitude = (grid.bounds[1] + grid.bounds[3]) / 2
        return float(size * _METERS_PER_DEGREE * max(0.01, np.cos(np.radians(latitude))))
    return float(size * grid.crs.linear_units_factor[1])


def _draw_curves(axes: Sequence[Axes], name: str, agreement: Agreement, style: dict[str, Any]) -> None:
    """Draw the ROC, precision-recall and calibration curves of one method."""
    counts = agreement.counts
    if counts is None:
        return
    roc, precision, calibration = axes
    curves = counts.curves()
    false_alarm_rate, recall = (np.concatenate([[0], curves[key]]) for key in ("false_alarm_rate", "recall"))
    roc.plot(false_alarm_rate, recall, label=f"{name} ({counts.auroc:.3f})", **style)
    label = f"{name} ({counts.average_precision:.3f})"
    precision.plot(curves["recall"], curves["precision"], drawstyle="steps-pre", label=label, **style)
    used = agreement.at_threshold
    precision.plot([used.recall], [used.precision], "o", color=style["color"], ms=5)
    if agreement.calibrated:
        bins = counts.calibration(CALIBRATION_BINS, of_equal="width")
        scores, fractions = [part.score for part in bins], [part.changed for part in bins]
        calibration.plot(scores, fractions, label=name, marker="o", ms=3, **style)


def _label_axes(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", size=10, color=_TEXT_COLOR)
    axis.set_xlabel(x, size=8, color=_TEXT_COLOR)
    axis.set_ylabel(y, size=8, color=_TEXT_COLOR)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})
