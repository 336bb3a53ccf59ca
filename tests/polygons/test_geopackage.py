"""Files of polygons: what goes in comes out, the GeoPackage describes itself, and nothing is ever half written."""

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
from affine import Affine
from array_cells import empty_frame
from rasterio.crs import CRS

from geosiam.errors import OptionError, OutputError, SceneUnreadableError
from geosiam.imagery.grid import Grid
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.schema import COLUMNS, FOOTPRINT_COLUMNS, REVIEWS, SHAPEFILE_NAMES
from geosiam.polygons.table import Origin, polygon_table
from geosiam.polygons.writer import write_polygons
from geosiam.qml import polygon_qml

UTM = CRS.from_epsg(32633)
PROVENANCE = {
    "inputs": {"before": "before.tif", "after": "after.tif"},
    "fingerprints": {"before": "ab12"},
    "model": "survey",
    "options": {"min_area": "20px"},
    "threshold": 0.6,
}
ORIGIN = Origin("before.tif", "after.tif", "2026-01-02T03:04:05+00:00", 0.25)


class Strips:
    """Speckle in strips of 50 rows, as a source of scores."""

    grid = Grid(UTM, Affine(4, 0, 500_000, 0, -4, 5_800_000), 80, 200)
    stride = 8
    extent = 200.0, 80.0

    def strips(self, rows=50):  # noqa: ARG002
        scores = np.random.default_rng(0).random((200, 80)).astype(np.float32)
        return ((start, scores[start : start + 50]) for start in range(0, 200, 50))

    def read(self, window):
        return np.concatenate([strip for _, strip in self.strips()])[window.slices]


def speckle():
    return polygon_table(Strips(), PolygonOptions(threshold=0.6, min_area="200px"), ORIGIN)


@pytest.fixture(scope="module")
def frame():
    return speckle().frame()


def read(path):
    return geopandas.read_file(path, layer="anomalies" if path.suffix == ".gpkg" else None)


def test_what_goes_in_comes_out(frame, tmp_path):
    assert write_polygons(frame, tmp_path / "a.gpkg", provenance=PROVENANCE) == len(frame) > 50
    back = read(tmp_path / "a.gpkg")
    assert list(back.columns) == list(frame.columns)
    texts = ["hint", "before", "after", "created", "review"]
    assert back.drop(columns=["geometry", *texts]).equals(frame.drop(columns=["geometry", *texts]))
    assert back[["before", "after", "created"]].drop_duplicates().to_numpy().tolist() == [
        [ORIGIN.before, ORIGIN.after, ORIGIN.created]
    ]
    assert back.geometry.geom_equals(frame.geometry).all()
    assert back.crs == frame.crs
    assert back.review.isna().all()


def test_pieces_make_the_same_file_as_the_whole(frame, tmp_path):
    assert write_polygons(speckle(), tmp_path / "a.gpkg") == len(frame)
    back = read(tmp_path / "a.gpkg")
    assert back["id"].tolist() == frame["id"].tolist()
    assert back.geometry.geom_equals(frame.geometry).all()
    info = pyogrio.read_info(tmp_path / "a.gpkg", layer="anomalies")
    assert info["total_bounds"] == pytest.approx(tuple(frame.total_bounds))


def test_the_geopackage_is_1_2_indexed_and_alone(frame, tmp_path):
    write_polygons(speckle(), tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    with sqlite3.connect(tmp_path / "a.gpkg") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (10200,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("SELECT count(*) FROM rtree_anomalies_geom").fetchone() == (len(frame),)
        contents = dict(db.execute("SELECT table_name, data_type FROM gpkg_contents"))
    db.close()
    tables = {"layer_styles": "attributes", "runs": "attributes"}
    assert contents == {"anomalies": "features", "footprint": "features"} | tables
    info = pyogrio.read_info(tmp_path / "a.gpkg", layer="anomalies")
    assert info["geometry_type"] == "MultiPolygon"


def test_every_column_is_described_inside(tmp_path):
    write_polygons(speckle(), tmp_path / "a.gpkg")
    db = sqlite3.connect(tmp_path / "a.gpkg")
    for layer, columns in {"anomalies": COLUMNS, "footprint": FOOTPRINT_COLUMNS}.items():
        query = "SELECT column_name, description FROM gpkg_data_columns WHERE table_name = ?"
        assert dict(db.execute(query, [layer])) == columns
        info = {row[1] for row in db.execute(f"PRAGMA table_info({layer})")}
        assert info == columns.keys() | {"fid", "geom"}
    extensions = {row[0] for row in db.execute("SELECT table_name FROM gpkg_extensions")}
    db.close()
    assert {"gpkg_data_columns", "gpkg_data_column_constraints"} <= extensions


def test_style_and_provenance_are_inside(frame, tmp_path):
    write_polygons(frame, tmp_path / "a.gpkg", provenance=PROVENANCE)
    db = sqlite3.connect(tmp_path / "a.gpkg")
    db.row_factory = sqlite3.Row
    style = dict(db.execute("SELECT * FROM layer_styles").fetchone())
    run = dict(db.execute("SELECT * FROM runs").fetchone())
    db.close()
    assert (style["f_table_name"], style["f_geometry_column"], style["useAsDefault"]) == ("anomalies", "geom", 1)
    classes = ET.fromstring(style["styleQML"]).findall("renderer-v2/ranges/range")
    assert float(classes[0].get("lower")) == pytest.approx(0.6, abs=1e-5)
    assert float(classes[-1].get("upper")) == 1
    assert ET.fromstring(style["styleSLD"]).tag.endswith("StyledLayerDescriptor")
    assert json.loads(run["inputs"]) == PROVENANCE["inputs"]
    assert run["model"] == "survey"
    assert run["threshold"] == 0.6
    assert run["created"].endswith("Z")
    assert PROVENANCE.items() <= json.loads(run["provenance"]).items()


def test_a_run_with_little_known_about_it(frame, tmp_path):
    write_polygons(frame, tmp_path / "a.gpkg", provenance={"created": "2020-01-01T00:00:00Z"})
    runs = pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="runs")
    assert runs.created.dt.year.tolist() == [2020]
    assert runs.model.isna().all()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp", ".GPKG"])
def test_every_format_holds_the_polygons(frame, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_polygons(frame, path)
    back = read(path) if suffix != ".GPKG" else geopandas.read_file(path, layer="anomalies")
    names = {SHAPEFILE_NAMES.get(c, c) if suffix == ".shp" else c for c in COLUMNS}
    assert set(back.columns) == names | {"geometry"}
    assert back.crs.to_epsg() == (4326 if suffix == ".geojson" else 32633)
    back = back.sort_values("id").to_crs(frame.crs)
    assert back.area.to_numpy() == pytest.approx(frame.area.to_numpy(), rel=1e-3)
    assert back.is_valid.all()


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".shp"])
def test_without_polygons_there_is_a_layer_with_all_columns(frame, tmp_path, suffix):
    write_polygons(frame, tmp_path / f"some{suffix}")
    assert write_polygons(empty_frame(UTM), tmp_path / f"none{suffix}") == 0
    layer = "anomalies" if suffix == ".gpkg" else None
    some, none = (pyogrio.read_info(tmp_path / f"{n}{suffix}", layer=layer) for n in ("some", "none"))
    assert none["features"] <= 0  # FlatGeobuf does not count
    assert none["fields"].tolist() == some["fields"].tolist()
    assert none["dtypes"].tolist() == some["dtypes"].tolist()
    assert none["crs"] == "EPSG:32633"


def test_geojson_without_polygons_is_valid(tmp_path):
    write_polygons(empty_frame(UTM), tmp_path / "none.geojson")
    assert json.loads((tmp_path / "none.geojson").read_text())["features"] == []


def test_nothing_is_replaced_before_all_is_written(frame, tmp_path):
    (tmp_path / "a.gpkg").write_bytes(b"previous")

    def fails_midway(whole):
        yield next(whole.tables)
        raise SceneUnreadableError("scores.tif", "cannot be read at row 7", "check whether the file is complete")

    whole = speckle()
    with pytest.raises(SceneUnreadableError, match="row 7"):
        write_polygons(replace(whole, tables=fails_midway(whole)), tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    assert (tmp_path / "a.gpkg").read_bytes() == b"previous"
    write_polygons(frame, tmp_path / "a.gpkg")
    assert len(read(tmp_path / "a.gpkg")) == len(frame)


def test_the_last_step_before_the_file_appears_may_fail(frame, tmp_path):
    (tmp_path / "a.gpkg").write_bytes(b"previous")

    def fails():
        (folder,) = tmp_path.glob(".a.gpkg.*.partial")
        (written,) = folder.glob("*.gpkg")
        assert len(read(written)) == len(frame)  # all is written
        raise OSError("the score raster cannot be written")

    with pytest.raises(OSError, match=r"^the score raster cannot be written$"):
        write_polygons(speckle(), tmp_path / "a.gpkg", before_commit=fails)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    assert (tmp_path / "a.gpkg").read_bytes() == b"previous"


class Interrupted(BaseException):
    """As KeyboardInterrupt, which pytest keeps for itself."""


@pytest.mark.parametrize("error", [OSError("the network is gone"), ValueError("a bug"), Interrupted()])
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_what_goes_wrong_with_a_piece_is_raised_as_it_is(tmp_path, suffix, error):
    """GDAL reads pieces through an interface that passes on the text of an error only."""

    def fails_midway(table):
        yield next(table.tables)
        raise error

    table = speckle()
    with pytest.raises(type(error)) as raised:
        write_polygons(replace(table, tables=fails_midway(table)), tmp_path / f"a{suffix}")
    assert raised.value is error
    assert not any(tmp_path.iterdir())


OPTIONS = ("OGR_SQLITE_SYNCHRONOUS", "OGR_GPKG_MAX_RAM_USAGE_RTREE")


@pytest.fixture(params=["unset", "set", "environment"])
def gdal_options(request, monkeypatch):
    """Return GDAL options as the caller of the library has them."""
    if request.param == "environment":
        monkeypatch.setenv(OPTIONS[1], "5000000")
    if request.param == "set":
        pyogrio.set_gdal_config_options(dict(zip(OPTIONS, ("NORMAL", "7000000"), strict=True)))
    yield [pyogrio.get_gdal_config_option(name) for name in OPTIONS]
    pyogrio.set_gdal_config_options(dict.fromkeys(OPTIONS))


def test_writers_in_threads_leave_the_gdal_options_of_the_caller(gdal_options, tmp_path, monkeypatch):
    """The second writer begins while the first is at work, and ends after it."""
    first_works, second_works, first_ended = (threading.Event() for _ in range(3))
    during = []

    def first(table):
        first_works.set()
        assert second_works.wait(60)
        yield from table.tables

    def second(table):
        second_works.set()
        assert first_ended.wait(60)
        during.append(pyogrio.get_gdal_config_option(OPTIONS[0]))
        yield from table.tables

    def write(name, tables):
        table = speckle()
        write_polygons(replace(table, tables=tables(table)), tmp_path / name)

    with ThreadPoolExecutor(2) as pool:
        a = pool.submit(write, "a.gpkg", first)
        assert first_works.wait(60)
        b = pool.submit(write, "b.gpkg", second)
        a.result(60)
        first_ended.set()
        b.result(60)
    assert during == [False]  # OFF, for as long as one is at work
    assert [pyogrio.get_gdal_config_option(name) for name in OPTIONS] == gdal_options
    monkeypatch.delenv(OPTIONS[1], raising=False)
    if gdal_options[1] == 5_000_000:
        assert pyogrio.get_gdal_config_option(OPTIONS[1]) is None  # still the environment's, not a copy of it


def test_targets_that_cannot_be_written_are_refused(frame, tmp_path):
    with pytest.raises(OptionError, match=r"use one of \.gpkg"):
        write_polygons(frame, tmp_path / "a.kml")
    with pytest.raises(OutputError, match="folder does not exist"):
        write_polygons(frame, tmp_path / "no" / "a.gpkg")
    (tmp_path / "a.gpkg").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_polygons(frame, tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]


@pytest.mark.parametrize("made", [speckle, lambda: empty_frame(UTM)])
def test_parquet_is_geoparquet(frame, tmp_path, made):
    count = write_polygons(made(), tmp_path / "a.parquet")
    back = geopandas.read_parquet(tmp_path / "a.parquet")
    assert len(back) == count
    assert list(back.columns) == list(frame.columns)
    assert back.crs == frame.crs
    if count:
        assert back.geometry.geom_equals(frame.geometry).all()


def test_two_processes_do_not_write_the_same_file(frame, tmp_path):
    """While one writes, the other is refused in a line; what a killed one left is removed."""
    left = tmp_path / ".a.gpkg.killed.partial"
    left.mkdir()

    def meanwhile(whole):
        with pytest.raises(OutputError, match="is being written by another run"):
            write_polygons(frame, tmp_path / "a.gpkg")
        assert not left.exists()
        yield from whole.tables

    whole = speckle()
    write_polygons(replace(whole, tables=meanwhile(whole)), tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    assert len(read(tmp_path / "a.gpkg")) == len(frame)


def test_the_footprint_has_holes_where_nothing_could_be_seen(tmp_path):
    class Partly(Strips):
        def strips(self, rows=50):
            for start, strip in super().strips(rows):
                known = strip.copy()
                known[:, :10] = np.nan
                known[10:20, 30:40] = np.nan
                yield start, known

    write_polygons(polygon_table(Partly(), PolygonOptions(threshold=0.6), ORIGIN), tmp_path / "a.gpkg")
    footprint = geopandas.read_file(tmp_path / "a.gpkg", layer="footprint")
    assert footprint.looked_at_m2.tolist() == [(70 * 200 - 4 * 100) * 16]
    assert footprint.area.tolist() == [(70 * 200 - 4 * 100) * 16]
    assert footprint.accuracy_px.tolist() == [8]
    ((polygon,),) = (g.geoms for g in footprint.geometry)
    assert len(polygon.interiors) == 4


@pytest.mark.parametrize("threshold", [0.1, 0.449, 0.98, 0.9999])
def test_classes_are_told_apart_in_the_legend(threshold):
    labels = [item.get("label") for item in ET.fromstring(polygon_qml(threshold, COLUMNS, REVIEWS)).iter("range")]
    bounds = [label.split(" - ") for label in labels]
    assert all(lower != upper for lower, upper in bounds)
    assert [upper for _, upper in bounds[:-1]] == [lower for lower, _ in bounds[1:]]


def test_names_are_short_enough_for_a_shapefile():
    assert all(len(SHAPEFILE_NAMES.get(c, c)) <= 10 for c in COLUMNS)
