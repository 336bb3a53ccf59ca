"""Manifests: their forms, their rows, and what is wrong with them."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from geosiam.batch.manifest import read_manifest
from geosiam.errors import OptionError
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    {"before": "a/x_2019.tif", "after": "b/x_2020.tif", "threshold": "0.7", "bands": "4 1 2", "aoi": "aoi.gpkg"},
    {"before": "/data/y.tif", "after": "https://host/y.tif", "name": "Y", "site": "north", "date": "2020-05-01"},
]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"pairs{suffix}"
    frame = pd.DataFrame(ROWS)
    if suffix == ".json":
        path.write_text(json.dumps({"pairs": ROWS}))
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep={".csv": ";", ".tsv": "\t"}[suffix], encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".parquet"])
def test_all_forms_say_the_same(suffix: str, tmp_path: Path) -> None:
    plan = read_manifest(written(tmp_path, suffix))
    first, second = plan.pairs
    assert (first.name, first.before, first.after) == (
        "x_2020",
        str(tmp_path / "a" / "x_2019.tif"),
        str(tmp_path / "b" / "x_2020.tif"),
    )
    assert (first.site, first.before_date, first.date) == ("x", "2019", "2020")
    assert first.options(DetectOptions(min_area="20px")) == DetectOptions(
        threshold=0.7, bands=(4, 1, 2), aoi=str(tmp_path / "aoi.gpkg"), min_area="20px"
    )
    assert (second.name, second.site, second.date) == ("Y", "north", "2020-05-01")
    assert (second.before, second.after) == ("/data/y.tif", "https://host/y.tif")
    assert (plan.faults, plan.notes) == ((), ())


def test_how_polygons_are_cut_out_may_differ_by_pair(tmp_path: Path) -> None:
    text = "before,after,seed_threshold,connectivity,smooth,simplify\na,b,0.9,4,yes,0.5px\nc,d,,,,\n"
    first, second = read_manifest(manifest(tmp_path, text)).pairs
    expected = DetectOptions(seed_threshold=0.9, connectivity=4, smooth=True, simplify="0.5px")
    assert (first.options(DetectOptions()), second.options(DetectOptions())) == (expected, DetectOptions())


def test_parquet_keeps_types_of_its_own(tmp_path: Path) -> None:
    row = {"before": "a", "after": "b", "bands": [4, 1, 2], "smooth": True, "date": dt.date(2020, 5, 1)}
    gaps = {"before": "c", "after": "d", "connectivity": 4}  # a column with gaps becomes one of floats
    pd.DataFrame([row, gaps]).to_parquet(tmp_path / "pairs.parquet")
    first, second = read_manifest(tmp_path / "pairs.parquet").pairs
    assert (first.overrides, first.date) == ({"bands": (4, 1, 2), "smooth": True}, "2020-05-01")
    assert second.overrides == {"connectivity": 4}


def manifest(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("before,then\na,b\n", "has no column 'after'"),
        ("before,after,treshold\na,b,0.5\n", "did you mean 'threshold'"),
        ("before,after\n", "has no rows"),
        ("before,after\na,b,c\n", "line 2 has more values than columns"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=says):
        read_manifest(manifest(tmp_path, text))


def test_other_refusals(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text("{nonsense")
    with pytest.raises(OptionError, match="cannot be read"):
        read_manifest(tmp_path / "pairs.json")
    (tmp_path / "pairs.json").write_text("[" * 9999)
    with pytest.raises(OptionError, match="nested too deeply"):
        read_manifest(tmp_path / "pairs.json")
    (tmp_path / "pairs.txt").write_text("")
    with pytest.raises(OptionError, match="is not a manifest"):
        read_manifest(tmp_path / "pairs.txt")


def test_a_row_that_makes_no_sense_costs_no_other_row(tmp_path: Path) -> None:
    rows = ["a,b,7,,,", "c,d,0.5,yes,2020,", "e,,,,,", "g,h,,perhaps,,", "i,j,,,soon,", "k,l,much,,,"]
    rows += ["m,n,,,,inf", "o,p,,,,5", "q,r,,,,x"]
    text = "\n".join(["before,after,threshold,register,date,connectivity", *rows])
    plan = read_manifest(manifest(tmp_path, text))
    assert [pair.overrides for pair in plan.pairs] == [{"threshold": 0.5, "register": "shift"}]
    assert [fault.name for fault in plan.faults] == [f"row {number}" for number in (1, 3, 4, 5, 6, 7, 8, 9)]
    errors = " ".join(fault.error for fault in plan.faults)
    for words in (
        "row 1: `threshold`: is 7",
        "has no after scene",
        "'perhaps'",
        "date 'soon'",
        "'much'",
        "'inf': is not a whole",
        "is 5",
        "'x'",
    ):
        assert words in errors


def test_registration_in_a_manifest_is_a_mode_and_was_a_switch(tmp_path: Path) -> None:
    values = {"yes": "shift", "TRUE": "shift", "no": "none", "false": "none", "field": "field", " Auto ": "auto"}
    rows = [f"a{i},b{i},{value}" for i, value in enumerate([*values, ""])]
    plan = read_manifest(manifest(tmp_path, "\n".join(["before,after,register", *rows])))
    assert not plan.faults
    assert [pair.overrides.get("register") for pair in plan.pairs] == [*values.values(), None]


def test_columns_of_ones_own_are_noted(tmp_path: Path) -> None:
    plan = read_manifest(manifest(tmp_path, "before,after,pilot\na,b,Amelia\n"))
    assert len(plan.pairs) == 1
    assert "the column 'pilot' is unknown" in plan.notes[0]


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "report", "a" * 200, "a:b"])
def test_names_that_cannot_be_folders_are_faults(name: str, tmp_path: Path) -> None:
    plan = read_manifest(manifest(tmp_path, f"before,after,name\na,b,{name}\nc,d,good\n"))
    assert [pair.name for pair in plan.pairs] == ["good"]
    assert plan.faults[0].name == name


def test_the_same_name_twice_is_a_fault_of_both(tmp_path: Path) -> None:
    plan = read_manifest(manifest(tmp_path, "before,after,name\na,b,x\nc,d,X\ne,f,y\n"))
    assert [pair.name for pair in plan.pairs] == ["y"]
    assert [fault.before[-1] for fault in plan.faults] == ["a", "c"]


def test_a_model_beside_the_manifest_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    plan = read_manifest(manifest(tmp_path, "before,after,model\na,b,mine.safetensors\nc,d,paper\n"))
    assert [pair.overrides["model"] for pair in plan.pairs] == [str(tmp_path / "mine.safetensors"), "paper"]


def test_the_old_name_of_the_area_column_is_still_accepted(tmp_path: Path) -> None:
    text = "before,after,valid_area,aoi\na,b,old.gpkg,\nc,d,old.gpkg,new.gpkg\ne,f,,\n"
    plan = read_manifest(manifest(tmp_path, text))
    assert [pair.overrides.get("aoi") for pair in plan.pairs] == [
        str(tmp_path / "old.gpkg"),
        str(tmp_path / "new.gpkg"),
        None,
    ]
    assert (plan.faults, plan.notes) == ((), ())


@pytest.mark.parametrize("blank", [";;", " ; ; ", "", "; ;"])
def test_blank_rows_are_no_pairs(tmp_path: Path, blank: str) -> None:
    """Spreadsheets write them below the last row, and people between groups."""
    text = f"before;after;aoi\na;b;\n{blank}\nc;;\n{blank}\n{blank}\n"
    plan = read_manifest(manifest(tmp_path, text))
    assert [pair.after for pair in plan.pairs] == [str(tmp_path / "b")]
    (fault,) = plan.faults
    assert fault.error.startswith("row 2: " if blank == "" else "row 3: ")  # csv itself skips a line of nothing
    with pytest.raises(OptionError, match="has no rows"):
        read_manifest(manifest(tmp_path, f"before;after;aoi\n{blank}\n"))


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_blank_rows_of_all_forms(tmp_path: Path, suffix: str) -> None:
    rows = [{"before": "a", "after": "b", "threshold": 0.5}, {"before": None, "after": "", "threshold": None}]
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    plan = read_manifest(path)
    assert (len(plan.pairs), plan.faults) == (1, ())
    assert plan.pairs[0].options(DetectOptions()).threshold == 0.5


def test_cells_of_spaces_are_empty(tmp_path: Path) -> None:
    plan = read_manifest(manifest(tmp_path, "before,after,aoi,name\na,b, ,  \n"))
    assert (plan.pairs[0].overrides, plan.pairs[0].name) == ({}, "b")
