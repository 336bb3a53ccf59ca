"""Verdicts are read alike from any file that an analyst has filled in."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.polygons.results import normalize_review, normalize_reviews, read_reviews


def write(path, reviews, **options):
    boxes = [shapely.box(i, 0, i + 1, 1) for i in range(len(reviews))]
    frame = geopandas.GeoDataFrame({"id": range(len(reviews)), "review": reviews}, geometry=boxes, crs=32633)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path, **options)
    return path


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("confirmed", "confirmed"),
        (" Yes ", "confirmed"),
        (1.0, "confirmed"),
        (True, "confirmed"),
        ("WRONG", "rejected"),
        (0, "rejected"),
        ("maybe", "unsure"),
        ("unreviewed", None),
        ("", None),
        (None, None),
        (np.nan, None),
        ("Ask Ann ", "Ask Ann"),
    ],
)
def test_words_of_the_same_meaning_are_the_same_verdict(value, verdict):
    assert normalize_review(value) == verdict
    assert normalize_reviews(pd.Series([value, None], dtype=object)).tolist() == [verdict, None]


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp", "a.parquet"])
def test_any_format_is_read(tmp_path, name):
    path = write(tmp_path / name, ["yes", None, "rejected"])
    table = read_reviews(path, ["id"])
    assert list(table.columns) == ["id", "review"]
    assert table["id"].tolist() == [0, 1, 2]
    assert table["review"].tolist() == ["confirmed", None, "rejected"]
    outlines = read_reviews(path, geometry=True)
    assert outlines.total_bounds.tolist() == [0, 0, 3, 1]
    assert list(outlines.columns) == ["review", "geometry"]


def test_the_layer_of_anomalies_comes_before_others(tmp_path):
    path = write(tmp_path / "a.gpkg", ["no"], layer="aoi")
    write(path, ["yes", "yes"], layer="anomalies")
    assert read_reviews(path)["review"].tolist() == ["confirmed"] * 2


def test_what_holds_no_verdicts_is_refused(tmp_path):
    with pytest.raises(SceneNotFoundError, match="does not exist"):
        read_reviews(tmp_path / "a.gpkg")
    with pytest.raises(SceneRefusedError, match="has no column score_max"):
        read_reviews(write(tmp_path / "b.gpkg", ["yes"]), ["score_max"])
    (tmp_path / "c.gpkg").write_bytes(b"no database, but longer than sixteen bytes")
    with pytest.raises(SceneUnreadableError, match="has no layer of polygons that can be read"):
        read_reviews(tmp_path / "c.gpkg")
