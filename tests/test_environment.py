"""environment.yml, constraints.txt and pyproject.toml are three lists of the same dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
# conda-forge splits some projects and names others differently; extras do not exist there, so theirs are included.
CONDA_NAMES = {
    "torch": "pytorch",
    "dask": "dask-core",
    "matplotlib": "matplotlib-base",
    "opencv-python-headless": "opencv",
}


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """Map each name to its lower bound; anything but ``name[extra]>=bound`` is not how we declare dependencies."""
    bounds = {}
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[[a-z,]+\])?>=([0-9.]+)", requirement)
        assert match, f"{requirement} is no plain lower bound"
        bounds[match[1].lower()] = match[2]
    return bounds


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_environment_has_the_dependencies_of_pyproject(project: dict) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["cluster"], *extras["onnx"], *extras["survey"]]
    wanted = lower_bounds(needed)
    expected = {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}
    expected["python"] = project["requires-python"].removeprefix(">=")

    assert lower_bounds([entry for entry in environment["dependencies"] if entry != "pip"]) == expected


def test_constraints_pin_every_direct_and_development_dependency(project: dict) -> None:
    extras = project["optional-dependencies"]
    wanted = lower_bounds(project["dependencies"]) | lower_bounds(extras["cluster"]) | lower_bounds(extras["dev"])
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        statement = line.split("#")[0].strip()
        if statement:
            name, version = statement.split(";")[0].strip().split("==")
            pins[name.lower()] = version

    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert set(pins) == set(wanted)
    assert [name for name, pin in pins.items() if numbers(pin) < numbers(wanted[name])] == []


def test_constraints_leave_newer_pythons_a_newer_rasterio() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r'^rasterio==\S+; python_version < "3\.12"', text, re.MULTILINE)
