"""The difference: the same in any block and thread, as a raster, inside outlines as rasterio sums it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import geometry_mask
from surface_files import CORNER, PIXEL, correlated, hills, write

import geosiam as gs
from geosiam.errors import InputError, OutputError
from geosiam.heights.coregistration import coregister
from geosiam.heights.difference import HeightDifference, stable_by_scores, stable_outside
from geosiam.heights.surfaces import open_surfaces
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.schema import HEIGHT_COLUMNS
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.writer import ScoreRasterWriter
from geosiam_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLS = 150, 180
HEAP = shapely.Point(CORNER[0] + 40, CORNER[1] - 40).buffer(8)
PIT = shapely.Point(CORNER[0] + 70, CORNER[1] - 20).buffer(5)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return two surface models, the second 1 px aside, with a heap of 2 m and a pit of 1 m, and their outlines."""
    transform = Affine(PIXEL, 0, CORNER[0], 0, -PIXEL, CORNER[1])
    after = hills(ROWS, COLS)
    for shape, height in ((HEAP, 2.0), (PIT, -1.0)):
        after[geometry_mask([shape.buffer(-1)], after.shape, transform, invert=True)] += height
    after = np.roll(after, 1, axis=1) + 0.1 + 0.02 * correlated(ROWS, COLS, 1, 2)
    before = write(tmp_path / "before.tif", hills(ROWS, COLS) + 0.02 * correlated(ROWS, COLS, 1, 1))
    frame = geopandas.GeoDataFrame({"name": ["heap", "pit"]}, geometry=[HEAP, PIT], crs="EPSG:32633")
    frame.to_file(tmp_path / "outlines.gpkg", layer="outlines")
    return before, write(tmp_path / "after.tif", after), tmp_path / "outlines.gpkg"


def difference(files: tuple[Path, Path, Path], workers: int = 1) -> HeightDifference:
    surfaces = open_surfaces(files[:2])
    outlines = np.array([HEAP, PIT], object)
    stable = stable_outside(outlines, surfaces.grid.crs, surfaces.grid)
    return HeightDifference.coregistered(surfaces, stable, workers=workers)


def test_blocks_and_threads_do_not_matter(files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Window(0, ROWS, 0, COLS)
    with (one := difference(files)).surfaces, (three := difference(files, workers=3)).surfaces:
        reference = one.read(whole)
        for part in (Window(13, 57, 101, 180), Window(149, 150, 0, 1)):
            np.testing.assert_array_equal(three.read(part).dz, reference.dz[part.slices])
            np.testing.assert_array_equal(three.read(part).noise, reference.noise[part.slices])
        outlines = np.array([HEAP, PIT], object)
        rows = one.columns(outlines, crs=one.surfaces.grid.crs)
        monkeypatch.setattr("geosiam.heights.difference._BLOCK_PX", 16)
        again = three.columns(outlines, crs=one.surfaces.grid.crs)
        blocks = dict(three.blocks())
    for name in rows:
        assert list(rows[name]) == list(again[name]), name
    assert list(rows["height_evidence"]) == ["raised", "lowered"]
    for window, values in blocks.items():
        np.testing.assert_array_equal(values[0], reference.dz[window.slices].astype(np.float32))


def test_the_raster_holds_what_the_volumes_are_made_of(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Anyone can sum the pixels of the raster inside the outline: rasterio does so here, by centers of pixels."""
    before, after, outlines = files
    result = gs.measure_heights(before, after, tmp_path / "v.gpkg", polygons=outlines, dz=tmp_path / "dz.tif")
    found = geopandas.read_file(tmp_path / "v.gpkg", layer="heights")
    assert [*found.columns] == ["name", *(name for name in HEIGHT_COLUMNS if name != "likely_geometry"), "geometry"]
    with rasterio.open(tmp_path / "dz.tif") as raster:
        dz = raster.read(1)
        assert raster.profile["dtype"] == "float32"
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (raster.descriptions, raster.units) == (("dz",), ("m",))
        assert float(raster.tags()["GEOSIAM_DETECTION_95_M"]) == pytest.approx(
            result.heights["coregistration"]["level_of_detection_95_m"], abs=1e-3
        )
        for shape, row in zip(found.geometry, found.itertuples(), strict=True):
            inside = geometry_mask([shape], dz.shape, raster.transform, invert=True)
            net = row.volume_gain_m3 - row.volume_loss_m3
            assert net == pytest.approx(np.nansum(dz[inside]) * PIXEL**2, rel=0.02)
            assert row.dz_median == pytest.approx(np.nanmedian(dz[inside]), abs=0.05)
    assert (tmp_path / "dz.qml").read_text().count("<item ") == 8
    place = Affine(PIXEL, 0, CORNER[0], 0, -PIXEL, CORNER[1])
    exact = [
        height * PIXEL**2 * geometry_mask([shape.buffer(-1)], (ROWS, COLS), place, invert=True).sum()
        for shape, height in ((HEAP, 2), (PIT, -1))
    ]
    assert list(found.volume_gain_m3 - found.volume_loss_m3) == pytest.approx(exact, rel=0.03)
    assert (np.abs(found.volume_gain_m3 - found.volume_loss_m3 - exact) < 2.5 * found.volume_sigma_m3).all()
    with closing(sqlite3.connect(tmp_path / "v.gpkg")) as db:
        inputs, fingerprints = db.execute("SELECT inputs, fingerprints FROM runs").fetchone()
    assert json.loads(inputs) == {"before_dsm": str(before), "after_dsm": str(after)}
    assert all(json.loads(fingerprints).values())


def test_stable_ground_is_outside_of_outlines_and_scores(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with open_surfaces(files[:2]) as surfaces:
        grid = surfaces.grid
        cells = Grid(grid.crs, grid.transform @ Affine.scale(0.5), COLS * 2, ROWS * 2)
        scores = np.zeros(cells.shape, np.float32)
        scores[100:120, 200:240] = 0.9
        with ScoreRasterWriter(tmp_path / "s.tif", cells, tags={}) as writer:
            from geosiam.imagery.grid import Block

            writer.write(Block(0, Window(0, cells.height, 0, cells.width)), scores)
        stable = stable_by_scores(ScoreRaster.open(tmp_path / "s.tif"), 0.5, grid)
        found = stable(Window(0, ROWS, 0, COLS))
        np.testing.assert_array_equal(stable(Window(30, 70, 90, 130)), found[30:70, 90:130])
        outside = stable_outside(np.array([HEAP, HEAP.buffer(3)], object), grid.crs, grid)(Window(0, ROWS, 0, COLS))
    unstable = np.argwhere(~found)
    assert (unstable.min(axis=0) == [48, 98]).all()  # cells 100 and 200 are in pixels 50 and 100, and four cells around
    assert (unstable.max(axis=0) == [61, 121]).all()
    assert not outside[80, 80]  # overlapping outlines do not cancel each other
    assert outside.mean() > 0.9


def test_rim(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A heap on a slope, from one surface: above the plane through its rim."""
    row, col = np.mgrid[:ROWS, :COLS]
    transform = Affine(PIXEL, 0, CORNER[0], 0, -PIXEL, CORNER[1])
    ground = 100 + 0.1 * row - 0.05 * col
    ground[geometry_mask([HEAP.buffer(-1)], ground.shape, transform, invert=True)] += 2
    surface = write(tmp_path / "one.tif", ground)
    gs.measure_heights(surface, None, tmp_path / "v.gpkg", polygons=files[2])
    found = geopandas.read_file(tmp_path / "v.gpkg", layer="heights")
    assert found.volume_gain_m3[0] == pytest.approx(2 * HEAP.buffer(-1).area, rel=0.01)
    assert found.volume_gain_m3[1] == pytest.approx(0, abs=0.1)
    assert list(found.height_evidence) == ["raised", "level"]


def test_outlines_outside_and_across_the_edge(files: tuple[Path, Path, Path]) -> None:
    across = shapely.box(CORNER[0] - 60, CORNER[1] - 20, CORNER[0] + 10, CORNER[1] - 10)
    away = shapely.box(CORNER[0] + 1e4, CORNER[1], CORNER[0] + 1e4 + 5, CORNER[1] + 5)
    with (dz := difference(files)).surfaces:
        rows = dz.columns(np.array([across, away, shapely.Polygon()], object), crs=dz.surfaces.grid.crs)
        assert dz.columns(np.array([], object), crs=dz.surfaces.grid.crs)["dz_mean"].shape == (0,)
    assert list(rows["height_evidence"]) == ["unknown"] * 3
    assert rows["height_fraction"][0] == pytest.approx(10 / 70, abs=0.02)
    assert np.isnan(rows["volume_gain_m3"]).all()
    assert list(rows["likely_geometry"]) == [None] * 3


def test_coregistration_is_the_same_from_a_copy(files: tuple[Path, Path, Path]) -> None:
    with open_surfaces(files[:2]) as surfaces:
        first, second = (coregister(surfaces, lambda w: np.ones(w.shape, bool), workers=n) for n in (1, 4))
    assert first == second
    assert first.shift == pytest.approx((0, 1), abs=0.05)


def test_the_command(files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after, outlines = map(str, files)
    arguments = ["heights", before, after, "--polygons", outlines, "-o", str(tmp_path / "v.geojson")]
    assert main([*arguments, "--dz", str(tmp_path / "dz.tif"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["count"] == 2
    assert content["heights"]["coregistration"]["shift_right_m"] == pytest.approx(PIXEL, abs=0.03)
    assert geopandas.read_file(tmp_path / "v.geojson").crs == "EPSG:4326"
    assert main(["heights", before, after, "-o", str(tmp_path / "alone.tif")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'alone.tif'}\n"
    for suffix in ("shp", "parquet", "fgb"):
        assert main([*arguments[:-1], str(tmp_path / f"v.{suffix}")]) == 0
        assert (
            len(
                geopandas.read_parquet(tmp_path / "v.parquet")
                if suffix == "parquet"
                else geopandas.read_file(tmp_path / f"v.{suffix}")
            )
            == 2
        )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-o", "{before}"], "is an input too and would be overwritten"),
        (["-o", "o.gpkg"], "name a .tif, or the polygons with --polygons"),
        (["--polygons", "{outlines}", "-o", "o.tif"], "use one of .gpkg"),
        (["--polygons", "{outlines}", "-o", "{outlines}"], "is an input too and would be overwritten"),
        (["--polygons", "{outlines}", "-o", "o.gpkg", "--dz", "{after}"], "is an input too and would be overwritten"),
        (["--polygons", "nothing.gpkg", "-o", "o.gpkg"], "does not exist"),
        (["--polygons", "{before}", "-o", "o.gpkg"], "is not a readable vector file"),
        (["-o", "nowhere/o.tif"], "its folder does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused(
    files: tuple[Path, Path, Path], more: list[str], words: str, tmp_path: Path, *, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    names = dict(zip(("before", "after", "outlines"), map(str, files), strict=True))
    held = {path: path.read_bytes() for path in files}
    assert main(["heights", names["before"], names["after"], *(text.format(**names) for text in more)]) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert {path: path.read_bytes() for path in files} == held


def test_one_surface_alone_needs_polygons(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a second one, or `polygons`"):
        gs.measure_heights(files[0], None, tmp_path / "o.tif")
    with pytest.raises(OutputError, match="cannot hold both"):
        gs.measure_heights(*files[:2], tmp_path / "o.gpkg", polygons=files[2], dz=tmp_path / "o.gpkg")
