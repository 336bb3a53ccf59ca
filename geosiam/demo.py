"""The demo: a synthetic pair with known changes, `detect` on it, and its recall and precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from geosiam.errors import GeosiamError, OutputError
from geosiam.evaluation.metrics import object_scores
from geosiam.evaluation.plots import save_panel
from geosiam.files import exists, plain_path
from geosiam.imagery.grid import Grid
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.polygons.geopackage import LAYER
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_PANEL_PX = 1200  # largest side of the pictures in the panel


@dataclass(frozen=True)
class DemoResult:
    """Files of the demo, and its recall and precision.

    Parameters
    ----------
    before, after, truth
        The synthetic scenes, and the polygons of the true changes.
    polygons, scores, panel
        Polygons and score raster of `detect`, and a picture of all of them.
    changed, found
        Number of changed objects, and how many of them intersect a polygon.
    reported, right
        Number of polygons, and how many of them intersect a changed object.
    recall, precision
        ``found / changed`` and ``right / reported``.
    """

    before: Path
    after: Path
    truth: Path
    polygons: Path
    scores: Path
    panel: Path
    changed: int
    found: int
    reported: int
    right: int
    recall: float
    precision: float


def run_demo(
    folder: str | Path,
    *,
    size: int = 1024,
    seed: int = 0,
    options: DetectOptions = DetectOptions(),
    on_progress: Callable[[int, int], None] | None = None,
) -> DemoResult:
    """Generate a pair, detect its changes, and compare them with the truth.

    Parameters
    ----------
    folder
        Folder of all files; created if it does not exist.
    size
        Width and height of the scenes in pixels of 10 cm.
    seed
        Seed of the scenes; the same seed and size give the same scenes.
    options
        Options of :func:`geosiam.pipeline.detect`.
    on_progress
        Called with (pixels scored, total pixels).

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    folder = Path(folder)
    config = SyntheticConfig(height=size, width=size, seed=seed)
    _refuse_other_scenes(folder)
    try:
        scenes = write_pair_tiles(config, folder)
    except GeosiamError:
        raise
    except OSError as error:
        raise OutputError(folder, f"cannot be written to ({error})", "choose another folder") from error
    options = replace(options, restart=True)  # the scenes are new, so there is nothing to resume
    result = detect(scenes.before, scenes.after, folder / "anomalies.gpkg", options=options, on_progress=on_progress)
    with plain_path(scenes.truth) as truth_file, plain_path(result.polygons_path) as polygon_file:
        truth = geopandas.read_file(truth_file)
        polygons = geopandas.read_file(polygon_file, layer=LAYER)
    objects = object_scores(polygons, truth)
    panel = folder / "panel.png"
    title = f"{objects.found} of {objects.truth} changes found, {objects.correct} of {objects.predicted} polygons right"
    _draw_panel(
        panel,
        config.grid,
        scenes,
        scores_path=result.scores_path,
        polygons=polygons,
        truth=truth,
        title=title,
    )
    return DemoResult(
        before=scenes.before,
        after=scenes.after,
        truth=scenes.truth,
        polygons=result.polygons_path,
        scores=result.scores_path,
        panel=panel,
        changed=objects.truth,
        found=objects.found,
        reported=objects.predicted,
        right=objects.correct,
        recall=objects.recall,
        precision=objects.precision,
    )


def _refuse_other_scenes(folder: Path) -> None:
    """Refuse a folder with scenes of the same names that no demo made: those of a demo come with their truth."""
    scenes = [folder / name for name in ("before.tif", "after.tif") if exists(folder / name)]
    if scenes and not exists(folder / "truth.gpkg"):
        raise OutputError(scenes[0], "is not of a demo and would be overwritten", "choose another folder")


def _draw_panel(
    path: Path,
    grid: Grid,
    scenes: SyntheticPaths,
    *,
    scores_path: Path,
    polygons: geopandas.GeoDataFrame,
    truth: geopandas.GeoDataFrame,
    title: str,
) -> None:
    """Draw scenes, scores, and the outlines of the detected polygons and the true ones."""
    step = max(1, -(-grid.width // _PANEL_PX))
    small = Grid(grid.crs, grid.transform @ Affine.scale(step), max(1, grid.width // step), max(1, grid.height // step))
    before, after = (_picture(scene, small) for scene in (scenes.before, scenes.after))
    with rasterio.open(scores_path) as raster:
        scores = raster.read(1, masked=True).astype(np.float32).filled(np.nan) * raster.scales[0]
    save_panel(path, before, after, scores, grid=small, predicted=polygons, truth=truth, title=title)


def _picture(scene: Path, grid: Grid) -> NDArray[np.uint8]:
    with rasterio.open(scene) as dataset:
        shape = (dataset.count, grid.height, grid.width)
        picture: NDArray[np.uint8] = dataset.read(out_shape=shape, resampling=Resampling.average)
    return picture
