"""Whatever a run reads, directly or through another file, is refused as an output before any work is done."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray
import shapely
from affine import Affine

from geosiam.errors import OutputError
from geosiam.imagery.open_scene import files_of
from geosiam.network.weights import load_model, save_model
from geosiam.options import DetectOptions
from geosiam.targets import Targets, refuse_overwriting
from geosiam.training.api import TrainingOptions, train
from geosiam_cli.main import main
from tile_indexes import tile_index, xml_index

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 64


def write(path: Path, *, col: int = 0, driver: str = "GTiff") -> Path:
    values = np.random.default_rng(col).integers(1, 255, (3, SIDE, SIDE), np.uint8)
    place = Affine(1, 0, 500_000 + col, 0, -1, 5_400_000)
    with rasterio.open(
        path, "w", driver=driver, width=SIDE, height=SIDE, count=3, dtype="uint8", crs="EPSG:32633", transform=place
    ) as file:
        file.write(values)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "before.tif")
    write(tmp_path / "after.tif")
    return tmp_path


def virtual(folder: Path) -> str:
    rasterio.shutil.copy(folder / "after.tif", folder / "v.vrt", driver="VRT")
    return str(folder / "v.vrt")


def virtual_of_virtual(folder: Path) -> str:
    (folder / "deep").mkdir()
    text = Path(virtual(folder)).read_text()  # GDAL's own copy of a virtual raster names the innermost source
    (folder / "deep" / "w.vrt").write_text(text.replace(">after.tif<", ">../v.vrt<"))
    return str(folder / "deep" / "w.vrt")


def inline_virtual(folder: Path) -> str:
    return Path(virtual(folder)).read_text().replace('relativeToVRT="1">', f'relativeToVRT="0">{folder}/')


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.write(folder / "after.tif", "sub/after.tif")
    return folder / "a.zip"


def packed(folder: Path) -> str:
    (folder / "a.tif.gz").write_bytes(gzip.compress((folder / "after.tif").read_bytes()))
    return f"/vsigzip/{folder}/a.tif.gz"


def tiles(folder: Path) -> Path:
    (folder / "tiles").mkdir()
    write(folder / "tiles" / "a.tif")
    write(folder / "tiles" / "b.tif", col=SIDE)
    return folder / "tiles"


def hard_link(folder: Path) -> str:
    os.link(folder / "after.tif", folder / "twin.tif")
    return str(folder / "twin.tif")


def symbolic_link(folder: Path) -> str:
    (folder / "link.tif").symlink_to(folder / "after.tif")
    return str(folder / "link.tif")


def with_world_file(folder: Path) -> str:
    write(folder / "p.png", driver="PNG")
    return str(folder / "p.png")


def with_overviews(folder: Path) -> str:
    rasterio.shutil.copy(folder / "after.tif", folder / "after.tif.ovr", driver="GTiff")
    return str(folder / "after.tif")


WRAPPERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "plain": (lambda f: f / "after.tif", "after.tif"),
    "relative with dots": (lambda f: f"{f}/../{f.name}/after.tif", "after.tif"),
    "virtual raster": (virtual, "after.tif"),
    "the virtual raster itself": (virtual, "v.vrt"),
    "virtual of virtual": (virtual_of_virtual, "after.tif"),
    "inner virtual of virtual": (virtual_of_virtual, "v.vrt"),
    "inline virtual": (inline_virtual, "after.tif"),
    "vrt://": (lambda f: f"vrt://{f}/after.tif?bands=3,2,1", "after.tif"),
    "file URI": (lambda f: f"file://{f}/after.tif", "after.tif"),
    "part of a file": (lambda f: f"/vsisubfile/0,{f}/after.tif", "after.tif"),
    "cached": (lambda f: f"/vsicached?chunk_size=1024&file={f}/after.tif", "after.tif"),
    "curl of a file": (lambda f: f"/vsicurl/file://{f}/after.tif", "after.tif"),
    "directory of a GeoTIFF": (lambda f: f"GTIFF_DIR:1:{f}/after.tif", "after.tif"),
    "member of an archive": (lambda f: f"/vsizip/{archive(f)}/sub/after.tif", "a.zip"),
    "member in braces": (lambda f: f"/vsizip/{{{archive(f)}}}/sub/after.tif", "a.zip"),
    "zip URI": (lambda f: f"zip://{archive(f)}!sub/after.tif", "a.zip"),
    "zip+file URI": (lambda f: f"zip+file://{archive(f)}!sub/after.tif", "a.zip"),
    "gzip": (packed, "a.tif.gz"),
    "folder of tiles": (tiles, "tiles/b.tif"),
    "tile index": (lambda f: tile_index(f / "before.tif", f / "after.tif"), "after.tif"),
    "the tile index itself": (lambda f: tile_index(f / "after.tif"), "tiles.gti.gpkg"),
    "relative tile index": (lambda f: tile_index(f / "after.tif", relative=True), "after.tif"),
    "tile index with settings": (lambda f: xml_index(f / "after.tif"), "after.tif"),
    "pattern of tiles": (lambda f: f"{tiles(f)}/*.tif", "tiles/b.tif"),
    "recursive pattern": (lambda f: f"{tiles(f).parent}/**/b.tif", "tiles/b.tif"),
    "hard link": (hard_link, "after.tif"),
    "symbolic link": (symbolic_link, "after.tif"),
    "open dataset": (lambda f: rasterio.open(f / "after.tif"), "after.tif"),
    "array of a file": (lambda f: rioxarray.open_rasterio(f / "after.tif"), "after.tif"),
    "georeference beside a picture": (with_world_file, "p.png.aux.xml"),
    "overviews beside a raster": (with_overviews, "after.tif.ovr"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_a_scene_is_read_from_is_no_output(folder: Path, name: str) -> None:
    wrap, read = WRAPPERS[name]
    scene = wrap(folder)
    assert (folder / read).exists()
    assert any(file.samefile(folder / read) for file in files_of(scene))
    with pytest.raises(OutputError, match="is an input too"):
        refuse_overwriting([folder / read], [folder / "before.tif", scene])
    refuse_overwriting([folder / "new.tif", folder / "new.gpkg"], [folder / "before.tif", scene])  # all else is


def test_a_link_to_an_input_is_no_output(folder: Path) -> None:
    os.link(folder / "after.tif", folder / "o.tif")
    with pytest.raises(OutputError, match="is an input too"):
        Targets.check(folder / "o.gpkg", None, None, inputs=(folder / "before.tif", folder / "after.tif"))


def area(path: Path, driver: str = "GPKG") -> Path:
    polygon = shapely.box(500_010, 5_399_940, 500_060, 5_399_990)
    geopandas.GeoDataFrame({"a": [1]}, geometry=[polygon], crs="EPSG:32633").to_file(path, driver=driver)
    return path


def layer_of_virtual(folder: Path) -> str:
    area(folder / "area.gpkg")
    text = "<OGRVRTDataSource><OGRVRTLayer name='area'><SrcDataSource relativeToVRT='1'>area.gpkg</SrcDataSource>"
    (folder / "area.vrt").write_text(text + "</OGRVRTLayer></OGRVRTDataSource>")
    return str(folder / "area.vrt")


@pytest.mark.parametrize(
    ("make", "outputs"),
    [
        (lambda f: area(f / "area.gpkg"), ["-o", "area.gpkg"]),
        (lambda f: area(f / "area.gpkg"), ["-o", "new.gpkg", "--scores", "area.gpkg"]),
        (lambda f: area(f / "area.shp", "ESRI Shapefile"), ["-o", "area.shp"]),
        (lambda f: area(f / "area.shp", "ESRI Shapefile"), ["-o", "new.gpkg", "--scores", "area.dbf"]),
        (lambda f: area(f / "area.geojson", "GeoJSON"), ["-o", "area.geojson"]),
        (layer_of_virtual, ["-o", "area.gpkg"]),
    ],
)
def test_the_area_is_no_output(folder: Path, capsys, make, outputs: list[str]) -> None:
    given = make(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    words = [str(folder / word) if "." in word else word for word in outputs]
    code = main(["detect", str(folder / "before.tif"), str(folder / "after.tif"), "--valid-area", str(given), *words])
    errors = capsys.readouterr().err.strip()
    assert (code, errors.count("\n")) == (3, 0)
    assert "overwritten" in errors
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_shapefile_does_not_replace_the_projection_of_a_scene(folder: Path) -> None:
    """As of a picture with a world file: before.shp would come with a before.prj of its own."""
    write(folder / "p.png", driver="PNG")
    (folder / "p.prj").write_text("used by other programs")
    rasterio.shutil.copy(folder / "p.png", folder / "q.bil", driver="EHdr")
    assert (folder / "q.prj").exists()
    with pytest.raises(OutputError, match=r"q\.shp: is written with .*q\.prj, which is read"):
        refuse_overwriting([folder / "q.shp"], [folder / "q.bil"])


def test_a_project_does_not_replace_a_virtual_scene(folder: Path) -> None:
    shutil.copy(virtual(folder), folder / "p.before.vrt")
    with pytest.raises(OutputError, match=r"p\.qgz: is written with .*p\.before\.vrt"):
        refuse_overwriting([folder / "p.qgz"], [folder / "p.before.vrt"])


def test_results_are_different_files(folder: Path, capsys) -> None:
    (folder / "one.tif").write_bytes(b"")
    (folder / "o.gpkg").symlink_to(folder / "one.tif")
    pair = [str(folder / "before.tif"), str(folder / "after.tif")]
    for scores, project in (("o.gpkg", "p.qgz"), ("one.tif", "p.qgz"), ("p.qgz", "p.qgz")):
        words = ["-o", str(folder / "o.gpkg"), "--scores", str(folder / scores), "--qgz", str(folder / project)]
        assert main(["detect", *pair, *words]) == 3
        assert "cannot hold both the" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-o", "--scores", "--qgz"])
def test_a_folder_is_no_file(folder: Path, capsys, option: str) -> None:
    names = {"-o": "o.gpkg", "--scores": "s.tif", "--qgz": "p.qgz"}
    (folder / names[option]).mkdir()
    words = [word for name, value in names.items() for word in (name, str(folder / value))]
    assert main(["detect", str(folder / "before.tif"), str(folder / "after.tif"), *words]) == 3
    assert f"{names[option]}: cannot be written, because it is a folder" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["after.tif", "before.tif", names[option]]


def test_a_device_is_no_file(folder: Path, capsys) -> None:
    os.mkfifo(folder / "pipe.tif")
    assert main(["score", str(folder / "before.tif"), str(folder / "after.tif"), "-o", str(folder / "pipe.tif")]) == 3
    assert "because it is a device" in capsys.readouterr().err


def test_a_folder_with_the_name_of_weights_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "survey").mkdir()
    for name in ("survey/o.gpkg", "o.gpkg", "o.tif"):
        Path(name).write_bytes(b"")
    assert DetectOptions(model="survey").files == ()
    for files in (DetectOptions(aoi="no.gpkg").files, ["survey-fast", "no:layer", ""]):
        refuse_overwriting(["survey/o.gpkg", "o.gpkg", "o.tif"], ["before.tif"], files)
    with pytest.raises(OutputError, match="is an input too"):
        refuse_overwriting(["o.gpkg"], ["before.tif"], ["o.gpkg:layer"])


def test_scores_do_not_become_a_tile(folder: Path, capsys) -> None:
    """The next run would compare them as a part of the scene."""
    scene = tiles(folder)
    for named in (scene, f"{scene}/*.tif"):
        assert main(["detect", str(folder / "before.tif"), str(named), "-o", str(scene / "o.gpkg")]) == 3
        assert "o.tif: would be a tile of" in capsys.readouterr().err
    refuse_overwriting([scene / "o.gpkg", folder / "o.tif"], [scene, f"{scene}/a*.tif"])


@pytest.mark.parametrize("verb", ["score", "vectorize", "evaluate", "train", "batch", "demo", "report"])
def test_no_command_replaces_what_it_reads(folder: Path, capsys, verb: str) -> None:
    model = load_model("survey-fast")
    save_model(model.network, model.card, folder / "w.safetensors")
    area(folder / "truth.gpkg")
    before, after = str(folder / "before.tif"), virtual(folder)
    (folder / "out").mkdir()
    shutil.copy(folder / "truth.gpkg", folder / "out" / "v-survey.gpkg")
    (folder / "survey.csv").write_text("before,after\nbefore.tif,v.vrt\n")
    (folder / "index.html").write_text("<html>my site</html>")
    (folder / "truth.gpkg").rename(folder / "t.gpkg")
    arguments = {
        "score": [before, after, "-o", str(folder / "after.tif")],
        "vectorize": [after, "-o", str(folder / "v.gpkg"), "--threshold", "0.5"],
        "evaluate": [before, after, str(folder / "out" / "v-survey.gpkg"), "--out", str(folder / "out")],
        "train": ["--scenes", before, "--init", str(folder / "w.safetensors"), "-o", str(folder / "w.safetensors")],
        "batch": [str(folder / "survey.csv"), "-o", str(folder)],
        "demo": [str(folder)],
        "report": [str(folder / "t.gpkg"), "-o", str(folder)],
    }[verb]
    if verb == "vectorize":  # scores in a virtual raster; the polygons would replace its source
        (folder / "after.tif").rename(folder / "v.gpkg")
        text = Path(after).read_text().replace("after.tif", "v.gpkg")
        Path(after).write_text(text)
    if verb == "report":
        assert main(["detect", before, after, "-o", str(folder / "t.gpkg")]) == 0
        capsys.readouterr()
    was = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([verb, *arguments]) == 3
    errors = capsys.readouterr().err.strip()
    assert "overwritten" in errors
    assert "\n" not in errors
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == was


def test_curves_of_a_training_do_not_replace_a_scene(folder: Path) -> None:
    (folder / "before.tif").rename(folder / "m.curves.png")  # GDAL looks at the content
    options = TrainingOptions(folder / "m.safetensors", scenes=(str(folder / "m.curves.png"),))
    with pytest.raises(OutputError, match=r"m\.curves\.png: is an input too"):
        train(options)
