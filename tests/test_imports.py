"""Importing geosiam, and asking for help, must not load what only the work itself needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geosiam_cli.main import COMMANDS

HEAVY = {"dask", "geopandas", "matplotlib", "numpy", "rasterio", "rich", "scipy", "skimage", "torch", "xarray"}


def loaded_by(statement: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after the statement."""
    code = f"import sys\n{statement}\nprint('LOADED', *sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_measure_sees_what_is_loaded() -> None:
    assert "numpy" in loaded_by("import numpy")


def test_the_package_alone_is_light() -> None:
    assert loaded_by("import geosiam") == set()


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    assert loaded_by(f"from geosiam_cli.main import main\nassert main({args!r}) == 0") == set()


def test_opening_scenes_waits_for_no_library_that_only_scoring_needs() -> None:
    assert not loaded_by("import geosiam.pipeline") & {"dask", "geopandas", "torch", "xarray"}
