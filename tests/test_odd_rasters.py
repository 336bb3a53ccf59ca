"""The table of odd rasters is right, and its script still makes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("odd_rasters")


def rows() -> dict[str, list[str]]:
    """Return the cells of the committed table by file."""
    lines = (ROOT / "docs" / "odd-rasters.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return {row[0]: row for row in cells[1:]}


def test_the_committed_table_has_no_unexplained_outcome() -> None:
    text = (ROOT / "docs" / "odd-rasters.md").read_text(encoding="utf-8")
    assert "neither an answer nor one line: 0" in text
    assert {row[1] for row in rows().values()} == {"0", "3"}


@pytest.mark.data
def test_a_few_odd_rasters(script: ModuleType, data_dir: Path, tmp_path: Path) -> None:
    names = ["mapchete__0.tif", "rioxarray__2d_test.tif", "broken_corrupt.tif", "riotiler_fixtures__cog_gradient.tif"]
    found, wrong = script.examine([data_dir / "odd" / name for name in names], tmp_path)
    assert wrong == []
    assert [row[1:3] for row in found] == [rows()[name][1:3] for name in names]


@pytest.mark.data
@pytest.mark.slow
def test_all_odd_rasters(script: ModuleType, data_dir: Path, tmp_path: Path) -> None:
    found, wrong = script.examine(sorted((data_dir / "odd").glob("*.tif")), tmp_path)
    assert wrong == []
    assert [row[0] for row in found] == list(rows())
