"""`geosiam evaluate` as its user calls it."""

import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from geosiam.evaluation.baselines import BASELINES
from geosiam_cli import evaluate
from geosiam_cli.main import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with scores, truth and reviewed polygons."""
    monkeypatch.chdir(tmp_path)
    place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 400_000, 0, -1, 5_000_000)}
    scores = np.zeros((40, 40), np.float32)
    scores[10:20, 10:20] = 0.9
    scores[30:32, 5:7] = 0.7
    with rasterio.open(
        "scores.tif", "w", driver="GTiff", count=1, dtype="float32", height=40, width=40, **place
    ) as file:
        file.write(scores, 1)
    truth = shapely.box(400_010, 4_999_980, 400_020, 4_999_990)
    geopandas.GeoDataFrame(geometry=[truth], crs=32633).to_file("truth.gpkg")
    table = {"score_max": np.linspace(0.5, 0.95, 12), "review": ["rejected"] * 3 + ["confirmed"] * 9}
    geopandas.GeoDataFrame(table, geometry=[truth] * 12, crs=32633).to_file("anomalies.gpkg", layer="anomalies")
    return tmp_path


def test_the_command_knows_every_baseline():
    assert tuple(BASELINES) == evaluate.BASELINES


def test_a_table_and_json(here, capsys):
    assert main(["evaluate", "scores.tif", "truth.gpkg"]) == 0
    table = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert table["AUROC"] == "1.0000"
    assert table["object precision"] == "0.5000"
    assert main(["evaluate", "scores.tif", "truth.gpkg", "--threshold", "0.75", "--json", "--out", "report"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (figures,) = answer["evaluations"]
    assert (figures["threshold"], figures["object_precision"], figures["iou"]) == (0.75, 1, 1)
    assert answer["files"] == ["report/evaluation.md", "report/evaluation.json", "report/curves.png"]
    assert all((here / name).stat().st_size for name in answer["files"])


@pytest.mark.usefixtures("here")
def test_review(capsys):
    assert main(["evaluate", "--review", "anomalies.gpkg", "--target-precision", "1"]) == 0
    output = capsys.readouterr().out
    assert "precision" in output
    assert main(["evaluate", "--review", "anomalies.gpkg", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["confirmed"], answer["rejected"]) == (9, 3)
    assert 0.5 < answer["threshold"] < 0.65


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "PREDICTION TRUTH"),
        (["scores.tif"], 2, "not 1"),
        (["a", "b", "c", "d"], 2, "not 4"),
        (["scores.tif", "truth.gpkg", "--review", "anomalies.gpkg"], 2, "or --review"),
        (["scores.tif", "gone.gpkg"], 3, "gone.gpkg: does not exist"),
        (["gone.tif", "truth.gpkg"], 3, "gone.tif: does not exist"),
        (["scores.tif", "truth.gpkg", "--out", "truth.gpkg"], 3, "truth.gpkg: cannot be created"),
        (["--pairs", "gone.csv"], 3, "gone.csv: does not exist"),
        (["--review", "truth.gpkg"], 3, "truth.gpkg: has no column review"),
    ],
)
def test_errors_are_one_line(args, code, message, capsys):
    assert main(["evaluate", *args]) == code
    assert message in capsys.readouterr().err
