"""Results are found where they lie, and a run is known again however its GeoPackage was edited."""

import shutil
import sqlite3

import geopandas
import pytest
from report_samples import record, squares

from geosiam.errors import OptionError, SceneNotFoundError, SceneUnreadableError
from geosiam.polygons.results import read_result
from geosiam.polygons.writer import write_polygons
from geosiam.report import ReportPair, find_pairs, write_report
from geosiam.report.inputs import strongest_polygons


def test_a_pair_is_named_by_its_folder_or_its_file(tmp_path):
    for place in ("monday/anomalies.gpkg", "tuesday/anomalies.gpkg"):
        (tmp_path / place).parent.mkdir()
        write_polygons(squares(1), tmp_path / place)
    write_polygons(squares(1), tmp_path / "wednesday.gpkg")
    assert [pair.name for pair in find_pairs([tmp_path])] == ["monday", "tuesday"]
    assert [pair.name for pair in find_pairs([tmp_path / "wednesday.gpkg"])] == ["wednesday"]
    assert [pair.name for pair in find_pairs([tmp_path, tmp_path / "monday"])] == ["monday", "tuesday"]  # each once


def test_a_folder_of_files_of_any_name_gives_those_that_are_results(tmp_path):
    write_polygons(squares(1), tmp_path / "a.gpkg")
    squares(1).to_file(tmp_path / "other.gpkg", layer="houses")
    (tmp_path / "broken.gpkg").write_bytes(b"no database")
    assert [pair.name for pair in find_pairs([tmp_path])] == ["a"]


def test_equal_names_become_longer_ones(tmp_path):
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        write_polygons(squares(1), tmp_path / place / "roof.gpkg")
    names = [pair.name for pair in find_pairs([tmp_path / "x", tmp_path / "y"])]
    assert names == [f"{tmp_path.as_posix()}/{place}/roof" for place in ("x", "y")]


def test_scenes_and_scores_are_found_after_everything_moved_together(village, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(village, moved)
    (pair,) = find_pairs([moved])
    assert pair.scores == moved / "anomalies.tif"
    assert read_result(pair.anomalies).record.before.name == str(village / "before.tif")
    assert (pair.before, pair.after) == (str(village / "before.tif"), str(village / "after.tif"))  # still there

    database = sqlite3.connect(moved / "anomalies.gpkg")
    with database:
        database.execute("UPDATE runs SET provenance = replace(provenance, ?, '/gone')", (str(village),))
    database.close()
    (pair,) = find_pairs([moved])
    assert (pair.before, pair.after) == (str(moved / "before.tif"), str(moved / "after.tif"))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("gone.gpkg", None, SceneNotFoundError, "does not exist"),
        ("a.geojson", b"{}", SceneUnreadableError, "is not a GeoPackage"),
        ("a.gpkg", b"no database, but longer than sixteen bytes", SceneUnreadableError, "is not a GeoPackage"),
        ("a.gpkg", b"", SceneUnreadableError, "holds no anomalies"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        find_pairs([tmp_path / name])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SceneNotFoundError, match="holds no results"):
        find_pairs([tmp_path])


def test_a_run_is_known_by_its_provenance_not_by_what_became_of_its_polygons(tmp_path):
    for name, threshold in (("a", 0.5), ("b", 0.5), ("c", 0.6)):
        write_polygons(
            squares(3),
            tmp_path / f"{name}.gpkg",
            provenance=record(tmp_path) | {"created": "then", "threshold": threshold},
        )
    edited = geopandas.read_file(tmp_path / "b.gpkg", layer="anomalies")
    database = sqlite3.connect(tmp_path / "b.gpkg")
    for function in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
        database.create_function(function, 1, lambda _: 0)
    with database:
        database.execute("UPDATE anomalies SET review = 'rejected' WHERE id = 1")
        database.execute("DELETE FROM anomalies WHERE id = 3")
    database.close()
    runs = [read_result(tmp_path / f"{name}.gpkg") for name in "abc"]
    assert len(edited) == 3
    assert runs[0].run == runs[1].run != runs[2].run
    assert [run.count for run in runs] == [3, 2, 3]
    assert runs[1].reviews == {"rejected": 1}
    assert runs[0].area_m2 == pytest.approx(squares(3).area_m2.sum())


def test_the_strongest_are_those_that_pandas_finds(tmp_path):
    frame = squares(50)
    frame["score_mean"] = frame["score_mean"].round(1)  # many ties
    write_polygons(frame, tmp_path / "a.gpkg")
    expected = frame.sort_values(["score_mean", "area_m2", "id"], ascending=[False, False, True]).head(20)
    assert strongest_polygons(tmp_path / "a.gpkg", 20)["id"].to_list() == expected["id"].to_list()


def test_a_pair_is_a_result_or_an_error():
    with pytest.raises(ValueError, match="neither"):
        ReportPair("a", None, None, None, None)


def test_two_pairs_of_one_name_are_refused(tmp_path):
    failed = ReportPair("a", None, None, None, None, error="boom")
    with pytest.raises(OptionError, match="pair 'a': occurs more than once"):
        write_report([failed, failed], tmp_path / "page")
    assert not (tmp_path / "page").exists()
