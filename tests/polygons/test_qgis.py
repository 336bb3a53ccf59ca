"""What QGIS itself makes of the outputs: started as a process of its own, with the system's Python."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from array_cells import empty_frame, vectorize
from rasterio.crs import CRS

from geosiam.imagery.grid import Block, Grid, Window
from geosiam.polygons.writer import write_polygons
from geosiam.scores.writer import ScoreRasterWriter

pytestmark = pytest.mark.qgis

PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("qgis_load.py")


def run_qgis(*arguments, home):
    # Nothing of this environment: another Python's modules and another GDAL's data would be found first.
    clean = {"PATH": os.defpath, "HOME": str(home), "QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(home)}
    command = [PYTHON, *map(str, arguments)]
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    folder.chmod(0o700)
    if not Path(PYTHON).exists() or run_qgis("-c", "import qgis.core", home=folder).returncode:
        pytest.skip(f"{PYTHON} has no PyQGIS")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a score raster and polygons of the same stem: a strong, a weak and a cut object."""
    folder = tmp_path_factory.mktemp("made")
    scores = np.full((60, 90), 0.05, np.float32)
    scores[10:20, 10:30] = 1.0
    scores[30:40, 50:60] = 0.65
    scores[50:, 70:] = np.nan
    scores[48:50, 70:80] = 0.8
    grid = Grid(CRS.from_epsg(32633), Affine(4, 0, 500_000, 0, -4, 5_800_000), 90, 60)
    with ScoreRasterWriter(folder / "a.tif", grid, tags={}) as writer:
        writer.write(Block(0, Window(0, 60, 0, 90)), scores)
    write_polygons(vectorize(folder / "a.tif"), folder / "a.gpkg", provenance={"threshold": 0.5})
    write_polygons(empty_frame(grid.crs), folder / "none.gpkg")
    return folder


def look(made, home, name):
    done = run_qgis(SCRIPT, made / f"{name}.gpkg", made / "a.tif", made / f"{name}.png", home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_polygons_and_scores_load_styled_and_without_a_warning(made, home):
    seen = look(made, home, "a")
    assert seen["messages"] == []
    assert (seen["valid"], seen["features"], seen["crs"]) == (True, 3, "EPSG:32633")
    assert (seen["renderer"], seen["attribute"]) == ("graduatedSymbol", "score_mean")
    assert seen["classes"] == 5
    assert seen["widgets"] == {
        "fid": "Hidden",
        "score_mean": "Range",
        "touches_nodata": "CheckBox",
        "before": "TextEdit",
        "review": "ValueMap",
    }
    assert seen["editable"] == ["review"]
    assert (seen["raster_valid"], seen["raster_renderer"]) == (True, "singlebandpseudocolor")


def test_colors_stand_where_the_scores_are(made, home):
    """One map pixel a cell: strong objects red, weak ones yellow, nothing where nothing is."""
    seen = look(made, home, "a")["colors"]
    strong, weak, nothing, nodata = (np.array(seen[k]) for k in ("15,20", "35,55", "5,80", "55,85"))
    assert (nothing > 235).all()
    assert (nodata == 255).all()
    assert strong[1] < weak[1]  # green falls from yellow to red
    assert strong.sum() < weak.sum() < nothing.sum()


def test_an_empty_result_loads_styled_too(made, home):
    seen = look(made, home, "none")
    assert (seen["valid"], seen["features"], seen["renderer"]) == (True, 0, "graduatedSymbol")
    assert seen["messages"] == []
