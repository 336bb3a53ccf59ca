"""Run the command geosiam as a process: find it, start it without QGIS's environment, report progress, stop it.

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

# Variables that QGIS's installers, bundles and start scripts set for its own Python, GDAL, PROJ and Qt.
_OF_QGIS = {"GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA", "LD_LIBRARY_PATH", "LD_PRELOAD"}
_OF_QGIS_PREFIXES = ("PYTHON", "DYLD_", "QT_", "QGIS_")
_GRACE_SECONDS = 10.0  # for saving scores
_POLL_SECONDS = 0.1
_ERROR, _WARNING = "geosiam: error: ", "geosiam: warning: "


class Listener(Protocol):
    """Receives the progress and log of the command, and may stop it."""

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
    """The exit code and the output of the command.

    Parameters
    ----------
    code
        Exit code; negative if a signal ended the command.
    result
        The JSON object that it printed; empty if there is none.
    lines
        Lines of its log that are neither progress nor warnings.
    cancelled
        Whether the listener stopped it.
    """

    code: int
    result: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    cancelled: bool = False

    @property
    def error(self) -> str:
        """The error message, as one line."""
        message = self.result.get("error", {}).get("message")
        if message:
            return str(message)
        errors = [line.removeprefix(_ERROR) for line in self.lines if line.startswith((_ERROR, "Error: "))]
        return errors[-1] if errors else (self.lines[-1] if self.lines else "it printed nothing")


def find_executable(setting: str, environment: Mapping[str, str]) -> str | None:
    """Return the path of the command; None if there is none.

    Parameters
    ----------
    setting
        The command, or the folder of its environment. If empty, the environment variable ``GEOSIAM_EXECUTABLE`` is
        used, and without it the search path.
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
    """Return the environment variables without those of QGIS, and with the command's own folder first in the path.

    On Windows the libraries of a conda environment are found by the search path.
    """
    variables = {
        name: value
        for name, value in environment.items()
        if name not in _OF_QGIS and not name.startswith(_OF_QGIS_PREFIXES)
    }
    folder = Path(executable).absolute().parent
    first = [folder, *(path for path in (folder.parent, folder.parent / "Library" / "bin") if os.name == "nt")]
    path = os.pathsep.join([*map(str, first), *filter(None, [environment.get("PATH")])])
    return {**variables, "PATH": path, "PYTHONUTF8": "1"}


def run(command: list[str], environment: Mapping[str, str], listener: Listener) -> Outcome:
    """Run a command, without a shell, until it ends or the listener stops it.

    Parameters
    ----------
    command
        The command and its arguments; it prints JSON on stdout and JSON lines of progress among others on stderr.
    environment
        Its environment variables.
    listener
        Receiver of progress and log.
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
        start_new_session=os.name != "nt",  # a process group, so that its children are stopped with it
    )
    printed: list[str] = []
    log: queue.SimpleQueue[str] = queue.SimpleQueue()
    readers = [_reader(process.stdout, printed.append), _reader(process.stderr, log.put)]
    lines: list[str] = []
    cancelled = False
    while process.poll() is None or readers[1].is_alive() or not log.empty():
        if not cancelled and listener.isCanceled():
            cancelled = True
            _stop(process)
        with contextlib.suppress(queue.Empty):
            _report(log.get(timeout=_POLL_SECONDS).rstrip("\n"), listener, lines)
    for reader in readers:
        reader.join()
    return Outcome(process.returncode, _json_object("".join(printed)), tuple(lines), cancelled)


def _reader(stream: IO[str] | None, take: Callable[[str], None]) -> threading.Thread:
    """Read a pipe in a thread: neither pipe may fill up while the other one is read."""

    def read() -> None:
        if stream is not None:
            with stream:
                for line in stream:
                    take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _report(line: str, listener: Listener, lines: list[str]) -> None:
    progress = _json_object(line).get("progress") if line.startswith("{") else None
    if isinstance(progress, dict):
        listener.setProgress(100 * progress["done"] / progress["total"] if progress["total"] else 100)
    elif line.startswith(_WARNING):
        listener.pushWarning(line.removeprefix(_WARNING))
    elif line:
        lines.append(line)
        if not line.startswith(_ERROR):  # which becomes the exception
            listener.pushInfo(line)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt the process and its children, so that it saves its scores; kill it if it does not end."""
    if os.name == "nt":  # the launcher that pip installs stops its Python as well
        process.terminate()
        return
    # A QGIS that was started in the background of a script ignores interrupts, and so do its children. They are ended
    # at once then; a run saves its scores every few seconds anyway.
    ignores_interrupts = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if ignores_interrupts else signal.SIGINT)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
