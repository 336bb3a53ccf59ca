"""Worker processes: what they say, how they die, that they never outlive who started them."""

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

from geosiam.batch import pool as crews
from geosiam.batch import worker
from geosiam.batch.pool import Child, Event, Job, LocalCrew
from geosiam.batch.resources import Budget, Cost
from geosiam.options import DetectOptions

COST = Cost(1e-7, 4e8, 2e8, 1024)
SMALL = (160, 160)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("pair")
    made = make_pair(folder / "a.tif", folder / "b.tif", 1)
    (folder / "out").mkdir()
    return Job("one", str(made.before), str(made.after), str(folder / "out"), DetectOptions(workers=1, bands=(1, 2, 3)))


def until(crew: LocalCrew, *kinds: str, seconds: float = 300) -> Event:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        event = crew.next(0.1)
        if event is not None and event.kind in kinds:
            return event
    raise TimeoutError(f"no {kinds}")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
    except OSError:
        return False


def test_jobs_and_events_are_lines(job: Job) -> None:
    assert Job.of_line(job.to_line()) == job
    event = Event("progress", "one", {"done": 1, "total": 2})
    assert Event.of_line(event.to_line()) == event
    with pytest.raises(ValueError, match="not an event"):
        Event.of_line('{"kind": "done"}')


def test_a_worker_is_kept_for_the_next_pair_and_replaced_in_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = np.ones(1_200_000_000, np.uint8)  # what this process holds is not the worker's
    monkeypatch.setattr(crews, "RECYCLE_PAIRS", 2)
    crew = LocalCrew(COST, Budget(1, 8e9))
    need = crew.need(SMALL, waiting=1, times=1)
    try:
        pids = []
        for _ in range(3):
            assert crew.has_room(need)
            pids.append(crew.start(job, need))
            assert not crew.has_room(need)
            done = until(crew, "done", "failed", "died")
            assert (done.kind, done.pair) == ("done", "one")
        assert pids[0] == pids[1] != pids[2]
        assert 100 < done.data["held_mb"] <= done.data["peak_mb"] < len(ours) / 1e6
    finally:
        crew.stop()
    assert not alive(pids[2])


def test_one_that_dies_says_how(job: Job) -> None:
    crew = LocalCrew(COST, Budget(2, 8e9))
    need = crew.need(SMALL, waiting=9, times=1)
    try:
        pid = crew.start(job, need)
        until(crew, "ready")
        os.kill(pid, signal.SIGKILL)
        died = until(crew, "died")
        assert (died.pair, died.data["code"]) == ("one", -signal.SIGKILL)
        assert "SIGKILL, as the system does when memory runs out" in died.data["reason"]
        pid = crew.start(job, need)
        until(crew, "ready")
        os.kill(pid, signal.SIGSEGV)
        died = until(crew, "died")
        assert "SIGSEGV" in died.data["reason"]
        assert "Segmentation fault" in died.data["stderr"]
        crew.start(job, need)
        crew.end("one")
        assert until(crew, "died").data["code"] == -signal.SIGKILL
    finally:
        crew.stop()


def test_a_scene_that_cannot_be_used_is_no_death(job: Job) -> None:
    crew = LocalCrew(COST, Budget(1, 8e9))
    need = crew.need(SMALL, waiting=1, times=1)
    try:
        crew.start(Job("no", "/no/such.tif", job.after, job.folder, job.options), need)
        failed = until(crew, "failed")
        assert failed.data["message"] == "/no/such.tif: does not exist; check the path"
        assert failed.data["transient"] is False
        crew.start(Job("url", "http://127.0.0.1:9/x.tif", job.after, job.folder, job.options), need)
        assert until(crew, "failed").data["transient"] is True
        crew.start(Job("folder", job.before, job.after, job.folder + "/none", job.options), need)
        assert "its folder does not exist" in until(crew, "failed").data["message"]
    finally:
        crew.stop()


ORPHAN = """
import sys, time
from geosiam.batch.pool import Child
child = Child(lambda child, event: print(child.pid, event.kind, flush=True))
time.sleep(600)
"""


def test_workers_do_not_outlive_who_started_them() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        pid, kind = parent.stdout.readline().split()
        assert kind == "ready"
        parent.kill()
    deadline = time.monotonic() + 30
    while alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid))


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def child(_tell: object, environment: dict[str, str]) -> object:
        given.append(environment["CUDA_VISIBLE_DEVICES"])
        return object()

    monkeypatch.setattr(crews, "Child", child)
    crew = LocalCrew(COST, Budget(4, 8e9), devices=["0", "1"])
    for _ in range(4):
        crew._engage()
    assert sorted(given) == ["0", "0", "1", "1"]


def test_events_that_are_no_events_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = Event("ready", "", {}).to_line()
    (tmp_path / "noisy.py").write_text(f"import sys\nprint('hello from a library')\nprint({ready!r})\nsys.exit(3)\n")
    monkeypatch.setattr("geosiam.batch.pool._MODULE", "noisy")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    events: list[Event] = []
    child = Child(lambda _child, event: events.append(event))
    assert child.wait(60)
    deadline = time.monotonic() + 10
    while len(events) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [event.kind for event in events] == ["ready", "died"]
    assert events[1].data["reason"] == "its process ended with exit code 3"


def test_what_a_worker_says_of_a_pair(job: Job) -> None:
    said = io.StringIO()
    channel = worker._Channel(said)
    for each in (job, replace(job, before="/no/such.tif"), replace(job, options=None)):
        worker._run(each, channel)
    events = [Event.of_line(line) for line in said.getvalue().splitlines()]
    assert [event.kind for event in events if event.kind != "progress"] == ["done", "failed", "failed"]
    (facts,) = (event.data["facts"] for event in events if event.kind == "done")
    assert facts["count"] == len(geopandas.read_file(Path(job.folder) / "anomalies.gpkg", layer="anomalies"))
    assert facts["pixels"] == 160 * 160
    assert "unexpected error, please report it: AttributeError" in events[-1].data["message"]
    assert "Traceback" in events[-1].data["traceback"]
