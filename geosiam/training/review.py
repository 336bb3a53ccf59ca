"""The analyst's verdicts as pairs to learn from: what was rejected is normal, what was confirmed is an anomaly."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pyogrio
import torch
from rasterio.features import rasterize

from geosiam.errors import TrainingDataError
from geosiam.imagery.grid import Window
from geosiam.imagery.pair import open_pair
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, PairStack
from geosiam.vector.geopackage import LAYER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.imagery.pair import ScenePair

    Bounds = tuple[float, float, float, float]
    Verdicts = list[tuple[object, str]]

_SIDE = 192  # pixels around a polygon's middle that make a pair: room for chips at every zoom
_MOST_SIDE = 1024  # of a larger polygon the middle is taken
_REMEDY = "set the field `review` of some polygons to rejected or confirmed and save the layer"


def reviewed_pairs(path: str | Path, scenes: Sequence[str] = ()) -> PairStack:
    """Return the surroundings of every judged polygon, in which nothing but judged polygons has a label.

    Parameters
    ----------
    path
        GeoPackage that `geosiam detect` wrote, with verdicts in the field ``review``.
    scenes
        The two scenes it was made of; none: those that it names itself.

    Raises
    ------
    TrainingDataError
        No such file, no verdict in it, or its scenes are not where they were.
    """
    frame = _polygons(path)
    before, after = scenes if len(scenes) == 2 else _inputs(path)  # noqa: PLR2004 - a pair
    for scene in (before, after):
        if not Path(scene).exists() and "://" not in scene:
            remedy = "name both scenes, the earlier first, with --scenes BEFORE --scenes AFTER"
            raise TrainingDataError(path, f"was made of {scene}, which is not there", remedy)
    with open_pair(before, after) as pair:
        frame = frame.to_crs(pair.grid.crs)
        verdicts = list(zip(frame.geometry, frame["review"], strict=True))
        return PairStack([_surroundings(pair, geometry.bounds, verdicts) for geometry, _ in verdicts])


def _polygons(path: str | Path) -> geopandas.GeoDataFrame:
    """Return the polygons that were confirmed or rejected."""
    if not Path(path).exists():
        raise TrainingDataError(path, "does not exist", "name the GeoPackage that `geosiam detect` wrote")
    try:
        frame = geopandas.read_file(path, layer=LAYER, columns=["review"])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        fact = f"has no layer {LAYER!r} ({error})"
        raise TrainingDataError(path, fact, "name the GeoPackage that `geosiam detect` wrote") from error
    if "review" not in frame or not frame["review"].isin(["confirmed", "rejected"]).any():
        raise TrainingDataError(path, "holds no verdicts", _REMEDY)
    return frame[frame["review"].isin(["confirmed", "rejected"])]


def _inputs(path: str | Path) -> tuple[str, str]:
    """Return the names of both scenes as the GeoPackage's provenance has them."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            row = file.execute("SELECT provenance FROM runs ORDER BY id DESC").fetchone()
        pair = json.loads(row[0])["pair"]
        return str(pair["before"]["name"]), str(pair["after"]["name"])
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        fact = f"does not say which scenes it was made of ({error})"
        remedy = "name both, the earlier first, with --scenes BEFORE --scenes AFTER"
        raise TrainingDataError(path, fact, remedy) from error


def _surroundings(pair: ScenePair, bounds: Bounds, verdicts: Verdicts) -> Tensor:
    """Return both dates and the labels around a polygon as :class:`PairStack` wants them, uint8 (7, rows, cols)."""
    window = _window(pair, bounds)
    block = pair.read(window)
    labels = _labels(verdicts, window, pair)
    labels[~block.valid] = UNDECIDED
    dates = [(image * 255).round().astype(np.uint8) for image in (block.before, block.after)]
    return torch.from_numpy(np.concatenate([*dates, labels[None]]))


def _window(pair: ScenePair, bounds: Bounds) -> Window:
    """Return the pixels around a polygon's middle; beyond the scene's edge it is reflected."""
    left, bottom, right, top = bounds
    corners = [~pair.grid.transform @ (x, y) for x in (left, right) for y in (bottom, top)]
    cols, rows = zip(*corners, strict=True)
    spans = []
    for values in (rows, cols):
        middle, half = (min(values) + max(values)) / 2, (max(values) - min(values)) / 2
        reach = round(min(max(_SIDE / 2, half + _SIDE / 4), _MOST_SIDE / 2))
        spans += [round(middle) - reach, round(middle) + reach]
    return Window(*spans)


def _labels(verdicts: Verdicts, window: Window, pair: ScenePair) -> NDArray[np.uint8]:
    """Draw the verdicts into a window; where none was given the label is undecided."""
    here = pair.grid.transform @ pair.grid.transform.translation(window.col_start, window.row_start)
    values = {"rejected": UNCHANGED, "confirmed": CHANGED}
    # Confirmed ones go last: what is an anomaly in one verdict is none of the normal ground of another.
    ordered = sorted(verdicts, key=lambda item: item[1] == "confirmed")
    labels: NDArray[np.uint8] = rasterize(
        [(geometry, values[verdict]) for geometry, verdict in ordered],
        out_shape=window.shape,
        transform=here,
        fill=UNDECIDED,
        dtype="uint8",
    )
    return labels
