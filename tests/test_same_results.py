"""The script that compares two checkouts sees what differs, and nothing else."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from geosiam.options import PolygonOptions
from geosiam.pipeline import vectorize_to_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def script(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("same_results")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a run leaves it: scores with three polygons, and these twice."""
    folder = tmp_path_factory.mktemp("results")
    scores = np.full((40, 50), 10, np.uint8)
    scores[5:9, 5:10], scores[20:25, 30:33], scores[30:, 40:], scores[0, 0] = 200, 250, 220, 255
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 40, "width": 50, "nodata": 255}
    place = {"crs": "EPSG:32633", "transform": Affine(0.8, 0, 389_000, 0, -0.8, 5_820_000)}
    with rasterio.open(folder / "found.tif", "w", **profile, **place) as raster:
        raster.write(scores, 1)
        raster.scales = (1 / 254,)
    for name in ("found", "vectorized"):
        vectorize_to_file(folder / "found.tif", folder / f"{name}.gpkg", options=PolygonOptions(threshold=0.5))
    return folder


@pytest.fixture
def other(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "other"))


def compared(script: ModuleType, one: Path, other: Path) -> list[str]:
    case = script.Case("naip", "fp32", ())
    found: list[str] = script.differences(script.facts(one, case), script.facts(other, case))
    return found


def edit(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f'DROP TRIGGER "{name}"')  # these call functions that only GDAL has
        db.execute(statement, values)


def test_a_copy_is_identical_whenever_it_was_made(script: ModuleType, results: Path, other: Path) -> None:
    edit(other / "found.gpkg", "UPDATE anomalies SET created = '2001-02-03T04:05:06Z'")
    assert compared(script, results, other) == []
    facts = script.facts(other, script.Case("naip", "fp32", ()))
    assert script.by_detect_and_vectorize(facts) == []
    assert script.numbers(facts) == (2000, 3)


def test_a_pixel_is_seen(script: ModuleType, results: Path, other: Path) -> None:
    with rasterio.open(other / "found.tif", "r+") as raster:
        scores = raster.read()
        scores[0, 39, 49] += 1
        raster.write(scores)
    assert compared(script, results, other) == ["found: pixels: 1 of 2000 differ, by 1 at most"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"nodata": 0}, "nodata"),
        ({"crs": "EPSG:32634"}, "CRS"),
        ({"transform": Affine(0.8, 0, 389_000.000001, 0, -0.8, 5_820_000)}, "transform"),
        ({"scales": (1 / 255,)}, "scales"),
    ],
)
def test_what_a_raster_says_of_itself_is_seen(
    script: ModuleType, results: Path, other: Path, change: dict[str, Any], name: str
) -> None:
    with rasterio.open(other / "found.tif", "r+") as raster:
        for attribute, value in change.items():
            setattr(raster, attribute, value)
    assert [text.split(": ")[1] for text in compared(script, results, other)] == [name]


def test_the_last_bit_of_a_number_is_seen(script: ModuleType, results: Path, other: Path) -> None:
    facts = script.layer_facts(results / "found.gpkg", "anomalies")
    nearly = math.nextafter(float(facts["score_mean"][1]), 0)
    edit(other / "found.gpkg", "UPDATE anomalies SET score_mean = ? WHERE id = 2", nearly)
    (text,) = compared(script, results, other)
    assert text.startswith("found anomalies: score_mean: 1 of 3 rows differ, row 1 is ")
    assert script.by_detect_and_vectorize(script.facts(other, script.Case("naip", "fp32", ()))) != []


def test_evidence_is_no_matter_of_vectorize(script: ModuleType, results: Path, other: Path) -> None:
    edit(other / "found.gpkg", "UPDATE anomalies SET hint = 'appeared' WHERE id = 2")
    assert len(compared(script, results, other)) == 1
    assert script.by_detect_and_vectorize(script.facts(other, script.Case("naip", "fp32", ()))) == []


def test_another_order_is_seen(script: ModuleType, results: Path, other: Path) -> None:
    edit(other / "found.gpkg", "UPDATE anomalies SET fid = 10 - fid")
    texts = compared(script, results, other)
    assert "found anomalies: geom: 2 of 3 rows in another order" in texts
    assert "found anomalies: id: 2 of 3 rows in another order" in texts


def test_a_missing_polygon_and_a_missing_column_are_seen(script: ModuleType, results: Path, other: Path) -> None:
    edit(other / "found.gpkg", "DELETE FROM anomalies WHERE id = 3")
    assert compared(script, results, other) == ["found anomalies: rows: 3 against 2"]
    edit(other / "found.gpkg", "ALTER TABLE anomalies DROP COLUMN review")
    assert "found anomalies: review: only in the reference" in compared(script, results, other)


def test_the_footprint_is_compared(script: ModuleType, results: Path, other: Path) -> None:
    edit(other / "vectorized.gpkg", "UPDATE footprint SET looked_at_m2 = 1")
    (text,) = compared(script, results, other)
    assert text.startswith("vectorized footprint: looked_at_m2: 1 of 1 rows differ")


def test_the_digest_is_that_of_all_facts(script: ModuleType) -> None:
    digests = [script.digest(facts) for facts in ({"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": np.array([1])})]
    assert len(set(digests)) == 4
    assert script.digest({"a": "1"}) == digests[0]


def test_a_folder_without_geosiam_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no checkout"):
        script.Side(tmp_path, tmp_path / "results").check()


def test_a_run_that_failed_on_the_candidate_only_is_no_match(
    script: ModuleType, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"reference": script.Run(0, "", 1.0), "candidate": script.Run(1, "Traceback\nValueError: no\n", 1.0)}
    monkeypatch.setattr(script.Side, "made", lambda self, *_: runs[self.results.name])
    shutil.copytree(results, tmp_path / "reference" / "naip-fp32")
    reference, candidate = (script.Side(None, tmp_path / name) for name in runs)
    row, same = script.judged(script.Case("naip", "fp32", ()), reference, candidate, tmp_path)
    assert (row[-1], same) == ("ended with 1: ValueError: no", False)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_stand_in_convolves_bytes_exactly(load_benchmark: Callable[[str], ModuleType], stride: int) -> None:
    emulation = load_benchmark("_exact_int8")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 5, 9, 8), dtype=torch.uint8, generator=generator)
    weight = torch.randint(-127, 128, (4, 5, 3, 3), dtype=torch.int8, generator=generator)
    steps, bias, zeros = torch.tensor([0.5, 0.25, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0, 2.0]), torch.zeros(4)
    patches = images.unfold(2, 3, stride).unfold(3, 3, stride).long()
    sums = torch.einsum("nchwij,ocij->nohw", patches, weight.long()).double()
    expected = sums * (steps.double() / 255).view(1, -1, 1, 1) + bias.double().view(1, -1, 1, 1)
    where = [stride, stride], [0, 0], [1, 1], 1
    begin = images, 1 / 255, 0, emulation.keep(weight), steps, zeros, bias, *where
    plain = emulation.convolve(*begin, 1.0, 0, torch.float32, "none", [], "")
    assert torch.equal(plain, expected.float())
    small = emulation.convolve(*begin, 10.0, 0, torch.uint8, "relu", [], "")
    assert torch.equal(small, (expected / 10).round().clamp(0, 255).to(torch.uint8))


@pytest.mark.slow
def test_a_checkout_is_identical_with_itself(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPTS / "same_results.py", "--only", "demo", "--precision", "fp32"]
    checkout, kept = SCRIPTS.parent, tmp_path / "kept"
    sides = ["--reference", checkout, "--candidate", checkout, "--results", kept]
    done = subprocess.run([*command, *sides], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("All identical.\n")
    assert done.stdout.count("| identical |") == 2
