"""The examples of batch jobs do what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NIGHTLY = ROOT / "examples" / "nightly"
CLUSTER = ROOT / "examples" / "cluster"

sys.path.append(str(Path(__file__).parent / "batch"))
from made import changed, ground, make_pair, write  # noqa: E402

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}",
    "GEOSIAM": f"{sys.executable} -m geosiam_cli",
    "PYTHON": sys.executable,
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def flights(tmp_path: Path) -> list[Path]:
    before, after = tmp_path / "before", tmp_path / "after"
    make_pair(before / "north.tif", after / "north.tif", 1)
    make_pair(before / "south.tif", after / "south.tif", 2)
    return [before, after, tmp_path / "survey"]


def test_every_night(flights: list[Path]) -> None:
    os.truncate(flights[1] / "south.tif", 1000)
    command = [NIGHTLY / "nightly.sh", *flights]
    first = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert first.returncode == 4, first.stderr
    assert first.stdout.splitlines()[-1].startswith("geosiam: some pairs have no results; see ")
    (flights[1] / "south.tif").unlink()  # GDAL may complain of the broken one while it is replaced
    make_pair(flights[0] / "south.tif", flights[1] / "south.tif", 2)
    second = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    events = [json.loads(line) for line in (flights[2] / "batch.jsonl").read_text().splitlines()]
    begun = [event["pair"] for event in events if event["event"] == "start"]
    assert begun.count("north") == 1
    assert begun.count("south") == 2
    unusable = [NIGHTLY / "nightly.sh", flights[0] / "none", *flights[1:]]
    third = subprocess.run(unusable, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert third.returncode == 3
    assert "nothing could be run (exit code 3)" in third.stdout


@pytest.mark.slow
def test_the_slurm_job_hands_the_signal_on(flights: list[Path]) -> None:
    image = ground(3, 3000, 3000)
    write(flights[0] / "large.tif", image)
    write(flights[1] / "large.tif", changed(image, 3))
    working = flights[2] / "large" / ".scores.tif.partial.json"
    environment = {**ENVIRONMENT, "SLURM_SUBMIT_DIR": str(NIGHTLY)}
    with subprocess.Popen(
        ["bash", NIGHTLY / "nightly.slurm", *flights], env=environment, stdout=subprocess.PIPE
    ) as job:
        deadline = time.monotonic() + 120
        while not working.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        out, _ = job.communicate(timeout=60)
    assert job.returncode == 130
    assert b"geosiam: interrupted; the next run resumes" in out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_units_are_valid(tmp_path: Path) -> None:
    for unit in ("geosiam-nightly.service", "geosiam-nightly.timer"):
        text = (NIGHTLY / unit).read_text().replace("/opt/geosiam/nightly.sh", str(NIGHTLY / "nightly.sh"))
        (tmp_path / unit).write_text(text)
    command = ["systemd-analyze", "verify", tmp_path / "geosiam-nightly.service", tmp_path / "geosiam-nightly.timer"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.slow
def test_the_walk_through_a_cluster(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    walk = [CLUSTER / "walk.sh", tmp_path / "walk"]
    done = subprocess.run(walk, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 pairs have results (0 new)" in done.stderr
