"""The recipes of environments list the dependencies of pyproject.toml, and the container is built from the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_the_recipe_has_the_dependencies_of_pyproject(project: dict) -> None:
    text = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    assert f'{{% set version = "{project["version"]}" %}}' in text
    recipe = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "x", re.sub(r"\{%.*?%\}", "", text)))
    wanted = lower_bounds(project["dependencies"])
    expected = {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}
    expected["python"] = project["requires-python"].removeprefix(">=")
    run = [entry.replace(" ", "") for entry in recipe["requirements"]["run"]]
    assert lower_bounds(run) == expected
    assert recipe["build"]["entry_points"] == [f"geosiam = {project['scripts']['geosiam']}"]
    assert recipe["about"]["license"] == project["license"]


def test_the_citation_is_of_this_version(project: dict) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert citation["license"] == project["license"]


def test_the_container_keeps_the_rules_of_hadolint() -> None:
    subprocess.run([Path(sys.executable).parent / "hadolint", "--no-color", ROOT / "Dockerfile"], check=True)


def test_the_container_gets_what_the_wheel_is_built_from(project: dict) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    folders = {Path(package).parts[0] for package in tools["wheel"]["packages"]}
    needed = folders | {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"}
    assert {line[1:] for line in lines if line.startswith("!")} == needed


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
