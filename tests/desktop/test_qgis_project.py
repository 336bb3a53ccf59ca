"""What QGIS itself makes of a project: layers, their order, places and styles, and the colors on the map."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import rioxarray
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import OptionError, OutputError
from geosiam.imagery.grid import Block, Grid, Window
from geosiam.imagery.prepare import open_pair
from geosiam.options import PolygonOptions
from geosiam.pipeline import detect, vectorize
from geosiam.polygons.writer import write_polygons
from geosiam.qgis.project import check_project, write_project
from geosiam.qml import POLYGON_COLORS, SCORE_COLORS
from geosiam.scores.raster import STRIDE_TAG
from geosiam.scores.writer import ScoreRasterWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

STRIDE = 4
CELLS = Grid(CRS.from_epsg(32633), Affine(4, 0, 500_000, 0, -4, 5_800_000), 90, 60)
PIXELS = Grid(CELLS.crs, CELLS.transform @ Affine.scale(1 / STRIDE), CELLS.width * STRIDE, CELLS.height * STRIDE)
STRONG, WEAK, FAINT, NODATA = (15, 20), (35, 55), (5, 80), (55, 85)  # cells of the score raster
FILL_OPACITY = 90
ORDER = ["anomalies", "anomaly scores", "after (after.tif)", "before (before.tif)"]


@dataclass(frozen=True)
class Run:
    """What a run left: the files that a project shows."""

    folder: Path
    before: Path
    after: Path
    scores: Path
    polygons: Path

    def project(self, name: str = "review.qgz", **other: object) -> Path:
        scenes = {"before": self.before, "after": self.after} | other
        with open_pair(scenes["before"], scenes["after"]) as pair:
            report = pair.report
        target = self.folder / name
        found = {"scores": self.scores, "polygons": self.polygons}
        write_project(target, **scenes, **found, threshold=0.5, report=report)
        return target


def texture(seed: int, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 230, (bands, *PIXELS.shape), dtype=np.uint8)


def write_scene(path: Path, values: np.ndarray, grid: Grid = PIXELS, **profile: object) -> Path:
    size = {"width": values.shape[2], "height": values.shape[1], "count": len(values), "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, **size, **profile) as dataset:
        dataset.write(values)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with a strong, a weak and a cut object, faint scores elsewhere, and a corner of nodata."""
    folder = tmp_path_factory.mktemp("run")
    scores = np.full(CELLS.shape, 0.05, np.float32)
    scores[10:20, 10:30] = 1.0
    scores[30:40, 50:60] = 0.65
    scores[50:, 70:] = np.nan
    scores[48:50, 70:80] = 0.8
    with ScoreRasterWriter(folder / "a.tif", CELLS, tags={STRIDE_TAG: str(STRIDE)}) as writer:
        writer.write(Block(0, Window(0, 60, 0, 90)), scores)
    polygons = vectorize(
        folder / "a.tif", options=PolygonOptions(threshold=0.5, smooth=False)
    )  # whose corners are known
    write_polygons(polygons, folder / "a.gpkg", provenance={"threshold": 0.5})
    before = write_scene(folder / "before.tif", texture(1), photometric="RGB")
    after = write_scene(folder / "after.tif", texture(2), photometric="RGB")
    return Run(folder, before, after, folder / "a.tif", folder / "a.gpkg")


def place(cell: tuple[int, int]) -> tuple[float, float]:
    """Return the map coordinates of a cell's center."""
    return CELLS.transform @ (cell[1] + 0.5, cell[0] + 0.5)


def picture(*layers: str, points: list) -> dict:
    """Ask for a picture of one map pixel a pixel of the scenes."""
    return {"layers": list(layers), "width": PIXELS.width, "height": PIXELS.height, "points": points}


def rgba(color: str, alpha: int) -> list[int]:
    return [*bytes.fromhex(color[1:]), alpha]


def stored(path: Path, cell: tuple[int, int]) -> np.ndarray:
    """Return the values (bands,) of a scene in the middle of a cell."""
    with rasterio.open(path) as dataset:
        row, col = dataset.index(*place(cell))
        return dataset.read(window=((row, row + 1), (col, col + 1)))[:, 0, 0]


def content(project: Path) -> ET.Element:
    with zipfile.ZipFile(project) as archive:
        assert archive.testzip() is None
        (name,) = archive.namelist()
        assert name == f"{project.stem}.qgs"
        return ET.fromstring(archive.read(name))


# --- in QGIS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(run: Run, qgis) -> dict:
    """Return what QGIS sees of the project, and the score raster as it is drawn without it."""
    points = [place(cell) for cell in (STRONG, WEAK, FAINT, NODATA)]
    pictures = [picture(name, points=points) for name in (*ORDER[:2], ORDER[3])]
    project, raster = qgis.look(
        {"project": str(run.project()), "pictures": pictures}, {"raster": str(run.scores), "pictures": pictures[1:2]}
    )
    return project | {"raster": raster, "layers": {layer["name"]: layer for layer in project["layers"]}}


@pytest.mark.qgis
def test_a_project_opens_with_all_layers_in_order_and_in_place(seen: dict) -> None:
    assert (seen["opened"], seen["error"], seen["messages"]) == (True, "", [])
    assert set(seen["other_versions"]) <= {"3.22.0"}  # QGIS tells that it is newer, and nothing else
    layers = seen["layers"]
    assert [name for name in layers if name in ORDER] == ORDER
    assert all(layer["valid"] for layer in layers.values())
    assert {layer["crs"] for layer in layers.values()} == {seen["crs"]} == {"EPSG:32633"}
    assert seen["view"] == pytest.approx(CELLS.bounds)
    for name in ORDER[1:]:
        assert layers[name]["extent"] == pytest.approx(CELLS.bounds)
    left, top = place((10, 10))
    assert layers["anomalies"]["extent"] == pytest.approx([left - 2, 5_799_800, 500_320, top + 2])
    assert layers["anomalies"]["features"] == 3
    assert {date: set(names) & set(ORDER) for date, names in seen["themes"].items()} == {
        "before": {ORDER[0], ORDER[3]},
        "after": {ORDER[0], ORDER[2]},
    }


@pytest.mark.qgis
def test_layers_have_their_styles_and_forms(seen: dict) -> None:
    polygons, scores = (seen["layers"][name] for name in ORDER[:2])
    assert (polygons["renderer"], polygons["attribute"], polygons["classes"]) == ("graduatedSymbol", "score_mean", 5)
    assert polygons["widgets"]["review"] == "ValueMap"
    assert polygons["called"].startswith("'#' || lpad(id, 4, '0')")
    assert scores["renderer"] == "singlebandpseudocolor"
    assert scores["ramp"]  # what the legend draws
    assert scores["items"] == [[score, color, alpha] for score, color, alpha in SCORE_COLORS]
    for name in ORDER[2:]:
        scene = seen["layers"][name]
        assert (scene["renderer"], scene["bands"], scene["stretch"]) == ("multibandcolor", [1, 2, 3], [0, 255])


@pytest.mark.qgis
def test_colors_stand_where_they_should(seen: dict, run: Run) -> None:
    polygons, scores, before = seen["colors"]
    nothing = [0, 0, 0, 0]
    strong = rgba(POLYGON_COLORS[-1], FILL_OPACITY)
    assert polygons[0] == pytest.approx(strong, abs=3)  # colors are stored premultiplied
    assert polygons[1] == pytest.approx(rgba(POLYGON_COLORS[1], FILL_OPACITY), abs=3)
    assert polygons[2:] == [nothing, nothing]
    assert scores[0] == pytest.approx(rgba(*SCORE_COLORS[-1][1:]), abs=2)
    (_, low, low_alpha), (_, high, high_alpha) = SCORE_COLORS[3:5]  # 0.65 lies between 0.5 and 0.7
    between = 0.25 * np.array(rgba(low, low_alpha)) + 0.75 * np.array(rgba(high, high_alpha))
    assert scores[1] == pytest.approx(between, abs=3)
    assert scores[2:] == [nothing, nothing]
    for color, cell in zip(before, (STRONG, WEAK, FAINT, NODATA), strict=True):
        assert color == [*stored(run.before, cell), 255]


@pytest.mark.qgis
def test_a_score_raster_alone_is_drawn_as_in_the_project(seen: dict) -> None:
    """The style file beside it says the same as the project."""
    assert seen["raster"]["items"] == seen["layers"]["anomaly scores"]["items"]
    assert seen["raster"]["colors"][0] == seen["colors"][1]


@pytest.mark.qgis
def test_a_folder_with_everything_in_it_can_be_moved(run: Run, qgis, tmp_path: Path) -> None:
    tiles = run.folder / "tiles"
    tiles.mkdir()
    with rasterio.open(run.before) as dataset:
        values = dataset.read()
    right = Grid(PIXELS.crs, PIXELS.transform @ Affine.translation(200, 0), PIXELS.width - 200, PIXELS.height)
    write_scene(tiles / "left.tif", values[:, :, :200], photometric="RGB")
    write_scene(tiles / "right.tif", values[:, :, 200:], right, photometric="RGB")
    run.project("tiled.qgz", before=tiles)
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.folder, moved)
    asked = picture("before (tiles)", points=[place(STRONG), place(NODATA)])
    (seen,) = qgis.look({"project": str(moved / "tiled.qgz"), "pictures": [asked]})
    assert all(layer["valid"] and str(moved) in layer["source"] for layer in seen["layers"])
    assert seen["colors"][0] == [[*stored(run.before, cell), 255] for cell in (STRONG, NODATA)]
    assert str(run.folder) not in (moved / "tiled.before.vrt").read_text(encoding="utf-8")


@pytest.mark.qgis
def test_scenes_of_other_kinds_are_drawn_as_the_network_sees_them(run: Run, qgis) -> None:
    """Measured values stretched, palettes colored, what is transparent left out, a single band gray."""
    rng = np.random.default_rng(3)
    folder = run.folder
    measured = write_scene(folder / "measured.tif", rng.normal(5000, 300, (3, *PIXELS.shape)).astype(np.int16))
    with rasterio.open(measured, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.001,) * 3, (-1.0,) * 3
    veiled = np.concatenate([texture(4), np.full((1, *PIXELS.shape), 255, np.uint8)])
    veiled[3, :, 200:] = 0
    alpha = write_scene(folder / "alpha.tif", veiled, photometric="RGB", alpha="YES")
    gray = write_scene(folder / "gray.tif", texture(5, 1))
    colors = {0: (200, 30, 10, 255), 1: (10, 160, 60, 255), 2: (0, 40, 220, 255), 3: (240, 240, 240, 255)}
    palette = write_scene(folder / "palette.tif", rng.integers(0, 4, (1, *PIXELS.shape), dtype=np.uint8))
    with rasterio.open(palette, "r+") as dataset:
        dataset.write_colormap(1, colors)
    cells = [STRONG, NODATA]
    asked = []
    for scene, other in ((measured, measured), (alpha, run.after), (palette, run.after), (gray, gray)):
        shown = picture(f"before ({scene.name})", points=[place(cell) for cell in cells])
        project = run.project(f"{scene.stem}.qgz", before=scene, after=other)
        asked.append({"project": str(project), "pictures": [shown]})
    seen = qgis.look(*asked)
    assert [one["messages"] for one in seen] == [[]] * 4
    stretched, veil, flat, single = (one["colors"][0] for one in seen)

    with open_pair(measured, measured) as pair:
        low, high = np.array(pair.stretches[0].low), np.array(pair.stretches[0].high)
    for i, cell in enumerate(cells):
        expected = 255 * ((stored(measured, cell) - low) / (high - low)).clip(0, 1)
        assert stretched[i][:3] == pytest.approx(expected, abs=1.5)
        assert tuple(flat[i]) == colors[int(stored(palette, cell)[0])]
        assert single[i] == [*stored(gray, cell), *stored(gray, cell), *stored(gray, cell), 255]
    assert veil == [[*stored(alpha, STRONG)[:3], 255], [0, 0, 0, 0]]


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(run: Run) -> Iterator[str]:
    script = Path(__file__).parents[1] / "imagery" / "range_server.py"
    command = [sys.executable, str(script), str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def test_the_same_run_gives_the_same_project(run: Run) -> None:
    first = run.project("same.qgz").read_bytes()
    assert run.project("same.qgz").read_bytes() == first


def test_files_are_named_relative_to_the_project_and_urls_are_not(run: Run, server: str) -> None:
    near = {
        layer.findtext("layername"): layer.findtext("datasource") for layer in content(run.project()).iter("maplayer")
    }
    assert near["anomalies"] == "./a.gpkg|layername=anomalies"
    assert [near[name] for name in ORDER[1:]] == ["./a.tif", "./after.tif", "./before.tif"]
    below = run.folder / "below"
    below.mkdir(exist_ok=True)
    far = content(run.project("below/review.qgz", before=f"{server}/before.tif"))
    sources = {layer.findtext("layername"): layer.findtext("datasource") for layer in far.iter("maplayer")}
    assert sources["after (after.tif)"] == "../after.tif"
    assert sources["before (before.tif)"].startswith("/vsicurl/http://")


def test_a_scene_in_memory_is_left_out_and_this_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with rioxarray.open_rasterio(run.before) as array, caplog.at_level(logging.WARNING, "geosiam"):
        project = run.project("memory.qgz", before=array.load().rename("an array"))
    names = [layer.findtext("layername") for layer in content(project).iter("maplayer")]
    assert [name for name in names if name in ORDER] == ORDER[:3]
    assert "an array is not in the QGIS project, because it exists in memory only" in caplog.text


def test_polygons_of_other_formats_are_styled_by_the_project(run: Run) -> None:
    write_polygons(vectorize(run.scores, options=PolygonOptions(threshold=0.5)), run.folder / "b.geojson")
    project = Run(run.folder, run.before, run.after, run.scores, run.folder / "b.geojson").project("other.qgz")
    layer = next(layer for layer in content(project).iter("maplayer") if layer.get("type") == "vector")
    assert layer.findtext("datasource") == "./b.geojson"
    assert layer.find("renderer-v2").get("attr") == "score_mean"


def test_what_cannot_be_a_project_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"ends in \.qgz"):
        check_project(tmp_path / "a.qgs")
    with pytest.raises(OutputError, match="its folder does not exist"):
        detect(run.before, run.after, tmp_path / "a.gpkg", project=tmp_path / "nowhere" / "a.qgz")
    assert list(tmp_path.iterdir()) == []


def test_a_project_that_cannot_be_written_leaves_the_old_one(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "a.qgz"
    target.mkdir()  # whoever runs the tests, a file cannot take the place of a folder
    with open_pair(run.before, run.after) as pair:
        report = pair.report
    files = {"before": run.before, "after": run.after, "scores": run.scores, "polygons": run.polygons}
    with pytest.raises(OutputError, match="cannot be written"):
        write_project(target, **files, threshold=0.5, report=report)
    assert [path.name for path in tmp_path.iterdir()] == ["a.qgz"]
