"""`detect` with surface models: columns, raster, project and record; without them, nothing of it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import rasterio
from geopandas.testing import assert_geodataframe_equal

import geosiam as gs
from geosiam.errors import OptionError, OutputError
from geosiam.imagery.scene_info import fingerprint
from geosiam.polygons.schema import COLUMNS, HEIGHT_COLUMNS
from geosiam.synthesis.pairs import SyntheticConfig, make_pair, make_surfaces, write_pair
from geosiam_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = SyntheticConfig(height=320, width=320, seed=3, objects=8)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("survey")
    paths = write_pair(make_pair(CONFIG), folder)
    before, after = make_surfaces(CONFIG).write(folder)
    return {"before": paths.before, "after": paths.after, "truth": paths.truth, "a": before, "b": after}


@pytest.fixture(scope="module")
def run(survey: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> gs.DetectResult:
    out = tmp_path_factory.mktemp("run")
    options = gs.DetectOptions(dsm=(str(survey["a"]), str(survey["b"])))
    return gs.detect(
        survey["before"], survey["after"], out / "o.gpkg", options=options, dz=out / "dz.tif", project=out / "o.qgz"
    )


def test_each_polygon_has_its_heights(run: gs.DetectResult, survey: dict[str, Path]) -> None:
    found = geopandas.read_file(run.polygons_path, layer="anomalies")
    assert [*found.columns] == [*COLUMNS, *HEIGHT_COLUMNS, "geometry"]
    truth = geopandas.read_file(survey["truth"])
    tall = {"container", "car", "pile", "shed", "crate", "tree"}
    seen = 0
    for row in truth.itertuples():
        near = found[found.intersects(row.geometry)]
        if row.what not in tall or near.empty:
            continue
        seen += 1
        assert near.height_evidence.iloc[near.area.argmax()] == ("raised" if row.kind == "added" else "lowered")
    assert seen >= 4
    known = found.height_evidence != "unknown"
    assert known.mean() > 0.8
    assert (found.volume_sigma_m3[known] > 0).all()


def test_the_run_records_the_surfaces(run: gs.DetectResult, survey: dict[str, Path]) -> None:
    with closing(sqlite3.connect(run.polygons_path)) as db:
        (row,) = db.execute("SELECT inputs, fingerprints, provenance FROM runs").fetchall()
        described = dict(db.execute("SELECT column_name, description FROM gpkg_data_columns"))
    inputs, fingerprints, provenance = map(json.loads, row)
    assert (inputs["before_dsm"], inputs["after_dsm"]) == (str(survey["a"]), str(survey["b"]))
    assert fingerprints["after_dsm"] == fingerprint(survey["b"])
    assert provenance["heights"] == run.heights
    assert HEIGHT_COLUMNS.items() <= described.items()
    content = run.to_dict()
    assert content["heights"]["coregistration"]["level_of_detection_95_m"] > 0
    assert content["dz"] == str(run.dz_path)
    with rasterio.open(run.dz_path) as raster:
        assert json.loads(raster.tags()["GEOSIAM_HEIGHTS"]) == run.heights


def test_without_surfaces_nothing_is_different(run: gs.DetectResult, survey: dict[str, Path], tmp_path: Path) -> None:
    plain = gs.detect(survey["before"], survey["after"], tmp_path / "o.gpkg")
    found, other = (geopandas.read_file(r.polygons_path, layer="anomalies") for r in (plain, run))
    assert [*found.columns] == [*COLUMNS, "geometry"]
    names = [name for name in found.columns if name != "created"]
    assert_geodataframe_equal(found[names], other[names])
    with rasterio.open(plain.scores_path) as a, rasterio.open(run.scores_path) as b:
        np.testing.assert_array_equal(a.read(), b.read())
        assert "dsm" not in json.loads(a.tags()["GEOSIAM_PROVENANCE"])["options"]
    assert "heights" not in plain.to_dict()


@pytest.mark.parametrize("suffix", ["shp", "parquet", "geojson", "fgb"])
def test_other_formats_have_the_columns(survey: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    options = gs.DetectOptions(dsm=(str(survey["a"]), str(survey["b"])), workers=1)
    path = gs.detect(survey["before"], survey["after"], tmp_path / f"o.{suffix}", options=options).polygons_path
    found = geopandas.read_parquet(path) if suffix == "parquet" else geopandas.read_file(path)
    assert {"dz_mean", "gain_m3" if suffix == "shp" else "volume_gain_m3"} <= {*found.columns}


def test_bad_input_is_refused_before_any_work(
    survey: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = [str(survey["before"]), str(survey["after"])]
    good = ["--dsm", str(survey["a"]), str(survey["b"])]
    for more, words in (
        (["--dsm", str(survey["a"]), str(tmp_path / "no.tif")], "no.tif: does not exist"),
        (["--dsm", scenes[0], str(survey["b"])], "has 3 bands, a surface model has one band of heights; give the DSM"),
        (["--dz", str(tmp_path / "dz.tif")], "is the difference of two surface models, and none are given"),
        ([*good, "--dz", str(survey["a"])], "is an input too and would be overwritten"),
        ([*good, "--scores", str(survey["b"])], "is an input too and would be overwritten"),
        ([*good, "--dz", str(tmp_path / "o.tif")], "cannot hold both"),
    ):
        assert main(["detect", *scenes, "-o", str(tmp_path / "o.gpkg"), *more]) == 3
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line
    assert list(tmp_path.iterdir()) == []


def test_a_surface_that_a_virtual_raster_reads_is_no_output(survey: dict[str, Path], tmp_path: Path) -> None:
    from geosiam.imagery.grid import Grid
    from geosiam.imagery.vrt import VirtualRaster

    with rasterio.open(survey["a"]) as source:
        virtual = VirtualRaster(Grid(source.crs, source.transform, source.width, source.height))
    virtual.band("float32").add(str(survey["a"]), 1)
    (tmp_path / "a.vrt").write_text(virtual.xml())
    options = gs.DetectOptions(dsm=(str(tmp_path / "a.vrt"), str(survey["b"])))
    with pytest.raises(OutputError, match="is an input too"):
        gs.detect(survey["before"], survey["after"], tmp_path / "o.gpkg", options=options, dz=survey["a"])
    with pytest.raises(OptionError, match="none are given"):
        gs.detect(survey["before"], survey["after"], tmp_path / "o.gpkg", dz=tmp_path / "dz.tif")
