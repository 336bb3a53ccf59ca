"""What the documents say of Python is true: their examples run, and the names that they give exist."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import geopandas
import pytest
import rasterio
import shapely

import geosiam as gs
from geosiam.polygons.results import read_result
from geosiam.report.content import FORMAT
from geosiam.report.verdicts import KIND
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

ROOT = Path(__file__).parent.parent
PAGE = "docs/api.md"
RUN = (PAGE, "README.md", "docs/report.md", "docs/batch.md")
"""Documents whose examples run, in this order and in one folder, where each finds what the one before has left."""

ONLY_READ = {
    "docs/cluster.md": "its clusters are not here; tests/pipeline/test_cluster.py runs the same call",
    "docs/onnx.md": "tests/network/test_onnx_graph.py runs it without geosiam",
    "CONTRIBUTING.md": "an example of a message, not of a call",
}
"""Documents whose examples are only checked for names, and why."""

SHORTER = {
    "workers=4": "workers=2",
    'detect=gs.DetectOptions(min_area="1.5m2")': "detect=gs.DetectOptions()",  # as in batch.md: nothing is run again
}
"""What the examples ask for, and what is enough to see that they run."""


def examples(document: str) -> list[tuple[int, str]]:
    """Return the Python examples of a document, each with the line above it."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in blocks]


def trained(options: gs.TrainingOptions) -> gs.TrainingResult:
    """Stand in for `gs.train`, which takes minutes however few its steps are; tests/training runs it."""
    return gs.TrainingResult(options.out, gs.load_model().card, ())


def shortened(code: str) -> str:
    return functools.reduce(lambda code, asked: code.replace(asked, SHORTER[asked]), SHORTER, code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all files that the examples name."""
    here = tmp_path_factory.mktemp("work")
    scenes = write_pair_tiles(SyntheticConfig(height=384, width=384, seed=3, objects=10), here)
    for month, scene in (("october", scenes.before), ("november", scenes.after)):
        (here / month).mkdir()
        shutil.copy(scene, here / month / "north.tif")
    shutil.copy(scenes.before, here / "october" / "alone.tif")
    with rasterio.open(scenes.before) as before:
        field = shapely.box(*before.bounds).buffer(-5)
        geopandas.GeoDataFrame(geometry=[field], crs=before.crs).to_file(here / "field.gpkg")
    return here


def export_verdicts(folder: Path) -> None:
    """Write what the page of a batch exports once its first polygon is confirmed."""
    run = read_result(folder / "survey" / "north" / "anomalies.gpkg").run
    pairs = [{"name": "north", "run": run, "verdicts": {"1": "confirmed"}}]
    content = {"format": KIND, "version": FORMAT, "pairs": pairs}
    (folder / "verdicts.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def names(folder: Path) -> dict[str, dict[str, Any]]:
    """Run the examples of all documents; return the names that each defines."""
    defined: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gs, "train", trained, raising=False)
        for document in RUN:
            defined[document] = {}
            for line, code in examples(document):
                if "verdicts.json" in code:
                    export_verdicts(folder)
                exec(compile("\n" * line + shortened(code), document, "exec"), defined[document])
    return defined


def test_the_examples_run(names: dict[str, dict[str, Any]], folder: Path) -> None:
    assert names.keys() == set(RUN)
    for file in ("anomalies.gpkg", "review.qgz", "polygons.gpkg", "survey/report/index.html"):
        assert (folder / file).stat().st_size > 0
    assert len(names["README.md"]["polygons"]) > 0
    assert names["docs/batch.md"]["result"].failed == ()
    reviewed = geopandas.read_file(folder / "survey" / "north" / "anomalies.gpkg", layer="anomalies")
    assert list(names[PAGE]["polygons"].columns) == list(reviewed.columns)


def test_every_shortened_example_is_on_a_page() -> None:
    text = "".join(code for document in RUN for _, code in examples(document))
    assert [asked for asked in SHORTER if asked not in text] == []


def test_every_document_with_examples_is_run_or_excused() -> None:
    documents = {p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}
    assert {document for document in documents if examples(document)} == {*RUN, *ONLY_READ}


@pytest.mark.parametrize("document", [*RUN, *ONLY_READ])
def test_every_name_of_geosiam_is_public(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    used = set(re.findall(r"\bgs\.(\w+)", text))
    for _, code in examples(document):
        imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
        used |= {name.name for node in imports if node.module == "geosiam" for name in node.names}
    assert used - set(gs.__all__) == set()


def test_the_table_of_options_has_all_fields() -> None:
    rows = re.findall(r"^\| `(\w+Options)` \| (.*?) \|", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    told = dict.fromkeys(name for name, _ in rows)
    assert list(told) == ["PairOptions", "ScoreOptions", "PolygonOptions", "HeightOptions", "DetectOptions"]
    fields: dict[str, set[str]] = {}
    for name, text in rows:
        listed = set(re.findall(r"`(\w+)`", text))
        fields[name] = {field for part in listed for field in fields.get(part, {part})}
        assert fields[name] == {field.name for field in dataclasses.fields(getattr(gs, name))}, name


def test_whatever_has_an_attribute_on_the_page_has_it() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8").replace("()", "")
    text = re.sub(r"\([^()]*\)", "", text)  # what is in brackets is said of something else
    sentences = re.findall(r"`([A-Z]\w+)` has\s(`[^.;]*)[.;]", text)
    tables = re.findall(r"^\| `([A-Z]\w+)` \| \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [(name, " ".join(row.split("|")[1] for row in table.splitlines())) for name, table in tables]
    told = {name: set(re.findall(r"`([a-z_]+)`", attributes)) for name, attributes in [*sentences, *rows]}
    assert len(told) >= 15
    for name, attributes in told.items():
        there = {field.name for field in dataclasses.fields(getattr(gs, name))} | set(dir(getattr(gs, name)))
        assert attributes, name
        assert attributes <= there, name


def test_the_table_of_errors_has_all_of_them() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+Error)` \|[^|]*\| (?:`(\w+)` )?\|$", text, re.MULTILINE)
    classes = {name for name, value in vars(gs.errors).items() if isinstance(value, type)} - {"GeosiamError"}
    assert {name for name, _ in rows} == classes
    for name, base in rows:
        plain = [parent.__name__ for parent in getattr(gs.errors, name).__bases__ if parent.__module__ == "builtins"]
        assert plain == ([base] if base else []), name
