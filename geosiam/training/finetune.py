"""Turn the user's own scenes and verdicts into training data.

Two dates of one place become a pair whose differences are mostly normal. Nobody has labeled what really changed there,
but it is little. So every cell counts as unchanged, except those that the initial weights are most confident about:
these may be anomalies, and are left undecided.

A folder of many such pairs is laid out as change detection datasets are: ``A`` and ``B`` hold the two dates of a pair
under one name, and ``label``, if there is one, a mask of what changed (0 = unchanged, 255 = changed, anything between =
undecided).

Reviewed polygons become pairs in which only the polygons with a verdict are labeled.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rioxarray  # noqa: F401 - the accessor `rio`
import torch
import xarray
from PIL import Image
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation

from geosiam.errors import InputError, TrainingDataError
from geosiam.files import exists, is_folder
from geosiam.imagery.grid import Window
from geosiam.imagery.prepare import open_pair
from geosiam.inference.scorer import Scorer, lazy_scores
from geosiam.polygons.results import read_reviews, read_run_record
from geosiam.training.datasets import PICTURES, central_window, is_image, load_chips, load_image, split_scene
from geosiam.training.loop import preserved_torch_state
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, PairStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    import geopandas
    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair import PairBlock, ScenePair
    from geosiam.network.weights import Model
    from geosiam.training.sources import TrainingSources

    Bounds = tuple[float, float, float, float]
    Verdicts = list[tuple[Any, str]]

log = logging.getLogger(__name__)

MOST_CONFIDENT = 0.05
"""Largest share of a pair's cells that is left undecided: those with the highest scores above the threshold."""

_NEIGHBORS = np.ones((3, 3), bool)  # a cell beside an undecided one may hold the rest of the object

_DATES, _MASKS = ("A", "B"), "label"  # folders of a change detection dataset
_CRS, _CORNER = "EPSG:32633", (400_000.0, 5_000_000.0)  # of images without a georeference
_PAIRS_REMEDY = "give both dates of a pair, and its mask, the same name and size"

_LABELS = {"rejected": UNCHANGED, "confirmed": CHANGED}
_SIDE_PX = 192  # around the center of a reviewed polygon: room for chips at every zoom
_LARGEST_SIDE_PX = 1024  # larger polygons are cut to this
_DETECT_REMEDY = "name the GeoPackage that `geosiam detect` wrote"
_SCENES_REMEDY = "set `scenes` to both, the earlier first"
_REVIEW_REMEDY = "set the field review of some polygons to rejected or confirmed and save the layer"


def own_scenes(paths: Sequence[str], model: Model) -> list[TrainingSources]:
    """Return the chips of scenes, for training and held out: pairs where two consecutive scenes overlap.

    Parameters
    ----------
    paths
        Scenes in order of their dates, and folders of pairs (:func:`change_detection_dataset`).
    model
        Initial weights of the fine-tuning.

    Returns
    -------
    list
        A source for each folder, for each pair, then one for each scene that is part of none.

    Raises
    ------
    TrainingDataError, SceneUnreadableError
        One of them does not exist or is not a scene.
    """
    folders = [path for path in paths if all(is_folder(Path(path) / date) for date in _DATES)]
    pairs: list[TrainingSources] = [change_detection_dataset(Path(folder), model) for folder in folders]
    single = [path for path in paths if path not in folders]
    for before, after in itertools.pairwise(tuple(single)):
        try:
            pairs.append(bitemporal(before, after, model))
        except InputError as error:  # a file that is not a scene is refused below
            log.info("%s and %s are not a pair: %s", before, after, error)
        else:
            single = [path for path in single if path not in (before, after)]
    for path in single:
        log.warning("%s is used alone; a second date of the same place would improve the training", path)
    return [*pairs, *(load_chips(path) for path in single)]


def change_detection_dataset(folder: Path, model: Model) -> tuple[PairStack, PairStack]:
    """Return the pairs of a change detection dataset for training, and the last tenth of each, held out.

    Parameters
    ----------
    folder
        Folder with ``A``, ``B`` and perhaps ``label``.
    model
        As in :func:`bitemporal`, for the pairs without a mask.

    Raises
    ------
    TrainingDataError
        An image has no counterpart of its name and size.
    """
    names = [_images(folder / date) for date in _DATES]
    lonely = sorted(names[0].keys() ^ names[1].keys())
    if lonely or not names[0]:
        fact = f"holds {lonely[0]} at one date only" if lonely else "holds no images"
        raise TrainingDataError(folder, fact, _PAIRS_REMEDY)
    masks = _images(folder / _MASKS) if is_folder(folder / _MASKS) else {}
    pairs = []
    for name, before in names[0].items():
        try:
            pairs.append(bitemporal(_georeferenced(before), _georeferenced(names[1][name]), model, masks.get(name)))
        except TrainingDataError:
            raise
        except InputError as error:
            raise TrainingDataError(before, f"is no pair with its other date: {error.fact}", _PAIRS_REMEDY) from error
    train, held_out = ([stack.scenes[0] for stack in part] for part in zip(*pairs, strict=True))
    return PairStack(train), PairStack(held_out)


def _images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix; other files, such as sidecars, are no images."""
    return {file.stem: file for file in sorted(folder.iterdir()) if is_image(file)}


def _georeferenced(path: Path) -> SceneLike:
    """Return an image as a scene; one without a georeference, as datasets hold them, is given one."""
    if path.suffix.lower() not in PICTURES:
        return path
    pixels = load_image(path, str(path))
    rows, cols = (np.arange(side) + 0.5 for side in pixels.shape[1:])
    array = xarray.DataArray(pixels, {"y": _CORNER[1] - rows, "x": _CORNER[0] + cols}, ("band", "y", "x"), path.name)
    return array.rio.write_crs(_CRS)


def bitemporal(
    before: SceneLike, after: SceneLike, model: Model, mask: Path | None = None
) -> tuple[PairStack, PairStack]:
    """Return two dates of one place as a pair for training, and its last tenth, held out.

    Parameters
    ----------
    before, after
        The two scenes.
    model
        Weights whose most confident cells are left undecided.
    mask
        Image of what changed, on the grid of the before scene; None: unknown.

    Raises
    ------
    SceneRefusedError, SceneUnreadableError, SceneNotFoundError
        They are not a pair.
    """
    stride = model.card.stride
    with preserved_torch_state(), open_pair(before, after) as pair:
        cells = central_window(pair.overlap).coarsened(stride)
        window = cells.scaled(stride)
        block = pair.read(window)
        if mask is None:
            scores = lazy_scores(pair, Scorer.of_model(model))[cells.slices].compute()
            undecided = np.kron(most_confident(scores, model.card.threshold), np.ones((stride, stride), bool))
            labels = np.where(undecided, UNDECIDED, UNCHANGED)
        else:
            labels = _read_mask(mask, pair.grid.shape, window)
    labels = np.where(block.valid, labels, UNDECIDED).astype(np.uint8)
    train, held_out = split_scene(_labeled_pair(block, labels))
    return PairStack([train]), PairStack([held_out])


def _read_mask(path: Path, shape: tuple[int, int], window: Window) -> NDArray[np.uint8]:
    """Return a window of a mask; pixels beyond the scene are undecided."""
    with Image.open(path) as image:
        mask = np.asarray(image.convert("L"))
    if mask.shape != shape:
        fact = f"is {mask.shape[1]} x {mask.shape[0]} px, its pair {shape[1]} x {shape[0]} px"
        raise TrainingDataError(path, fact, _PAIRS_REMEDY)
    beyond = max(0, window.row_stop - shape[0]), max(0, window.col_stop - shape[1])  # the last cells may reach there
    padded = np.pad(mask, ((0, beyond[0]), (0, beyond[1])), constant_values=UNDECIDED)[window.slices]
    return np.where(np.isin(padded, (UNCHANGED, CHANGED)), padded, UNDECIDED).astype(np.uint8)


def most_confident(scores: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the cells with the highest scores, at most :data:`MOST_CONFIDENT` of all, and their neighbors.

    Parameters
    ----------
    scores
        float32 (rows, cols), NaN = no score.
    threshold
        Cells that score less are not included.
    """
    valid = scores[~np.isnan(scores)]
    limit = float(np.quantile(valid, 1 - MOST_CONFIDENT)) if valid.size else 1.0
    cells: NDArray[np.bool_] = binary_dilation(scores > max(limit, threshold), _NEIGHBORS)
    return cells


def reviewed_pairs(path: str | Path, scenes: Sequence[str] = ()) -> PairStack:
    """Return the surroundings of every polygon with a verdict; only polygons with a verdict are labeled in them.

    Parameters
    ----------
    path
        GeoPackage that `geosiam detect` wrote, with verdicts in the field ``review``.
    scenes
        The two scenes it was made from; empty: those that the GeoPackage names.

    Raises
    ------
    TrainingDataError
        There is no such file, no verdict in it, or its scenes have been moved.
    """
    polygons = read_verdicts(path)
    before, after = scenes if len(scenes) == 2 else _scenes_of(path)  # noqa: PLR2004 - a pair
    for scene in (before, after):
        if not exists(scene) and "://" not in scene:
            raise TrainingDataError(path, f"was made from {scene}, which does not exist", _SCENES_REMEDY)
    with open_pair(before, after) as pair:
        polygons = polygons.to_crs(pair.grid.crs)
        verdicts = list(zip(polygons.geometry, polygons["review"], strict=True))
        return PairStack([_surroundings(pair, geometry.bounds, verdicts) for geometry, _ in verdicts])


def read_verdicts(path: str | Path) -> geopandas.GeoDataFrame:
    """Return the confirmed and rejected polygons of a GeoPackage, with their verdicts in the column ``review``.

    Raises
    ------
    TrainingDataError
        The file does not exist, has no layer of polygons, or no such verdicts.
    """
    try:
        polygons = read_reviews(path, geometry=True)
    except InputError as error:
        raise TrainingDataError(path, error.fact, _DETECT_REMEDY) from error
    judged = polygons["review"].isin(_LABELS)
    if not judged.any():
        raise TrainingDataError(path, "holds no verdicts", _REVIEW_REMEDY)
    return polygons[judged]


def _scenes_of(path: str | Path) -> tuple[str, str]:
    """Return the names of both scenes from the provenance in a GeoPackage."""
    try:
        record = read_run_record(path)
    except InputError as error:
        fact = f"does not name the scenes it was made from ({error.fact})"
        raise TrainingDataError(path, fact, _SCENES_REMEDY) from error
    if record.before.name is None or record.after.name is None:
        raise TrainingDataError(path, "does not name the scenes it was made from", _SCENES_REMEDY)
    return record.before.name, record.after.name


def _surroundings(pair: ScenePair, bounds: Bounds, verdicts: Verdicts) -> Tensor:
    """Return both dates and the labels around a polygon: uint8 (7, rows, cols), as :class:`PairStack` takes it."""
    window = _window(pair, bounds)
    block = pair.read(window)
    labels = _labels(verdicts, window, pair)
    labels[~block.valid] = UNDECIDED
    return _labeled_pair(block, labels)


def _labeled_pair(block: PairBlock, labels: NDArray[np.uint8]) -> Tensor:
    dates = [(image * 255).round().astype(np.uint8) for image in (block.before, block.after)]
    return torch.from_numpy(np.concatenate([*dates, labels[None]]))


def _window(pair: ScenePair, bounds: Bounds) -> Window:
    """Return the pixels around a polygon's center; beyond the edge the scene is mirrored."""
    left, bottom, right, top = bounds
    corners = [~pair.grid.transform @ (x, y) for x in (left, right) for y in (bottom, top)]
    cols, rows = zip(*corners, strict=True)
    spans = []
    for values in (rows, cols):
        center, half = (min(values) + max(values)) / 2, (max(values) - min(values)) / 2
        reach = round(min(max(_SIDE_PX / 2, half + _SIDE_PX / 4), _LARGEST_SIDE_PX / 2))
        spans += [round(center) - reach, round(center) + reach]
    return Window(*spans)


def _labels(verdicts: Verdicts, window: Window, pair: ScenePair) -> NDArray[np.uint8]:
    """Rasterize the verdicts in a window; pixels without one are undecided."""
    # Confirmed polygons are drawn last: an anomaly of one verdict is not part of another one's normal ground.
    ordered = sorted(verdicts, key=lambda item: item[1] == "confirmed")
    labels: NDArray[np.uint8] = rasterize(
        [(geometry, _LABELS[verdict]) for geometry, verdict in ordered],
        out_shape=window.shape,
        transform=pair.grid.transform @ pair.grid.transform.translation(window.col_start, window.row_start),
        fill=UNDECIDED,
        dtype="uint8",
    )
    return labels
