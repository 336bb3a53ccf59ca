"""Smooth outlines: the topology of the components, valid, apart from each other, and where the threshold is."""

import numpy as np
import shapely
from affine import Affine
from array_cells import Cells
from array_cells import polygons as outlines
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS
from scipy import ndimage
from skimage.measure import find_contours

from geosiam.imagery.grid import Grid
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_table

VALUES = st.sampled_from([np.nan, 0.0, 0.2, 0.5, 0.7, 1.0])
RASTERS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=11), elements=VALUES)


def centers(mask):
    return shapely.points(np.argwhere(mask)[:, ::-1] + 0.5)


@given(RASTERS, st.sampled_from([4, 8]))
@settings(max_examples=150, deadline=None)
def test_topology_is_that_of_the_components(scores, connectivity):
    exact = outlines(scores, connectivity=connectivity, smooth=False)
    smooth = outlines(scores, connectivity=connectivity, smooth=True)
    assert smooth.cells.tolist() == exact.cells.tolist()
    assert smooth.is_valid.all()
    label, count = ndimage.label(scores >= 0.5, np.ones((3, 3)) if connectivity == 8 else None)
    assert len(smooth) == count
    for polygon in smooth.geometry:
        (part,) = polygon.geoms
        inside = shapely.contains(polygon, centers(np.ones(scores.shape, bool))).reshape(scores.shape)
        (number,) = set(label[inside])
        assert np.array_equal(inside, label == number)  # its own cells, all of them, and no others
        _, around = ndimage.label(np.pad(~inside, 1, constant_values=True))
        assert len(part.interiors) == around - 1
    pairs = shapely.STRtree(smooth.geometry).query(smooth.geometry, predicate="intersects")
    assert (pairs[0] == pairs[1]).all()


@given(RASTERS, st.sampled_from([1, 2, 7, 256]))
@settings(max_examples=60, deadline=None)
def test_strips_do_not_show(scores, height):
    whole, cut = outlines(scores, smooth=True), outlines(scores, height, smooth=True)
    assert cut.drop(columns="geometry").equals(whole.drop(columns="geometry"))
    assert [g.wkb for g in cut.geometry] == [g.wkb for g in whole.geometry]


def test_outlines_are_the_contours_of_the_log_odds():
    """Against scikit-image, where no point is held back from a cell's center."""
    y, x = np.mgrid[:30, :40]
    scores = 1 / (1 + np.exp(np.hypot((x - 18.3) / 1.7, (y - 14.6)) - 7.2)).astype(np.float32)
    (polygon,) = outlines(scores, smooth=True).geometry
    contour = max(find_contours(np.log(scores / (1 - scores)), 0.0), key=len)[:, ::-1] + 0.5
    expected = shapely.Polygon(contour)
    assert polygon.symmetric_difference(expected).area < 0.01 * expected.area


def test_so_are_those_at_a_threshold_beyond_what_bytes_can_store():
    y, x = np.mgrid[:30, :40]
    log_odds = 16 - 1.1 * np.hypot((x - 18.3) / 1.7, (y - 14.6))
    scores, limit = (1 / (1 + np.exp(-log_odds))).astype(np.float32), 0.9995
    (polygon,) = outlines(scores, threshold=limit, smooth=True).geometry
    contour = max(find_contours(log_odds, np.log(limit / (1 - limit))), key=len)[:, ::-1] + 0.5
    expected = shapely.Polygon(contour)
    assert polygon.symmetric_difference(expected).area < 0.01 * expected.area


def test_a_disc_is_drawn_rounder_than_its_cells():
    y, x = np.mgrid[:30, :30]
    scores = 1 / (1 + np.exp(3 * (np.hypot(x - 14, y - 15) - 6.3))).astype(np.float32)
    disc = shapely.Point(14.5, 15.5).buffer(6.3, 64)

    def iou(geometry):
        return geometry.intersection(disc).area / geometry.union(disc).area

    (exact,), (smooth,) = (outlines(scores, smooth=s).geometry for s in (False, True))
    assert iou(smooth) > 0.98 > iou(exact)
    (row,) = outlines(scores, smooth=True).itertuples()
    assert row.area_m2 == smooth.area
    assert row.perimeter_m == smooth.length < exact.length


def test_single_cells_and_holes_stay():
    scores = np.full((5, 5), 0.5, np.float32)
    scores[2, 2] = 0.499
    (ring,) = outlines(scores, smooth=True).geometry
    assert len(ring.geoms[0].interiors) == 1
    alone = np.zeros((3, 3), np.float32)
    alone[1, 1] = 0.5
    (diamond,) = outlines(alone, smooth=True).geometry
    assert diamond.area > 0.05


def test_a_last_cell_in_part_keeps_its_outline_inside_the_scene():
    scores = np.zeros((4, 4), np.float32)
    scores[3, 1:] = 1
    for smooth in (False, True):
        frame = outlines(scores, extent=(3.25, 3.1), smooth=smooth)
        assert frame.is_valid.all()
        assert frame.total_bounds[2:].max() <= 3.25
        assert frame.area.iloc[0] > 0


@given(RASTERS, st.floats(0, 4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_simplified_outlines_are_valid_and_keep_parts_and_holes(scores, tolerance, smooth):
    full = outlines(scores, smooth=smooth)
    fewer = outlines(scores, smooth=smooth, simplify=f"{tolerance:.9f}px")
    assert fewer.is_valid.all()
    assert fewer.geometry.count_coordinates().sum() <= full.geometry.count_coordinates().sum()
    for a, b in zip(full.geometry, fewer.geometry, strict=True):
        assert [len(p.interiors) for p in a.geoms] == [len(p.interiors) for p in b.geoms]
        assert a.hausdorff_distance(b) <= tolerance + 1e-6
        if tolerance < 0.4 and not smooth:
            assert a.equals(b)


def test_a_tolerance_in_meters_is_one_on_the_ground():
    """A staircase of steps of 4 m goes at 3 m, at 60 degrees north as anywhere."""
    scores = np.tril(np.ones((12, 12), np.float32))
    meter = 1 / 111_320
    grid = Grid(CRS.from_epsg(4326), Affine(8 * meter, 0, 15, 0, -4 * meter, 60), 12, 12)
    cells = Cells(scores)
    cells.grid = grid
    options = {text: PolygonOptions(threshold=0.5, smooth=False, simplify=text) for text in ("2m", "3.5m")}
    count = {
        text: polygon_table(cells, chosen).frame().geometry.count_coordinates().sum()
        for text, chosen in options.items()
    }
    assert count["2m"] > 20
    assert count["3.5m"] == 5
