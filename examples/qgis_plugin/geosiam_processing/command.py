"""The command geosiam as a process of its own: found, started without QGIS's environment, listened to, stopped.

Nothing in here knows QGIS. geosiam brings its own Python, GDAL and PROJ, in other versions than QGIS does, so nothing
of QGIS's environment must reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Where QGIS's own Python, GDAL, PROJ and Qt are; its installers, bundles and start scripts set them.
_OF_QGIS = {"GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA", "LD_LIBRARY_PATH", "LD_PRELOAD"}
_OF_QGIS_PREFIXES = ("PYTHON", "DYLD_", "QT_", "QGIS_")
_GRACE_SECONDS = 10.0  # for saving what is scored
_POLL_SECONDS = 0.1
_ERROR, _WARNING = "geosiam: error: ", "geosiam: warning: "


class Listener(Protocol):
    """Who is told what the command says, and may stop it."""

    def isCanceled(self) -> bool:
        """Return whether the command should stop."""

    def setProgress(self, progress: float) -> None:
        """Take how much is done, in percent."""

    def pushInfo(self, info: str) -> None:
        """Take a line of the log."""

    def pushWarning(self, warning: str) -> None:
        """Take a warning."""


@dataclass(frozen=True)
class Outcome:
    """How the command ended.

    Parameters
    ----------
    code
        Its exit code; less than 0 where a signal ended it.
    result
        The JSON object it printed; empty if there is none.
    lines
        What it said that is neither progress nor a warning.
    cancelled
        Whether the listener stopped it.
    """

    code: int
    result: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    cancelled: bool = False

    @property
    def error(self) -> str:
        """What went wrong, as one line."""
        told = self.result.get("error", {}).get("message")
        if told:
            return str(told)
        errors = [line.removeprefix(_ERROR) for line in self.lines if line.startswith((_ERROR, "Error: "))]
        return errors[-1] if errors else (self.lines[-1] if self.lines else "it said nothing")


def find_executable(setting: str, environment: Mapping[str, str]) -> str | None:
    """Return the path of the command; None if there is none.

    Parameters
    ----------
    setting
        What the user named: the command, or the folder of the environment it is in; empty: the environment variable
        ``GEOSIAM_EXECUTABLE`` counts, and without it the search path.
    environment
        The environment variables.
    """
    named = setting or environment.get("GEOSIAM_EXECUTABLE", "")
    if not named:
        return shutil.which("geosiam", path=environment.get("PATH"))
    path = Path(named).expanduser()
    inside = (path / "bin" / "geosiam", path / "Scripts" / "geosiam.exe")
    candidates = inside if path.is_dir() else (path,)
    return next((str(candidate) for candidate in candidates if candidate.is_file()), None)


def clean_environment(executable: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables without what leads to QGIS's libraries, and with the command's own folder first.

    On Windows the libraries of a conda environment are found by the search path.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _OF_QGIS and not name.startswith(_OF_QGIS_PREFIXES)
    }
    folder = Path(executable).absolute().parent
    first = [folder, *(path for path in (folder.parent, folder.parent / "Library" / "bin") if os.name == "nt")]
    path = os.pathsep.join([*map(str, first), *filter(None, [environment.get("PATH")])])
    return {**kept, "PATH": path, "PYTHONUTF8": "1"}


def run(command: list[str], environment: Mapping[str, str], listener: Listener) -> Outcome:
    """Run a command, without a shell, until it ends or the listener stops it.

    Parameters
    ----------
    command
        The command and its arguments; it prints JSON on stdout and JSON lines of progress among others on stderr.
    environment
        Its environment variables.
    listener
        Who hears of it.
    """
    windows = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    process = subprocess.Popen(  # noqa: S603 - a list, without a shell
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        creationflags=windows,
        start_new_session=os.name != "nt",  # a group of its own: what it starts ends with it
    )
    printed: list[str] = []
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    readers = [_reader(process.stdout, printed.append), _reader(process.stderr, said.put)]
    lines: list[str] = []
    cancelled = False
    while process.poll() is None or readers[1].is_alive() or not said.empty():
        if not cancelled and listener.isCanceled():
            cancelled = True
            _stop(process)
        with contextlib.suppress(queue.Empty):
            _hear(said.get(timeout=_POLL_SECONDS).rstrip("\n"), listener, lines)
    for reader in readers:
        reader.join()
    return Outcome(process.returncode, _parsed("".join(printed)), tuple(lines), cancelled)


def _reader(stream: IO[str] | None, take: Callable[[str], None]) -> threading.Thread:
    """Read a pipe in a thread of its own: neither of the two may fill up while the other one is waited for."""

    def read() -> None:
        if stream is not None:
            with stream:
                for line in stream:
                    take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _hear(line: str, listener: Listener, lines: list[str]) -> None:
    progress = _parsed(line).get("progress") if line.startswith("{") else None
    if isinstance(progress, dict):
        listener.setProgress(100 * progress["done"] / progress["total"] if progress["total"] else 100)
    elif line.startswith(_WARNING):
        listener.pushWarning(line.removeprefix(_WARNING))
    elif line:
        lines.append(line)
        if not line.startswith(_ERROR):  # which becomes the exception
            listener.pushInfo(line)


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt the process and all it started, so that it saves what is scored; end it if it does not."""
    if os.name == "nt":  # the launcher that pip makes takes its Python with it
        process.terminate()
        return
    # A QGIS that a script started in the background ignores interrupts, and so does what it starts: there is nothing to
    # wait for then, and what a run has kept every few seconds stays.
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if deaf else signal.SIGINT)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
