"""docs/polygons.md says of the columns what the GeoPackage itself says."""

from __future__ import annotations

import re
from pathlib import Path

from geosiam.polygons.formats import FORMATS
from geosiam.polygons.schema import COLUMNS, FOOTPRINT_COLUMNS, REVIEWS, SHAPEFILE_NAMES

DOCUMENT = Path(__file__).parents[2] / "docs" / "polygons.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def table(heading: str) -> dict[str, str]:
    """Return the rows of the first table of a section: first cell to second."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))


def test_every_column_is_explained_as_in_the_file() -> None:
    assert list(table("Columns").items()) == list(COLUMNS.items())
    assert list(table("Footprint").items()) == list(FOOTPRINT_COLUMNS.items())


def test_every_format_and_name_is_there() -> None:
    assert set(table("Formats")) == set(FORMATS)
    assert all(f"`{name}` is `{short}`" in TEXT for name, short in SHAPEFILE_NAMES.items())
    assert all(f"`{verdict}`" in TEXT for verdict in REVIEWS)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    assert targets
    assert [target for target in targets if not (DOCUMENT.parent / target).exists()] == []
