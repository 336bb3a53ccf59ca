"""How tests start QGIS: as a process of its own, with the system's Python and a fresh profile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent


class Desktop:
    """QGIS with a profile that no other test knows."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nothing of this environment: another Python's modules and another GDAL's data would be found first.
        self.environment = {
            "PATH": os.defpath,
            "HOME": str(home),
            "QT_QPA_PLATFORM": "offscreen",
            "XDG_RUNTIME_DIR": str(home),
            "LC_ALL": "C.UTF-8",
            "PYTHONWARNINGS": "ignore",
        }
        self.plugins = home / ".local/share/QGIS/QGIS3/profiles/default/python/plugins"

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def python(self, script: str, asked: object, **environment: str) -> dict:
        """Run a script of this folder with QGIS's Python; return the JSON object of its last line."""
        done = self.run(PYTHON, HERE / script, json.dumps(asked), **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def look(self, *asked: dict) -> list[dict]:
        """Open projects in QGIS and draw pictures of them; see look_at_project.py."""
        return self.python("look_at_project.py", asked)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Let what the tests start hear interrupts, which jobs of a shell's background ignore, and all they start."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture(scope="session")
def qgis(tmp_path_factory: pytest.TempPathFactory) -> Desktop:
    """Return QGIS, or skip."""
    desktop = Desktop(tmp_path_factory.mktemp("qgis") / "home")
    if not Path(PYTHON).exists() or desktop.run(PYTHON, "-c", "import qgis.core").returncode:
        pytest.skip(f"{PYTHON} has no PyQGIS")
    return desktop
