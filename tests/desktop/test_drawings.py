"""The pictures of docs/qgis.md, as the examples draw them with QGIS's own widgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.qml import POLYGON_COLORS
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from conftest import Desktop

pytestmark = pytest.mark.qgis

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = ("qgis-browser.png", "qgis-project.png", "qgis-form.png")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)


def near(path: Path, color: str) -> int:
    """Return how many pixels have about a color."""
    return int((np.abs(pixels(path) - np.frombuffer(bytes.fromhex(color[1:]), np.uint8)).max(axis=1) <= 8).sum())


def test_the_examples_draw_the_map_the_panels_and_the_form(qgis: Desktop, tmp_path: Path) -> None:
    scenes = write_pair_tiles(SyntheticConfig(height=384, width=384, seed=7, objects=8), tmp_path)
    project = tmp_path / "review.qgz"
    options = DetectOptions(min_area="60px")
    found = detect(scenes.before, scenes.after, tmp_path / "anomalies.gpkg", project=project, options=options)
    assert found.count
    overview, steps = tmp_path / "overview.png", tmp_path / "steps"
    steps.mkdir()
    for script, target in (("draw_qgis_project.py", overview), ("draw_qgis_steps.py", steps)):
        done = qgis.run("/usr/bin/python3", EXAMPLES / script, project, target)
        assert done.returncode == 0, done.stderr
    assert near(overview, POLYGON_COLORS[-1]) > 50  # outlines of sure polygons, on the map and in the legend
    assert near(steps / "qgis-project.png", POLYGON_COLORS[-1]) > 50
    for name in STEPS:
        assert len(np.unique(pixels(steps / name), axis=0)) > 20, f"{name} is empty"
