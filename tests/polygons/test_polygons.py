"""The table of polygons: its columns, its filters, and the same from a file, an array and a lazy array."""

import numpy as np
import pytest
import rioxarray  # noqa: F401 - the accessor
import xarray as xr
from affine import Affine
from array_cells import polygons as cells
from array_cells import vectorize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS

from geosiam.errors import OptionError, SceneNotFoundError, SceneRefusedError
from geosiam.imagery.grid import Block, Grid, Window
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.schema import COLUMNS
from geosiam.polygons.table import polygon_table
from geosiam.scores.raster import STRIDE_TAG, ScoreRaster
from geosiam.scores.writer import ScoreRasterWriter

TRANSFORM = Affine(4, 0, 500_000, 0, -4, 5_800_000)


@pytest.fixture
def scores():
    """Three objects: 2 x 3 cells, 1 cell beside nodata, 4 x 4 cells with a hole."""
    scores = np.full((30, 40), 0.1, np.float32)
    scores[2:4, 5:8] = [[0.6, 0.7, 0.8], [0.6, 0.7, 1.0]]
    scores[10, 20] = 0.9
    scores[11, 21] = np.nan
    scores[20:24, 10:14] = 0.55
    scores[21:23, 11:13] = 0.2
    return scores


@pytest.fixture
def raster(scores, tmp_path):
    grid = Grid(CRS.from_epsg(32633), TRANSFORM, 40, 30)
    with ScoreRasterWriter(tmp_path / "s.tif", grid, dtype="float32", tags={STRIDE_TAG: "8"}) as writer:
        writer.write(Block(0, Window(0, 30, 0, 40)), scores)
    return tmp_path / "s.tif"


def as_array(scores, **attrs):
    array = xr.DataArray(scores, dims=("y", "x"), attrs=attrs)
    return array.rio.write_crs("EPSG:32633").rio.write_transform(TRANSFORM)


@given(
    values=hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(0.5, 1, width=32)),
    as_bytes=st.booleans(),
)
@settings(deadline=None)
def test_ninety_percent_of_the_cells_do_not_exceed_the_ninth_decile(values, as_bytes):
    """Against numpy: exactly for scores of a raster of bytes, up to the next step for others."""
    if as_bytes:
        values = np.rint(values * 254).astype(np.float32) / np.float32(254)
    (found,) = cells(values[None]).score_p90
    expected = np.quantile(values, 0.9, method="inverted_cdf") if len(values) >= 10 else values.max()
    assert expected - (0 if as_bytes else 2e-7) <= found <= expected + (0 if as_bytes else 1.02 / 65_532)
    assert found <= values.max()


def test_each_polygon_carries_its_evidence(raster):
    frame = vectorize(raster, threshold=0.5, smooth=False, shift_px=0.3)
    assert list(frame.columns) == [*COLUMNS, "geometry"]
    assert frame.crs.to_epsg() == 32633
    assert frame["id"].tolist() == [1, 2, 3]
    assert frame.cells.tolist() == [6, 1, 12]
    assert frame.score_mean.tolist() == pytest.approx([4.4 / 6, 0.9, 0.55])
    assert frame.score_max.tolist() == pytest.approx([1.0, 0.9, 0.55])
    assert frame.area_m2.tolist() == [96, 16, 192]
    assert frame.valid_fraction.tolist() == pytest.approx([1, 8 / 9, 1])
    assert frame.touches_nodata.tolist() == [False, True, False]
    assert (frame.shift_px == 0.3).all()
    assert frame.review.isna().all()
    assert (frame.geom_type == "MultiPolygon").all()
    assert frame.is_valid.all()
    assert frame.area.tolist() == [96, 16, 192]
    assert frame.total_bounds.tolist() == [500_020, 5_799_904, 500_084, 5_799_992]


def test_without_polygons_the_table_has_the_same_columns(raster):
    some, none = vectorize(raster), vectorize(raster, min_area="1000000m2")
    assert len(none) == 0
    assert (none.dtypes == some.dtypes).all()
    assert none.crs == some.crs


@pytest.mark.parametrize(
    ("smallest", "left"),
    [
        (None, 3),
        ("0px", 3),
        ("64px", 3),
        ("64.1px", 2),
        ("385px", 1),
        ("16m2", 3),
        ("17m2", 2),
        ("96m2", 2),
        ("193m2", 0),
    ],
)
def test_small_ones_are_left_out(raster, smallest, left):
    assert len(vectorize(raster, min_area=smallest)) == left


def test_square_meters_are_counted_where_the_crs_has_degrees(scores):
    array = xr.DataArray(scores, dims=("y", "x")).rio.write_crs("EPSG:4326")
    array = array.rio.write_transform(Affine(1e-5, 0, 15, 0, -1e-5, 60))
    everything = vectorize(array, smooth=False)
    assert everything.area_m2.tolist() == pytest.approx(everything.cells * 0.6217, rel=1e-3)
    assert vectorize(array, min_area="0.7m2").cells.tolist() == [6, 12]


def test_arrays_lazy_or_not_give_the_same_as_the_file(raster, scores):
    expected = vectorize(raster, min_area="65px")
    for array in (as_array(scores, stride=8), as_array(scores, stride=8).chunk({"y": 7, "x": 11})):
        found = vectorize(array, min_area="65px")
        assert found.equals(expected)
    assert vectorize(as_array(scores, stride=8).expand_dims("band"), min_area="65px").equals(expected)
    assert vectorize(ScoreRaster.open(raster), min_area="65px").equals(expected)


def test_pieces_are_numbered_through(raster):
    table = polygon_table(ScoreRaster.open(raster), PolygonOptions(threshold=0.5))
    assert [i for piece in table.tables for i in piece["id"].to_pylist()] == [1, 2, 3]


def test_connectivity_and_seeds(scores, raster):
    scores[24, 14] = 0.55  # at a corner of the third
    assert len(vectorize(as_array(scores))) == 3
    assert len(vectorize(as_array(scores), connectivity=4)) == 4
    assert vectorize(raster, seed_threshold=0.85).cells.tolist() == [6, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"seed_threshold": 0},
        {"seed_threshold": 0.4},
        {"seed_threshold": float("nan")},
        {"simplify": "1m2"},
        {"simplify": "infpx"},
        {"min_area": "big"},
        {"connectivity": 5},
    ],
)
def test_senseless_options_are_refused(raster, options):
    with pytest.raises(OptionError):
        vectorize(raster, **options)


def test_senseless_scores_are_refused(scores, tmp_path):
    with pytest.raises(SceneNotFoundError):
        vectorize(tmp_path / "none.tif")
    with pytest.raises(SceneRefusedError, match="one band"):
        vectorize(as_array(np.zeros((3, 4), np.float32)).expand_dims(band=2))
    with pytest.raises(SceneRefusedError, match="not probabilities"):
        vectorize(as_array(np.zeros((3, 4), np.uint8)))
    with pytest.raises(SceneRefusedError, match=r"write_crs"):
        vectorize(xr.DataArray(scores, dims=("y", "x")))
