"""A worker process as seen by who started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

import geosiam
from geosiam.survey.jobs import Event, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TAIL_BYTES = 16_000
_MODULE = "geosiam.survey.worker"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Libraries that start a thread for each processor, in each of several processes, keep these from work by waiting."""


class Child:
    """A process that runs one pair at a time, and may die of it without harm to anything else.

    Parameters
    ----------
    tell
        Called with this child and each of its events, in a thread of its own; the last one is ``died``.
    environment
        Variables to set, besides those of this process.
    """

    def __init__(self, tell: Callable[[Child, Event], None], environment: Mapping[str, str] | None = None) -> None:
        self._tell = tell
        self.job: Job | None = None
        self.finished = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=_environment(environment or {}),
            start_new_session=True,  # Ctrl-C in a terminal is for who started it, who then ends it in order
        )
        threading.Thread(target=self._listen, name=f"geosiam-child-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, job: Job) -> None:
        """Give it a pair to run; a process that died in the meantime says so by its event."""
        self.job = job
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(job.to_line() + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Ask it to end: what it has done of a pair is kept for the next time."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that was cut when the process died
                    self._tell(self, Event.of_line(line))
        code = self._process.wait()
        self.stop()
        self._tell(self, Event("died", "", {"code": code, "reason": _reason(code), "stderr": self._last_words()}))

    def _last_words(self) -> str:
        with self._errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if line and not line.startswith("Extension modules:"))


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the process: it must find this very geosiam, and compute in the threads it is given."""
    home = str(Path(geosiam.__file__).parents[1])
    search = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    return {**_ONE_THREAD, **os.environ, "PYTHONPATH": search, **more}


def _reason(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
