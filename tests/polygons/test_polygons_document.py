"""docs/polygons.md says of the columns what the GeoPackage itself says."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from geosiam import __version__
from geosiam.imagery.scene_info import fingerprint
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions, PolygonOptions
from geosiam.pipeline import detect, vectorize_to_file
from geosiam.polygons.formats import FORMATS
from geosiam.polygons.schema import COLUMNS, FOOTPRINT_COLUMNS, REVIEWS, SHAPEFILE_NAMES
from geosiam.synthesis.pairs import SyntheticConfig, make_pair, write_pair

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


def test_the_table_of_runs_holds_what_is_promised(tmp_path: Path) -> None:
    """Each word of the page about the table, and each column of the table, in a file that was made for it."""
    row = next(text for suffix, text in table("Formats").items() if suffix == ".gpkg")
    promised = row.partition("the table `runs`: ")[2].split(", ")
    assert promised == ["inputs", "checksums", "model", "options", "version"]
    scenes = write_pair(make_pair(SyntheticConfig(height=160, width=160, seed=3)), tmp_path / "in")
    area = str(scenes.truth)
    detect(scenes.before, scenes.after, tmp_path / "o.gpkg", options=DetectOptions(min_area="20px", aoi=area))
    vectorize_to_file(tmp_path / "o.tif", tmp_path / "v.gpkg", options=PolygonOptions(min_area="30px"))
    for name in ("o.gpkg", "v.gpkg"):
        with closing(sqlite3.connect(tmp_path / name)) as db:
            db.row_factory = sqlite3.Row
            run = dict(db.execute("SELECT * FROM runs").fetchone())
        assert all(value is not None for value in run.values()), run
        assert json.loads(run["inputs"]) == {"before": str(scenes.before), "after": str(scenes.after), "aoi": area}
        checksums = json.loads(run["fingerprints"])
        model = load_model(DetectOptions().model).card
        expected = {"before": fingerprint(scenes.before), "after": fingerprint(scenes.after), "model": model.checksum}
        assert checksums == expected
        assert json.loads(run["model"])["name"] == model.name
        assert json.loads(run["options"])["aoi"] == area
        assert run["geosiam_version"] == __version__
        assert 0 < run["threshold"] < 1
        assert json.loads(run["provenance"])["min_area"] == ("20px" if name == "o.gpkg" else "30px")
        for column in re.findall(r"^\| `runs\.(\w+)` \|", TEXT, re.MULTILINE):
            assert column in run
    assert set(re.findall(r"^\| `runs\.(\w+)` \|", TEXT, re.MULTILINE)) == set(run) - {"id"}


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    assert targets
    assert [target for target in targets if not (DOCUMENT.parent / target).exists()] == []
