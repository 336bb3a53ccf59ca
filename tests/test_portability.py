"""The package does without what only POSIX systems have, when it is imported and when it replaces and locks files."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

AS_ON_WINDOWS = """
import importlib, os, pkgutil, signal, sys
import numpy, torch, rasterio, geopandas, dask.array, matplotlib.figure, xarray, filelock, psutil, distributed, pyarrow
import click, rich.progress, cv2, scipy.ndimage, skimage.registration, pyproj, pooch, PIL.Image, sklearn, pystac

for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"):
    sys.modules[name] = None  # an import of it is an ImportError
for name in ("fork", "geteuid", "getuid", "setsid", "killpg", "sched_getaffinity", "fdatasync", "pread", "pwrite",
             "posix_fallocate", "posix_fadvise", "statvfs", "mkfifo", "fchmod", "chown", "nice", "getpgid", "uname",
             "O_DIRECTORY", "sync", "getloadavg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "pthread_kill", "alarm", "setitimer", "sigwait"):
    if hasattr(signal, name):
        delattr(signal, name)
"""

IMPORT_ALL = """
import geosiam, geosiam_cli
names = []
for package in (geosiam, geosiam_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
assert len(names) > 100, names
"""

WRITE = """
from pathlib import Path
from geosiam.files import atomic_write, locked
target = Path(sys.argv[1]) / "result.json"
target.write_text("old")
with locked(target.with_name(".lock"), target), atomic_write(target) as partial:
    partial.write_text("new")
assert target.read_text() == "new"
assert sorted(path.name for path in target.parent.iterdir() if path.suffix == ".partial") == []
"""


def as_on_windows(script: str, *arguments: object) -> None:
    command = [sys.executable, "-c", AS_ON_WINDOWS + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_is_imported_without_what_only_posix_has() -> None:
    as_on_windows(IMPORT_ALL)


def test_files_are_replaced_and_locked_without_what_only_posix_has(tmp_path: Path) -> None:
    as_on_windows(WRITE, tmp_path)
