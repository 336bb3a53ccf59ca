"""Flights that do not look straight down: what stands on the ground leans, the ground stays."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import KDTree

from geosiam.errors import OptionError
from geosiam.imagery.grid import Window
from geosiam.synthesis import light, scene
from geosiam.synthesis.light import Flight, lean_margin
from geosiam.synthesis.pairs import SyntheticConfig, _mask, _scene, make_pair, varied_config
from geosiam.synthesis.things import outline

PLAIN = Flight(noise=0, jpeg_quality=None)
LEANING = replace(PLAIN, off_nadir=12.0, view_azimuth=250.0)
SIDE, TALL = 160, 60.0
INNER = (slice(40, 120), slice(40, 120))


def box(rows=(70, 90), cols=(65, 95), height=40.0):
    heights = np.zeros((SIDE, SIDE), np.float32)
    heights[slice(*rows), slice(*cols)] = height
    return heights


def sight(heights, flight, highest=TALL, deepest=3, inner=INNER):
    at = (np.arange(SIDE)[:, None] * np.ones(2)).T  # meters are pixels here
    lean = flight.lean(at[0][None, inner[1]], at[1][inner[0], None])
    return light.visible_surface(heights, inner, lean, flight.tangent, (highest, deepest))


def centroid(mask):
    return np.array(np.nonzero(mask)).mean(axis=1)


views = st.builds(Flight, off_nadir=st.floats(0, 30), view_azimuth=st.floats(0, 360))
mosaics = st.builds(replace, views, frame_spacing=st.floats(10, 500))


def test_a_flight_that_looks_straight_down_has_no_azimuth():
    config = SyntheticConfig(height=200, width=300, seed=2)
    turned = replace(config, before=replace(config.before, view_azimuth=77.0))
    for first, second in zip(vars(make_pair(config)).values(), vars(make_pair(turned)).values(), strict=True):
        assert first.equals(second) if hasattr(first, "equals") else np.array_equal(first, second)


def test_the_lean_of_one_date_leaves_the_other_alone():
    config = SyntheticConfig(height=300, width=300, seed=3, objects=0, before=PLAIN)
    upright = make_pair(config).before.astype(int)
    other = make_pair(replace(config, after=replace(config.after, off_nadir=10, view_azimuth=30))).before
    assert np.abs(upright - other).max() <= 1  # float32 phases of rows, computed from another corner
    assert (upright != other).mean() < 1e-3


@given(st.data())
@settings(max_examples=4, deadline=None)
def test_any_window_of_a_leaning_pair_is_part_of_the_whole(leaning_pair, data):
    config, pair = leaning_pair
    row, col = data.draw(st.integers(0, 298)), data.draw(st.integers(0, 618))
    window = Window(row, data.draw(st.integers(row + 1, 300)), col, data.draw(st.integers(col + 1, 620)))
    before, after = _scene(config).render(window)
    np.testing.assert_array_equal(before, pair.before[(slice(None), *window.slices)])
    np.testing.assert_array_equal(after, pair.after[(slice(None), *window.slices)])


@pytest.fixture(scope="module")
def leaning_pair():
    config = SyntheticConfig(height=300, width=620, objects=8, seed=2, landscape="urban", after=LEANING)
    config = replace(config, before=replace(LEANING, view_azimuth=20.0, frame_spacing=9.0))
    return config, make_pair(config)


def test_the_lattice_of_tiles_does_not_show(monkeypatch):
    flights = {"before": LEANING, "after": replace(LEANING, off_nadir=30.0, frame_spacing=9.0)}
    config = SyntheticConfig(300, 300, objects=8, seed=2, landscape="urban", shift_px=(0, 0), **flights)
    whole = make_pair(config)
    monkeypatch.setattr(scene, "TILE", 128)
    tiled = make_pair(config)
    for first, second in ((whole.before, tiled.before), (whole.after, tiled.after)):
        difference = np.abs(first.astype(int) - second)
        assert (difference > 0).mean() < 1e-3  # float32 phases and positions, computed from another corner
        assert (difference > 1).mean() < 1e-4


@given(views | mosaics)
@settings(deadline=None)
def test_level_ground_does_not_move(flight):
    image = np.random.default_rng(1).random((SIDE, SIDE), np.float32)
    visible = sight(np.zeros((SIDE, SIDE), np.float32), flight)
    np.testing.assert_array_equal(visible.sampled(image), image[INNER])
    assert not visible.is_facade.any()


@given(views, st.floats(5, 40))
@settings(deadline=None)
def test_a_roof_is_displaced_by_its_height_times_the_tangent_away_from_the_camera(flight, height):
    heights = box(height=height)
    roof = sight(heights, flight)
    visible = (roof.sampled((heights > 0).astype(np.float32)) > 0.5) & ~roof.is_facade
    displacement = height * np.tan(np.radians(flight.off_nadir))
    azimuth = np.radians(flight.view_azimuth)
    expected = displacement * np.array([np.cos(azimuth), -np.sin(azimuth)])  # rows down, columns right
    assert centroid(visible) == pytest.approx(centroid(heights[INNER] > 0) + expected, abs=1.0)
    assert visible.sum() == pytest.approx(600, abs=100)  # its outline is 100 px long


def test_a_leaning_box_hides_the_ground_behind_it_and_shows_the_wall_in_front():
    heights = box()  # 20 x 30 px, 40 px high
    flight = Flight(off_nadir=np.degrees(np.arctan(0.25)), view_azimuth=180.0)  # 10 px of lean toward the north
    view = sight(heights, flight)
    expected = np.zeros((80, 80), bool)
    expected[40:50, 25:55] = True  # the lower half of the footprint, rows 70-90 of the map
    np.testing.assert_array_equal(view.is_facade, expected)
    shows = np.zeros((SIDE, SIDE), bool)
    shows[tuple(np.rint(view.positions).astype(int).reshape(2, -1))] = True
    np.testing.assert_array_equal(shows[60:70, 65:95], np.zeros((10, 30), bool))  # ground behind
    assert shows[59, 65:95].all()
    assert shows[70:90, 65:95].all()  # the whole roof
    assert shows[90:95, 65:95].all()  # ground in front


def test_a_low_thing_behind_a_wall_is_hidden_and_one_in_front_is_not():
    heights = box()
    heights[62:68, 70:80] = 4  # hidden: the line of sight to its top passes the roof
    heights[95:100, 70:80] = 4
    thing = np.zeros((SIDE, SIDE), np.float32)
    thing[62:68, 70:80] = 1
    thing[95:100, 70:80] = 2
    flight = Flight(off_nadir=np.degrees(np.arctan(0.25)), view_azimuth=180.0)
    visible = sight(heights, flight).sampled(thing)
    assert not (visible == 1).any()
    assert (visible == 2).sum() == pytest.approx(50, abs=10)


@given(views, st.floats(0.1, 0.9), st.floats(0, 6.28))
@settings(deadline=None)
def test_a_smooth_hill_is_seen_where_its_points_are_projected(flight, slope, turn):
    rows, cols = np.indices((SIDE, SIDE)) - SIDE / 2
    heights = (20 + 10 * np.sin((rows * np.cos(turn) + cols * np.sin(turn)) * slope / 10)).astype(np.float32)
    view = sight(heights, flight)
    moved = heights * np.tan(np.radians(flight.off_nadir))
    azimuth = np.radians(flight.view_azimuth)
    # The points of the map, projected forward, and where the backward search says that they come from.
    r, c = np.indices((SIDE, SIDE)) + np.array([np.cos(azimuth), -np.sin(azimuth)])[:, None, None] * moved
    errors = [
        ndimage.map_coordinates(projected, view.positions, order=1) - visible
        for projected, visible in zip((r, c), np.indices((80, 80)) + 40, strict=True)
    ]
    assert np.abs(errors).max() < 0.5
    assert not view.is_facade.any()


@given(mosaics)
@settings(deadline=None)
def test_lean_points_away_from_the_nearest_frame_center(flight):
    spacing, azimuth = flight.frame_spacing, np.radians(flight.view_azimuth)
    points = np.random.default_rng(1).uniform(-80, 90, (200, 2))  # y, x
    # Centers on a square lattice along the flight lines; the scene's corner lies between four of them.
    count = int(130 / spacing) + 2
    along, across = np.meshgrid(*2 * [(np.arange(-count, count) + 0.5) * spacing])
    y = -np.cos(azimuth) * along - np.sin(azimuth) * across
    x = np.sin(azimuth) * along - np.cos(azimuth) * across
    centers = np.column_stack([y.ravel(), x.ravel()])
    distance, nearest = KDTree(centers).query(points, k=2)
    clear = distance[:, 1] - distance[:, 0] > 1e-6 * spacing
    # Similar triangles: lean is distance over flying height, and the largest is in the corners.
    expected = (points - centers[nearest[:, 0]]) / (spacing / 2**0.5) * flight.tangent
    assert flight.lean(points[:, 1], points[:, 0]).T[clear] == pytest.approx(expected[clear], abs=1e-4)
    assert clear.sum() > 190


@given(mosaics)
@settings(deadline=None)
def test_what_is_seen_lies_where_the_lean_of_its_frame_puts_it(flight):
    rows, cols = np.indices((SIDE, SIDE))
    heights = (20 + 8 * np.sin(rows / 13) * np.cos(cols / 9)).astype(np.float32)
    view = sight(heights, flight)
    at = np.arange(40, 120)
    lean = flight.lean(at[None], at[:, None])
    expected = np.stack(np.broadcast_arrays(at[:, None], at)) - view.sampled(heights) * lean
    assert np.abs(view.positions - expected).max() < 0.5
    assert not view.is_facade.any()


def test_pits_lean_the_other_way():
    heights = box(height=-12.0)
    flight = Flight(off_nadir=np.degrees(np.arctan(0.25)), view_azimuth=180.0)
    bottom = sight(heights, flight, deepest=12).sampled((heights < 0).astype(np.float32))
    # 20 rows, moved 3 px toward the camera; the near rim hides as many.
    np.testing.assert_array_equal(np.flatnonzero(bottom[:, 40]), np.arange(33, 50))


@given(views | mosaics, st.floats(1, 40), st.floats(1, 10))
@settings(deadline=None)
def test_the_margin_is_enough_for_the_tallest_and_the_deepest(flight, tallest, deepest):
    up, down, left, right = lean_margin((flight,), (tallest, deepest))
    rng = np.random.default_rng(0)
    heights = rng.uniform(-deepest, tallest, (up + 12 + down, left + 12 + right)).astype(np.float32)
    view = sight(heights, flight, tallest, deepest, (slice(up, up + 12), slice(left, left + 12)))
    assert (view.positions.min(axis=(1, 2)) >= 0).all()
    assert (view.positions.max(axis=(1, 2)) <= np.array(heights.shape) - 1).all()


def test_flights_that_look_straight_down_need_no_margin():
    assert lean_margin((PLAIN, replace(PLAIN, view_azimuth=40.0)), (120, 12)) == (0, 0, 0, 0)


def test_in_a_scene_only_what_stands_on_the_ground_moves():
    config = SyntheticConfig(512, 512, objects=0, seed=2, shift_px=(0, 0), before=PLAIN, after=LEANING)
    pair = make_pair(config)
    changed = (pair.before != pair.after).any(axis=0)
    standing = np.zeros((512, 512), bool)
    for thing in _scene(config)._things(Window(0, 512, 0, 512)):
        if thing.kind != "ground":
            reach = (thing.reach + 12 * LEANING.tangent) / 0.1 + 3
            rows, cols = np.ogrid[:512, :512]
            standing |= np.hypot(rows + 0.5 - thing.y / 0.1, cols + 0.5 - thing.x / 0.1) < reach
    assert 0.01 < changed.mean() < 0.5
    assert not changed[~standing].any()
    assert not standing.all()


def test_truth_covers_what_the_leaning_date_shows():
    # With the sun overhead there are no shadows: what differs from the place without objects is the objects.
    overhead = replace(PLAIN, sun_elevation=89.5, blur_px=0.3)
    flights = {
        "before": replace(overhead, off_nadir=30.0, view_azimuth=100.0),
        "after": replace(overhead, off_nadir=40.0, view_azimuth=310.0),
    }
    config = SyntheticConfig(500, 700, seed=4, objects=30, shift_px=(0, 0), **flights)
    pair, empty = make_pair(config), make_pair(replace(config, objects=0))
    shown = np.zeros(pair.grid.shape, bool)
    for date in ("before", "after"):
        shown |= np.abs(getattr(pair, date).astype(int) - getattr(empty, date)).max(axis=0) > 12
    footprints = [
        shapely.Polygon(np.column_stack(pair.grid.transform @ (outline(change.thing) / config.gsd).T))
        for change in _scene(config).changes
    ]
    footprint = _mask(pair.truth.set_geometry(footprints, crs=pair.grid.crs), pair.grid)

    def outside(mask):
        return (shown & ~ndimage.binary_dilation(mask, iterations=2)).sum() / shown.sum()

    assert outside(pair.truth_mask) < 0.02
    assert outside(footprint) > 0.05
    assert (shown & pair.truth_mask).sum() > 0.75 * pair.truth_mask.sum()
    assert pair.truth.is_valid.all()
    assert set(pair.truth["kind"]) == {"added", "removed"}
    assert shapely.box(*pair.grid.bounds).contains(shapely.box(*pair.truth.total_bounds))


def test_varied_configurations_lean_only_if_asked_and_are_otherwise_the_same():
    for seed in range(8):
        leaning = varied_config(seed, 64, 64, max_weathering=1.0, max_off_nadir=10.0)
        view = {"off_nadir": 0.0, "view_azimuth": 0.0, "frame_spacing": None}
        upright = replace(leaning, before=replace(leaning.before, **view), after=replace(leaning.after, **view))
        assert upright == varied_config(seed, 64, 64, max_weathering=1.0)
        assert 0 < leaning.before.off_nadir < 10 > leaning.after.off_nadir > 0
        assert leaning.before.view_azimuth != leaning.after.view_azimuth


@pytest.mark.parametrize("angle", [-1.0, 46.0, float("nan")])
def test_angles_out_of_range_are_refused(angle):
    with pytest.raises(OptionError, match=r"^`off_nadir="):
        Flight(off_nadir=angle)


@pytest.mark.parametrize("spacing", [0.0, -3.0, float("nan")])
def test_distances_between_frames_are_positive(spacing):
    with pytest.raises(OptionError, match=r"^`frame_spacing="):
        Flight(frame_spacing=spacing)
