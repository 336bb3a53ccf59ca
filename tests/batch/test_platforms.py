"""Batches on systems without the modules and functions that only POSIX has, such as Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from made import make_pair

import geosiam.batch

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in Path(geosiam.batch.__file__).parent.glob("[a-z]*.py"))
if find_spec("distributed") is None:  # an extra
    MODULES.remove("dask_pool")

HIDE = """
import contextlib, signal, sys
import psutil  # which on POSIX needs what is hidden below, and elsewhere other modules
with contextlib.suppress(ImportError):
    import locket  # of distributed, an extra: likewise
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("pthread_kill", "SIGHUP"):
    delattr(signal, name)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Hide what only POSIX has from every Python process, worker processes included."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HIDE)
    search_path = os.pathsep.join(map(str, (tmp_path / "site", ROOT, ROOT / "cli")))
    return {**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"}


def test_every_module_can_be_imported(environment: dict[str, str]) -> None:
    imports = "; ".join(f"import geosiam.batch.{name}" for name in MODULES)
    check = f"import sys; assert sys.modules['resource'] is None; {imports}"
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_batch_runs(environment: dict[str, str], tmp_path: Path) -> None:
    make_pair(tmp_path / "a" / "x.tif", tmp_path / "b" / "x.tif", 1)
    command = [sys.executable, "-m", "geosiam_cli", "batch", "a", "b", "-o", "out", "--no-report"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "x" / "anomalies.gpkg").is_file()
