"""Polygons of every shape and of any strips: as GDAL's polygonizer makes them of the whole array."""

import numpy as np
import pytest
import rasterio.features
import shapely
import shapely.geometry
from array_cells import polygons
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from test_components import PATTERNS

HEIGHTS = (1, 7, 256)
LEVELS = st.sampled_from([np.nan, 0.0, 0.3, 0.5, 0.8, 1.0])
RASTERS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=LEVELS)


def of_gdal(mask, connectivity):
    """Return what GDAL makes of a mask; its rings may touch themselves, which is mended."""
    found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=connectivity)
    return [shapely.make_valid(shapely.geometry.shape(outline)) for outline, _ in found]


def assert_as_gdal(scores, connectivity):
    frame = polygons(scores, connectivity=connectivity, smooth=False)
    theirs = of_gdal(scores >= 0.5, connectivity)
    assert frame.is_valid.all()
    assert sorted(frame.area) == sorted(shapely.area(theirs))
    assert frame.area.tolist() == frame.cells.tolist() == frame.area_m2.tolist()
    assert shapely.union_all(frame.geometry).equals(shapely.union_all(theirs))
    return frame


def assert_strips_do_not_show(scores, whole, **options):
    for height in HEIGHTS:
        cut = polygons(scores, height, **options)
        assert cut.drop(columns="geometry").equals(whole.drop(columns="geometry"))
        assert shapely.to_wkb(cut.geometry).tolist() == shapely.to_wkb(whole.geometry).tolist()


@given(RASTERS, st.sampled_from([4, 8]))
@settings(max_examples=60, deadline=None)
def test_area_and_union_are_those_of_gdal(scores, connectivity):
    frame = assert_as_gdal(scores, connectivity)
    assert_strips_do_not_show(scores, frame, connectivity=connectivity, smooth=False)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", PATTERNS)
def test_combs_spirals_and_checkerboards(name, connectivity):
    scores = PATTERNS[name].astype(np.float32)
    frame = assert_as_gdal(scores, connectivity)
    assert_strips_do_not_show(scores, frame, connectivity=connectivity, smooth=False)


@pytest.mark.parametrize("options", [{}, {"smooth": False}, {"simplify": "1.5px"}, {"seed_threshold": 0.999}])
def test_noise_of_many_strips(options):
    """600 rows: more than two strips of 256, so that what ended long ago is read again."""
    scores = np.random.default_rng(1).random((600, 40)).astype(np.float32)
    scores[:, 20] = 0.9  # one component from the first row to the last
    scores[100:120, 3:9] = np.nan
    whole = polygons(scores, **options)
    assert whole.cells.max() > 600
    assert_strips_do_not_show(scores, whole, **options)


def test_a_component_that_spans_the_scene():
    """Ground with holes of every size in it; all else lies in those."""
    noise = ndimage.gaussian_filter(np.random.default_rng(2).random((700, 300)), 3)
    scores = (noise > np.quantile(noise, 0.25)).astype(np.float32)
    frame = assert_as_gdal(scores, 8)
    largest = frame.loc[frame.cells.idxmax()]
    assert largest.geometry.bounds == (0, 0, 300, 700)
    assert sum(len(part.interiors) for part in largest.geometry.geoms) > 20
    assert_strips_do_not_show(scores, frame, smooth=False)
