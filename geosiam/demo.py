"""The demo: a generated survey at two dates with known changes, `detect` on it, and how well that did."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from geosiam.errors import OutputError
from geosiam.evaluation.metrics import object_scores
from geosiam.evaluation.plots import save_panel
from geosiam.imagery.grid import Grid
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.polygons.geopackage import LAYER
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geosiam.results import DetectResult

_PANEL_PX = 1200  # side of the pictures that the panel is drawn from


@dataclass(frozen=True)
class DemoResult:
    """What the demo made and how well it did.

    Parameters
    ----------
    before, after, truth
        The generated scenes and the polygons of what really changed.
    polygons, scores, panel
        What `detect` made of the scenes, and a picture of it all.
    changed, found
        Number of objects that really changed, and of these met by some polygon.
    reported, right
        Number of polygons, and of these that meet an object that really changed.
    recall, precision
        The same as shares.
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
    """Generate a pair, find what changed, and compare with the truth.

    Parameters
    ----------
    folder
        Where everything goes; made if it is absent.
    size
        Width and height of the scenes in pixels of 10 cm.
    seed
        The same seed and size make the same scenes.
    options
        Of :func:`geosiam.pipeline.detect`.
    on_progress
        Called with (pixels scored, pixels in all).
    """
    folder = Path(folder)
    config = SyntheticConfig(height=size, width=size, seed=seed)
    try:
        scenes = write_pair_tiles(config, folder)
    except OSError as error:
        raise OutputError(folder, f"cannot be written to ({error})", "choose another folder") from error
    options = replace(options, restart=True)  # the scenes are new: there is nothing to go on from
    done = detect(scenes.before, scenes.after, folder / "anomalies.gpkg", options=options, on_progress=on_progress)
    truth = geopandas.read_file(scenes.truth)
    found = geopandas.read_file(done.polygons_path, layer=LAYER)
    objects = object_scores(found, truth)
    panel = folder / "panel.png"
    title = f"{objects.found} of {objects.truth} changes found, {objects.correct} of {objects.predicted} polygons right"
    _draw(panel, config.grid, scenes, done, found, truth, title)
    return DemoResult(
        before=scenes.before,
        after=scenes.after,
        truth=scenes.truth,
        polygons=done.polygons_path,
        scores=done.scores_path,
        panel=panel,
        changed=objects.truth,
        found=objects.found,
        reported=objects.predicted,
        right=objects.correct,
        recall=objects.recall,
        precision=objects.precision,
    )


def _draw(  # noqa: PLR0917 - everything there is to see
    path: Path,
    grid: Grid,
    scenes: SyntheticPaths,
    done: DetectResult,
    found: geopandas.GeoDataFrame,
    truth: geopandas.GeoDataFrame,
    title: str,
) -> None:
    step = max(1, -(-grid.width // _PANEL_PX))
    small = Grid(grid.crs, grid.transform @ Affine.scale(step), max(1, grid.width // step), max(1, grid.height // step))
    before, after = (_picture(scene, small) for scene in (scenes.before, scenes.after))
    with rasterio.open(done.scores_path) as raster:
        scores = raster.read(1, masked=True).astype(np.float32).filled(np.nan) * raster.scales[0]
    save_panel(path, before, after, scores, grid=small, predicted=found, truth=truth, title=title)


def _picture(scene: Path, grid: Grid) -> NDArray[np.uint8]:
    with rasterio.open(scene) as dataset:
        shape = (dataset.count, grid.height, grid.width)
        picture: NDArray[np.uint8] = dataset.read(out_shape=shape, resampling=Resampling.average)
    return picture
