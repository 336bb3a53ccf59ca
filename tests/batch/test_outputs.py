"""The files of a batch: none of them is one that it reads, and none that is open in QGIS is replaced."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pyogrio
import pytest
from made import make_pair

from geosiam.batch.api import plan_batch, run_batch
from geosiam.batch.summary import FILES, check_outputs
from geosiam.errors import OutputError
from geosiam.options import DetectOptions
from geosiam.polygons.results import read_result
from geosiam.report.content import FORMAT
from geosiam.report.verdicts import KIND, write_verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geosiam.batch.plan import BatchPlan

FP32 = DetectOptions(precision="fp32")
PROGRAM = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
    db.create_function(name, 1, lambda _: 0)
db.execute("PRAGMA journal_mode = WAL")
for statement in sys.argv[2].split(";"):
    db.execute(statement).fetchone()
print("ready", flush=True)
sys.stdin.read(1)
os._exit(9)
"""


@contextmanager
def program(path: Path, statements: str = "SELECT 1 FROM anomalies") -> Iterator[None]:
    """Have a GeoPackage open as QGIS has it, and be killed in the end."""
    command = [sys.executable, "-c", PROGRAM, str(path), statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield
        process.communicate("\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pair(tmp_path / "a.tif", tmp_path / "b.tif", 3)
    (tmp_path / "pairs.csv").write_text("before,after,name\na.tif,b.tif,x\n")
    return tmp_path


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    make_pair(folder / "a.tif", folder / "b.tif", 3)
    (folder / "pairs.csv").write_text("before,after,name\na.tif,b.tif,x\n")
    run_batch(plan_of(folder), folder / "out", detect=FP32)
    return folder


@pytest.fixture
def done(done_once: Path, tmp_path: Path) -> Path:
    """Return a copy of a folder with a batch that is up to date."""
    shutil.copytree(done_once, tmp_path / "copy")
    return tmp_path / "copy"


def plan_of(folder: Path) -> BatchPlan:
    return plan_batch(folder / "pairs.csv")


@pytest.mark.parametrize("name", ["survey.csv", "survey.gpkg", "x/scores.tif", "x/anomalies.gpkg", "report/index.html"])
def test_no_file_of_the_batch_is_one_that_it_reads(folder: Path, name: str) -> None:
    root = folder / "out"
    (root / name).parent.mkdir(parents=True)
    if name == "survey.csv":  # the manifest
        (folder / "pairs.csv").rename(root / name)
        (root / name).write_text(f"before,after,name\n{folder}/a.tif,{folder}/b.tif,x\n")
        plan, options = plan_batch(root / name), FP32
    elif name.endswith(".gpkg"):  # the area
        (root / name).write_bytes(b"an area")
        plan, options = plan_of(folder), DetectOptions(aoi=root / name)
    else:  # a scene
        (folder / "b.tif").rename(root / name)
        (folder / "pairs.csv").write_text(f"before,after,name\na.tif,out/{name},x\n")
        plan, options = plan_of(folder), FP32
    was = (root / name).read_bytes()
    with pytest.raises(OutputError, match="is an input too"):
        run_batch(plan, root, detect=options)
    assert (root / name).read_bytes() == was


def test_a_merged_file_that_is_open_is_refused_before_any_pair(done: Path) -> None:
    root = done / "out"
    merged = root / FILES["geopackage"]
    refused = pytest.raises(OutputError, match=r"survey\.gpkg: cannot be replaced \(database is locked\)")
    with program(merged), refused:
        run_batch(plan_of(done), root, detect=DetectOptions(precision="fp32", min_area="1px"))
    assert (root / "x" / "anomalies.gpkg").stat().st_mtime_ns <= merged.stat().st_mtime_ns


def test_verdicts_in_the_log_of_a_merged_file_are_kept(done: Path) -> None:
    root = done / "out"
    merged = root / FILES["geopackage"]
    with program(merged, "UPDATE anomalies SET review = 'confirmed'"):
        pass
    assert (root / "survey.gpkg-wal").stat().st_size > 0
    (root / FILES["summary"]).unlink()  # so that all is written again
    result = run_batch(plan_of(done), root, detect=FP32)
    assert [pair.ran for pair in result.pairs] == [False]
    assert [path.name for path in root.glob("survey.gpkg*")] == ["survey.gpkg"]
    assert set(pyogrio.read_dataframe(merged, layer="anomalies")["review"]) == {"confirmed"}


def test_a_pair_that_is_open_fails_alone(done: Path) -> None:
    root = done / "out"
    (done / "pairs.csv").write_text("before,after,name\na.tif,b.tif,x\nb.tif,a.tif,y\n")
    with program(root / "x" / "anomalies.gpkg"):
        result = run_batch(plan_of(done), root, detect=DetectOptions(precision="fp32", min_area="1px"))
    (failed,) = result.failed
    assert failed.name == "x"
    assert "close whatever has it open, such as QGIS" in failed.error


def test_verdicts_are_written_while_qgis_looks_on(done: Path) -> None:
    """SQLite lets one program write while others read; only another one that is writing is in the way."""
    target = done / "out" / "x" / "anomalies.gpkg"
    entry = {"name": "x", "run": read_result(target).run, "verdicts": {"1": "rejected"}}
    (done / "v.json").write_text(f'{{"format": "{KIND}", "version": {FORMAT}, "pairs": [{entry}]}}'.replace("'", '"'))
    with program(target, "UPDATE anomalies SET review = 'unsure';SELECT count(*) FROM anomalies"):
        write_verdicts(done / "v.json", [target])
    with closing(sqlite3.connect(target)) as db:
        assert db.execute("SELECT review FROM anomalies WHERE id = 1").fetchone() == ("rejected",)


def test_scenes_are_opened_only_where_a_file_beside_them_could_be_an_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"a.tif,b.tif,p{number}\n" for number in range(300))
    (folder / "pairs.csv").write_text(f"before,after,name\n{rows}")
    (folder / "out").mkdir()
    (folder / "out" / "survey.csv").write_text("")
    plan, opened = plan_of(folder), []
    monkeypatch.setattr("geosiam.imagery.open_scene._parts", lambda name: opened.append(name) or [])
    check_outputs(plan, FP32, folder / "out")
    assert (len(plan.pairs), opened) == (300, [])
    (folder / "survey.csv").write_text("")
    check_outputs(plan, FP32, folder)
    assert opened
