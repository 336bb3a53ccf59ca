from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy import ndimage

from geosiam.errors import OptionError
from geosiam.imagery.grid import Window
from geosiam.synthesis.layout import Plan
from geosiam.synthesis.light import Flight, shaded
from geosiam.synthesis.materials import LANDSCAPES, Material, Palette, weathered
from geosiam.synthesis.pairs import (
    SyntheticConfig,
    _scene,
    make_pair,
    varied_config,
    write_pair,
    write_pair_tiles,
)
from geosiam.synthesis.scene import TILE

SMALL = SyntheticConfig(height=300, width=420, objects=8, seed=2)


@pytest.fixture(scope="module")
def pair():
    return make_pair(SMALL)


def test_shapes_and_types(pair):
    for image in (pair.before, pair.after):
        assert image.dtype == np.uint8
        assert image.shape == (3, 300, 420)
        assert 40 < image.mean() < 220
        assert image.std() > 10
    assert pair.truth_mask.shape == pair.grid.shape == (300, 420)
    assert pair.truth_mask.dtype == bool


def test_same_configuration_gives_the_same_bytes(pair):
    again = make_pair(SMALL)
    np.testing.assert_array_equal(again.before, pair.before)
    np.testing.assert_array_equal(again.after, pair.after)
    assert again.truth.equals(pair.truth)


def test_another_seed_is_another_place(pair):
    other = make_pair(replace(SMALL, seed=3))
    assert np.abs(other.before.astype(int) - pair.before).mean() > 10


@given(st.data())
@settings(max_examples=8, deadline=None)
def test_any_window_is_part_of_the_whole(pair, data):
    row = data.draw(st.integers(0, 298))
    col = data.draw(st.integers(0, 418))
    window = Window(row, data.draw(st.integers(row + 1, 300)), col, data.draw(st.integers(col + 1, 420)))
    before, after = _scene(SMALL).render(window)
    np.testing.assert_array_equal(before, pair.before[(slice(None), *window.slices)])
    np.testing.assert_array_equal(after, pair.after[(slice(None), *window.slices)])


def test_tiles_meet_without_a_seam():
    config = SyntheticConfig(
        height=64, width=TILE + 200, objects=0, before=Flight(noise=0, jpeg_quality=None), shift_px=(0, 0)
    )
    image = make_pair(config).before.astype(float)
    steps = np.abs(np.diff(image, axis=2)).mean(axis=(0, 1))
    assert steps[TILE - 1] <= np.median(steps) * 2.5


def test_a_larger_scene_keeps_its_place():
    # Without open water the plan depends on the seed alone, so a wider scene shows the same place and more.
    small = SyntheticConfig(height=200, width=200, objects=0, landscape="urban")
    np.testing.assert_array_equal(make_pair(small).before, make_pair(replace(small, width=700)).before[:, :, :200])


def test_written_tile_by_tile_equals_written_at_once(pair, tmp_path):
    seen = []
    tiles = write_pair_tiles(SMALL, tmp_path / "tiles", lambda done, total: seen.append((done, total)))
    whole = write_pair(pair, tmp_path / "whole")
    assert seen == [(1, 1)]
    for a, b in ((tiles.before, whole.before), (tiles.after, whole.after)):
        with rasterio.open(a) as first, rasterio.open(b) as second:
            np.testing.assert_array_equal(first.read(), second.read())
            assert first.profile == second.profile


def test_files_say_where_they_are(pair, tmp_path):
    paths = write_pair(pair, tmp_path)
    for path in (paths.before, paths.after):
        with rasterio.open(path) as scene:
            assert scene.crs.to_epsg() == 32633
            assert scene.res == pytest.approx((0.1, 0.1))
            assert scene.bounds == pytest.approx(pair.grid.bounds)
            assert scene.profile["tiled"]
            assert scene.compression.name == "deflate"
            assert [c.name for c in scene.colorinterp] == ["red", "green", "blue"]
    truth = geopandas.read_file(paths.truth)
    assert len(truth) == len(pair.truth)
    assert truth.crs == pair.truth.crs


def test_truth_polygons_are_the_truth_mask(pair):
    assert len(pair.truth) == 8
    assert pair.truth.is_valid.all()
    assert set(pair.truth["kind"]) <= {"added", "removed"}
    burnt = rasterize(pair.truth.geometry, out_shape=pair.grid.shape, transform=pair.grid.transform)
    np.testing.assert_array_equal(burnt.astype(bool), pair.truth_mask)
    left, bottom, right, top = pair.grid.bounds
    x0, y0, x1, y1 = pair.truth.total_bounds
    assert left < x0 < x1 < right
    assert bottom < y0 < y1 < top


def test_objects_are_between_6_and_60_pixels_and_apart():
    truth = make_pair(SyntheticConfig(objects=30)).truth
    box = truth.geometry.minimum_rotated_rectangle()
    for shape in box:
        xs, ys = np.array(shape.exterior.coords.xy)
        sides = np.hypot(np.diff(xs)[:2], np.diff(ys)[:2]) / 0.1
        assert 5 < sides.min() <= sides.max() < 70
    for k, shape in enumerate(truth.geometry):
        assert truth.geometry.drop(index=k).distance(shape).min() > 0.8


def test_changed_pixels_are_where_truth_says():
    plain = Flight(noise=0, jpeg_quality=None)
    config = SyntheticConfig(height=512, width=512, seed=4, before=plain, after=plain, shift_px=(0, 0))
    pair = make_pair(config)
    changed = np.abs(pair.before.astype(int) - pair.after).max(axis=0) > 12
    # Every object shows; what else differs is no more than shadows, which are no larger than a few times the object.
    for shape in pair.truth.geometry:
        inside = rasterize([shape], out_shape=pair.grid.shape, transform=pair.grid.transform).astype(bool)
        assert changed[inside].mean() > 0.2
    assert changed.mean() < 8 * pair.truth_mask.mean()
    same = make_pair(replace(config, objects=0))
    np.testing.assert_array_equal(same.before, same.after)


STEADY = Flight(noise=0, jpeg_quality=None, blur_px=1.0)


def test_the_second_date_is_moved_by_whole_pixels_exactly():
    pair = make_pair(SyntheticConfig(200, 200, objects=0, before=STEADY, after=STEADY, shift_px=(-2, 3)))
    np.testing.assert_array_equal(pair.after[:, 3:, :-2], pair.before[:, :-3, 2:])


@pytest.mark.parametrize("right_down", [(1.3, -0.8), (0.0, 0.5), (17.2, -9.5)])
def test_the_second_date_is_off_by_the_shift_asked_for(right_down):
    pair = make_pair(SyntheticConfig(200, 200, objects=0, before=STEADY, after=STEADY, shift_px=right_down))
    inner = (slice(25, -25), slice(25, -25))
    moves = [(right_down[0] + a, right_down[1] + b) for a in (-0.1, 0, 0.1) for b in (-0.1, 0, 0.1)]
    before, after = pair.before[1].astype(float), pair.after[1].astype(float)
    errors = [np.square(ndimage.shift(before, (down, right))[inner] - after[inner]).mean() for right, down in moves]
    assert moves[int(np.argmin(errors))] == pytest.approx(right_down)


@pytest.mark.parametrize("landscape", LANDSCAPES)
@pytest.mark.parametrize("gsd", [0.05, 0.5])
def test_every_landscape_can_be_drawn(landscape, gsd):
    pair = make_pair(SyntheticConfig(height=130, width=97, landscape=landscape, gsd=gsd, objects=3, seed=11))
    assert pair.before.std() > 3
    assert np.isin([0, 255], [pair.before.min(), pair.before.max()]).sum() < 2


def test_varied_configurations_vary_and_repeat():
    configs = [varied_config(seed, 64, 64) for seed in range(12)]
    assert len({c.gsd for c in configs}) == 12
    assert len({_scene(c).plan.landscape.uses for c in configs}) > 3
    assert configs[5] == varied_config(5, 64, 64)


def test_narrow_lots_get_narrow_houses():
    config = varied_config(1_000_127, 512, 512, objects=24)  # its lots are 12.8 m wide
    assert _scene(config).changes


def test_weathered_ground_changes_fields_more_than_roads_and_leaves_the_first_date_alone():
    config = SyntheticConfig(height=128, width=128, landscape="rural", gsd=0.4, objects=0, seed=4, shift_px=(0, 0))
    later = replace(config.after, weathering=1.0)
    plain, weathered = make_pair(config), make_pair(replace(config, after=later))
    assert np.array_equal(plain.before, weathered.before)
    change = np.abs(plain.after.astype(int) - weathered.after).mean(axis=0)
    assert change.mean() > 5
    assert np.array_equal(make_pair(replace(config, after=later)).after, weathered.after)


@given(
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    color=st.tuples(*[st.floats(4, 240)] * 3),
    vegetation=st.floats(0, 1),
    rows=st.sampled_from([0.0, 0.3]),
)
def test_weathered_materials_stay_colors_and_keep_their_rows_direction(strength, seed, color, vegetation, rows):
    material = Material(color, None, vegetation=vegetation, relief=0.02, row_strength=rows, row_angle=0.7)
    changed = weathered(material, strength, seed)
    assert changed == weathered(material, strength, seed)
    assert changed.row_angle == 0.7
    assert all(4 <= value <= 240 for value in changed.color)
    if strength == 0:
        assert changed.color == pytest.approx(color)


def test_what_is_built_weathers_less_than_what_grows():
    green, painted = Material((90, 110, 70), vegetation=1.0, relief=0.1), Material((90, 110, 70))

    def spread(material):
        tones = [weathered(material, 1.0, seed).color for seed in range(200)]
        return np.log(tones).std(axis=0).mean()

    assert spread(green) > 3 * spread(painted)


@pytest.mark.parametrize(
    "bad", [{"height": 0}, {"gsd": 0.0}, {"gsd": float("nan")}, {"objects": -1}, {"landscape": "moon"}]
)
def test_nonsense_is_refused_with_a_remedy(bad):
    with pytest.raises(OptionError, match=f"^`{next(iter(bad))}"):
        SyntheticConfig(**bad)


def test_a_scene_without_objects_has_empty_truth(tmp_path):
    pair = make_pair(SyntheticConfig(height=40, width=50, objects=0))
    assert pair.truth.empty
    assert not pair.truth_mask.any()
    write_pair(pair, tmp_path)
    assert geopandas.read_file(tmp_path / "truth.gpkg").empty


@given(st.floats(-500, 500), st.floats(-500, 500), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_plan_and_scene_coordinates_are_inverse(x, y, seed):
    plan = Plan(seed, "rural", 0.1, (100.0, 100.0))
    p, q = plan.to_plan(np.array([x]), np.array([y]))
    back = plan.to_scene(p, q)
    assert back[0][0] == pytest.approx(x, abs=0.05)
    assert back[1][0] == pytest.approx(y, abs=0.05)
    assert plan.heading(float(p[0]), float(q[0]), 0.3)[:2] == pytest.approx((back[0][0], back[1][0]), abs=1e-9)


@pytest.mark.parametrize("azimuth", [95, 140, 180, 222, 265])
def test_shadows_are_as_long_as_the_sun_is_low_and_point_away_from_it(azimuth):
    flight = Flight(sun_azimuth=azimuth, sun_elevation=45)
    height = np.zeros((200, 200), np.float32)
    height[95:105, 95:105] = 40
    shadow = shaded(height, (slice(0, 200), slice(0, 200)), 64, flight) > 0.5
    down, right = flight.toward_sun
    assert not shadow[95:105, 95:105].any()
    for distance, expected in ((15, True), (35, True), (50, False)):
        row, col = round(99.5 - distance * down), round(99.5 - distance * right)
        assert shadow[row, col] == expected
        assert not shadow[round(99.5 + distance * down), round(99.5 + distance * right)]


def test_a_palette_keeps_each_material_once_and_fades_rows_too_fine_to_see():
    palette = Palette(0.5)
    rows = Material((1, 2, 3), row_strength=0.5, row_spacing=0.4)
    assert palette.add(rows) == palette.add(replace(rows)) == 0
    assert palette.row_waves(0, 0)[3][0] == 0
    assert Palette(0.05, [rows]).row_waves(0, 0)[3][0] == 0.5
