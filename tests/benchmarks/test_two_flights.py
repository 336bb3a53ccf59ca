"""The pairs of protocol E, whose true displacement `benchmarks/accuracy.py` and `registration.py` compare with."""

import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import geometry
from geometry import (
    BENDS,
    MARGIN,
    Displacement,
    Ground,
    Site,
    displacement_errors,
    interior,
    matchable,
    read_displacement,
)
from protocols import PLACE, Case, Raster

SIZE = (640, 720)


@pytest.fixture(scope="module")
def site():
    shape = (3, SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN)
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 3, 3))
    pixels = np.clip(125 + 35 * smooth / smooth.std(), 1, 254).astype(np.uint8)
    scene = Raster("ground", np.ascontiguousarray(interior(pixels)), *PLACE)
    return Site(scene, pixels, rng.integers(1, 255, (3, 300, 300)).astype(np.uint8))


def bend_of(name, seed=0):
    return Displacement.random(*BENDS[name], SIZE, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["4/400", "8/150", "30/800 + 60 px"])
def test_a_displacement_has_its_amplitude_its_wavelength_and_its_shift(name):
    amplitude, wavelength, shift = BENDS[name]
    bend = bend_of(name)
    waves = bend.on_grid(np.arange(SIZE[0]), np.arange(SIZE[1])) - bend.shift[:, None, None]
    assert np.hypot(*bend.shift) == pytest.approx(shift)
    assert np.percentile(np.hypot(*waves), 99.9) == pytest.approx(amplitude)
    curvature = np.diff(waves, 2, axis=1)[:, :, 1:-1] + np.diff(waves, 2, axis=2)[:, 1:-1]
    np.testing.assert_allclose(curvature, -((2 * np.pi / wavelength) ** 2) * waves[:, 1:-1, 1:-1], atol=1e-4)


@pytest.mark.parametrize("name", ["8/150", "30/800 + 60 px"])
def test_the_inverse_displacement_leads_back(name):
    bend = bend_of(name)
    points = bend.sources(*SIZE).reshape(2, -1).T
    back = (points + bend.at(points)).T.reshape(2, *SIZE)
    np.testing.assert_allclose(back, np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))), atol=2e-3)


def test_a_displacement_that_folds_is_refused():
    with pytest.raises(ValueError, match="folds"):
        Displacement.random(60, 100, 0, SIZE, np.random.default_rng(0)).sources(*SIZE)


@pytest.mark.parametrize("name", ["8/400", "16/600 + 25 px"])
def test_the_second_flight_shows_each_place_where_the_true_displacement_says(site, name, monkeypatch):
    monkeypatch.setitem(geometry.GROUPS, "E bare", (_unchanged, BENDS[name]))
    monkeypatch.setattr(
        geometry, "SECOND_FLIGHT", {"gain": 1.0, "offset": 0.0, "shift_px": (0.0, 0.0), "noise_sigma": 0.0}
    )
    case = geometry.pair(site, 0, "E bare")
    y, x = np.mgrid[60 : SIZE[0] - 60, 60 : SIZE[1] - 60]
    dx, dy = case.displacement[:, 60:-60, 60:-60]
    seen = ndimage.map_coordinates(case.after.pixels[0].astype(float), [y + dy, x + dx], order=3)
    apart = np.abs(seen - case.before.pixels[0, 60:-60, 60:-60])
    assert apart.max() < 3  # gray levels: both flights are rounded
    still = np.abs(case.after.pixels[0].astype(float) - case.before.pixels[0])
    assert still.mean() > 10 * apart.mean()


def _unchanged(site, _seed):
    return Ground(site.pixels, site.pixels, np.zeros(site.size, np.int32))


def test_groups_differ_from_each_other_by_the_displacement_only(site):
    first, second = (geometry.pair(site, 1, f"E {name}") for name in ("4/400", "16/600 + 25 px"))
    np.testing.assert_array_equal(first.truth, second.truth)
    np.testing.assert_array_equal(first.before.pixels, second.before.pixels)
    assert np.abs(first.displacement - second.displacement).max() > 20
    assert first.truth.max() > 0


def test_things_that_move_change_the_ground_only_where_the_truth_says(site):
    ground = geometry.moved_things(site, 0)
    changed = interior((ground.before != ground.after).any(axis=0))
    assert not changed[ground.truth == 0].any()
    numbers = np.unique(ground.truth[ground.truth > 0])
    assert min(ndimage.mean(changed, ground.truth, numbers)) > 0.5
    for number in numbers:  # each thing stands in both flights
        bare = site.scene.pixels[:, ground.truth == number]
        first, second = (interior(image)[:, ground.truth == number] for image in (ground.before, ground.after))
        shown = [(pixels != bare).any(axis=0) for pixels in (first, second)]
        assert min(part.mean() for part in shown) > 0.4
        assert not np.array_equal(*shown)


def test_kinds_of_moved_things_have_their_own_numbers(site):
    case = geometry.pair(site, 0, "E moved things, not displaced")
    present = {kind: set(span) & set(np.unique(case.truth).tolist()) for kind, span in case.kinds.items()}
    assert set(present) == {"fences", "containers", "cars", "boxes"}
    assert all(present.values())
    assert sum(map(len, present.values())) == len(np.unique(case.truth)) - 1


def test_objects_in_a_corridor_are_in_both_flights(site):
    case = geometry.pair(site, 0, "E corridor, 16/600 + 25 px")
    first, second = ((scene.pixels != 0).all(axis=0) for scene in (case.before, case.after))
    assert 0.1 < first.mean() < 0.7
    assert not np.array_equal(first, second)
    y, x = np.nonzero(case.truth)
    assert len(y)
    dx, dy = case.displacement[:, y, x]
    assert first[y, x].all()
    assert second[np.rint(y + dy).astype(int), np.rint(x + dx).astype(int)].all()
    assert not case.matchable[~(first & second)].any()


def test_water_differs_between_the_flights_and_is_not_matched(site):
    ground = geometry.water(site, 0)
    differs = interior((ground.before != ground.after).any(axis=0)) & (ground.truth == 0)
    assert not differs[ground.steady].any()
    assert differs[~ground.steady].mean() > 0.5
    assert 0.2 < (~ground.steady).mean() < 0.6
    case = geometry.pair(site, 0, "E water, 8/400")
    assert not case.matchable[~ground.steady].any()


def test_a_displacement_file_is_read_by_the_names_of_its_bands_and_between_its_nodes(tmp_path):
    scene = Raster("ground", np.zeros((3, 30, 40), np.uint8), *PLACE)
    step, rows, cols = 4, 8, 10
    y, x = (np.mgrid[:rows, :cols] + 0.5) * step - 0.5  # of the nodes in pixels
    bands = {"confidence": 0 * x, "dy_px": 3 + 0.25 * y, "dx_px": 0.5 * x - 2 * y}
    bands["dx_px"][-1, -1] = np.nan
    path = tmp_path / "field.tif"
    profile = {"driver": "GTiff", "height": rows, "width": cols, "count": 3, "dtype": "float32", "nodata": np.nan}
    with rasterio.open(path, "w", crs=PLACE[0], transform=PLACE[1] @ Affine.scale(step), **profile) as file:
        file.write(np.stack(list(bands.values())).astype(np.float32))
        file.descriptions = tuple(bands)
    field = read_displacement(path, scene)
    known = ~np.isnan(field).any(axis=0)
    inner = np.s_[
        6:24, 6:34
    ]  # cubic convolution is exact there for planes; beyond the margin the outermost nodes go on
    y, x = np.mgrid[inner]
    np.testing.assert_allclose(field[1][inner][known[inner]], (3 + 0.25 * y)[known[inner]], atol=1e-4)
    np.testing.assert_allclose(field[0][inner][known[inner]], (0.5 * x - 2 * y)[known[inner]], atol=1e-2)
    assert np.abs(field[1, 0, 6:34] - (3 + 0.25 * 1.5)).max() < 0.1
    assert not known[-1, -1]
    assert known[:-6].all()


def test_a_wave_in_a_displacement_file_is_read_as_geosiam_applies_it(tmp_path):
    """Nodes an eighth of a wave apart: straight lines between them would err by half a pixel."""
    step, rows, cols, length, amplitude = 16, 30, 30, 150, 8
    y, x = (np.mgrid[:rows, :cols] + 0.5) * step - 0.5
    wave = amplitude * np.sin(2 * np.pi * (x + 0.5 * y) / length)
    path = tmp_path / "field.tif"
    profile = {"driver": "GTiff", "height": rows, "width": cols, "count": 2, "dtype": "float32", "nodata": np.nan}
    with rasterio.open(path, "w", crs=PLACE[0], transform=PLACE[1] @ Affine.scale(step), **profile) as file:
        file.write(np.stack([wave, -wave]).astype(np.float32))
        file.descriptions = ("dx_px", "dy_px")
    field = read_displacement(path, Raster("ground", np.zeros((3, 480, 480), np.uint8), *PLACE))
    inner = np.s_[40:440, 40:440]
    y, x = np.mgrid[inner]
    truth = amplitude * np.sin(2 * np.pi * (x + 0.5 * y) / length)
    assert np.abs(field[0][inner] - truth).max() < 0.15
    assert np.abs(field[1][inner] + truth).max() < 0.15


def test_errors_are_measured_where_the_ground_can_be_matched_and_something_is_known():
    truth = np.random.default_rng(0).normal(size=(2, 6, 10)).astype(np.float32)
    matchable = np.ones((6, 10), bool)
    matchable[:, 8:] = False
    scene = Raster("ground", np.zeros((3, 6, 10), np.uint8), *PLACE)
    case = Case("E", "ground", 0, scene, scene, np.zeros((6, 10), np.int32), truth, matchable)
    estimate = truth + np.array([3, -4], np.float32)[:, None, None]
    estimate[:, :, 8:] = 1000
    estimate[:, :, :2] = np.nan
    errors = displacement_errors(case, estimate)
    assert errors == {"error px": pytest.approx(5), "error px, 95 %": pytest.approx(5), "known": pytest.approx(0.75)}
    nothing = displacement_errors(case, np.full_like(truth, np.nan))
    assert nothing["known"] == 0
    assert np.isnan(nothing["error px"])


def test_texture_is_needed_to_match_ground_and_the_edge_of_the_data_is_none():
    rng = np.random.default_rng(0)
    image = np.full((3, 200, 300), 120, np.uint8)
    image[:, :, 150:] = np.clip(120 + 40 * rng.normal(size=(3, 200, 150)), 1, 255)
    ground = np.ones((200, 300), bool)
    ground[:, :30] = False
    image[:, ~ground] = 0
    where = matchable(image, ground, np.zeros((2, 200, 300)))
    assert not where[:, :130].any()
    assert where[:, 160:].mean() > 0.9
    off = np.stack([np.full((200, 300), 20.0), np.zeros((200, 300))])
    assert not matchable(image, ground, off)[:, 280:].any()
