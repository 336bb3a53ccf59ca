"""The user's own scenes, flown more than once, as pairs to learn from: what differs between the dates is mostly normal.

Nobody has said what really changed there, but little has. So all counts as unchanged but for what the weights to begin
with are surest of: that may be an anomaly, and does not count.
"""

from __future__ import annotations

import itertools
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pyogrio
import torch
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation

from geosiam.errors import InputError, TrainingDataError
from geosiam.imagery.grid import Window
from geosiam.imagery.prepare import open_pair
from geosiam.inference.scorer import Scorer, lazy_scores
from geosiam.polygons.geopackage import LAYER
from geosiam.training.datasets import load_chips, middle, parted
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, PairStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geosiam.network.weights import Model
    from geosiam.training.sources import ChipSource

    Sources = tuple[ChipSource, ChipSource]

    from torch import Tensor

    from geosiam.imagery.pair import ScenePair

    Bounds = tuple[float, float, float, float]
    Verdicts = list[tuple[object, str]]

log = logging.getLogger(__name__)

SUREST = 0.05
"""Share of a pair that is left undecided at most: the cells that score highest, if they reach the threshold at all."""

_AROUND = np.ones((3, 3), bool)  # a cell beside an undecided one may hold the rest of the object


def own_scenes(paths: Sequence[str], model: Model) -> list[Sources]:
    """Return chips of scenes, those to learn from and the held-out ones: of two dates where two scenes overlap.

    Parameters
    ----------
    paths
        Scenes in order of their dates; each makes a pair with the next one, if that shows the same place.
    model
        What the learning begins with.

    Returns
    -------
    list
        A source for each pair, then one for each scene that is part of none.

    Raises
    ------
    TrainingDataError, SceneUnreadableError
        One of them is not there, or no scene.
    """
    pairs, alone = [], list(paths)
    for before, after in itertools.pairwise(paths):
        try:
            pairs.append(revisited(before, after, model))
        except InputError as error:  # what is no scene at all is refused below
            log.info("%s and %s make no pair: %s", before, after, error)
        else:
            alone = [path for path in alone if path not in (before, after)]
    for path in alone:
        log.warning("%s is learnt from alone; with another date of the same place it would teach more", path)
    return [*pairs, *(load_chips(path) for path in alone)]


def revisited(before: str, after: str, model: Model) -> tuple[PairStack, PairStack]:
    """Return two scenes of one place as a pair to learn from, and its last tenth, held out.

    Raises
    ------
    SceneRefusedError, SceneUnreadableError, SceneNotFoundError
        They do not make a pair.
    """
    scorer = Scorer.of_model(model)
    with open_pair(before, after) as pair:
        cells = middle(pair.overlap).coarsened(scorer.stride)
        block = pair.read(cells.scaled(scorer.stride))
        scores = lazy_scores(pair, scorer)[cells.slices].compute()
    left_out = undecided(scores, model.card.threshold)
    labels = np.where(np.kron(left_out, np.ones((scorer.stride,) * 2, bool)) | ~block.valid, UNDECIDED, UNCHANGED)
    dates = [(image * 255).round().astype(np.uint8) for image in (block.before, block.after)]
    learnt, held_out = parted(torch.from_numpy(np.concatenate([*dates, labels[None].astype(np.uint8)])))
    return PairStack([learnt]), PairStack([held_out])


def undecided(scores: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the cells whose scores are the highest of all, at most :data:`SUREST` of them, and those beside them.

    Parameters
    ----------
    scores
        float32 (rows, cols), NaN where there is none.
    threshold
        What scores less is no anomaly in any case.
    """
    known = scores[~np.isnan(scores)]
    limit = float(np.quantile(known, 1 - SUREST)) if known.size else 1.0
    surest: NDArray[np.bool_] = binary_dilation(scores > max(limit, threshold), _AROUND)
    return surest


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
