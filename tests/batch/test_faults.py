"""Batches with many faults: every healthy pair has the result of a single `detect`, and every fault is reported."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made import ORIGIN, changed, ground, make_pair, write
from same_result import assert_same

from geosiam.options import DetectOptions
from geosiam.pipeline import detect

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}
ALONE = ["unshare", "--map-root-user", "--mount"]
MAY_MOUNT = shutil.which("unshare") is not None and not subprocess.run([*ALONE, "true"], check=False).returncode
FAULTS = {
    "truncated": "truncated-2.tif: cannot be opened",
    "no-crs": "has no coordinate reference system",
    "wrong-crs": "does not overlap",
    "elsewhere": "does not overlap",
    "missing": "does not exist",
    "killed": "was ended by SIGKILL",
    "full-disk": "cannot be written",
    "twice": "is the name of 2 pairs",
}


def healthy(count: int) -> list[str]:
    return [f"site-{number:03}" for number in range(count)]


def make_manifest(folder: Path, count: int) -> Path:
    """Write healthy pairs, and one of each fault; return the manifest."""
    rows = []
    for seed, name in enumerate([*healthy(count), *FAULTS]):
        side = 1200 if name == "killed" else 160
        made = make_pair(folder / f"{name}-1.tif", folder / f"{name}-2.tif", seed, side)
        rows.append((name, made.before.name, made.after.name))
    rows.append(("twice", "site-000-1.tif", "site-000-2.tif"))
    image = ground(1, 160, 160)
    write(folder / "no-crs-2.tif", image, crs=None)
    write(folder / "wrong-crs-2.tif", image, crs="EPSG:32733")
    write(folder / "elsewhere-2.tif", image, origin=(ORIGIN[0] - 5000, ORIGIN[1]))
    (folder / "missing-2.tif").unlink()
    os.truncate(folder / "truncated-2.tif", (folder / "truncated-2.tif").stat().st_size // 2)
    manifest = folder / "pairs.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("name", "before", "after"), *rows])
    return manifest


def batch(*args: object, before: str = "") -> tuple[subprocess.Popen, list[str]]:
    command = [sys.executable, "-m", "geosiam_cli", "batch", *map(str, args)]
    if before:
        command = [*ALONE, "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def starts(log: Path, name: str) -> list[int]:
    """Return the ids of the processes that a pair was given to."""
    if not log.exists():
        return []
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [entry["pid"] for entry in entries if entry["event"] == "start" and entry["pair"] == name]


def kill_whenever_it_starts(process: subprocess.Popen, log: Path, name: str, times: int) -> None:
    killed = 0
    while process.poll() is None and killed < times:
        for pid in starts(log, name)[killed:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed += 1
        time.sleep(0.02)


@pytest.mark.skipif(not MAY_MOUNT, reason="no right to mount a small file system")
@pytest.mark.parametrize("count", [4, pytest.param(92, marks=pytest.mark.slow)])
def test_each_fault_is_named_and_costs_nobody_else_anything(count: int, tmp_path: Path) -> None:
    manifest, out, log = make_manifest(tmp_path / "in", count), tmp_path / "out", tmp_path / "log.jsonl"
    (out / "full-disk").mkdir(parents=True)
    process = batch(
        manifest, "-o", out, "--json-log", log, before=f"mount -t tmpfs -o size=16k none {out / 'full-disk'}"
    )
    kill_whenever_it_starts(process, log, "killed", times=2)
    stdout, stderr = process.communicate(timeout=600)

    assert process.returncode == 4, stderr
    assert str(out / "summary.json") in stdout
    summary = json.loads((out / "summary.json").read_text())
    failed = {entry["name"]: entry["error"] for entry in summary["failed"]}
    assert sorted(failed) == sorted(FAULTS)
    for name, words in FAULTS.items():
        assert words in failed[name]
        assert failed[name] in stderr
    assert len(summary["failed"]) == len(FAULTS) + 1  # both that are called "twice"
    assert "tried 2 times" in failed["killed"]
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', page)[1])
    assert {pair["name"] for pair in content["pairs"] if pair["error"]} == {*FAULTS, "twice (2)"}
    assert len(content["pairs"]) == count + len(FAULTS) + 1
    single = tmp_path / "single"
    single.mkdir()
    for name in healthy(count):
        detect(
            tmp_path / "in" / f"{name}-1.tif",
            tmp_path / "in" / f"{name}-2.tif",
            single / f"{name}.gpkg",
            options=DetectOptions(workers=2),
        )
        for result, suffix in (("anomalies.gpkg", ".gpkg"), ("scores.tif", ".tif")):
            os.link(out / name / result, single / f"{name}-batch{suffix}")
        assert_same(single / f"{name}-batch.gpkg", single / f"{name}.gpkg")

    stamps = {path: path.stat().st_mtime_ns for name in healthy(count) for path in (out / name).iterdir()}
    again = tmp_path / "again.jsonl"
    process = batch(manifest, "-o", out, "--json-log", again)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 4
    begun = {entry["pair"] for entry in map(json.loads, again.read_text().splitlines()) if entry["event"] == "start"}
    assert begun == set(FAULTS) - {"twice"}
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    summary = json.loads((out / "summary.json").read_text())
    assert {entry["name"] for entry in summary["failed"]} == set(FAULTS) - {"killed", "full-disk"}


def wait_for_work(log: Path, journal: Path) -> int:
    """Wait until blocks of the pair are being scored; return the id of the process that does it."""
    deadline = time.monotonic() + 120
    while not (starts(log, "large") and journal.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return starts(log, "large")[0]


def wait_for_the_end_of(process: int) -> None:
    deadline = time.monotonic() + 15
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        while time.monotonic() < deadline:
            os.kill(process, 0)
            if "State:\tZ" in Path(f"/proc/{process}/status").read_text():  # nobody is left to ask how it ended
                return
            time.sleep(0.02)
        pytest.fail("the worker lives on")


def test_what_is_interrupted_stops_within_seconds_and_goes_on(tmp_path: Path) -> None:
    image = ground(1, 1900, 1900)
    write(tmp_path / "large-1.tif", image)
    write(tmp_path / "large-2.tif", changed(image, 1))
    (tmp_path / "pairs.csv").write_text("before,after,name\nlarge-1.tif,large-2.tif,large\n")
    for number in (signal.SIGKILL, signal.SIGTERM):
        log = tmp_path / f"{number.name}.jsonl"
        process = batch(tmp_path / "pairs.csv", "-o", tmp_path / "out", "--precision", "fp32", "--json-log", log)
        worker = wait_for_work(log, tmp_path / "out" / "large" / ".scores.tif.partial.json")
        process.send_signal(number)
        asked = time.monotonic()
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - asked < 15
        wait_for_the_end_of(worker)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "geosiam: interrupted"
    assert not (tmp_path / "out" / ".geosiam-batch.lock").exists()

    process = batch(tmp_path / "pairs.csv", "-o", tmp_path / "out", "--precision", "fp32")
    process.communicate(timeout=300)
    assert process.returncode == 0
    detect(
        tmp_path / "large-1.tif",
        tmp_path / "large-2.tif",
        tmp_path / "large.gpkg",
        options=DetectOptions(precision="fp32"),
    )
    for result, name in (("anomalies.gpkg", "batch.gpkg"), ("scores.tif", "batch.tif")):
        os.link(tmp_path / "out" / "large" / result, tmp_path / name)
    assert_same(tmp_path / "batch.gpkg", tmp_path / "large.gpkg")
