"""Verdicts go into the GeoPackage they are about, all of them or none, and into no other."""

import json
import sqlite3

import geopandas
import pyogrio
import pytest
from report_samples import record, squares

from geosiam.errors import InputError, SceneNotFoundError, SceneUnreadableError
from geosiam.polygons.results import read_result
from geosiam.polygons.writer import write_polygons
from geosiam.report import write_verdicts


@pytest.fixture
def result(tmp_path):
    """Return a GeoPackage in a folder of its own."""
    folder = tmp_path / "monday"
    folder.mkdir()
    write_polygons(squares(4), folder / "anomalies.gpkg", provenance=record(folder))
    return folder / "anomalies.gpkg"


def exported(folder, *pairs):
    entries = [{"name": name, "run": run, "verdicts": verdicts} for name, run, verdicts in pairs]
    path = folder / "verdicts.json"
    path.write_text(json.dumps({"format": "geosiam verdicts", "version": 1, "page": "x", "pairs": entries}))
    return path


def reviews(path):
    frame = geopandas.read_file(path, layer="anomalies")
    return [None if review != review else review for review in frame.review]  # noqa: PLR0124 - NaN


def test_verdicts_are_what_gdal_reads_and_nothing_else_changes(result, tmp_path):
    before = geopandas.read_file(result, layer="anomalies")
    run = read_result(result).run
    file = exported(tmp_path, ("monday", run, {"1": "confirmed", "3": "unsure", "4": "rejected"}))
    (done,) = write_verdicts(file, [result])
    assert (done.path, done.written, done.missing) == (result, 3, ())
    assert reviews(result) == ["confirmed", None, "unsure", "rejected"]
    after = geopandas.read_file(result, layer="anomalies")
    assert after.drop(columns="review").equals(before.drop(columns="review"))
    left, bottom, right, top = before.total_bounds
    assert len(pyogrio.read_dataframe(result, layer="anomalies", bbox=(left, bottom, right, top))) == 4  # by the index
    assert read_result(result).run == run
    assert [path.name for path in result.parent.iterdir()] == ["anomalies.gpkg"]


def test_null_takes_a_verdict_back_and_what_is_not_named_stays(result, tmp_path):
    run = read_result(result).run
    write_verdicts(exported(tmp_path, ("monday", run, {"1": "confirmed", "2": "rejected"})), [result])
    write_verdicts(exported(tmp_path, ("monday", run, {"1": None})), [result])
    assert reviews(result) == [None, "rejected", None, None]


def test_polygons_that_are_gone_are_named(result, tmp_path):
    file = exported(tmp_path, ("monday", read_result(result).run, {"2": "confirmed", "77": "rejected"}))
    (done,) = write_verdicts(file, [result.parent])
    assert (done.written, done.missing) == (1, (77,))


def test_a_renamed_geopackage_is_known_again(result, tmp_path):
    run = read_result(result).run
    moved = result.rename(tmp_path / "renamed.gpkg")
    write_verdicts(exported(tmp_path, ("monday", run, {"1": "unsure"})), [moved])
    assert reviews(moved) == ["unsure", None, None, None]


def test_copies_of_one_run_are_told_apart_by_their_names(result, tmp_path):
    run = read_result(result).run
    (tmp_path / "tuesday").mkdir()
    copy = tmp_path / "tuesday" / "anomalies.gpkg"
    copy.write_bytes(result.read_bytes())
    write_verdicts(
        exported(tmp_path, ("monday", run, {"1": "unsure"}), ("tuesday", run, {"1": "rejected"})), [tmp_path]
    )
    assert (reviews(result)[0], reviews(copy)[0]) == ("unsure", "rejected")


def test_nothing_is_written_if_one_of_several_is_of_another_run(result, tmp_path):
    other = tmp_path / "tuesday" / "anomalies.gpkg"
    other.parent.mkdir()
    write_polygons(squares(4), other, provenance=record(tmp_path) | {"threshold": 0.9})
    run = read_result(result).run
    file = exported(tmp_path, ("monday", run, {"1": "confirmed"}), ("tuesday", "0" * 32, {"1": "confirmed"}))
    with pytest.raises(InputError, match="another run of 'tuesday'"):
        write_verdicts(file, [result, other])
    with pytest.raises(InputError, match="is not on the page"):
        write_verdicts(exported(tmp_path, ("monday", run, {"1": "confirmed"})), [result, other])
    with pytest.raises(InputError, match="holds nothing that is on the page"):
        write_verdicts(exported(tmp_path, ("friday", "0" * 32, {"1": "confirmed"})), [result.parent])
    assert reviews(result) == [None] * 4


def test_what_lies_in_the_folder_and_is_not_on_the_page_is_left_alone(result, tmp_path):
    other = tmp_path / "tuesday" / "anomalies.gpkg"  # the next night's
    other.parent.mkdir()
    write_polygons(squares(4), other, provenance=record(tmp_path) | {"threshold": 0.9})
    before = other.read_bytes()
    file = exported(tmp_path, ("monday", read_result(result).run, {"1": "confirmed"}))
    assert [done.path for done in write_verdicts(file, [tmp_path])] == [result]
    assert other.read_bytes() == before


def test_a_geopackage_in_use_is_refused_in_a_line(result, tmp_path, monkeypatch):
    file = exported(tmp_path, ("monday", read_result(result).run, {"1": "confirmed"}))
    busy = sqlite3.connect(result, isolation_level=None)
    busy.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, timeout=0.1))
    with pytest.raises(SceneUnreadableError, match=r"locked.*close whatever has it open"):
        write_verdicts(file, [result])
    busy.close()
    assert reviews(result) == [None] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 9999, "cannot be read"),
        ("[]", "holds no verdicts"),
        ('{"type": "FeatureCollection"}', "holds no verdicts"),
        ('{"format": "geosiam verdicts", "version": 99, "pairs": []}', "is of version 99"),
        ('{"format": "geosiam verdicts", "version": 1}', "is damaged"),
    ],
)
def test_what_holds_no_verdicts_is_refused(result, tmp_path, text, message):
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(InputError, match=message):
        write_verdicts(tmp_path / "v.json", [result])


@pytest.mark.parametrize(
    ("verdicts", "message"), [({"1": "yes"}, "'yes' is not one of"), ({"x": None}, "is damaged"), ([], "is damaged")]
)
def test_what_is_no_verdict_is_refused(result, tmp_path, verdicts, message):
    with pytest.raises(InputError, match=message):
        write_verdicts(exported(tmp_path, ("monday", "0", verdicts)), [result])


def test_a_file_that_is_not_there_is_refused(result, tmp_path):
    with pytest.raises(SceneNotFoundError, match="does not exist"):
        write_verdicts(tmp_path / "gone.json", [result])
