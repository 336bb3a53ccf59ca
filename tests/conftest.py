"""Fixtures for tests of several packages."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

# A busy machine is no fault: no test fails because something took long.
settings.register_profile("geosiam", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("geosiam")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real scenes, or skip."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GEOSIAM_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: GEOSIAM_DATA is unset and {default} does not exist")
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Return a scene of 40 x 40 pixels, the only file in its folder."""
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": Affine(1, 0, 4e5, 0, -1, 5e6), "dtype": "uint8"}
    with rasterio.open(path, "w", count=1, height=40, width=40, **profile) as file:
        file.write(np.arange(1600, dtype=np.uint8).reshape(1, 40, 40))
    return path


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """Return a function that imports a script of ``benchmarks/`` by its name."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module

    return load
