"""The state of pairs between calls: what is saved, and which pairs are up to date."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made import changed, ground, record, write

from geosiam.batch.api import BatchOptions, run_batch
from geosiam.batch.plan import BatchPair, BatchPlan
from geosiam.batch.pool import POLYGONS, SCORES
from geosiam.batch.state import STATE, PairRecord, PairState, identities, is_up_to_date, load_state, save_state
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve the folder by a server that tells nothing about the versions of its files."""
    # In another process, because rasterio opens files without releasing the GIL.
    command = [sys.executable, Path(__file__).with_name("silent_server.py"), tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def test_states_are_read_as_they_were_saved(tmp_path: Path) -> None:
    done = PairState("done", "id", 2, record(unreadable=1, warnings=("cloudy",), memory_mb=512.0))
    for state in (PairState("started", "id", 1), PairState("failed", "id", 2, error="broken"), done):
        save_state(tmp_path, state)
        assert load_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    facts = json.loads((tmp_path / STATE).read_text())["facts"]
    assert (facts["holes"], facts["computed"], facts["model"]["name"]) == (
        1,
        {"device": "cpu", "precision": "fp32", "engine": "torch"},
        "survey",
    )


OTHERS = ["", "[]", "{}", "[" * 9999, '{"geosiam_survey": 1, "status": "done", "facts": {"count": 1}}']
DAMAGED = [
    {"status": {}}, {"identity": None}, {"attempts": "1"}, {"error": ["x"]},
    {"facts": {**record().to_dict(), "count": "1"}}
]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        *OTHERS,
        *(
            json.dumps(
                {"geosiam_survey": 1, "status": "done", "identity": "0", "attempts": 1, "facts": {}, "error": ""} | part
            )
            for part in DAMAGED
        ),
    ],
)
def test_other_files_are_no_state(text: str, tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(text)
    assert load_state(tmp_path) is None


def test_records_are_the_same_after_json() -> None:
    expected = record(footprint={"type": "Polygon", "coordinates": [[[0.0, 1.0]]]})
    assert PairRecord.from_dict(json.loads(json.dumps(expected.to_dict()))) == expected


def test_a_pair_is_up_to_date_while_nothing_changes(tmp_path: Path) -> None:
    pair = BatchPair("a", *(str(write(tmp_path / f"{name}.tif", ground(1, 32, 32))) for name in ("x", "y")))
    (identity,) = identities([pair], DetectOptions())
    assert identities([pair, pair], DetectOptions(workers=3)) == [identity] * 2
    state = PairState("done", identity, 1, record())
    assert not is_up_to_date(tmp_path, state, identity)  # without its results
    for name in (SCORES, POLYGONS):
        (tmp_path / name).touch()
    assert is_up_to_date(tmp_path, state, identity)
    assert not is_up_to_date(tmp_path, replace(state, status="failed"), identity)
    assert not is_up_to_date(tmp_path, replace(state, identity=""), "")  # unknown is not unchanged
    os.utime(pair.after)
    assert identities([pair], DetectOptions()) != [identity]
    assert identities([pair], DetectOptions(threshold=0.9)) != [identity]


def test_a_remote_scene_whose_version_nobody_tells_is_compared_again(server: str, tmp_path: Path) -> None:
    before, image = write(tmp_path / "before.tif", ground(1, 160, 160)), ground(1, 160, 160)
    after = write(tmp_path / "after.tif", image, compress="none")
    size = after.stat().st_size
    plan = BatchPlan((BatchPair("a", str(before), f"{server}/after.tif", shape=(160, 160)),))
    assert identities(plan.pairs, DetectOptions()) == [""]
    options, detect = BatchOptions(report=False), DetectOptions(precision="fp32")
    (first,) = run_batch(plan, tmp_path / "out", options=options, detect=detect).pairs
    assert (first.error, first.ran) == ("", True)
    write(after, changed(image, 1), compress="none")
    assert after.stat().st_size == size
    (second,) = run_batch(plan, tmp_path / "out", options=options, detect=detect).pairs
    assert second.ran
    assert first.record is not None
    assert second.record is not None
    assert second.record.count > first.record.count
