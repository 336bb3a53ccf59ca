"""Names that libraries read in their own way: the right file in the right folder, or one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import pyogrio
import pytest
import shapely

from geosiam.demo import run_demo
from geosiam.errors import InputError, OutputError
from geosiam.files import check_writable, file_name, plain_path
from geosiam.imagery.grid import Grid
from geosiam.imagery.open_scene import open_scene
from geosiam.polygons.results import read_reviews
from geosiam.polygons.writer import write_polygons
from geosiam.report.inputs import strongest_polygons
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, make_pair, write_pair
from geosiam_cli.main import main

FOLDERS = ["!Projekte", "x;y", "q?", "back\\slash", "trailing ", "new\nline"]
MORE_FOLDERS = [
    "a!b!c", " leading", "#1", "100%41", "Größe", "a'b\"c", "{braces}", "zip:", "a.zip", "[1]", "~", "-o", "a&b=c",
]  # fmt: skip
FORMATS = (".gpkg", ".shp")
MORE_FORMATS = (".geojson", ".fgb", ".parquet")
CASES = [(folder, suffix) for folder in FOLDERS for suffix in FORMATS] + [
    pytest.param(folder, suffix, marks=pytest.mark.slow)
    for folder in (*FOLDERS, *MORE_FOLDERS)
    for suffix in (*FORMATS, *MORE_FORMATS)
    if not (folder in FOLDERS and suffix in FORMATS)
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    config = SyntheticConfig(height=160, width=160, seed=3)
    return write_pair(make_pair(config), tmp_path_factory.mktemp("scenes"))


def polygons(count: int = 2) -> geopandas.GeoDataFrame:
    geometry = [shapely.box(500_000 + 20 * i, 5_400_000, 500_010 + 20 * i, 5_400_010) for i in range(count)]
    values = {"id": range(1, count + 1), "score_mean": 0.9, "area_m2": 100.0}
    return geopandas.GeoDataFrame(values, geometry=geometry, crs="EPSG:32633")


def count(path: Path) -> int:
    """Count the polygons in a file by means that do not look at its name: a copy of it."""
    plain = path.parent.parent / f"plain{path.suffix}"
    for part in path.parent.iterdir():
        if part.name.startswith(f"{path.stem}."):
            shutil.copy(part, plain.with_suffix(part.suffix))
    if path.suffix == ".parquet":
        return len(geopandas.read_parquet(plain))
    return len(pyogrio.read_dataframe(plain, layer="anomalies" if path.suffix == ".gpkg" else None))


@pytest.mark.parametrize(("folder", "suffix"), CASES)
def test_any_folder(tmp_path: Path, folder: str, suffix: str) -> None:
    place = tmp_path / folder
    place.mkdir()
    write_polygons(polygons(), place / f"o{suffix}")
    assert count(place / f"o{suffix}") == 2
    assert {path.name for path in tmp_path.iterdir()} >= {folder}
    assert all(path.stem == "o" for path in place.iterdir())
    if suffix != ".parquet":
        with plain_path(place / f"o{suffix}") as plain:
            assert len(geopandas.read_file(plain, layer=0)) == 2
    assert len(read_reviews(place / f"o{suffix}")) == 2


@pytest.mark.parametrize(("name", "suffix"), [*CASES, ("o.tif!", ".parquet"), ("~o", ".parquet")])
def test_any_name(tmp_path: Path, name: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    bystander = Path(f"{name.rpartition('!')[2].partition(';')[0]}{suffix}")
    if bystander.name != f"{name}{suffix}":
        bystander.write_text("of somebody else")
    path = Path(f"{name}{suffix}")
    write_polygons(polygons(), path)
    assert count(path.absolute()) == 2
    assert len(read_reviews(path)) == 2
    assert not bystander.exists() or bystander == path or bystander.read_text() == "of somebody else"
    if suffix == ".gpkg":
        assert len(strongest_polygons(path, 9)) == 2


@pytest.mark.parametrize(
    "folder", ["!x;y", *(pytest.param(name, marks=pytest.mark.slow) for name in ("back\\slash", "trailing ", "q?"))]
)
def test_every_command_takes_any_folder(scenes: SyntheticPaths, tmp_path: Path, folder: str, capsys) -> None:
    place = tmp_path / folder
    shutil.copytree(scenes.before.parent, place)
    before, after, truth = (str(place / path.name) for path in (scenes.before, scenes.after, scenes.truth))
    output, scores = place / "o.gpkg", place / "o.tif"
    calls = [
        ["detect", before, after, "-o", str(output), "--qgz", str(place / "p.qgz"), "--valid-area", truth],
        ["vectorize", str(scores), "-o", str(place / "v.shp"), "--threshold", "0.5"],
        ["report", str(output), "-o", str(place / "page")],
        ["evaluate", str(output), truth],
        ["evaluate", str(scores), truth, "--out", str(place / "figures")],
        ["evaluate", "--review", str(output)],
    ]
    for call in calls:
        assert main(call) == 0, capsys.readouterr().err
    with closing(sqlite3.connect(output)) as db:
        assert db.execute("SELECT count(*), min(after) FROM anomalies").fetchone()[1] in ("after.tif", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder]
    assert not [path for path in place.rglob("*") if ".partial" in path.name]


def test_a_demo_in_any_folder(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "!demo;", size=256)
    assert result.truth.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["!demo;"]


def test_a_shapefile_is_read_with_its_parts(tmp_path: Path) -> None:
    polygons().to_file(tmp_path / "a.shp")
    for part in list(tmp_path.iterdir()):
        part.rename(tmp_path / f"x;!y{part.suffix}")
    with plain_path(tmp_path / "x;!y.shp") as plain:
        frame = geopandas.read_file(plain)
    assert frame.crs == "EPSG:32633"
    assert frame["id"].tolist() == [1, 2]
    assert not Path(plain).exists()


def test_bytes_that_are_no_text(tmp_path: Path, scenes: SyntheticPaths, capsys) -> None:
    """As of a folder of an old archive in Latin-1."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gr\xf6\xdfe"))
    odd.mkdir()
    shutil.copy(scenes.before, odd / "b.tif")
    shutil.copy(scenes.truth, odd / "t.gpkg")
    good = str(scenes.before)
    for call in (
        ["detect", good, str(odd / "b.tif"), "-o", str(tmp_path / "o.gpkg")],
        ["detect", good, good, "-o", str(odd / "o.gpkg")],
        ["score", good, good, "-o", str(odd / "o.tif")],
        ["detect", good, good, "-o", str(tmp_path / "o.gpkg"), "--valid-area", str(odd / "t.gpkg")],
        ["batch", str(odd), "-o", str(tmp_path / "out")],
    ):
        assert main(call) in (2, 3)
        assert "no UTF-8" in capsys.readouterr().err
    with pytest.raises(InputError, match="no UTF-8"):
        open_scene(odd / "b.tif").handle()
    with pytest.raises(InputError, match="no UTF-8"):
        open_scene(odd)
    with pytest.raises(OutputError, match="no UTF-8"):
        check_writable(odd / "o.gpkg")
    with plain_path(odd / "t.gpkg") as plain:
        assert len(geopandas.read_file(plain)) > 0
    assert [path.name for path in odd.iterdir()] == ["b.tif", "t.gpkg"] or len(list(odd.iterdir())) == 2


def test_a_tile_whose_name_is_no_text(tmp_path: Path, scenes: SyntheticPaths, capsys) -> None:
    shutil.copy(scenes.before, os.fsencode(tmp_path) + b"/a\xff.tif")
    assert main(["info", str(scenes.before), str(tmp_path)]) == 3
    errors = capsys.readouterr().err.strip()
    assert "no UTF-8" in errors
    assert "\n" not in errors


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        ("/a/b.tif", "b.tif"),
        ("/a/b?c.tif", "b?c.tif"),
        ("https://h/a/b.tif?sig=x/y", "b.tif"),
        ("https://u:p@h/a/b.tif", "b.tif"),
        ("/vsicurl?header.Authorization=Bearer%20x&url=https%3A%2F%2Fh%2Fa%2Fb.tif%3Fsig%3Dx", "b.tif"),
        ("/vsizip//a/b.zip/c.tif", "c.tif"),
        ("s3://bucket/k/b.tif", "b.tif"),
    ],
)
def test_the_file_name_of_a_resource(resource: str, name: str) -> None:
    assert file_name(resource) == name


def test_a_grid_of_a_scene_with_an_odd_name(tmp_path: Path, scenes: SyntheticPaths) -> None:
    for name in ("a!b.tif", "a;b.tif", "a?b.tif", "a\\b.tif", "t .tif", "2020-01-01T12:00.tif", "a#b.tif", "a&b=c.tif"):
        shutil.copy(scenes.before, tmp_path / name)
        scene = open_scene(tmp_path / name)
        dataset = scene.handle()
        assert Grid(dataset.crs, dataset.transform, dataset.width, dataset.height).shape == (160, 160)
        assert scene.name == str(tmp_path / name)
        scene.close()
