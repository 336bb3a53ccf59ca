"""What is shown of many pairs, and where it lies on the map."""

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from report_samples import squares

from geosiam.imagery.grid import Grid
from geosiam.polygons.writer import write_polygons
from geosiam.qml import POLYGON_COLORS
from geosiam.report.content import color_class, rank
from geosiam.report.map import MapFrame, Plane, common_limit, encode_rings, ground_distance, ring_step, simplify_outline

MARS = "+proj=longlat +a=3396190 +b=3376200 +no_defs"


@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=3), cards=st.integers(0, 15), more=st.integers(0, 15))
@example(counts=[3, 3, 7], cards=8, more=1)  # one of the eight strongest is not among the nine that are kept
@settings(deadline=None, max_examples=8)
def test_each_pair_has_its_share_and_the_strongest_the_rest(tmp_path_factory, counts, cards, more):
    folder = tmp_path_factory.mktemp("rank")
    frames = []
    for index, count in enumerate(counts):
        frame = squares(count)
        frame["score_mean"] = np.random.default_rng(index).integers(5, 10, count) / 10
        write_polygons(frame, folder / f"{index}.gpkg")
        frames.append(pd.DataFrame(frame.drop(columns="geometry")).assign(pair=index))
    ranking = rank([(index, folder / f"{index}.gpkg") for index in range(len(counts))], cards + more, cards)
    assert set(ranking.systems) == set(range(len(counts)))
    assert len(ranking) == len(ranking.outlines) == min(cards + more, sum(counts))
    assert ranking.cards == min(cards, sum(counts))

    by = ["score_mean", "area_m2", "pair", "id"]
    together = pd.concat(frames).sort_values(by, ascending=[False, False, True, True])
    everything = [(int(pair), int(number)) for pair, number in together[["pair", "id"]].to_numpy()]
    kept = [(int(pair), int(number)) for pair, number in ranking.table[["pair", "id"]].to_numpy()]
    on_the_map = [each for each in everything if each in set(kept)]  # what has no place there gets no card
    for chosen, candidates, most in ((kept, everything, cards + more), (kept[:cards], on_the_map, cards)):
        granted = {
            each
            for pair in range(len(counts))
            for each in [e for e in candidates if e[0] == pair][: most // len(counts)]
        }
        rest = [each for each in candidates if each not in granted][: most - len(granted)]
        assert set(chosen) == granted | set(rest)
    for part in (kept[:cards], kept[cards:]):
        assert part == [each for each in everything if each in set(part)]  # strongest first


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000)), min_size=3, max_size=30),
    st.sampled_from(["EPSG:32633", "EPSG:3857", MARS]),
)
def test_rings_add_up_to_the_outline(corners, crs):
    hull = shapely.MultiPoint(corners).convex_hull
    if hull.geom_type != "Polygon" or hull.area < 1:
        return
    east, north = (0.0, 0.0) if crs == MARS else (400_000.0, 5_000_000.0)
    scale = 0.01 if crs == MARS else 1.0
    outline = shapely.MultiPolygon([shapely.transform(hull, lambda xy: xy * scale + (east, north))])
    place = MapFrame.of(crs, (east, north, east + 1000 * scale, north + 1000 * scale))
    ((ring,),) = encode_rings(outline, place, 100)
    step = ring_step(place.extent)
    drawn = np.cumsum(np.reshape(ring, (-1, 2)), axis=0) * step + place.extent[:2]
    exact = np.asarray(outline.geoms[0].exterior.coords)
    if crs == "EPSG:32633":
        x, y = pyproj.Transformer.from_crs(crs, 3857, always_xy=True).transform(exact[:, 0], exact[:, 1])
        exact = np.column_stack([x, y])
    assert np.abs(drawn - exact).max() <= 0.5001 * step


@pytest.mark.parametrize(
    ("crs", "bounds", "on_earth"),
    [
        ("EPSG:32633", (400_000, 5_000_000, 401_000, 5_001_000), True),
        ("EPSG:4326", (-100, 40, -90, 50), True),
        ("EPSG:4326", (170, 0, 190, 10), False),  # across the dateline
        ("EPSG:32601", (100_000, 7_000_000, 400_000, 7_200_000), False),  # likewise
        ("EPSG:3413", (-100_000, -100_000, 100_000, 100_000), False),  # around the pole
        (MARS, (0, 0, 1, 1), False),
        ('LOCAL_CS["a table",UNIT["metre",1]]', (0, 0, 1, 1), False),
    ],
)
def test_the_map_of_the_earth_shows_what_it_can(crs, bounds, on_earth):
    crs = CRS.from_user_input(crs).to_wkt()
    plane = Plane.of(crs, bounds)
    assert plane.on_earth is on_earth
    assert (plane.position(bounds[0], bounds[1]) is not None) is on_earth
    if not on_earth:
        assert plane.extent(bounds) == bounds


def test_an_overview_holds_the_pair_and_nothing_far_from_it():
    grid = Grid(CRS.from_epsg(32633), Affine.rotation(20) @ Affine(2, 0, 400_000, 0, -2, 5_000_000), 300, 100)
    plane = Plane.of(grid.crs.to_wkt(), grid.bounds)
    picture = plane.picture_grid(grid, 64)
    corners = plane.points(np.array(grid.corners))
    left, bottom, right, top = picture.bounds
    assert max(picture.shape) == 64
    assert left <= corners[:, 0].min() <= corners[:, 0].max() <= right
    assert bottom <= corners[:, 1].min() <= corners[:, 1].max() <= top
    assert right - left < 1.6 * np.ptp(corners[:, 0])  # 1.43 stretch of Mercator is in both


def test_many_corners_become_few_but_stay_a_polygon():
    spiky = shapely.Point(0, 0).buffer(100, quad_segs=2000)
    simple = simplify_outline(shapely.MultiPolygon([spiky]), 50)
    assert simple.geom_type == "MultiPolygon"
    assert shapely.get_num_coordinates(simple) <= 50
    assert simple.symmetric_difference(spiky).area < 0.05 * spiky.area


def test_distances_are_those_on_the_ellipsoid():
    assert ground_distance("EPSG:4326", (0, 0), (1, 0)) == pytest.approx(111_319.49, abs=0.01)
    assert ground_distance(MARS, (0, 0), (1, 0)) is None


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_grades_are_the_classes_of_the_qgis_style(threshold):
    from geosiam import qml

    for index, (low, high, color) in enumerate(qml._classes(threshold)):
        assert POLYGON_COLORS[color_class((low + high) / 2, threshold)] == color == POLYGON_COLORS[index]
    assert color_class(threshold, threshold) == 0
    assert color_class(1.0, threshold) == len(POLYGON_COLORS) - 1


@given(st.lists(st.integers(0, 50)), st.integers(0, 500))
def test_what_some_leave_the_others_have(wanted, all_together):
    most = common_limit(np.array(wanted, np.int64), all_together)
    given_out = sum(min(want, most) for want in wanted)
    assert given_out <= all_together or not wanted
    assert sum(wanted) > all_together or given_out == sum(wanted)
    assert not wanted or sum(wanted) <= all_together or given_out > all_together - len(wanted)


def test_small_holes_go_before_the_shape_does():
    holes = [shapely.box(x, y, x + 0.2, y + 0.2) for x in range(1, 40) for y in range(1, 20)]
    lake = shapely.box(10, 5, 30, 15)
    sieve = shapely.box(0, 0, 41, 21).difference(shapely.union_all([*holes, lake]))
    simple = simplify_outline(shapely.MultiPolygon([sieve]), 60)
    assert shapely.get_num_coordinates(simple) <= 60
    whole = shapely.box(0, 0, 41, 21).difference(lake)
    assert simple.intersection(whole).area / simple.union(whole).area > 0.99
