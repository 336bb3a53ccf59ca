"""SQLite's log and journal are part of a GeoPackage; so are GDAL's files beside a raster or a shapefile."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from array_cells import empty_frame
from rasterio.crs import CRS

from geosiam.errors import OutputError
from geosiam.files import close_database, companions
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.results import read_reviews
from geosiam.polygons.writer import write_polygons
from geosiam.scores.raster import STRIDE_TAG
from geosiam.scores.writer import ScoreRasterWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UTM = CRS.from_epsg(32633)

PROGRAM = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
    db.create_function(name, 1, lambda _: 0)
db.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
if sys.argv[2] == "DELETE":
    db.execute("PRAGMA cache_size = 1")
    db.execute("PRAGMA cache_spill = 1")
for statement in sys.argv[3].split(";"):
    db.execute(statement).fetchone()
print("ready", flush=True)
sys.stdin.read(1)
os._exit(9)
"""
"""Another program, as QGIS is one: it keeps the file open until a line comes, and then is killed."""

EDIT = "UPDATE anomalies SET review = 'confirmed'"


class Program:
    """Another program that has a GeoPackage open."""

    def __init__(self, path: Path, mode: str, statements: str) -> None:
        command = [sys.executable, "-c", PROGRAM, str(path), mode, statements]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self._process.communicate("\n")


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    running: list[Program] = []
    yield running
    for program in running:
        program.kill()


def polygons(count: int) -> geopandas.GeoDataFrame:
    geometry = [shapely.box(500_000 + 20 * i, 5_400_000, 500_010 + 20 * i, 5_400_010) for i in range(count)]
    values = {"id": np.arange(1, count + 1), "score_mean": 0.9, "area_m2": 100.0}
    return geopandas.GeoDataFrame(values, geometry=geometry, crs="EPSG:32633")


def rows(path: Path) -> list[tuple[object, ...]]:
    """Return the polygons as SQLite and as GDAL read them, which must be the same."""
    with closing(sqlite3.connect(path)) as db:
        read = db.execute("SELECT id, review FROM anomalies").fetchall()
    frame = pyogrio.read_dataframe(path, layer="anomalies", columns=["id", "review"], read_geometry=False)
    assert [*zip(frame["id"], frame["review"].where(frame["review"].notna(), None), strict=True)] == read
    return read


@pytest.mark.parametrize(
    ("mode", "statements", "left"),
    [
        ("WAL", EDIT, {"o.gpkg-wal", "o.gpkg-shm"}),
        ("DELETE", f"BEGIN;UPDATE anomalies SET review = 'x';{EDIT}", {"o.gpkg-journal"}),
    ],
)
def test_what_a_crash_left_goes_with_the_old_file(tmp_path: Path, mode: str, statements: str, left: set[str]) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(4000 if mode == "DELETE" else 3), target)
    Program(target, mode, statements).kill()
    assert left <= {path.name for path in tmp_path.iterdir()}
    write_polygons(polygons(1), target)
    assert rows(target) == [(1, None)]
    assert [path.name for path in tmp_path.iterdir()] == ["o.gpkg"]


def test_edits_in_the_log_outlive_a_run_that_fails(tmp_path: Path) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(2), target)
    Program(target, "WAL", EDIT).kill()

    def fails() -> None:
        raise ValueError("the scores cannot be completed")

    with pytest.raises(ValueError, match="scores"):
        write_polygons(polygons(1), target, before_commit=fails)
    assert rows(target) == [(1, "confirmed"), (2, "confirmed")]


@pytest.mark.parametrize(
    ("mode", "statements"),
    [
        ("WAL", "SELECT 1 FROM anomalies"),  # QGIS with a layer on its map
        ("WAL", "BEGIN;SELECT count(*) FROM anomalies"),  # it is reading
        ("WAL", f"BEGIN;{EDIT}"),  # it is saving
        ("DELETE", "BEGIN;SELECT count(*) FROM anomalies"),
        ("DELETE", f"BEGIN;{EDIT}"),
    ],
)
def test_a_file_that_is_open_elsewhere_is_refused_before_the_work(
    tmp_path: Path, programs: list[Program], mode: str, statements: str
) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(2), target)
    programs.append(Program(target, mode, statements))
    with pytest.raises(OutputError, match=r"o\.gpkg: cannot be replaced \(database is locked\); close .* QGIS"):
        write_polygons(polygons(1), target)
    programs.pop().kill()
    write_polygons(polygons(1), target)
    assert rows(target) == [(1, None)]


def test_a_file_that_was_opened_during_the_work_is_refused_at_its_end(tmp_path: Path, programs: list[Program]) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(2), target)
    with pytest.raises(OutputError, match="database is locked"):
        write_polygons(
            polygons(1),
            target,
            before_commit=lambda: programs.append(Program(target, "WAL", "SELECT 1 FROM anomalies")),
        )
    programs.pop().kill()
    assert len(rows(target)) == 2


def test_the_log_of_another_file_is_refused(tmp_path: Path) -> None:
    """As when the database was renamed without it: it may hold all that somebody has reviewed."""
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(2), target)
    Program(target, "WAL", EDIT).kill()
    shutil.move(target, tmp_path / "renamed.gpkg")
    with pytest.raises(OutputError, match=r"has beside it o\.gpkg-wal, which is not its own; move that file away"):
        write_polygons(polygons(1), target)
    assert (tmp_path / "o.gpkg-wal").exists()
    (tmp_path / "o.gpkg-wal").unlink()
    write_polygons(polygons(1), target)  # the index of a log holds nothing
    assert rows(target) == [(1, None)]


def test_a_file_that_is_no_database_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "o.gpkg"
    target.write_text("no database at all, but longer than its header would be" * 10)
    write_polygons(polygons(1), target)
    assert rows(target) == [(1, None)]
    target.write_bytes(b"")
    write_polygons(polygons(1), target)
    assert rows(target) == [(1, None)]


def test_closing_changes_no_row_and_keeps_the_time_of_a_closed_file(tmp_path: Path) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(2), target)
    before = target.stat().st_mtime_ns, target.read_bytes()
    close_database(target)
    assert (target.stat().st_mtime_ns, target.read_bytes()) == before
    Program(target, "WAL", EDIT).kill()
    close_database(target)
    assert companions(target) == []
    assert read_reviews(target)["review"].tolist() == ["confirmed", "confirmed"]


def test_indexes_of_a_shapefile_go_with_it(tmp_path: Path) -> None:
    """GDAL trusts a spatial index that lies beside a shapefile: polygons would be missing on the map."""
    target = tmp_path / "o.shp"
    pyogrio.write_dataframe(polygons(1), target, SPATIAL_INDEX="YES")
    assert (tmp_path / "o.qix").exists()
    write_polygons(polygons(50), target)
    assert not (tmp_path / "o.qix").exists()
    assert len(pyogrio.read_dataframe(target, bbox=(500_500, 5_399_999, 501_100, 5_400_001))) == 25


def test_overviews_and_statistics_of_a_raster_go_with_it(tmp_path: Path) -> None:
    target, grid = tmp_path / "s.tif", Grid(UTM, Affine(4, 0, 500_000, 0, -4, 5_800_000), 600, 600)
    for value in (0.25, 0.75):
        with ScoreRasterWriter(target, grid, tags={STRIDE_TAG: "2"}) as writer:
            block = type("Whole", (), {"cells": Window(0, 600, 0, 600), "index": 0})()
            writer.write(block, np.full((600, 600), value, np.float32))
        if value == 0.25:
            with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
                file.update_stats()
            rasterio.shutil.copy(target, tmp_path / "s.tif.ovr", driver="GTiff")
            (tmp_path / "s.tif.aux.xml").write_text("<PAMDataset/>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.qml", "s.tif"]
    with rasterio.open(target) as file:
        assert (file.read(1, out_shape=(100, 100)) == round(0.75 * 254)).all()


def test_an_empty_result_replaces_too(tmp_path: Path) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(3), target)
    Program(target, "WAL", EDIT).kill()
    write_polygons(empty_frame(UTM), target)
    assert rows(target) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_changed_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "o.gpkg"
    write_polygons(polygons(2), target)
    target.chmod(0o444)
    write_polygons(polygons(1), target)
    assert rows(target) == [(1, None)]
