"""MultiPolygons cover exactly their cells, are valid, and agree with GDAL's polygonizer."""

import numpy as np
import pytest
import rasterio.features
import shapely
import shapely.geometry
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from single_components import single

from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import trace

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def outlines(mask, connectivity=8, transform=None, height=1000):
    found = []
    strips = (mask[i : i + height].astype(np.float32) for i in range(0, len(mask), height))
    for batch in component_batches(strips, 0.5, connectivity=connectivity):
        traced = trace(batch).to_crs_coordinates(transform or Affine.identity())
        found.extend(zip(single(batch), traced.geometries(), strict=True))
    return found


@given(MASKS, st.sampled_from([4, 8]))
@settings(max_examples=300, deadline=None)
def test_each_outline_is_valid_and_covers_its_cells(mask, connectivity):
    for component, polygon in outlines(mask, connectivity):
        cells = [shapely.box(c, row, c + 1, row + 1) for row, a, b in component.runs for c in range(a, b)]
        assert polygon.geom_type == "MultiPolygon"
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        assert polygon.equals(shapely.union_all(cells))


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_4_connected_outlines_are_those_of_gdal(mask):
    ours = {p.normalize().wkb for _, p in outlines(mask, 4)}
    shapes = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    theirs = [shapely.MultiPolygon([shapely.geometry.shape(s)]) for s, _ in shapes]
    assert len(theirs) == len(ours)
    for t in theirs:
        if t.is_valid:  # where a hole touches its exterior, GDAL's rings touch themselves
            assert t.normalize().wkb in ours


@given(MASKS, st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_strips_do_not_show(mask, height):
    assert [p.wkb for _, p in outlines(mask, height=height)] == [p.wkb for _, p in outlines(mask)]


def test_exteriors_run_counter_clockwise_on_a_north_up_grid():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    ((_, polygon),) = outlines(mask, transform=Affine(2, 0, 100, 0, -2, 50))
    (part,) = polygon.geoms
    assert part.exterior.is_ccw
    assert not part.interiors[0].is_ccw
    assert polygon.bounds == (100, 40, 110, 50)
    assert polygon.area == 24 * 4


@pytest.mark.parametrize(
    ("name", "mask", "parts", "holes"),
    [
        ("diagonal", [[1, 0], [0, 1]], 2, 0),
        ("other diagonal", [[0, 1], [1, 0]], 2, 0),
        ("hole that touches the exterior in a point", [[1, 1, 1], [1, 0, 1], [1, 1, 0]], 1, 1),
        ("two holes that touch", [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], 1, 2),
        ("island in a hole, touching", [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]], 2, 0),
        ("ring of corners", [[0, 1, 0], [1, 0, 1], [0, 1, 0]], 4, 0),
    ],
)
def test_corner_touches(name, mask, parts, holes):
    ((_, polygon),) = outlines(np.array(mask, bool))
    assert polygon.is_valid, name
    assert len(polygon.geoms) == parts
    assert sum(len(part.interiors) for part in polygon.geoms) == holes


def test_rotated_and_south_up_grids():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    for transform in (Affine(3, 1, 10, 1, -2, 5), Affine(1, 0, 0, 0, 1, 0), Affine.rotation(30) @ Affine.scale(2, -2)):
        ((_, polygon),) = outlines(mask, transform=transform)
        corners = [transform @ corner for corner in ((2, 1), (5, 1), (5, 3), (2, 3))]
        assert polygon.symmetric_difference(shapely.Polygon(corners)).area < 1e-9
        assert polygon.is_valid


def test_a_large_labyrinth():
    rng = np.random.default_rng(0)
    mask = rng.random((300, 400)) < 0.55
    found = outlines(mask)
    assert sum(p.area for _, p in found) == mask.sum()
    assert all(p.is_valid for _, p in found)
    assert [p.area for _, p in found] == [c.cells for c, _ in found]
