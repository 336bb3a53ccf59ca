"""``geosiam batch`` as its user sees it: the dry run, lines and bars, the exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from geosiam.batch import api
from geosiam.batch.events import BatchEvent, BatchResult, JsonLog, PairResult, Progress, append_line
from geosiam.report.inputs import UnmatchedScene
from geosiam_cli import main, progress
from geosiam_cli.progress import BatchLines, event_line, format_duration

sys.path.append(str(Path(__file__).parent.parent / "batch"))
from made import make_pair, record


def so_far(**values: object) -> Progress:
    start = {"pairs": 12, "finished": 3, "failed": 1, "skipped": 2, "pixels": 4_000_000, "pixels_done": 1_000_000}
    return Progress(**{**start, "anomalies": 7, "seconds": 2.0, "running": (("x", 0.25),), **values})


DONE = BatchEvent("done", "x", {"count": 5, "pixels": 2_500_000, "seconds": 1.25}, so_far())


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (BatchEvent("begin", "", {}, so_far(finished=0)), "12 pairs to run, 2 already done"),
        (
            DONE,
            "[ 3/12] x: 5 anomalies, 2.5 Mpx in 1.2 s; 0.5 Mpx/s, 7 anomalies so far, 0:00:06 left",
        ),
        (BatchEvent("failed", "x", {"error": "x.tif: is broken"}, so_far()), "[ 3/12] x: failed: x.tif: is broken"),
        (BatchEvent("retry", "x", {"reason": "it died"}, so_far()), "[ 3/12] x: will be retried: it died"),
        (BatchEvent("progress", "", {}, so_far()), None),
        (BatchEvent("log", "x", {}, so_far()), None),
    ],
)
def test_each_event_is_a_line_or_none(event: BatchEvent, line: str | None) -> None:
    assert event_line(event) == line


def test_time_left_is_unknown_before_anything_is_done() -> None:
    nothing = so_far(pixels_done=0.0)
    assert nothing.seconds_left is None
    assert "unknown left" in progress.batch_rate(nothing)
    assert [format_duration(seconds) for seconds in (0, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]


def test_long_pairs_are_reported_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = BatchLines()
    for now[0] in (1.0, 30.0, 61.0, 62.0, 125.0):
        lines(BatchEvent("progress", "", {}, so_far()))
    assert capsys.readouterr().err.count("geosiam: running x 25%; 0.5 Mpx/s") == 2


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.batch_progress() as show:
        for event in (BatchEvent("progress", "", {}, so_far()), DONE):
            show(event)
        show(BatchEvent("failed", "x", {"error": "x.tif: is broken"}, so_far(running=())))
    shown = capsys.readouterr().err
    assert "3/12 pairs, 1 failed, 0.5 Mpx/s" in " ".join(shown.split())
    assert "[ 3/12] x: failed: x.tif: is broken" in shown


def test_logs_are_lines_of_json(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        for kind in ("begin", "progress", "progress", "end"):
            log(BatchEvent(kind, "", {"note": kind}, so_far()))
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == ["begin", "progress", "end"]
    assert (entries[0]["pairs"], entries[0]["mpx_per_s"], entries[0]["note"]) == (12, 0.5, "begin")
    append_line(tmp_path / "none" / "log.jsonl", event="lost")  # must not end what it is about
    with pytest.raises(Exception, match="cannot be written"):
        JsonLog(tmp_path / "none" / "log.jsonl")


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    make_pair(tmp_path / "a" / "x_2019.tif", tmp_path / "b" / "x_2020.tif", 0)
    make_pair(tmp_path / "a" / "y.tif", tmp_path / "c" / "y.tif", 1)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main.main(["batch", *args])
    return code, *capsys.readouterr()


def test_a_dry_run_does_nothing(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *folders, "-o", str(tmp_path / "out"), "--dry-run")
    assert code == 0
    assert f"before  {tmp_path}/a/x_2019.tif 2019" in out
    assert f"unpaired  {tmp_path}/a/y.tif" in out
    assert "memory_mb" in out
    _, out, _ = run(capsys, *folders, "-o", str(tmp_path / "out"), "--dry-run", "--json")
    output = json.loads(out)
    assert [pair["name"] for pair in output["pairs"]] == ["x_2020"]
    assert output["unpaired"][0]["reason"] == "no after scene has its name or covers the same ground"
    assert output["estimate"]["pairs"] == 1
    assert not (tmp_path / "out").exists()


def result(folder: Path, *statuses: str) -> BatchResult:
    pairs = [
        PairResult(f"p{number}", "a", "b", status, ran=True, record=record(count=2), error="it is broken")
        for number, status in enumerate(statuses)
    ]
    unmatched = (UnmatchedScene("c.tif", "has no partner"),)
    return BatchResult(folder, tuple(pairs), unmatched, (), {"csv": folder / "survey.csv"}, ("no parquet",), 1.0)


@pytest.mark.parametrize(("statuses", "code"), [(("done", "done"), 0), (("done", "failed"), 4)])
def test_what_failed_is_listed_and_the_code_says_so(
    statuses: tuple[str, ...], code: int, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "run_batch", lambda *_args, **_options: result(tmp_path, *statuses))
        check_what_is_said(code, folders, tmp_path, capsys)


def check_what_is_said(code: int, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got, out, err = run(capsys, *folders, "-o", str(tmp_path / "out"), "--json-log", str(tmp_path / "log"))
    assert (got, out) == (code, f"{tmp_path / 'survey.csv'}\n")
    assert "y.tif: no after scene has its name" in err
    assert "geosiam: warning: no parquet" in err
    assert ("geosiam: warning: p1: it is broken" in err) == (code == 4)
    assert ("has 1 of 2 pairs without results" in err) == (code == 4)
    _, out, _ = run(capsys, *folders, "-o", str(tmp_path / "out"), "--json")
    assert json.loads(out)["failed"] == ([{"name": "p1", "error": "it is broken"}] if code == 4 else [])


def test_what_cannot_be_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(tmp_path / "none.csv"), "-o", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (3, 1)
    code, _, err = run(capsys, str(tmp_path), "-o", str(tmp_path / "out"), "--memory", "much")
    assert (code, "is not an amount of memory" in err) == (3, True)
