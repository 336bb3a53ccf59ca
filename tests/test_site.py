"""The documentation as a site: complete, and without a broken link."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from inspect import ismodule
from pathlib import Path

import pytest

import geosiam
from geosiam.polygons.schema import COLUMNS, FOOTPRINT_COLUMNS
from geosiam_cli.main import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_every_command_is_in_the_generated_reference(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<h3 id="geosiam-(\w+)"', page)) == set(COMMANDS)
    assert "--seed-threshold" in page
    assert "Sentinel" not in page


def test_every_exported_name_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r'<h2 id="(geosiam\.[\w.]+)"', page)}
    assert shown >= {name for name in geosiam.__all__ if not ismodule(getattr(geosiam, name))}
    assert "SceneRefusedError" in page  # of the module of errors
    assert ":class:" not in page


def test_pages_ask_nobody_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', text)
        assert loaded == [], page


def test_every_column_is_explained() -> None:
    text = (ROOT / "docs" / "polygons.md").read_text(encoding="utf-8")
    for column, meaning in {**COLUMNS, **FOOTPRINT_COLUMNS}.items():
        assert f"| `{column}` | {meaning} |" in text


def test_numbered_steps_stay_one_list(site: Path) -> None:
    """What belongs to a step is set in by four columns; with three the site starts to count from 1 again."""
    for source in (ROOT / "docs").rglob("*.md"):
        begun = len(re.findall(r"^ *1\. ", source.read_text(encoding="utf-8"), re.MULTILINE))
        page = (site / source.relative_to(ROOT / "docs")).with_suffix(".html").read_text(encoding="utf-8")
        assert len(re.findall("<ol>", page)) == begun, source
