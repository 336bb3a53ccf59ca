"""Batches on this machine: which pairs run again, the files of all pairs together, and the lock."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import geopandas
import pandas as pd
import pytest
from made import changed, ground, make_pair, write

from geosiam.batch.api import LOCK, BatchOptions, estimate, plan_batch, run_batch
from geosiam.batch.summary import FILES
from geosiam.errors import OptionError, OutputError
from geosiam.files import locked
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.batch.events import BatchEvent, BatchResult

FP32 = DetectOptions(precision="fp32")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one place at three dates, with two sheets that lie there at both later dates, and another place."""
    folder = tmp_path_factory.mktemp("scenes")
    image = ground(5, 160, 160)
    write(folder / "x_2018.tif", image)
    for year in (2019, 2020):
        write(folder / f"x_{year}.tif", changed(image, 3 if year == 2019 else 4, objects=2))
    make_pair(folder / "y_2019.tif", folder / "y_2020.tif", 8)
    rows = [("x_2018.tif", "x_2019.tif"), ("x_2018.tif", "x_2020.tif"), ("y_2019.tif", "y_2020.tif")]
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("before", "after"), *rows])
    return folder


@pytest.fixture(scope="module")
def ran(scenes: Path) -> tuple[BatchResult, list[BatchEvent]]:
    events: list[BatchEvent] = []
    result = run_batch(plan_batch(scenes / "pairs.csv"), scenes / "out", detect=FP32, on_event=events.append)
    return result, events


def test_events_tell_how_far_it_is(ran: tuple[BatchResult, list[BatchEvent]]) -> None:
    result, events = ran
    kinds = [event.kind for event in events]
    assert kinds[0] == "begin"
    assert kinds[-3:] == ["collect", "report", "end"]
    assert kinds.count("start") == kinds.count("done") == 3
    finished = [event.progress.finished for event in events]
    assert finished == sorted(finished)
    last = events[-1].progress
    assert (last.finished, last.failed, last.pairs) == (3, 0, 3)
    assert last.pixels_done == last.pixels == 3 * 160 * 160
    assert last.anomalies == sum(pair.record.count for pair in result.pairs) > 0
    assert result.failed == ()


def test_what_is_collected(ran: tuple[BatchResult, list[BatchEvent]], scenes: Path) -> None:
    result, _ = ran
    assert {path.name for path in result.files.values()} == {*FILES.values(), "index.html"}
    assert all(path.is_file() for path in result.files.values())
    table = pd.read_csv(result.files["csv"])
    assert table["pair"].tolist() == [pair.name for pair in result.pairs] == ["x_2019", "x_2020", "y_2020"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(result.files["parquet"])[["pair", "count", "area_m2"]],
        table[["pair", "count", "area_m2"]],
        check_dtype=False,
    )
    merged = geopandas.read_file(result.files["geopackage"], layer="anomalies")
    assert merged.columns.tolist()[:5] == ["pair", "site", "before_date", "date", "object_id"]
    for row, pair in zip(table.itertuples(), result.pairs, strict=True):
        alone = geopandas.read_file(pair.anomalies, layer="anomalies")
        assert row.count == len(alone) == (merged["pair"] == pair.name).sum()
        assert row.area_m2 == pytest.approx(alone["area_m2"].sum())
        assert (scenes / "out" / row.scores).is_file()
        assert set(merged.loc[merged["pair"] == pair.name].geometry.to_wkb()) == set(alone.geometry.to_wkb())
    looked_at = geopandas.read_file(result.files["geopackage"], layer="footprint")
    assert looked_at["pair"].tolist() == table["pair"].tolist()
    assert looked_at["looked_at_m2"].tolist() == pytest.approx([(160 * 0.2) ** 2] * 3, rel=0.01)
    items = json.loads(result.files["stac"].read_text())["features"]
    assert [item["id"] for item in items[1:]] == table["pair"].tolist()
    log = [json.loads(line) for line in (scenes / "out" / "x_2019" / "log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in log if entry["event"] != "log"] == ["start", "done"]


def test_the_same_object_at_two_dates_has_one_number(ran: tuple[BatchResult, list[BatchEvent]]) -> None:
    result, _ = ran
    merged = geopandas.read_file(result.files["geopackage"], layer="anomalies")
    assert not merged.duplicated(["pair", "object_id"]).any()
    first, second = (merged[merged["pair"] == name] for name in ("x_2019", "x_2020"))
    for _, one in first.iterrows():
        for _, other in second.iterrows():
            if one.object_id == other.object_id:
                common = one.geometry.intersection(other.geometry).area
                assert common / one.geometry.union(other.geometry).area >= 0.25


def test_a_second_call_does_nothing_and_a_change_does_only_that(
    ran: tuple[BatchResult, list[BatchEvent]], scenes: Path
) -> None:
    out, plan = scenes / "out", plan_batch(scenes / "pairs.csv")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    events: list[BatchEvent] = []
    again = run_batch(plan, out, detect=FP32, on_event=events.append)
    assert events == []
    assert [pair.ran for pair in again.pairs] == [False] * 3
    assert [pair.record for pair in again.pairs] == [pair.record for pair in ran[0].pairs]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before

    with contextlib.closing(sqlite3.connect(out / "survey.gpkg")) as db, db:
        _allow_updates(db)
        db.execute("UPDATE anomalies SET review = 'confirmed' WHERE pair = 'x_2019' AND id = 1")
    os.utime(scenes / "y_2020.tif")
    (out / "x_2020" / "scores.tif").unlink()
    third = run_batch(plan, out, detect=FP32)
    assert {pair.name for pair in third.pairs if pair.ran} == {"x_2020", "y_2020"}
    merged = geopandas.read_file(out / "survey.gpkg", layer="anomalies")
    assert merged["review"].fillna("").tolist().count("confirmed") == 1  # verdicts outlive the file they were given in

    fourth = run_batch(plan, out, detect=replace(FP32, min_area="100000m2"))
    assert [pair.ran for pair in fourth.pairs] == [True] * 3
    assert sum(pair.record.count for pair in fourth.pairs) == 0
    assert len(geopandas.read_file(out / "survey.gpkg", layer="anomalies")) == 0


def _allow_updates(db: sqlite3.Connection) -> None:
    """Remove the triggers of the spatial index, which need functions that only GDAL has."""
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f'DROP TRIGGER "{name}"')


def test_only_one_batch_at_a_time(scenes: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / LOCK, tmp_path),
        pytest.raises(OutputError, match="is being written by another batch"),
    ):
        run_batch(plan_batch(scenes / "pairs.csv"), tmp_path, detect=FP32)


@pytest.mark.slow
def test_pairs_have_options_of_their_own_and_a_time_limit(scenes: Path, tmp_path: Path) -> None:
    image = ground(9, 2000, 2000)
    write(tmp_path / "large.tif", image)
    row = f"{scenes / 'x_2018.tif'},{scenes / 'x_2019.tif'}"
    large = f"{tmp_path / 'large.tif'},{tmp_path / 'large.tif'}"
    (tmp_path / "pairs.csv").write_text(f"name,before,after,threshold\nloose,{row},0.3\nlarge,{large},\n")
    options = BatchOptions(workers=1, time_limit=0.5, memory="1GB")
    result = run_batch(plan_batch(tmp_path / "pairs.csv"), tmp_path / "out", detect=FP32, options=options)
    results = {pair.name: pair for pair in result.pairs}
    assert "took longer than 0 s" in results["large"].error or "took longer than 1 s" in results["large"].error
    assert results["large"].attempts == 1
    longer = run_batch(plan_batch(tmp_path / "pairs.csv"), tmp_path / "out", detect=FP32)
    assert longer.failed == ()
    assert next(pair for pair in longer.pairs if pair.name == "loose").record.threshold == 0.3


def test_estimates_are_of_all_pairs(scenes: Path) -> None:
    cost = estimate(plan_batch(scenes / "pairs.csv"), detect=FP32, options=BatchOptions(workers=2, memory="64GB"))
    assert (cost.pairs, cost.side_by_side, cost.threads) == (3, 2, 2)
    assert cost.seconds == pytest.approx(sum(cost.pair_seconds.values()) / 2, abs=0.2)
    assert 500 < cost.memory_mb < 3000
    cost = estimate(plan_batch(scenes / "pairs.csv"), detect=FP32, options=BatchOptions(workers=2, memory="700MB"))
    assert cost.side_by_side == 1


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"memory": "much"}, {"time_limit": 0.0}])
def test_options_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError):
        BatchOptions(**wrong)


def test_a_folder_that_cannot_be_made_is_refused(scenes: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        run_batch(plan_batch(scenes / "pairs.csv"), scenes / "pairs.csv" / "out")
