"""One picture that tells a run: before, after, the scores, and what was found beside what was true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from geosiam.evaluation.agreement import Agreement
    from geosiam.imagery.grid import Grid

_FOUND, _TRUE = "#ff2d55", "#00e5ff"
_INK, _MUTED = "#1b1f24", "#57606a"
_FONT = "DejaVu Sans"
_DPI = 200
_LARGEST = 1400  # pixels of a scene that one panel can show


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
        Where to write.
    before, after
        uint8 (3, rows, cols) or (rows, cols).
    scores
        float (cell rows, cell cols) of any stride over the same ground, 0 to 1, NaN = not scored.
    grid
        Grid of ``before``; scales and places the outlines.
    predicted, truth
        Polygons found and polygons true, in the CRS of the grid: GeoDataFrames or iterables of geometries.
    title
        Line above the panels.
    width_px
        Width of the picture in pixels.
    """
    rows, cols = before.shape[-2:]
    figure = Figure(figsize=(width_px / _DPI, _height(rows / cols, width_px / _DPI, bool(title))), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    layout = figure.subplots(2, 2)
    top = 1 - (0.42 if title else 0.22) / figure.get_figheight()
    figure.subplots_adjust(left=0.015, right=0.985, bottom=0.015, top=top, wspace=0.03, hspace=0.07)
    axes: list[Axes] = list(layout.ravel())
    extent = (0, cols, rows, 0)
    names = ("Before", "After", "Anomaly score", "Found")
    for axis, name, picture in zip(axes, names, (before, after, None, after), strict=True):
        _frame(axis, name)
        if picture is not None:
            axis.imshow(_thinned(picture), extent=extent, interpolation="antialiased")
    _show_scores(figure, axes[2], scores, extent)
    _outline(axes[3], predicted, grid, _FOUND, "found")
    _outline(axes[3], truth, grid, _TRUE, "truth")
    _legend(axes[3])
    _scale_bar(axes[0], grid)
    for axis in axes:
        axis.set_xlim(0, cols)
        axis.set_ylim(rows, 0)
    if title:
        figure.text(
            0.015, 1 - 0.08 / figure.get_figheight(), title, size=9, weight="bold", va="top", color=_INK, family=_FONT
        )
    figure.savefig(path, format="png", metadata={"Software": None})


def _height(aspect: float, width: float, titled: bool) -> float:  # noqa: FBT001 - private
    """Return the figure's height in inches, so that the panels have no blank around them."""
    panel = width * 0.97 / 2.03
    return panel * aspect * 2.07 + (0.42 if titled else 0.22) + 0.03


def _frame(axis: Axes, name: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(name, loc="left", size=7.5, pad=3, color=_INK, family=_FONT)
    for spine in axis.spines.values():
        spine.set_linewidth(0.4)
        spine.set_color(_MUTED)


def _thinned(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture as rows, cols, bands, averaged down where it has more pixels than a panel shows."""
    picture = picture[None].repeat(3, axis=0) if picture.ndim == 2 else picture  # noqa: PLR2004 - a gray picture
    step = -(-max(picture.shape[1:]) // _LARGEST)
    if step > 1:
        h, w = (n // step * step for n in picture.shape[1:])
        blocks = picture[:, :h, :w].reshape(3, h // step, step, w // step, step)
        picture = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return np.moveaxis(picture, 0, -1)


def _show_scores(
    figure: Figure, axis: Axes, scores: NDArray[np.floating[Any]], extent: tuple[float, float, float, float]
) -> None:
    step = -(-max(scores.shape) // _LARGEST)
    axis.set_facecolor("#d0d7de")
    # Thinned by the maximum: a small object must not vanish from the picture of a large scene.
    shown = _largest_of(scores, step) if step > 1 else scores
    image = axis.imshow(shown, extent=extent, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    inset = axis.inset_axes((0.62, 0.035, 0.35, 0.022))
    bar = figure.colorbar(image, cax=inset, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.outline.set_edgecolor("white")
    bar.outline.set_linewidth(0.5)
    inset.xaxis.set_ticks_position("top")
    inset.tick_params(size=0, pad=1.5, labelsize=6, labelcolor="white")


def _largest_of(scores: NDArray[np.floating[Any]], step: int) -> NDArray[np.floating[Any]]:
    """Return the largest score of every ``step x step`` cells, NaN where none is scored."""
    h, w = (n // step * step for n in scores.shape)
    filled = np.where(np.isnan(scores), -np.inf, scores)[:h, :w]
    largest = filled.reshape(h // step, step, w // step, step).max(axis=(1, 3))
    return np.where(np.isinf(largest), np.nan, largest)


def _outline(axis: Axes, polygons: Iterable[Any], grid: Grid, color: str, label: str) -> None:
    """Draw the rings of polygons in pixels of the grid."""
    rings = []
    inverse = ~grid.transform
    for geometry in getattr(polygons, "geometry", polygons):
        for ring in shapely.get_rings(shapely.get_parts(geometry)):
            x, y = shapely.get_coordinates(ring).T
            rings.append(np.column_stack(inverse @ (x, y)))
    # A dark line below keeps the colors readable on any ground.
    axis.add_collection(LineCollection(rings, colors="black", linewidths=2.0, alpha=0.45))
    axis.add_collection(LineCollection(rings, colors=color, linewidths=0.9, label=f"{label}: {_count(polygons)}"))


def _count(polygons: Iterable[Any]) -> int:
    return len(list(getattr(polygons, "geometry", polygons)))


def _legend(axis: Axes) -> None:
    labels = [str(c.get_label()) for c in axis.collections if not str(c.get_label()).startswith("_")]
    lines = [Line2D([], [], color=color, linewidth=1.4) for color in (_FOUND, _TRUE)]
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


def _scale_bar(axis: Axes, grid: Grid) -> None:
    """Draw a bar of a round length, about a fifth of the width, in metres on the ground where the CRS has metres."""
    metres = _metres_per_pixel(grid)
    wanted = 0.22 * grid.width * metres
    power = 10.0 ** np.floor(np.log10(wanted))
    length = power * max(n for n in (1, 2, 5) if n * power <= wanted)
    x0, y0 = 0.035 * grid.width, grid.height - 0.04 * grid.width
    x1 = x0 + length / metres
    for color, width in (("black", 3.4), ("white", 2.0)):
        axis.plot([x0, x1], [y0, y0], color=color, linewidth=width, solid_capstyle="butt", alpha=0.9)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"  # noqa: PLR2004 - metres in a kilometre
    box = {"facecolor": "black", "alpha": 0.45, "linewidth": 0, "pad": 1.2}
    axis.text(
        (x0 + x1) / 2, y0 - 0.018 * grid.width, label, size=6.5, color="white", ha="center", va="bottom", bbox=box
    )


def _metres_per_pixel(grid: Grid) -> float:
    """Return the width of a pixel in metres; of a geographic grid, at its middle latitude."""
    size = grid.pixel_size[0]
    if grid.crs.is_geographic:
        latitude = (grid.bounds[1] + grid.bounds[3]) / 2
        return float(size * 111_320 * max(0.01, np.cos(np.radians(latitude))))
    return float(size * grid.crs.linear_units_factor[1])


_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_CURVE_INK, _CURVE_MUTED = "#1b1f24", "#8c959f"
_CURVE_DPI = 150


def save_curves(path: Path, named: Sequence[tuple[str, Agreement]]) -> None:
    """Write a PNG of the curves of evaluations that know scores.

    Parameters
    ----------
    path
        Where to write.
    named
        Name and agreement of each.
    """
    figure = Figure(figsize=(12, 4.2), dpi=_CURVE_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    roc, precision, calibration = figure.subplots(1, 3)
    _label_axes(roc, "ROC", "false alarm rate", "recall")
    _label_axes(precision, "Precision and recall", "recall", "precision")
    _label_axes(calibration, "Calibration", "score", "share that is changed")
    for axis in (roc, calibration):
        axis.plot([0, 1], [0, 1], color=_CURVE_MUTED, lw=0.8, ls=":")
    for number, (name, agreement) in enumerate(named):
        if agreement.counts is None:
            continue
        look = {"color": _COLORS[number % len(_COLORS)], "lw": 1.6, "ls": "-" if number < len(_COLORS) else "--"}
        curves = agreement.counts.curves()
        roc.plot(_from(0, curves["false_alarm_rate"]), _from(0, curves["recall"]),
                 label=f"{name} ({agreement.counts.auroc:.3f})", **look)  # fmt: skip
        precision.plot(curves["recall"], curves["precision"], drawstyle="steps-pre",
                       label=f"{name} ({agreement.counts.average_precision:.3f})", **look)  # fmt: skip
        at = agreement.fixed
        precision.plot([at.recall], [at.precision], "o", color=look["color"], ms=5)
        if agreement.calibrated:
            bins = agreement.counts.calibration(10, of_equal="width")
            calibration.plot([b.score for b in bins], [b.changed for b in bins], label=name, marker="o", ms=3, **look)
    for axis, corner in ((roc, "lower right"), (precision, "center"), (calibration, "upper left")):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False, loc=corner)
    figure.savefig(path, format="png", metadata={"Software": None})


def _from(start: float, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a curve that begins at a value."""
    return np.concatenate([[start], curve])


def _label_axes(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", size=10, color=_CURVE_INK)
    axis.set_xlabel(x, size=8, color=_CURVE_INK)
    axis.set_ylabel(y, size=8, color=_CURVE_INK)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
