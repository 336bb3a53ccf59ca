"""The two commands, as a user calls them."""

import json
import re

import geopandas
import pytest
from report_samples import record, squares

from geosiam.polygons.results import read_result
from geosiam.polygons.writer import write_polygons
from geosiam.report import ReportOptions
from geosiam_cli.main import main
from geosiam_cli.report import REPORT_OPTIONS, command


@pytest.fixture
def result(tmp_path):
    write_polygons(squares(4), tmp_path / "a.gpkg", provenance=record(tmp_path))
    return tmp_path / "a.gpkg"


def test_report_prints_the_page(result, tmp_path, capsys):
    assert main(["report", str(result), "-o", str(tmp_path / "page"), "--cards", "3", "--title", "Mine"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'page' / 'index.html'}\n"
    assert "3 of 4 anomalies in 1 pair(s) have a card" in err
    assert "3 without a picture" in err
    assert "<title>Mine</title>" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_report_and_review_as_json(result, tmp_path, capsys):
    assert main(["report", str(result), "-o", str(tmp_path / "page"), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["pairs"], output["failed"], output["anomalies"], output["cards"]) == (1, 0, 4, 4)
    pairs = [{"name": "a", "run": read_result(result).run, "verdicts": {"2": "rejected", "9": "unsure"}}]
    (tmp_path / "v.json").write_text(json.dumps({"format": "geosiam verdicts", "version": 1, "pairs": pairs}))
    assert main(["review", str(tmp_path / "v.json"), str(result), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"path": str(result), "written": 1, "missing": [9], "merged": False}]
    assert "has no polygon 9 any more" in err
    assert geopandas.read_file(result, layer="anomalies").review[1] == "rejected"


def test_refusals_are_one_line(result, tmp_path, capsys):
    assert main(["review", str(result), str(result)]) == 3
    assert "cannot be read" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "gone"), "-o", str(tmp_path / "page")]) == 3
    assert "does not exist" in capsys.readouterr().err
    assert main(["report", str(result), "-o", str(tmp_path / "page"), "--max-mb", "0"]) == 3
    assert re.search(r"max.mb.*0`?: is too small", capsys.readouterr().err)


def test_stated_defaults_are_those_of_the_library():
    stated = {param.name: param.show_default for param in command.params if param.name in REPORT_OPTIONS}
    for name in REPORT_OPTIONS:
        default = getattr(ReportOptions(), name)
        if default is not None:
            assert stated[name] == f"{default:g}"
