"""The page at the end of a batch, and the verdicts that are given on it."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import geopandas
import pytest
from made import make_pair

from geosiam.batch import summary
from geosiam.batch.api import BatchOptions, plan_batch, run_batch
from geosiam.batch.plan import Fault
from geosiam.errors import SceneUnreadableError
from geosiam.options import DetectOptions
from geosiam.polygons.results import read_result
from geosiam.report import find_pairs, write_verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.batch.events import BatchResult
    from geosiam.batch.plan import BatchPlan

FP32 = DetectOptions(precision="fp32")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> BatchPlan:
    """Plan two pairs, one scene without a partner, and two pairs that cannot be."""
    folder = tmp_path_factory.mktemp("flights")
    for seed, name in enumerate(("north", "south")):
        make_pair(folder / "before" / f"{name}.tif", folder / "after" / f"{name}.tif", seed)
    make_pair(folder / "before" / "alone.tif", folder / "nowhere" / "alone.tif", 7)
    plan = plan_batch(folder / "before", folder / "after")
    return replace(plan, faults=(Fault("twice", "a.tif", "b.tif", "is there <twice>"),) * 2)


@pytest.fixture(scope="module")
def ran(plan: BatchPlan, tmp_path_factory: pytest.TempPathFactory) -> BatchResult:
    return run_batch(plan, tmp_path_factory.mktemp("work") / "week 47", detect=FP32)


def content_of(result: BatchResult) -> dict:
    text = result.files["page"].read_text(encoding="utf-8")
    return json.loads(re.search(r'id="content">(.*?)</script>', text)[1])


def reviews(path: Path) -> dict[tuple[str, int], str]:
    frame = geopandas.read_file(path, layer="anomalies")
    frame = frame[frame["review"].notna()]
    names = frame["pair"] if "pair" in frame else [path.parent.name] * len(frame)
    return dict(zip(zip(names, frame["id"], strict=True), frame["review"], strict=True))


def exported(folder: Path, verdicts: dict[str, dict[int, str | None]], result: BatchResult) -> Path:
    """Write what the page would: verdicts by pair and polygon."""
    runs = {pair["name"]: pair["run"] for pair in content_of(result)["pairs"] if "run" in pair}
    pairs = [{"name": name, "run": runs[name], "verdicts": given} for name, given in verdicts.items()]
    path = folder / "verdicts.json"
    path.write_text(json.dumps({"format": "geosiam verdicts", "version": 1, "pairs": pairs}))
    return path


def test_the_page_has_what_is_done_what_failed_and_what_has_no_partner(ran: BatchResult) -> None:
    content = content_of(ran)
    assert (content["title"], ran.remarks) == ("week 47", ())
    assert [(pair["name"], pair["status"]) for pair in content["pairs"]] == [
        ("north", "done"),
        ("south", "done"),
        ("twice", "failed"),
        ("twice (2)", "failed"),
    ]
    assert [pair["error"] for pair in content["pairs"]] == [None, None, "is there <twice>", "is there <twice>"]
    assert [scene["scene"] for scene in content["unmatched"]] == ["alone.tif"]
    assert "no after scene has its name" in content["unmatched"][0]["reason"]
    assert content["total"] == sum(pair.record.count for pair in ran.pairs if pair.done)
    assert len(content["cards"]) == content["total"] > 0
    assert all("before" in card for card in content["cards"])
    assert ["Site", "north"] in content["pairs"][0]["facts"]


def test_verdicts_go_into_the_pairs_and_the_merged_file_and_onto_the_next_page(
    plan: BatchPlan, ran: BatchResult, tmp_path: Path
) -> None:
    folder = ran.folder
    file = exported(tmp_path, {"north": {1: "confirmed"}, "south": {1: "rejected", 2: "unsure"}}, ran)
    done = write_verdicts(file, [folder])
    assert [(each.path.relative_to(folder).as_posix(), each.written, each.merged) for each in done] == [
        ("north/anomalies.gpkg", 1, False),
        ("south/anomalies.gpkg", 2, False),
        ("survey.gpkg", 3, True),
    ]
    expected = {("north", 1): "confirmed", ("south", 1): "rejected", ("south", 2): "unsure"}
    assert reviews(folder / "survey.gpkg") == expected
    assert reviews(folder / "south" / "anomalies.gpkg") == {key: expected[key] for key in expected if "south" in key}

    again = run_batch(plan, folder, detect=FP32)
    assert [pair.ran for pair in again.pairs] == [False] * 4
    content = content_of(again)
    on_page = zip(content["anomalies"]["pair"], content["anomalies"]["id"], content["anomalies"]["review"], strict=True)
    assert {
        (content["pairs"][pair]["name"], number): verdict for pair, number, verdict in on_page if verdict
    } == expected
    assert reviews(folder / "survey.gpkg") == expected

    written = (again.files["page"].stat().st_mtime_ns, again.files["geopackage"].stat().st_mtime_ns)
    third = run_batch(plan, folder, detect=FP32)
    assert (third.files["page"].stat().st_mtime_ns, third.files["geopackage"].stat().st_mtime_ns) == written

    # What is decided later in the merged file, as in QGIS, counts; and what is then decided in the pair's own.
    decide(folder / "survey.gpkg", "rejected", "pair = 'north' AND id = 1")
    (folder / "survey.csv").unlink()
    run_batch(plan, folder, detect=FP32)
    assert reviews(folder / "survey.gpkg") == {**expected, ("north", 1): "rejected"}
    decide(folder / "north" / "anomalies.gpkg", "unsure", "id = 1")
    run_batch(plan, folder, detect=FP32)
    assert reviews(folder / "survey.gpkg") == {**expected, ("north", 1): "unsure"}

    write_verdicts(exported(tmp_path, {"south": {1: None}}, again), [folder])
    run_batch(plan, folder, detect=FP32)
    assert ("south", 1) not in reviews(folder / "survey.gpkg")


def decide(path: Path, verdict: str, where: str) -> None:
    """Change a verdict as QGIS does, which notes the time."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
            db.create_function(name, 1, lambda _: 0)  # the triggers of the spatial index name them
        db.execute(f"UPDATE anomalies SET review = ? WHERE {where}", (verdict,))
        db.execute("UPDATE gpkg_contents SET last_change = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")


def test_a_merged_file_is_no_pair(ran: BatchResult) -> None:
    assert [pair.name for pair in find_pairs([ran.folder])] == ["north", "south"]
    with pytest.raises(SceneUnreadableError, match="holds the polygons of many pairs; give the folder"):
        find_pairs([ran.folder / "survey.gpkg"])
    assert set(read_result(ran.folder / "survey.gpkg").record.merged) == {"north", "south"}


def test_a_page_that_fails_or_is_not_wanted_fails_nothing_else(
    plan: BatchPlan, ran: BatchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ran.files["page"].read_bytes()
    ran.files["page"].unlink()
    without = run_batch(plan, ran.folder, detect=FP32, options=BatchOptions(report=False))
    assert "page" not in without.files
    assert not ran.files["page"].exists()
    ran.files["page"].write_bytes(
        written.replace(b'name="geosiam-digest" content="', b'name="geosiam-digest" content="x')
    )

    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no room for the page")

    monkeypatch.setattr(summary, "write_report", broken)
    failed = run_batch(plan, ran.folder, detect=FP32)
    assert failed.remarks == ("the page of the batch could not be written: no room for the page",)
    assert "page" not in failed.files
    assert len(failed.failed) == 2  # those that had failed before
    assert ran.files["page"].exists()
