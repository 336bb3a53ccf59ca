"""The Processing plugin: installed from its zip into a fresh profile, run by qgis_process and through Processing."""

from __future__ import annotations

import configparser
import importlib
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import rasterio

from geosiam.inspection import inspect_pair
from geosiam.options import PolygonOptions
from geosiam.pipeline import detect, vectorize_to_file
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "examples" / "qgis_plugin"
PACKAGE = "geosiam_processing"


def load(name: str, folder: Path) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load("build", SOURCES).build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    config = SyntheticConfig(height=300, width=340, seed=2, objects=8)
    return write_pair_tiles(config, tmp_path_factory.mktemp("pair with 'quotes'; $HOME"))


@pytest.fixture(scope="module")
def expected(scenes: SyntheticPaths) -> Path:
    """Return the polygons that the library itself finds."""
    folder = scenes.before.parent / "expected"
    folder.mkdir()
    return detect(scenes.before, scenes.after, folder / "a.gpkg").polygons_path


def executable(path: Path, *command: str) -> Path:
    """Write a script that runs this checkout whatever the environment says."""
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}:{ROOT}/cli" exec "{sys.executable}" {" ".join(command)} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def geosiam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return executable(tmp_path_factory.mktemp("bin") / "geosiam", "-m", "geosiam_cli")


@pytest.fixture(scope="module")
def installed(archive: Path, qgis) -> Path:
    """Install the zip as QGIS does, which is to unpack it; return the folder of plugins."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(qgis.plugins)
    return qgis.plugins


def assert_same(polygons: Path, expected: Path) -> None:
    """Compare all columns but when the scores were computed."""
    first, second = (geopandas.read_file(path, layer="anomalies") for path in (polygons, expected))
    assert len(second) > 0
    assert first.created.notna().all()
    assert first.drop(columns="created").equals(second.drop(columns="created"))


def assert_same_scores(scores: Path, expected: Path) -> None:
    with rasterio.open(scores) as one, rasterio.open(expected) as other:
        # The interrupted run cuts the scene into other blocks: bf16 rounds otherwise in windows of another shape.
        np.testing.assert_allclose(one.read().astype(int), other.read().astype(int), atol=1)


# --- the zip --------------------------------------------------------------------------------------------------------


def test_the_zip_is_what_qgis_installs(archive: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        assert content.testzip() is None
        names = content.namelist()
        metadata = configparser.ConfigParser()
        metadata.read_string(content.read(f"{PACKAGE}/metadata.txt").decode())
    assert {name.split("/")[0] for name in names} == {PACKAGE}
    general = metadata["general"]
    assert {f"{PACKAGE}/__init__.py", f"{PACKAGE}/LICENSE", f"{PACKAGE}/{general['icon']}"} <= set(names)
    assert not any("__pycache__" in name for name in names)
    assert general["hasProcessingProvider"] == "yes"
    assert all(general[key] for key in ("name", "description", "about", "author", "email", "qgisMinimumVersion"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert general["version"] == project["version"]


def test_the_same_sources_make_the_same_zip(archive: Path, tmp_path: Path) -> None:
    assert load("build", SOURCES).build(tmp_path / "new").read_bytes() == archive.read_bytes()


# --- qgis_process ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process(qgis, installed: Path, geosiam: Path):
    """Return a function that runs qgis_process with the plugin enabled and QGIS's GDAL and PROJ in the environment."""
    # Debian's qgis_process hands an option of the desktop to the program behind it, which does not know it.
    found = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    if found is None:
        pytest.skip("there is no qgis_process")
    misleading = {"PROJ_LIB": "/usr/share/proj", "GDAL_DATA": "/usr/share/gdal", "PYTHONPATH": str(installed)}

    def run(*arguments: str):
        return qgis.run(found, *arguments, GEOSIAM_EXECUTABLE=str(geosiam), **misleading)

    assert "Enabled geosiam_processing" in run("plugins", "enable", PACKAGE).stdout
    return run


@pytest.mark.qgis
def test_detect_from_a_clean_profile_is_what_the_command_line_does(
    process, scenes: SyntheticPaths, expected: Path, tmp_path: Path
) -> None:
    named = {
        "BEFORE": scenes.before,
        "AFTER": scenes.after,
        "OUTPUT": tmp_path / "a.gpkg",
        "SCORES": tmp_path / "a.tif",
    }
    named["PROJECT"] = tmp_path / "a.qgz"
    done = process("--json", "run", "geosiam:detect", "--", *(f"{key}={value}" for key, value in named.items()))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert_same(tmp_path / "a.gpkg", expected)
    assert_same_scores(tmp_path / "a.tif", expected.with_suffix(".tif"))
    assert results["COUNT"] == len(geopandas.read_file(expected, layer="anomalies"))
    assert results["OUTPUT"] == str(tmp_path / "a.gpkg")
    assert zipfile.is_zipfile(results["PROJECT"])


@pytest.mark.qgis
def test_bad_input_is_one_line(process, scenes: SyntheticPaths, tmp_path: Path) -> None:
    named = {"BEFORE": tmp_path / "absent.tif", "AFTER": scenes.after, "OUTPUT": tmp_path / "a.gpkg"}
    named["SCORES"] = tmp_path / "a.tif"
    done = process("run", "geosiam:detect", "--", *(f"{key}={value}" for key, value in named.items()))
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "absent.tif" in line]
    assert said[0].endswith(f"{tmp_path / 'absent.tif'}: does not exist; check the path")
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.qgis
def test_all_algorithms_are_listed_and_explain_themselves(process) -> None:
    listed = process("list").stdout
    assert {line.split()[0] for line in listed.splitlines() if "geosiam:" in line} == {
        "geosiam:detect",
        "geosiam:vectorize",
        "geosiam:info",
    }
    help_text = process("help", "geosiam:detect").stdout
    for name in (
        "MODEL",
        "THRESHOLD",
        "MIN_AREA",
        "BANDS",
        "VALID_AREA",
        "REGISTER",
        "RADIOMETRY",
        "PRECISION",
        "SCORE_TYPE",
        "DEVICE",
    ):
        (at,) = [i for i, line in enumerate(help_text.splitlines()) if line.startswith(f"{name}: ")]
        assert help_text.splitlines()[at + 1].strip()  # the tool tip


# --- Processing -----------------------------------------------------------------------------------------------------


@pytest.mark.qgis
def test_algorithms_through_processing(
    qgis, installed: Path, scenes: SyntheticPaths, expected: Path, tmp_path: Path
) -> None:
    """Vectorize, info, a cancelled run, and the one that goes on from there; in one QGIS, as starting it takes long."""
    slow = executable(tmp_path / "geosiam", f'"{Path(__file__).with_name("slow_geosiam.py")}"')
    scores = expected.with_suffix(".tif")
    area = geopandas.GeoSeries.from_wkt([geopandas.read_file(expected, layer="anomalies").geometry[0].envelope.wkt])
    area.set_crs(32633).to_file(tmp_path / "area.gpkg", layer="second")
    pair = {"BEFORE": str(scenes.before), "AFTER": str(scenes.after)}
    outputs = {"OUTPUT": str(tmp_path / "b.gpkg"), "SCORES": str(tmp_path / "b.tif")}
    within = {"VALID_AREA": f"{tmp_path / 'area.gpkg'}|layername=second"}
    cut = {"SCORES": str(scores), "THRESHOLD": 0.9, "MIN_AREA": "0.5m2", "OUTPUT": str(tmp_path / "c.gpkg")}
    runs = [
        {"algorithm": "geosiam:vectorize", "parameters": cut, "layers": ["SCORES"]},
        {"algorithm": "geosiam:info", "parameters": {**pair, **within, "REPORT": str(tmp_path / "r.json")}},
        {"algorithm": "geosiam:info", "parameters": {**pair, "BANDS": "7,8,9"}},
        {"algorithm": "geosiam:detect", "parameters": {**pair, **outputs}, "cancel": True},
        {"algorithm": "geosiam:detect", "parameters": {**pair, **outputs}, "layers": ["BEFORE", "AFTER"]},
    ]
    seen = qgis.python("run_algorithms.py", {"plugins": str(installed), "setting": str(slow), "runs": runs})
    cut, info, refused, cancelled, resumed = seen["runs"]
    assert seen["unloaded"]

    vectorize_to_file(scores, tmp_path / "d.gpkg", options=PolygonOptions(threshold=0.9, min_area="0.5m2"))
    assert_same(tmp_path / "c.gpkg", tmp_path / "d.gpkg")
    assert cut["loaded"] == {"Anomalies": "graduatedSymbol"}
    assert cut["results"]["COUNT"] == len(geopandas.read_file(tmp_path / "d.gpkg", layer="anomalies"))

    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert info["results"]["WARNINGS"] == len(report["warnings"])
    assert info["results"]["MEMORY_MB"] == report["estimated_memory_mb"]
    whole = inspect_pair(scenes.before, scenes.after).to_dict()
    assert report["overlap"][1] - report["overlap"][0] < whole["overlap"][1] - whole["overlap"][0]  # the valid area
    assert "has no band 7" in refused["results"]["error"]

    assert "go on where it stopped" in cancelled["results"]["error"]
    assert any("blocks are scored and kept" in text for _, text in cancelled["heard"])
    assert any("resuming an interrupted run" in text for kind, text in resumed["heard"] if kind == "warning")
    assert resumed["steps"][0] > cancelled["steps"][0]
    assert resumed["steps"] == sorted(resumed["steps"])
    assert resumed["loaded"] == {"Anomalies": "graduatedSymbol", "Anomaly scores": "singlebandpseudocolor"}
    # In blocks of its own size, which rounds scores in another way: as the same command without a break.
    undisturbed = [slow, "detect", scenes.before, scenes.after, "-o", tmp_path / "e.gpkg"]
    subprocess.run(undisturbed, capture_output=True, check=True)
    assert_same(tmp_path / "b.gpkg", tmp_path / "e.gpkg")
    assert_same_scores(tmp_path / "b.tif", tmp_path / "e.tif")
    assert not list(tmp_path.glob(".*.partial.*"))


@pytest.mark.qgis
def test_a_command_that_is_not_there(qgis, installed: Path, scenes: SyntheticPaths, tmp_path: Path) -> None:
    pair = {"BEFORE": str(scenes.before), "AFTER": str(scenes.after)}
    runs = [{"algorithm": "geosiam:info", "parameters": pair}]
    other = tmp_path / "environment"  # exists, as QGIS demands of a path, but geosiam is not in there
    other.mkdir()
    for setting in ("", str(other)):
        seen = qgis.python("run_algorithms.py", {"plugins": str(installed), "setting": setting, "runs": runs})
        assert "the command geosiam is not found" in seen["runs"][0]["results"]["error"]
