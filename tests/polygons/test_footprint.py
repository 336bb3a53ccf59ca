"""The footprint: the cells that have a score, whatever strips they come in; in squares where there are too many."""

import geopandas
import numpy as np
import pytest
import shapely
from array_cells import Cells
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geosiam.polygons import score_stream
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.schema import FOOTPRINT_COLUMNS
from geosiam.polygons.table import polygon_table

RASTERS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([np.nan, 0.0, 1.0])
)


def footprint_of(scores, height=1000, extent=None, stride=1):
    polygons = polygon_table(Cells(scores, height, extent, stride), PolygonOptions(threshold=0.5))
    for _ in polygons.tables:
        pass
    table = polygons.footprint_table().to_pandas()
    return geopandas.GeoDataFrame(table.assign(geometry=shapely.from_wkb(table["geometry"])), crs=polygons.crs)


def cells_of(mask, side=1):
    places = np.argwhere(mask) * side
    return shapely.union_all([shapely.box(col, row, col + side, row + side) for row, col in places])


@given(RASTERS, st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_it_is_the_union_of_the_cells_with_a_score(scores, height):
    frame, known = footprint_of(scores, height), ~np.isnan(scores)
    assert list(frame.columns) == [*FOOTPRINT_COLUMNS, "geometry"]
    assert len(frame) == known.any()
    for row in frame.itertuples():
        assert row.geometry.is_valid
        assert row.geometry.equals(cells_of(known))
        assert row.looked_at_m2 == known.sum()
        assert row.accuracy_px == 1


@given(RASTERS, st.sampled_from([1, 3, 1000]), st.sampled_from([2, 5]))
@settings(max_examples=40, deadline=None)
def test_in_squares_it_is_those_that_are_known_by_half(scores, height, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_stream, "MAX_CELLS", most)
        frame = footprint_of(scores, height, stride=4)
    side = -(-max(scores.shape) // most)
    known = ~np.isnan(scores)
    half = np.array(
        [
            [known[i : i + side, j : j + side].mean() >= 0.5 for j in range(0, scores.shape[1], side)]
            for i in range(0, scores.shape[0], side)
        ]
    )
    inside = shapely.box(0, 0, *scores.shape[::-1])
    assert len(frame) == half.any()
    for row in frame.itertuples():
        assert row.geometry.equals(cells_of(half, side).intersection(inside))
        assert row.accuracy_px == 4 * side


def test_it_ends_with_the_scene():
    (row,) = footprint_of(np.zeros((4, 5)), extent=(3.5, 4.25)).itertuples()
    assert row.geometry.bounds == (0, 0, 4.25, 3.5)
    assert row.looked_at_m2 == 4.25 * 3.5
