"""Documents that name files must not rot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted({p.parent for root in ("geosiam", "cli/geosiam_cli") for p in (ROOT / root).rglob("*.py")})


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_every_module_has_its_line_in_the_architecture(room: Path) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (section,) = re.findall(
        rf"^`{room.relative_to(ROOT).as_posix()}/`(.*?)(?=^`\S+/`|^## |\Z)", text, re.DOTALL | re.MULTILINE
    )
    missing = {p.name for p in room.glob("*.py")} - {"__init__.py"} - set(re.findall(r"`(\w+\.py)`", section))
    assert missing == set()


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "docs/cli.md",
        "docs/cluster.md",
        "docs/qgis.md",
        "docs/batch.md",
    ],
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"(?<!!)\[[^]]*\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [target for target in files if not (path.parent / target).exists()] == []
