"""Worker processes: their events, their deaths, and that they never outlive the process that started them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
from made import make_pair

from geosiam.batch import pool as pool_module
from geosiam.batch import worker
from geosiam.batch.pool import LocalPool, PairRequest, WorkerEvent, WorkerProcess
from geosiam.batch.resources import CostModel, Resources
from geosiam.options import DetectOptions

COST = CostModel(1e-7, 4e8, 2e8, 1024)
SMALL = (160, 160)


@pytest.fixture(scope="module")
def pair_request(tmp_path_factory: pytest.TempPathFactory) -> PairRequest:
    folder = tmp_path_factory.mktemp("pair")
    made = make_pair(folder / "a.tif", folder / "b.tif", 1)
    (folder / "out").mkdir()
    return PairRequest(
        "one", str(made.before), str(made.after), str(folder / "out"), DetectOptions(workers=1, bands=(1, 2, 3))
    )


def until(pool: LocalPool, *kinds: str, seconds: float = 300) -> WorkerEvent:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        event = pool.next_event(0.1)
        if event is not None and event.kind in kinds:
            return event
    raise TimeoutError(f"no {kinds}")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
    except OSError:
        return False


def test_requests_and_events_are_lines(pair_request: PairRequest) -> None:
    assert PairRequest.from_line(pair_request.to_line()) == pair_request
    event = WorkerEvent("progress", "one", {"done": 1, "total": 2})
    assert WorkerEvent.from_line(event.to_line()) == event
    with pytest.raises(ValueError, match="not an event"):
        WorkerEvent.from_line('{"kind": "done"}')
    with pytest.raises(ValueError, match="not an event"):
        WorkerEvent.from_line('{"kind": "done", "pair": null, "data": {}}')
    with pytest.raises(ValueError, match="nested too deeply"):
        WorkerEvent.from_line("[" * 9999)


def test_a_worker_is_kept_for_the_next_pair_and_replaced_in_time(
    pair_request: PairRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = np.ones(1_200_000_000, np.uint8)  # what this process holds is not the worker's
    monkeypatch.setattr(pool_module, "RECYCLE_PAIRS", 2)
    pool = LocalPool(COST, Resources(1, 8e9))
    demand = pool.demand(SMALL, waiting=1, memory_factor=1)
    try:
        pids = []
        for _ in range(3):
            assert pool.has_room(demand)
            pids.append(pool.start(pair_request, demand))
            assert not pool.has_room(demand)
            done = until(pool, "done", "failed", "died")
            assert (done.kind, done.pair) == ("done", "one")
        assert pids[0] == pids[1] != pids[2]
        assert 100 < done.data["held_mb"] <= done.data["peak_mb"] < len(ours) / 1e6
    finally:
        pool.close()
    assert not alive(pids[2])


def test_one_that_dies_says_how(pair_request: PairRequest) -> None:
    pool = LocalPool(COST, Resources(2, 8e9))
    demand = pool.demand(SMALL, waiting=9, memory_factor=1)
    try:
        pid = pool.start(pair_request, demand)
        until(pool, "ready")
        os.kill(pid, signal.SIGKILL)
        died = until(pool, "died")
        assert (died.pair, died.data["code"]) == ("one", -signal.SIGKILL)
        assert "SIGKILL, as the system does when memory runs out" in died.data["reason"]
        pid = pool.start(pair_request, demand)
        until(pool, "ready")
        os.kill(pid, signal.SIGSEGV)
        died = until(pool, "died")
        assert "SIGSEGV" in died.data["reason"]
        assert "Segmentation fault" in died.data["stderr"]
        pool.start(pair_request, demand)
        pool.kill("one")
        assert until(pool, "died").data["code"] == -signal.SIGKILL
    finally:
        pool.close()


def test_a_scene_that_cannot_be_used_is_no_death(pair_request: PairRequest) -> None:
    pool = LocalPool(COST, Resources(1, 8e9))
    demand = pool.demand(SMALL, waiting=1, memory_factor=1)
    try:
        pool.start(
            PairRequest("no", "/no/such.tif", pair_request.after, pair_request.folder, pair_request.options), demand
        )
        failed = until(pool, "failed")
        assert failed.data["message"] == "/no/such.tif: does not exist; check the path"
        assert failed.data["transient"] is False
        pool.start(
            PairRequest(
                "url", "http://127.0.0.1:9/x.tif", pair_request.after, pair_request.folder, pair_request.options
            ),
            demand,
        )
        assert until(pool, "failed").data["transient"] is True
        pool.start(
            PairRequest(
                "folder", pair_request.before, pair_request.after, pair_request.folder + "/none", pair_request.options
            ),
            demand,
        )
        assert "its folder does not exist" in until(pool, "failed").data["message"]
    finally:
        pool.close()


ORPHAN = """
import sys, time
from geosiam.batch.pool import WorkerProcess
process = WorkerProcess(lambda process, event: print(process.pid, event.kind, flush=True))
time.sleep(600)
"""


def test_workers_do_not_outlive_the_process_that_started_them() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        pid, kind = parent.stdout.readline().split()
        assert kind == "ready"
        parent.kill()
    deadline = time.monotonic() + 30
    while alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid))


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self, _on_event: object, environment: dict[str, str]) -> None:
            self.environment = environment

    monkeypatch.setattr(pool_module, "WorkerProcess", Process)
    pool = LocalPool(COST, Resources(4, 8e9), devices=["0", "1"])
    devices = [pool._new_worker().environment["CUDA_VISIBLE_DEVICES"] for _ in range(4)]
    assert sorted(devices) == ["0", "0", "1", "1"]


def test_events_that_are_no_events_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = WorkerEvent("ready", "", {}).to_line()
    (tmp_path / "noisy.py").write_text(f"import sys\nprint('hello from a library')\nprint({ready!r})\nsys.exit(3)\n")
    monkeypatch.setattr("geosiam.batch.pool._MODULE", "noisy")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    events: list[WorkerEvent] = []
    process = WorkerProcess(lambda _process, event: events.append(event))
    assert process.wait(60)
    deadline = time.monotonic() + 10
    while len(events) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [event.kind for event in events] == ["ready", "died"]
    assert events[1].data["reason"] == "its process ended with exit code 3"


def test_events_of_a_worker_about_a_pair(pair_request: PairRequest) -> None:
    output = io.StringIO()
    events = worker._EventWriter(output)
    for each in (pair_request, replace(pair_request, before="/no/such.tif"), replace(pair_request, options=None)):
        worker._run(each, events)
    written = [WorkerEvent.from_line(line) for line in output.getvalue().splitlines()]
    assert [event.kind for event in written if event.kind != "progress"] == ["done", "failed", "failed"]
    (record,) = (event.data["record"] for event in written if event.kind == "done")
    assert record["count"] == len(geopandas.read_file(Path(pair_request.folder) / "anomalies.gpkg", layer="anomalies"))
    assert record["pixels"] == 160 * 160
    assert "unexpected error, please report it: AttributeError" in written[-1].data["message"]
    assert "Traceback" in written[-1].data["traceback"]
