"""What is written and said of a displacement: the raster, the layer of the GeoPackage, the words of info."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from scipy import ndimage

from geosiam.errors import OptionError, OutputError
from geosiam.imagery.prepare import open_pair
from geosiam.inspection import inspect_pair
from geosiam.options import DetectOptions, ScoreOptions
from geosiam.pipeline import detect
from geosiam.polygons import geopackage
from geosiam.polygons.geopackage import displacement_points
from geosiam.polygons.results import read_result
from geosiam.report.images import PairPictures
from geosiam.report.inputs import find_pairs
from geosiam.results import DISPLACEMENT_BANDS, write_displacement
from geosiam.scoring import score_to_file
from geosiam_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.imagery.grid import Grid
    from geosiam.results import DetectResult

SIDE = 640
UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(0.1, 0, 500_000, 0, -0.1, 5_800_000)
DEGREES = Affine(2e-6, 0, 15, 0, -1e-6, 60)  # at 60 degrees north, about as many meters per row as per column
MATCHED_PX = 0.75  # error of an estimate that is no gross one


def truth(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return how far the second flight shows the ground too far down and right at pixels of the first one."""
    down = 2 + 4 * np.sin(2 * np.pi * cols / 500)
    right = -3 + 5 * np.cos(2 * np.pi * rows / 450)
    return np.stack([down, right])


def flights() -> tuple[np.ndarray, np.ndarray]:
    """Return a textured picture, and the same bent by :func:`truth`, with a bright sheet on it: uint8 (3, 640, 640)."""
    rng = np.random.default_rng(7)
    noise = sum(ndimage.gaussian_filter(rng.normal(size=(3, SIDE, SIDE)), (0, s, s)) * s for s in (1.5, 4, 12))
    first = np.clip(120 + 45 * noise / noise.std(), 0, 255)
    second = first.copy()
    second[:, 300:330, 200:240] = 250
    targets = np.indices((SIDE, SIDE), float)
    ground = targets - truth(*targets)
    for _ in range(20):  # what a pixel of the second flight shows: x + d(x) = pixel
        ground = targets - truth(*ground)
    bent = np.stack([ndimage.map_coordinates(band, ground, order=3, mode="reflect") for band in second])
    return first.astype(np.uint8), np.clip(bent, 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, crs: CRS = UTM, transform: Affine = NORTH_UP) -> Path:
    size = {"count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", photometric="RGB", crs=crs, transform=transform, **size) as file:
        file.write(pixels)
    return path


@dataclass(frozen=True)
class Run:
    before: Path
    after: Path
    raster: Path
    result: DetectResult


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run over two flights that bend apart, with all that is written of it."""
    folder = tmp_path_factory.mktemp("bent")
    before, after = (write(folder / f"{name}.tif", image) for name, image in zip("ab", flights(), strict=True))
    outputs = {"project": folder / "r.qgz", "displacement": folder / "d.tif"}
    return Run(before, after, folder / "d.tif", detect(before, after, folder / "r.gpkg", **outputs))


def read(path: Path) -> tuple[dict[str, np.ndarray], rasterio.DatasetReader]:
    with rasterio.open(path) as file:
        return dict(zip(file.descriptions, file.read(), strict=True)), file


def nodes(file: rasterio.DatasetReader, transform: Affine = NORTH_UP) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the before scene, 0 = center of its first pixel, of all pixels of a raster."""
    row, col = np.indices(file.shape) + 0.5
    to_px = ~transform @ file.transform
    return to_px.d * col + to_px.e * row + to_px.f - 0.5, to_px.a * col + to_px.b * row + to_px.c - 0.5


def test_the_raster_says_where_the_content_lies(run: Run) -> None:
    bands, file = read(run.raster)
    assert tuple(bands) == tuple(DISPLACEMENT_BANDS) == ("dx_px", "dy_px", "dx_m", "dy_m", "confidence")
    with rasterio.open(run.raster) as opened:
        assert tuple(unit or "" for unit in opened.units) == ("px", "px", "m", "m", "")
    assert (file.crs, file.dtypes[0], np.isnan(file.nodata)) == (UTM, "float32", True)
    known = ~np.isnan(bands["dx_px"])
    assert known.mean() > 0.8
    down, right = truth(*nodes(file))
    errors = np.hypot(bands["dx_px"] - right, bands["dy_px"] - down)[known]
    assert np.percentile(errors, 90) < MATCHED_PX
    np.testing.assert_allclose(bands["dx_m"], bands["dx_px"] * 0.1, rtol=1e-4)
    np.testing.assert_allclose(bands["dy_m"], bands["dy_px"] * 0.1, rtol=1e-4)


def test_the_raster_is_a_cog_that_says_how_it_came_about(run: Run) -> None:
    with rasterio.open(run.raster) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        tags = file.tags()
    assert (tags["GEOSIAM_APPLIED"], tags["GEOSIAM_BEFORE"], tags["GEOSIAM_AFTER"]) == (
        "yes",
        str(run.before),
        str(run.after),
    )
    assert int(tags["GEOSIAM_SPACING_PX"]) > 1
    assert [path for path in run.raster.parent.iterdir() if "partial" in path.name] == []


def test_what_is_not_known_is_nodata(run: Run, tmp_path: Path) -> None:
    with open_pair(run.before, run.after) as pair:
        confidence = pair.displacement.confidence
        confidence[:5] = 0
        assert write_displacement(tmp_path / "d.tif", pair) is None
    bands, _ = read(tmp_path / "d.tif")
    assert all(np.isnan(bands[name][:5]).all() for name in ("dx_px", "dy_px", "dx_m", "dy_m"))
    assert (bands["confidence"][:5] == 0).all()
    assert not np.isnan(bands["dx_px"][10:-10, 10:-10]).all()


def test_meters_are_those_on_the_ground_in_degrees_too(tmp_path: Path) -> None:
    before, after = (
        write(tmp_path / f"{name}.tif", image, CRS.from_epsg(4326), DEGREES)
        for name, image in zip("ab", flights(), strict=True)
    )
    inspect_pair(before, after, displacement=tmp_path / "d.tif")
    bands, file = read(tmp_path / "d.tif")
    known = ~np.isnan(bands["dx_px"])
    assert known.any()
    # A degree at 60 degrees north: series of the length of the meridian and of the parallel (WGS 84).
    np.testing.assert_allclose(bands["dx_m"][known], bands["dx_px"][known] * 2e-6 * 55_800.0, rtol=1e-3)
    np.testing.assert_allclose(bands["dy_m"][known], bands["dy_px"][known] * 1e-6 * 111_412.2, rtol=1e-3)
    assert np.abs(nodes(file, DEGREES)[1] % 1 - 0.5).max() < 1e-3  # centers of squares of an even number of pixels


def test_a_score_and_an_inspection_write_the_same_raster(run: Run, tmp_path: Path) -> None:
    score_to_file(run.before, run.after, tmp_path / "s.tif", displacement=tmp_path / "score.tif")
    inspection = inspect_pair(run.before, run.after, displacement=tmp_path / "info.tif")
    assert inspection.to_dict()["displacement_raster"] == str(tmp_path / "info.tif")
    assert run.result.to_dict()["displacement_raster"] == str(run.raster)
    expected = run.raster.read_bytes()
    assert [(tmp_path / name).read_bytes() == expected for name in ("score.tif", "info.tif")] == [True, True]


def test_a_raster_that_is_replaced_takes_its_companions_with_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.tif").write_bytes(b"of an earlier run")
    (tmp_path / "d.tif.aux.xml").write_text("<PAMDataset/>")
    with open_pair(run.before, run.after) as pair:
        write_displacement(tmp_path / "d.tif", pair)
    assert [path.name for path in tmp_path.iterdir()] == ["d.tif"]
    assert (tmp_path / "d.tif").read_bytes() == run.raster.read_bytes()


def test_a_raster_that_cannot_be_written_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.tif").mkdir()  # whoever runs the tests, a file cannot take the place of a folder
    with open_pair(run.before, run.after) as pair, pytest.raises(OutputError, match=r"d\.tif: cannot be written"):
        write_displacement(tmp_path / "d.tif", pair)
    assert [path.name for path in tmp_path.iterdir()] == ["d.tif"]


@pytest.mark.parametrize("register", ["none", "shift"])
def test_without_an_estimate_it_is_refused_before_any_work(register: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"`register={register}` estimates none; use `register=auto`"):
        detect(
            tmp_path / "gone.tif",
            tmp_path / "gone.tif",
            tmp_path / "a.gpkg",
            options=DetectOptions(register=register),
            displacement=tmp_path / "d.tif",
        )
    assert list(tmp_path.iterdir()) == []


def test_scenes_that_cannot_be_matched_get_a_warning_and_no_file(tmp_path: Path) -> None:
    flat = np.full((3, 200, 200), 90, np.uint8)
    before, after = (write(tmp_path / f"{name}.tif", flat) for name in "ab")
    result = score_to_file(before, after, tmp_path / "s.tif", displacement=tmp_path / "d.tif")
    (warning,) = [text for text in result.warnings if "`displacement`" in text]
    assert "d.tif is not written, because the scenes cannot be matched" in warning
    assert result.displacement_path is None
    assert not (tmp_path / "d.tif").exists()


def test_no_input_and_no_other_output_is_overwritten(run: Run, tmp_path: Path) -> None:
    content = run.after.read_bytes()
    with pytest.raises(OutputError, match="is an input too"):
        inspect_pair(run.before, run.after, displacement=run.after)
    for other in ("a.gpkg", "a.tif"):
        with pytest.raises(OutputError, match="cannot hold both the"):
            detect(run.before, run.after, tmp_path / "a.gpkg", displacement=tmp_path / other)
    with pytest.raises(OutputError, match="its folder does not exist"):
        score_to_file(run.before, run.after, tmp_path / "s.tif", displacement=tmp_path / "nowhere" / "d.tif")
    assert run.after.read_bytes() == content
    assert list(tmp_path.iterdir()) == []


# --- the layer of the GeoPackage ------------------------------------------------------------------------------------


def test_the_geopackage_has_the_same_displacement_as_points(run: Run) -> None:
    points = pyogrio.read_dataframe(run.result.polygons_path, layer="displacement")
    assert points.crs.to_epsg() == 32633
    assert list(points.columns) == ["dx_px", "dy_px", "length_px", "confidence", "geometry"]
    with rasterio.open(run.raster) as file:
        there = np.array([*file.sample(zip(points.geometry.x, points.geometry.y, strict=True))])
    np.testing.assert_allclose(points[["dx_px", "dy_px"]], there[:, :2], rtol=1e-6)
    np.testing.assert_allclose(points["length_px"], np.hypot(there[:, 0], there[:, 1]), rtol=1e-6)


def test_only_a_field_that_is_read_through_or_asked_for_gets_a_layer(run: Run, tmp_path: Path) -> None:
    detect(run.before, run.before, tmp_path / "same.gpkg")
    detect(run.before, run.before, tmp_path / "shown.gpkg", project=tmp_path / "shown.qgz")
    layers = {path.stem: set(pyogrio.list_layers(path)[:, 0]) for path in tmp_path.glob("*.gpkg")}
    assert layers["shown"] - layers["same"] == {"displacement"}


def test_large_fields_are_thinned_to_means(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_pair(run.before, run.after) as pair:
        field = pair.displacement
        all_nodes = displacement_points(pair)
        monkeypatch.setattr(geopackage, "_MAX_POINTS", 100)
        few = displacement_points(pair)
    assert len(all_nodes.table) == field.is_known.sum() > 1000
    assert 50 < len(few.table) <= 100
    first = np.s_[:4, :4]  # 40 x 40 nodes
    mean = field.displacement[1][first][field.is_known[first]].mean()
    assert few.table["dx_px"][0].as_py() == pytest.approx(mean, rel=1e-5)


def test_points_lie_on_rotated_grids_too(tmp_path: Path) -> None:
    turned = NORTH_UP @ Affine.rotation(30)
    before, after = (
        write(tmp_path / f"{name}.tif", image, transform=turned) for name, image in zip("ab", flights(), strict=True)
    )
    with open_pair(before, after) as pair:
        points = displacement_points(pair).table
    xy = shapely.get_coordinates(shapely.from_wkb(points["geometry"].to_pylist()))
    cols, rows = np.array([~turned @ tuple(point) for point in xy]).T - 0.5
    down, right = truth(rows, cols)
    errors = np.hypot(points["dx_px"].to_numpy() - right, points["dy_px"].to_numpy() - down)
    assert np.percentile(errors, 90) < MATCHED_PX


def test_pictures_of_a_report_show_the_same_ground_at_both_dates(run: Run) -> None:
    (pair,) = find_pairs([run.result.polygons_path])
    record = read_result(pair.anomalies).record
    assert record.field_applied
    outline = shapely.MultiPolygon([shapely.box(500_010, 5_799_940, 500_011, 5_799_941)])  # 7 px apart
    likeness = []
    for each in (record, replace(record, field_applied=False)):
        pictures = PairPictures.open(pair, each)
        chip = pictures.chip(outline, 384)
        middle = np.s_[48:80, 48:80, :3]  # of 128 x 128 pixels; the displacement differs in the corners
        likeness.append(np.corrcoef(chip.before[middle].ravel(), chip.after[middle].ravel())[0, 1])
        pictures.close()
    assert likeness[0] > 0.8
    assert likeness[1] < 0.5


# --- in words -------------------------------------------------------------------------------------------------------


def test_info_says_shift_bend_and_what_is_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run.before), str(run.after)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("registration")
    words = dict(line.strip().split("  ", 1) for line in lines[start + 1 : start + 6])
    assert list(words) == ["shift", "bend", "nothing known", "correction", "remaining"]
    assert words["correction"].strip() == "the after scene is read through a displacement field"
    with open_pair(run.before, run.after) as pair:
        local = pair.report.displacement
    bend = (
        f"median {local['median_px']:.1f}, 95th percentile {local['p95_px']:.1f}, largest {local['largest_px']:.1f} px"
    )
    assert words["bend"].strip() == f"{bend} ({local['agreement']:.0%} of the matches agree)"
    assert words["nothing known"].strip() == f"on {local['unknown_fraction']:.0%} of the ground"
    assert not any(line.startswith(("moved_px", "shift_px", "displacement")) for line in lines)

    assert main(["info", str(run.before), str(run.after), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["displacement"] == local


def test_a_shift_is_said_in_directions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = flights()
    before = write(tmp_path / "a.tif", first[:, 20:-20, 20:-20])
    after = write(tmp_path / "b.tif", first[:, 23:-17, 15:-25])  # content 3 px too far up, 5 px too far right
    with caplog.at_level(logging.WARNING), open_pair(before, after, options=ScoreOptions(register="shift")) as pair:
        words = pair.report.registration()
    assert words["shift"].startswith("5.0 px right, 3.0 px up (")
    assert words["correction"] == "the after scene is moved by 5.0 px left, 3.0 px down"
    assert (words["bend"], words["remaining"]) == ("not known", "0.0 px")


def test_the_command_passes_the_file_on_and_names_its_own_flags(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    target = run.raster.with_name("by-command.tif")
    assert main(["info", str(run.before), str(run.after), "--displacement", str(target)]) == 0
    assert target.read_bytes() == run.raster.read_bytes()
    capsys.readouterr()
    arguments = ["score", str(run.before), str(run.after), "-o", str(target.with_name("s2.tif"))]
    assert main([*arguments, "--register", "none", "--displacement", str(target)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written, because --register none estimates none; use --register auto or --register field" in line


def test_a_grid_is_the_lattice_of_nodes(run: Run) -> None:
    with open_pair(run.before, run.after) as pair, rasterio.open(run.raster) as file:
        grid: Grid = pair.displacement.grid(pair.grid)
        assert (file.shape, file.transform.almost_equals(grid.transform)) == (grid.shape, True)
