"""The polygons of pairs in several coordinate systems in one file."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import shapely
from made import record

from geosiam.batch.events import PairResult
from geosiam.batch.merge import merge_polygons
from geosiam.polygons.writer import write_polygons

if TYPE_CHECKING:
    from pathlib import Path

EARTH, OTHER_ZONE, MARS = "EPSG:32633", "EPSG:32632", "+proj=eqc +a=3396190 +b=3376200 +units=m +no_defs"


def pair(folder: Path, name: str, crs: str, count: int = 2) -> PairResult:
    """Write a pair with some polygons, and the square that was looked at."""
    path = folder / name / "anomalies.gpkg"
    path.parent.mkdir()
    squares = [shapely.box(500_000 + 20 * i, 5_000_000, 500_010 + 20 * i, 5_000_010) for i in range(count)]
    table = {"id": np.arange(1, count + 1), "score_mean": np.full(count, 0.9), "cells": np.full(count, 4)}
    frame = geopandas.GeoDataFrame(table, geometry=geopandas.GeoSeries(squares, crs=crs), crs=crs)
    looked_at = [shapely.MultiPolygon([shapely.box(499_000, 4_999_000, 501_000, 5_001_000)])]
    footprint = geopandas.GeoDataFrame({"before": ["a"], "after": ["b"]}, geometry=looked_at, crs=crs)
    write_polygons(frame, path, provenance={"name": name}, footprint=footprint)
    return PairResult(name, "a", "b", "done", anomalies=path, record=record())


def merged(target: Path, layer: str = "anomalies") -> geopandas.GeoDataFrame:
    return geopandas.read_file(target, layer=layer)


@pytest.mark.parametrize("count", [2, 0])
def test_pairs_of_one_system_keep_it(count: int, tmp_path: Path) -> None:
    target = tmp_path / "survey.gpkg"
    assert merge_polygons([pair(tmp_path, "a", EARTH, count), pair(tmp_path, "b", EARTH)], target) == ()
    assert (merged(target).crs, len(merged(target))) == (EARTH, count + 2)
    assert merged(target, "footprint")["pair"].tolist() == ["a", "b"]


def test_pairs_of_several_systems_meet_in_degrees(tmp_path: Path) -> None:
    target = tmp_path / "survey.gpkg"
    assert merge_polygons([pair(tmp_path, "a", EARTH), pair(tmp_path, "b", OTHER_ZONE)], target) == ()
    found = merged(target)
    assert found.crs == "EPSG:4326"
    assert found.set_index("pair").geometry["b"].to_crs(OTHER_ZONE).total_bounds == pytest.approx(
        (500_000, 5_000_000, 500_030, 5_000_010), abs=0.01
    )
    assert merged(target, "footprint").total_bounds[[0, 2]] == pytest.approx((9, 15), abs=0.1)


def test_rows_keep_the_order_of_the_pairs_whatever_their_systems(tmp_path: Path) -> None:
    pairs = [pair(tmp_path, name, crs) for name, crs in (("c", OTHER_ZONE), ("a", EARTH), ("b", OTHER_ZONE))]
    merge_polygons(pairs, tmp_path / "survey.gpkg")
    found = merged(tmp_path / "survey.gpkg")
    assert list(zip(found["pair"], found["id"], strict=True)) == [(name, i) for name in "cab" for i in (1, 2)]
    assert merged(tmp_path / "survey.gpkg", "footprint")["pair"].tolist() == ["c", "a", "b"]


@pytest.mark.parametrize("count", [2, 0])
def test_a_column_that_an_older_file_lacks_is_empty_there(count: int, tmp_path: Path) -> None:
    pairs = [pair(tmp_path, "old", EARTH, count), pair(tmp_path, "new", EARTH, count)]
    for made, change in zip(
        pairs, ("ALTER TABLE anomalies DROP COLUMN hint", "UPDATE anomalies SET hint = 'vanished'"), strict=True
    ):
        assert made.anomalies is not None
        with contextlib.closing(sqlite3.connect(made.anomalies)) as db, db:
            for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f'DROP TRIGGER "{trigger}"')  # they call functions that GDAL alone has
            db.execute(change)
    merge_polygons(pairs, tmp_path / "survey.gpkg")
    found = merged(tmp_path / "survey.gpkg")
    assert found["hint"][found["pair"] == "old"].isna().tolist() == [True] * count
    assert found["hint"][found["pair"] == "new"].tolist() == ["vanished"] * count


def test_what_no_way_leads_to_is_left_out_and_named(tmp_path: Path) -> None:
    target, mars, moon = (
        tmp_path / "survey.gpkg",
        pair(tmp_path, "m", MARS),
        pair(tmp_path, "n", MARS.replace("9", "8")),
    )
    assert merge_polygons([pair(tmp_path, "a", EARTH), mars], target) == ("m",)
    assert set(merged(target)["pair"]) == {"a"}
    assert merge_polygons([mars], target) == ()  # alone it is in its own system
    assert set(merged(target)["pair"]) == {"m"}
    target.unlink()
    assert merge_polygons([mars, moon], target) == ("m", "n")
    assert not target.exists()
