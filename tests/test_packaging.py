"""The wheel holds the two packages with all their data, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the wheel; return the files inside."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_top_level_names_are_the_two_packages(names: list[str]) -> None:
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"geosiam", "geosiam_cli"}
    assert len(top) == 3


def test_both_packages_are_typed(names: list[str]) -> None:
    assert {"geosiam/py.typed", "geosiam_cli/py.typed"} <= set(names)


@pytest.mark.parametrize(("package", "folder"), [("geosiam", ROOT), ("geosiam_cli", ROOT / "cli")])
def test_every_module_and_all_bundled_weights_are_inside(names: list[str], package: str, folder: Path) -> None:
    wanted = {".py", ".typed", ".safetensors"}
    files = {p.relative_to(folder).as_posix() for p in (folder / package).rglob("*") if p.suffix in wanted}
    assert files - set(names) == set()


def test_the_license_is_inside(names: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
