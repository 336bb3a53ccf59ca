"""How the plugin runs a command: found, started in a clean environment, heard, stopped; without QGIS."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "examples" / "qgis_plugin" / "geosiam_processing" / "command.py"
SPEC = importlib.util.spec_from_file_location("plugin_command", SOURCE)
command = importlib.util.module_from_spec(SPEC)
sys.modules["plugin_command"] = command  # dataclasses look their module up
SPEC.loader.exec_module(command)


class Listener:
    """Remembers what it hears; cancels when it hears of progress, if asked to."""

    def __init__(self, *, cancel: bool = False) -> None:
        self.cancel = cancel
        self.progress: list[float] = []
        self.said: list[str] = []
        self.warned: list[str] = []

    def isCanceled(self) -> bool:  # noqa: N802 - QGIS's names
        return self.cancel and bool(self.progress)

    def setProgress(self, progress: float) -> None:  # noqa: N802
        self.progress.append(progress)

    def pushInfo(self, info: str) -> None:  # noqa: N802
        self.said.append(info)

    def pushWarning(self, warning: str) -> None:  # noqa: N802
        self.warned.append(warning)


def run(script: str, *arguments: str, listener: Listener | None = None, **environment: str):
    whole = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return command.run(whole, {"PATH": os.defpath, **environment}, listener or Listener())


# --- found ----------------------------------------------------------------------------------------------------------


def test_the_setting_counts_more_than_the_environment_and_this_more_than_the_path(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("set", "named", "path")]
    for place in places:
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "geosiam").touch(mode=0o755)
    found = [str(place / "bin" / "geosiam") for place in places]
    environment = {"GEOSIAM_EXECUTABLE": found[1], "PATH": str(places[2] / "bin")}
    assert command.find_executable(found[0], environment) == found[0]
    assert command.find_executable(str(places[0]), environment) == found[0]  # the folder of an environment
    assert command.find_executable("", environment) == found[1]
    assert command.find_executable("", {"PATH": environment["PATH"]}) == found[2]
    assert command.find_executable("", {"PATH": ""}) is None
    assert command.find_executable(str(tmp_path / "absent"), environment) is None  # never another one than named


# --- a clean environment --------------------------------------------------------------------------------------------


OF_QGIS = ["PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "PROJ_LIB", "PROJ_DATA", "LD_LIBRARY_PATH", "QT_PLUGIN_PATH"]


@given(st.dictionaries(st.sampled_from([*OF_QGIS, "HOME", "HTTP_PROXY", "PATH"]), st.text("ab/")))
def test_nothing_of_qgis_reaches_the_command(environment: dict[str, str]) -> None:
    clean = command.clean_environment("/opt/env/bin/geosiam", environment)
    assert set(clean) <= {"HOME", "HTTP_PROXY", "PATH", "PYTHONUTF8"}
    assert clean["PATH"].split(os.pathsep)[0] == "/opt/env/bin"
    assert {name: clean[name] for name in ("HOME", "HTTP_PROXY") if name in environment} == {
        name: environment[name] for name in ("HOME", "HTTP_PROXY") if name in environment
    }


# --- heard ----------------------------------------------------------------------------------------------------------


def test_what_a_command_says_is_told_apart() -> None:
    listener = Listener()
    outcome = run(
        """
        import json, sys
        for done in (0, 5, 10):
            print(json.dumps({"progress": {"stage": "scoring", "done": done, "total": 10}}), file=sys.stderr)
        print("geosiam: warning: ein Hinweis, 5 \\u00b5m", file=sys.stderr)
        print("22 polygons", file=sys.stderr)
        print('{"unfinished": ', file=sys.stderr)
        print(json.dumps({"count": 22}))
        """,
        listener=listener,
        PYTHONUTF8="1",
    )
    assert (outcome.code, outcome.result, outcome.cancelled) == (0, {"count": 22}, False)
    assert listener.progress == [0, 50, 100]
    assert listener.warned == ["ein Hinweis, 5 µm"]
    assert listener.said == ["22 polygons", '{"unfinished": ']


@pytest.mark.parametrize(
    ("printed", "said", "expected"),
    [
        ('{"error": {"message": "a.tif: fact; remedy"}}', "geosiam: error: something", "a.tif: fact; remedy"),
        ("", "geosiam: error: a.tif: fact; remedy", "a.tif: fact; remedy"),
        ("", "Usage: geosiam\nError: No such option: --x", "Error: No such option: --x"),
        ("", "Traceback\nMemoryError", "MemoryError"),
        ("", "", "it printed nothing"),
    ],
)
def test_an_error_is_one_line(printed: str, said: str, expected: str) -> None:
    script = "import sys; print(sys.argv[1]); print(sys.argv[2], file=sys.stderr); sys.exit(3)"
    outcome = run(script, printed, said)
    assert (outcome.code, outcome.error) == (3, expected)


def test_no_shell_sees_the_arguments() -> None:
    arguments = ["a b", "$(exit 1)", "; touch x", "'\"", "*", "--o=ü"]
    outcome = run("import json, sys; print(json.dumps({'arguments': sys.argv[1:]}))", *arguments, PYTHONUTF8="1")
    assert outcome.result == {"arguments": arguments}


def test_neither_pipe_fills_up() -> None:
    listener = Listener()
    script = "import sys; print('x' * 10**6, file=sys.stderr); print('{\"y\": \"' + 'y' * 10**6 + '\"}')"
    assert len(run(script, listener=listener).result["y"]) == 10**6
    assert [len(line) for line in listener.said] == [10**6]


# --- stopped --------------------------------------------------------------------------------------------------------

PARENT = """
    import json, signal, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, file=sys.stderr, flush=True)
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        print(json.dumps({"progress": {"done": 1, "total": 10}}), file=sys.stderr, flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("saved", file=sys.stderr)
        sys.exit(130)
"""


@contextlib.contextmanager
def interrupts(handler: object) -> Iterator[None]:
    """Handle interrupts so meanwhile: whoever starts the tests in a shell's background has them ignored."""
    earlier = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and that nobody asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kind", ["polite", "stubborn", "deaf"])
def test_cancelling_ends_the_command_and_what_it_started(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_GRACE_SECONDS", 0.2 if kind == "stubborn" else 30)
    listener = Listener(cancel=True)
    with interrupts(signal.SIG_IGN if kind == "deaf" else signal.default_int_handler):
        outcome = run(PARENT, kind, listener=listener)
    assert outcome.cancelled
    assert outcome.code == {"polite": 130, "stubborn": -signal.SIGKILL, "deaf": -signal.SIGTERM}[kind]
    assert ("saved" in listener.said) == (kind == "polite")
    child = int(listener.said[0])
    deadline = time.monotonic() + 30
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)
