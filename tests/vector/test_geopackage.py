"""Files of polygons: what goes in comes out, the GeoPackage describes itself, and nothing is ever half written."""

import importlib.util
import json
import sqlite3
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import OptionError, OutputError, SceneUnreadableError
from geosiam.imagery.grid import Grid
from geosiam.vector import geopackage
from geosiam.vector.geopackage import SHAPEFILE_NAMES, write_polygons
from geosiam.vector.polygons import COLUMNS, empty_frame, iter_polygons

UTM = CRS.from_epsg(32633)
PROVENANCE = {
    "inputs": {"before": "before.tif", "after": "after.tif"},
    "fingerprints": {"before": "ab12"},
    "model": "survey",
    "options": {"min_area": "20px"},
    "threshold": 0.6,
}


class Strips:
    """Speckle in strips of 50 rows, as a source of scores."""

    grid = Grid(UTM, Affine(4, 0, 500_000, 0, -4, 5_800_000), 80, 200)
    stride = 8
    extent = 200.0, 80.0

    def strips(self, rows=50):  # noqa: ARG002
        scores = np.random.default_rng(0).random((200, 80)).astype(np.float32)
        return ((start, scores[start : start + 50]) for start in range(0, 200, 50))


def pieces():
    return iter_polygons(Strips(), threshold=0.6, min_area="200px", shift_px=0.25)


@pytest.fixture(scope="module")
def frame():
    return geopackage._joined(list(pieces()))


def read(path):
    return geopandas.read_file(path, layer="anomalies" if path.suffix == ".gpkg" else None)


def test_what_goes_in_comes_out(frame, tmp_path):
    assert write_polygons(frame, tmp_path / "a.gpkg", provenance=PROVENANCE) == len(frame) > 50
    back = read(tmp_path / "a.gpkg")
    assert list(back.columns) == list(frame.columns)
    assert back.drop(columns=["geometry", "review"]).equals(frame.drop(columns=["geometry", "review"]))
    assert back.geometry.geom_equals(frame.geometry).all()
    assert back.crs == frame.crs
    assert back.review.isna().all()


@pytest.mark.parametrize("piece_rows", [1, 100, 10**6])
def test_pieces_make_the_same_file_as_the_whole(frame, tmp_path, monkeypatch, piece_rows):
    monkeypatch.setattr(geopackage, "PIECE_ROWS", piece_rows)
    assert write_polygons(pieces(), tmp_path / "a.gpkg") == len(frame)
    back = read(tmp_path / "a.gpkg")
    assert back["id"].tolist() == frame["id"].tolist()
    assert back.geometry.geom_equals(frame.geometry).all()
    info = pyogrio.read_info(tmp_path / "a.gpkg", layer="anomalies")
    assert info["total_bounds"] == pytest.approx(tuple(frame.total_bounds))


def test_the_geopackage_is_1_2_indexed_and_alone(frame, tmp_path):
    write_polygons(frame, tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    with sqlite3.connect(tmp_path / "a.gpkg") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (10200,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("SELECT count(*) FROM rtree_anomalies_geom").fetchone() == (len(frame),)
        contents = dict(db.execute("SELECT table_name, data_type FROM gpkg_contents"))
    db.close()
    assert contents == {"anomalies": "features", "layer_styles": "attributes", "runs": "attributes"}
    info = pyogrio.read_info(tmp_path / "a.gpkg", layer="anomalies")
    assert info["geometry_type"] == "MultiPolygon"


def test_every_column_is_described_inside(frame, tmp_path):
    write_polygons(frame, tmp_path / "a.gpkg")
    db = sqlite3.connect(tmp_path / "a.gpkg")
    assert dict(db.execute("SELECT column_name, description FROM gpkg_data_columns")) == COLUMNS
    db.close()


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

    def fails_midway():
        yield frame
        raise SceneUnreadableError("scores.tif", "cannot be read at row 7", "check whether the file is complete")

    with pytest.raises(SceneUnreadableError, match="row 7"):
        write_polygons(fails_midway(), tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    assert (tmp_path / "a.gpkg").read_bytes() == b"previous"
    write_polygons(frame, tmp_path / "a.gpkg")
    assert len(read(tmp_path / "a.gpkg")) == len(frame)


def test_targets_that_cannot_be_written_are_refused(frame, tmp_path):
    with pytest.raises(OptionError, match=r"use one of \.gpkg"):
        write_polygons(frame, tmp_path / "a.kml")
    with pytest.raises(OutputError, match="folder does not exist"):
        write_polygons(frame, tmp_path / "no" / "a.gpkg")
    (tmp_path / "a.gpkg").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_polygons(frame, tmp_path / "a.gpkg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]


def test_parquet_says_what_it_needs(frame, tmp_path):
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(OptionError, match="pip install pyarrow"):
            write_polygons(frame, tmp_path / "a.parquet")
    else:
        write_polygons(frame, tmp_path / "a.parquet")
        assert len(geopandas.read_parquet(tmp_path / "a.parquet")) == len(frame)


def test_names_are_short_enough_for_a_shapefile():
    assert all(len(SHAPEFILE_NAMES.get(c, c)) <= 10 for c in COLUMNS)
