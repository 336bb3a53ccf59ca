"""What appears on stderr while a command runs."""

from __future__ import annotations

import logging
import re
import sys

import pytest

from geosiam_cli import options, progress
from geosiam_cli.main import main
from geosiam_cli.state import State, configure_logging


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("geosiam").level, logging.getLogger("geosiam_cli").level
    yield
    root.setLevel(before[0])
    root.handlers = before[1]
    logging.getLogger("geosiam").setLevel(before[2])
    logging.getLogger("geosiam_cli").setLevel(before[3])


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (-1, ["geosiam: error: e"]),
        (0, ["geosiam: warning: w", "geosiam: error: e"]),
        (1, ["geosiam: i", "geosiam: warning: w", "geosiam: error: e"]),
        (5, ["geosiam: d", "geosiam: i", "geosiam: warning: w", "geosiam: error: e"]),
    ],
)
def test_verbosity_decides_what_is_logged(
    verbosity: int, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(State())
    configure_logging(State(verbosity=verbosity))  # a second call replaces the first one: no line appears twice
    log = logging.getLogger("geosiam.somewhere")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    logging.getLogger("rasterio").info("not ours")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == expected


def test_verbose_may_stand_before_and_after_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(options, "configure_logging", seen.append)
    main(["-v", "models", "-v", "--help"])
    assert seen[-1].verbosity == 2


def test_a_broken_message_does_not_stop_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # as in production: no report of the broken message
    configure_logging(State())
    logging.getLogger("geosiam").warning("%d", "no number")
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(State())
    with progress.progress_report("scoring") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")


def test_log_lines_replace_the_bar_at_info(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(State(verbosity=1))
    with progress.progress_report("scoring") as report:
        for done in range(2, 101, 2):
            report(done, 100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 10
    assert re.fullmatch(r"geosiam: scoring: 100 % \([\d.]+ Mpx/s\)", lines[-1])


def test_a_bar_is_drawn_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.progress_report("training", unit="steps") as report:
        report(1, 2)
        report(2, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err
    assert "100%" in err
    assert "steps/s" in err
