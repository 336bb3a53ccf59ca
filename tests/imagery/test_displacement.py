"""The displacement field of a pair: how it is read through, whatever the window, and what is estimated of it."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import calculate_default_transform
from scipy.ndimage import gaussian_filter

from bent_scenes import Bend, picture, texture
from geosiam.errors import OptionError
from geosiam.imagery import displacement, resampling
from geosiam.imagery.alignment import displaced
from geosiam.imagery.displacement import DisplacementField, estimate_field
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.registration import DEFAULT_POLICY
from geosiam.imagery.resampling import DisplacedReader

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.imagery.alignment import Alignment
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.reader import AlignedReader

GROUND = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)  # UTM 33N
HEIGHT, WIDTH = 300, 340
UNMOVED = PairOptions(register="none", radiometry="none")


def write(path: Path, image: np.ndarray, **options: object) -> Path:
    """Write an image (bands, rows, cols) in small tiles, with its mask or nodata value if there is one."""
    mask = options.pop("mask", None)
    profile = {"crs": "EPSG:32633", "transform": GROUND, "tiled": True, "blockxsize": 64, "blockysize": 64} | options
    count, height, width = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=image.dtype, **profile
    ) as file:
        file.write(image)
        if mask is not None:
            file.write_mask(mask)
    return path


def rgb(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.stack([texture(height, width, 3 * seed + band) for band in range(3)])


def constant(down: float, right: float, shape: tuple[int, int] = (19, 22), spacing: int = 16) -> DisplacementField:
    vectors = np.zeros((2, *shape), np.float32) + np.array([down, right], np.float32)[:, None, None]
    return DisplacementField(spacing, (0, 0), vectors, np.ones(shape, np.float32), vectors, applied=True)


def wavy(seed: int = 0, largest: float = 6.0, shape: tuple[int, int] = (17, 20)) -> DisplacementField:
    """Return a smooth random field that ends inside of the scene on all sides."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(2, *shape)), (0, 2, 2))
    return replace(constant(0, 0, shape), first=(1, 1), displacement=(noise / noise.max() * largest).astype("f4"))


def through(pair: ScenePair, field: DisplacementField) -> DisplacedReader:
    after = pair.after
    return DisplacedReader(after.scene, after.channels, aligned(after), field)


def whole(pair: ScenePair) -> Window:
    return Window(0, pair.grid.height, 0, pair.grid.width)


# -- the field -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flat_pair(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("same")
    paths = [write(folder / f"{i}.tif", picture(rgb(seed=i))) for i in range(2)]
    with open_pair(*paths, options=UNMOVED) as pair:
        yield pair


@given(st.tuples(*[st.floats(-20, 20)] * 2), st.tuples(*[st.floats(-0.05, 0.05)] * 4), st.sampled_from([15, 16, 32]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_linear_field_is_followed_to_the_pixel(flat_pair, shift, slopes, spacing: int) -> None:
    """To half of the 32nd of a pixel that places are rounded to."""
    (down, right), (a, b, c, d) = shift, slopes
    nodes = [spacing * (np.arange(size) + 0.5) for size in (HEIGHT // spacing + 1, WIDTH // spacing + 1)]
    y, x = np.meshgrid(*nodes, indexing="ij")
    vectors = np.stack([down + a * y + b * x, right + c * y + d * x]).astype(np.float32)
    field = replace(constant(0, 0, y.shape, spacing), displacement=vectors)
    window = Window(48, 240, 50, 280)
    rows, cols = through(flat_pair, field)._places(window)
    y, x = np.mgrid[window.slices] + 0.5
    assert np.abs(rows - (y - 0.5 + down + a * y + b * x)).max() <= 1 / 64 + 1e-4
    assert np.abs(cols - (x - 0.5 + right + c * y + d * x)).max() <= 1 / 64 + 1e-4


def test_a_field_passes_through_its_nodes_and_goes_on_as_it_ends(flat_pair) -> None:
    field = replace(wavy(), spacing=15)  # nodes are centers of pixels
    rows, cols = through(flat_pair, field)._places(whole(flat_pair))
    found = np.stack([rows, cols]) - np.indices(rows.shape)
    node_rows, node_cols = (15 * (1 + np.arange(size)) + 7 for size in field.confidence.shape)
    at_nodes = found[:, node_rows][:, :, node_cols]
    assert np.abs(at_nodes - field.displacement).max() <= 1 / 64 + 1e-6
    assert np.array_equal(found[:, 0, 0], np.round(field.displacement[:, 0, 0] * 32) / 32)
    assert np.array_equal(found[:, -1, 0], np.round(field.displacement[:, -1, 0] * 32) / 32)


def test_facts_of_a_field() -> None:
    field = replace(wavy(), applied=False)
    moved = field.plus(3.0, -4.0)
    assert np.allclose(moved.displacement[0] - field.displacement[0], 3, atol=1e-5)
    assert np.allclose(moved.local[1] - field.local[1], -4, atol=1e-5)
    assert moved.longest == pytest.approx(np.hypot(*moved.displacement).max())
    assert moved.checksum != field.checksum == wavy().checksum
    # What remains of the local displacement where one shift is corrected, and where the field is.
    assert np.allclose(moved.remaining, 0, atol=1e-5)
    read_through = replace(moved, applied=True)
    assert np.allclose(read_through.remaining, np.hypot(*field.displacement), atol=1e-5)
    at = read_through.remaining_at(np.array([16.0, 31.9, 0.0, 1e4]), np.array([16.0, 47.0, 0.0, 1e4]))
    assert at == pytest.approx(read_through.remaining[[0, 0, 0, -1], [0, 1, 0, -1]])


def test_the_grid_of_a_field_covers_its_nodes(flat_pair) -> None:
    field = replace(wavy(), first=(2, 5))
    grid = field.grid(flat_pair.grid)
    assert grid.shape == field.confidence.shape
    assert grid.transform @ (0, 0) == pytest.approx(flat_pair.grid.transform @ (5 * 16, 2 * 16))
    assert grid.pixel_size == pytest.approx((8.0, 8.0))


# -- reading through it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "uint32", "int8"])
def test_a_nil_field_leaves_every_pixel_as_it_is(tmp_path: Path, dtype: str) -> None:
    image = (rgb() * (0.4 if dtype == "int8" else 1)).astype(dtype)
    paths = [write(tmp_path / f"{i}.tif", image) for i in range(2)]
    with open_pair(*paths, options=UNMOVED) as pair:
        values, valid = through(pair, constant(0, 0)).read(whole(pair))
        assert (values.dtype, valid.all()) == (dtype, True)
        assert np.allclose(
            values, image, rtol=1e-7 if dtype == "float64" else 0, atol=0
        )  # OpenCV's weights are float32


def test_a_constant_field_moves_whole_pixels(flat_pair) -> None:
    values, valid = through(flat_pair, constant(3, -5)).read(whole(flat_pair))
    expected, _ = flat_pair.after.read(whole(flat_pair))
    assert np.array_equal(values[:, :-3, 5:], expected[:, 3:, :-5])
    assert valid[:-3, 5:].all()
    assert not valid[-3:].any()
    assert not valid[:, :5].any()
    assert not values[:, ~valid].any()


def test_the_bend_is_undone(tmp_path: Path) -> None:
    bend, ground = Bend((2.5, -1.0), amplitude=5.0), rgb()
    paths = [write(tmp_path / f"{i}.tif", picture(image)) for i, image in enumerate((ground, bend.applied(ground)))]
    field = constant(0, 0)
    field = replace(field, displacement=bend.at_nodes(field.confidence.shape).astype(np.float32))
    with open_pair(*paths, options=UNMOVED) as pair:
        values, valid = through(pair, field).read(whole(pair))
    inner = np.s_[:, 12:-12, 12:-12]
    assert valid[inner[1:]].all()
    left = values[inner].astype(float) - ground[inner]
    assert np.sqrt((left**2).mean()) < 0.08 * ground.std()
    assert shift_between(ground.mean(axis=0)[inner[1:]], values.mean(axis=0)[inner[1:]]) == pytest.approx(0, abs=0.05)


def shift_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the shift (down, right) between two almost equal images by least squares on the gradient."""
    first, second = (gaussian_filter(np.asarray(image, float), 1.5) for image in (first, second))
    gradient = np.stack([part[8:-8, 8:-8].ravel() for part in np.gradient((first + second) / 2)])
    return -np.linalg.solve(gradient @ gradient.T, gradient @ (second - first)[8:-8, 8:-8].ravel())


def test_the_measure_of_shifts_sees_a_small_one() -> None:
    ground = texture(200, 200)
    second = Bend((0.2, -0.1), amplitude=0).applied(ground)
    assert shift_between(ground, second) == pytest.approx((0.2, -0.1), abs=0.02)


OTHER_GRIDS = {
    "same system, pixels between": ("EPSG:32633", 1.0),
    "pixels x1.25": ("EPSG:32633", 1.25),
    "pixels x0.5": ("EPSG:32633", 0.5),
    "pixels x0.4": ("EPSG:32633", 0.4),
    "pixels x2.5": ("EPSG:32633", 2.5),
    "degrees": ("EPSG:4326", 1.0),
    "neighboring zone": ("EPSG:32634", 1.0),
    "neighboring zone, pixels x0.5": ("EPSG:32634", 0.5),
}


@pytest.fixture(scope="module", params=OTHER_GRIDS, ids=str)
def other_grid_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Open a pair whose after scene lies on another grid, and has a hole."""
    system, size = OTHER_GRIDS[request.param]
    folder = tmp_path_factory.mktemp("other")
    bounds = (399_990.3, 5_000_000 - HEIGHT / 2 - 10, 400_000 + WIDTH / 2 + 10, 5_000_010.4)
    around = rasterio.warp.transform_bounds("EPSG:32633", system, *bounds)
    transform, _, _ = calculate_default_transform("EPSG:32633", system, WIDTH, HEIGHT, *bounds)
    pixel = 0.5 * size if system != "EPSG:4326" else transform.a
    width, height = (int((around[i + 2] - around[i]) / pixel) for i in (0, 1))
    sharpness = max(1.0, 1 / size)  # the same on the ground of the before scene
    image = np.stack([gaussian_filter(texture(height, width, band), 0.7 * sharpness) for band in range(3)])
    mask = np.ones((height, width), bool)
    mask[height // 3 : height // 2, width // 3 : width // 2] = False
    other = {"crs": system, "transform": Affine(pixel, 0, around[0], 0, -pixel, around[3]), "mask": mask}
    before = write(folder / "before.tif", picture(rgb()))
    with open_pair(before, write(folder / "after.tif", picture(image), **other), options=UNMOVED) as pair:
        yield pair


def test_on_another_grid_a_nil_field_agrees_with_gdal(other_grid_pair: ScenePair) -> None:
    assert other_grid_pair.after.alignment.offset is None
    expected, valid_expected = other_grid_pair.after.read(whole(other_grid_pair))
    values, valid = through(other_grid_pair, constant(0, 0)).read(whole(other_grid_pair))
    assert (valid != valid_expected).mean() < 0.02
    inner = np.s_[10:-10, 10:-10]
    both = (valid & valid_expected)[inner]
    difference = np.abs(values.astype(float) - expected)[:, *inner][:, both]
    assert difference.mean() < 0.05 * expected[:, valid_expected].std()
    lower = np.s_[170:290, 10:330]  # below the hole
    assert valid[lower].all()
    shift = shift_between(expected.mean(axis=0)[lower], values.mean(axis=0)[lower])
    assert np.hypot(*shift) < 0.05


windows = st.tuples(*[st.integers(0, side - 1) for side in (HEIGHT, WIDTH)], st.integers(1, 150), st.integers(1, 150))


def aligned(after: AlignedReader) -> Alignment:
    return displaced(after.alignment, palette=after.channels.table is not None)


@lru_cache(maxsize=1)
def read_whole(after: AlignedReader) -> tuple[np.ndarray, np.ndarray]:
    return DisplacedReader(after.scene, after.channels, aligned(after), wavy()).read(Window(0, HEIGHT, 0, WIDTH))


def read_in_parts(pair: ScenePair, window: tuple[int, int, int, int], part_px: int) -> None:
    row, col, rows, cols = window
    window = Window(row, min(row + rows, HEIGHT), col, min(col + cols, WIDTH))
    field = wavy()
    values, valid = read_whole(pair.after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "_PART_PX", part_px)
        reader = through(pair, field)
        part = reader.read(window)
        once = reader.read_once(window)
        valid_only = reader.valid(window)
    for found, inside in (part, once):
        assert found.dtype == values.dtype
        assert np.array_equal(found, values[:, *window.slices])
        assert np.array_equal(inside, valid[window.slices])
    assert np.array_equal(valid_only, valid[window.slices])


@given(windows, st.sampled_from([7, 64, 1024]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pixel_is_the_same_in_every_window(flat_pair, window, part_px: int) -> None:
    read_in_parts(flat_pair, window, part_px)


@given(windows, st.sampled_from([64, 1024]))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_on_another_grid_a_pixel_is_the_same_in_every_window(other_grid_pair, window, part_px: int) -> None:
    read_in_parts(other_grid_pair, window, part_px)


def test_far_from_the_scene_nothing_is_valid(flat_pair) -> None:
    values, valid = through(flat_pair, constant(1e4, 0)).read(Window(0, 20, 0, 30))
    assert values.shape == (3, 20, 30)
    assert not valid.any()


def test_nodata_beside_does_not_leak(tmp_path: Path) -> None:
    """A nodata value far from all others, between whose pixels the field moves the scene by fractions of a pixel."""
    rng = np.random.default_rng(1)
    image = (1000 + rgb()).astype("int16")
    hole = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 4) > 0.03
    image[:, hole] = -32768
    paths = [write(tmp_path / f"{i}.tif", image, nodata=-32768) for i in range(2)]
    with open_pair(*paths, options=UNMOVED) as pair:
        values, valid = through(pair, wavy()).read(whole(pair))
    assert 0.2 < valid.mean() < 0.9
    inside = values[:, valid]
    margin = 60  # a cubic kernel exceeds the values around it by a part of their contrast
    assert inside.min() >= image[:, ~hole].min() - margin
    assert inside.max() <= image[:, ~hole].max() + margin
    assert not values[:, ~valid].any()


def test_classes_are_not_mixed(tmp_path: Path) -> None:
    """A scene with a color table has no colors but those of its table."""
    classes = (texture(HEIGHT, WIDTH)[None] // 60).astype(np.uint8)
    path = write(tmp_path / "classes.tif", classes)
    table = {0: (10, 0, 0), 1: (90, 200, 3), 2: (7, 8, 250), 3: (255, 255, 0)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
    with open_pair(path, path, options=UNMOVED) as pair:
        values, valid = through(pair, wavy()).read(whole(pair))
    colors = {tuple(color) for color in values[:, valid].T.tolist()}
    assert len(colors) > 1
    assert colors <= set(table.values())


# -- estimating it ---------------------------------------------------------------------------------------------------

SIDE = 608
BEND = Bend((3.0, -2.0), amplitude=6.0)


@pytest.fixture(scope="module")
def bent_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, ground = tmp_path_factory.mktemp("bent"), rgb(SIDE, SIDE)
    images = [picture(ground, 2), picture(0.9 * BEND.applied(ground) + 15, 2, seed=8)]
    return [write(folder / f"{name}.tif", image) for name, image in zip(("a", "b"), images, strict=True)]


def errors(field: DisplacementField, bend: Bend = BEND) -> np.ndarray:
    shape = field.confidence.shape
    return np.hypot(*(field.displacement - bend.at_nodes(shape, field.spacing)))


def test_a_bent_pair_is_read_through_the_field(bent_paths: list[Path]) -> None:
    with open_pair(*bent_paths) as pair:
        assert isinstance(pair.after, DisplacedReader)
        field, report = pair.displacement, pair.report
        block = pair.read(whole(pair))
    assert field is not None
    assert field.applied
    inner = np.s_[2:-2, 2:-2]
    assert np.median(errors(field)[inner]) < 0.3
    assert np.percentile(errors(field)[inner], 95) < 0.8
    assert field.is_known[inner].mean() > 0.95
    assert report.displacement["applied"] is True
    assert report.displacement["checksum"] == field.checksum
    true_bend = np.hypot(*(BEND.at_nodes(field.confidence.shape) - np.reshape(BEND.shift, (2, 1, 1))))
    assert report.displacement["p95_px"] == pytest.approx(np.percentile(true_bend, 95), abs=1.0)
    assert report.displacement["unknown_fraction"] < 0.1
    (line,) = [line for line in report.warnings if "displacement field" in line]
    assert "bend apart" in line
    assert "`register=shift` disables this" in line
    gray = [image.mean(axis=0)[20:-20, 20:-20] for image in (block.before, block.after)]
    assert np.corrcoef(*(image.ravel() for image in gray))[0, 1] > 0.97


def test_the_options_of_registration_on_a_bent_pair(bent_paths: list[Path]) -> None:
    correlation = {}
    for register in ("none", "shift", "auto", "field"):
        with open_pair(*bent_paths, options=PairOptions(register=register)) as pair:
            assert isinstance(pair.after, DisplacedReader) == (register in ("auto", "field"))
            assert (pair.displacement is None) == (register in ("none", "shift"))
            block = pair.read(Window(30, SIDE - 30, 30, SIDE - 30))
            warnings = [line for line in pair.report.warnings if "displacement field" in line]
            assert len(warnings) == (register == "auto")
        correlation[register] = np.corrcoef(block.before.ravel(), block.after.ravel())[0, 1]
    assert correlation["auto"] == correlation["field"] > max(correlation["none"], correlation["shift"]) + 0.1


@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.3, -0.4), (4.0, -3.0)])
def test_a_pair_that_does_not_bend_is_read_as_it_is(tmp_path: Path, moved: tuple[float, float]) -> None:
    """By whole pixels at most, as the shift alone says."""
    ground = rgb(SIDE, SIDE)
    second = Bend(moved, amplitude=0).applied(ground)
    paths = [write(tmp_path / f"{i}.tif", picture(image, 2, i)) for i, image in enumerate((ground, second))]
    with open_pair(*paths) as pair, rasterio.open(paths[1]) as file:
        assert pair.report.displacement["applied"] is False
        assert pair.report.displacement["checksum"] is None
        assert not isinstance(pair.after, DisplacedReader)
        assert pair.report.resampling == "none"
        assert pair.report.moved_px == tuple(map(round, moved))
        assert pair.displacement is not None
        assert not pair.displacement.applied
        stored = pair.stored(Window(50, 450, 60, 460))
        starts = [start + round(part) for start, part in zip((50, 60), moved, strict=True)]
        rows, cols = (slice(start, start + 400) for start in starts)
        assert np.array_equal(stored.after, file.read()[:, rows, cols])
        assert not [line for line in pair.report.warnings if "bend" in line]
        assert np.median(errors(pair.displacement, Bend(moved, amplitude=0))[3:-3, 3:-3]) < 0.15


def test_the_field_does_not_depend_on_threads(bent_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displacement, "_WINDOW_PX", 256)
    fields = []
    for workers in (1, 3):
        with open_pair(*bent_paths, options=PairOptions(register="field", workers=workers)) as pair:
            fields.append(pair.displacement)
    for one, other in zip(vars(fields[0]).values(), vars(fields[1]).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_field_hardly_depends_on_the_windows_it_is_matched_in(
    bent_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pair(*bent_paths) as pair:
        expected = pair.displacement
    monkeypatch.setattr(displacement, "_WINDOW_PX", 256)
    with open_pair(*bent_paths) as pair:
        found = pair.displacement
    assert np.hypot(*(found.displacement - expected.displacement)).max() < 0.5
    assert np.percentile(np.hypot(*(found.displacement - expected.displacement)), 95) < 0.1


def test_larger_scenes_have_coarser_nodes(bent_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displacement, "_MAX_NODES", 1000)
    with open_pair(*bent_paths) as pair:
        field = pair.displacement
    assert field.spacing == 32
    assert field.confidence.shape == (19, 19)
    assert np.median(errors(field)[1:-1, 1:-1]) < 0.4


@given(st.integers(-100, SIDE), st.integers(-100, SIDE), st.integers(1, 130), st.integers(1, 130))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_block_is_the_same_in_every_window(bent_pair, row: int, col: int, rows: int, cols: int) -> None:
    """Also in windows that reach beyond the scene, where both scenes are reflected."""
    pair, expected = bent_pair
    block = pair.read(Window(row, row + rows, col, col + cols))
    at = [
        np.pad(np.arange(SIDE), 300, "reflect")[300 + start : 300 + start + size]
        for start, size in ((row, rows), (col, cols))
    ]
    assert np.array_equal(block.valid, expected.valid[np.ix_(*at)])
    assert np.array_equal(block.valid, pair.valid(Window(row, row + rows, col, col + cols)))
    for found, image in ((block.before, expected.before), (block.after, expected.after)):
        assert np.array_equal(found, image[:, *np.ix_(*at)])


@pytest.fixture(scope="module")
def bent_pair(bent_paths: list[Path]):
    with open_pair(*bent_paths) as pair:
        yield pair, pair.read(whole(pair))


def test_a_pair_that_was_sent_reads_the_same(bent_pair) -> None:
    pair, expected = bent_pair
    with pickle.loads(pickle.dumps(pair)) as sent:
        assert isinstance(sent.after, DisplacedReader)
        block = sent.read(whole(pair))
    assert np.array_equal(block.after, expected.after)
    assert np.array_equal(block.valid, expected.valid)


def test_a_shift_of_a_small_pair_is_told_where_it_is_not_corrected(tmp_path: Path) -> None:
    ground = rgb(170, 170)
    second = Bend((3.0, -4.0), amplitude=0).applied(ground)
    paths = [write(tmp_path / f"{i}.tif", picture(image, 2, i)) for i, image in enumerate((ground, second))]
    with open_pair(*paths) as pair:
        assert pair.report.moved_px == (0, 0)
        (line,) = [line for line in pair.report.warnings if "misregistered" in line]
        assert re.fullmatch(
            r"the scenes are misregistered by about (4\.[89]|5\.[01]) px; consider `register=field`", line
        )
    with open_pair(*paths, options=PairOptions(register="field")) as pair:
        assert isinstance(pair.after, DisplacedReader)
        assert not [line for line in pair.report.warnings if "misregistered" in line]


def test_ground_without_texture_has_no_field(tmp_path: Path) -> None:
    flat = np.full((3, 400, 400), 90, np.uint8)
    flat[:, 0, :2] = 10, 200
    path = write(tmp_path / "flat.tif", flat)
    with open_pair(path, path) as pair:
        assert pair.displacement is None
        assert pair.report.displacement is None
        assert not [line for line in pair.report.warnings if "displacement" in line]
    with open_pair(path, path, options=PairOptions(register="field")) as pair:
        (line,) = [line for line in pair.report.warnings if "displacement" in line]
        assert line == "the displacement of the scenes cannot be estimated and is not corrected"
        assert not isinstance(pair.after, DisplacedReader)


def test_scenes_of_different_places_are_not_bent_onto_each_other(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.tif", picture(rgb(SIDE, SIDE, seed=i))) for i in range(2)]
    with open_pair(*paths) as pair:
        assert not isinstance(pair.after, DisplacedReader)


def test_what_an_estimate_must_prove(bent_paths: list[Path]) -> None:
    with open_pair(*bent_paths, options=PairOptions(register="none")) as pair:
        estimate = estimate_field(pair.before, pair.after, pair.overlap, pair.stretches)
    assert estimate is not None
    assert estimate.improves(DEFAULT_POLICY)
    assert not estimate.improves(replace(DEFAULT_POLICY, min_bend_px=30))
    assert not estimate.improves(replace(DEFAULT_POLICY, max_error_ratio=1e-3))
    assert not replace(estimate, agreement=0.6).improves(DEFAULT_POLICY)
    assert (estimate.shift.rows, estimate.shift.cols) == pytest.approx(BEND.shift, abs=3)


# -- the option ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_value", "mode"),
    [(True, "shift"), (False, "none"), (None, "auto"), (np.True_, "shift")]
    + [(mode, mode) for mode in ("auto", "none", "shift", "field")],
)
def test_switches_of_earlier_versions_are_modes(given_value, mode: str) -> None:
    assert PairOptions(register=given_value).register == mode


@pytest.mark.parametrize("unknown", ["yes", "Field", "", 7, "affine"])
def test_an_unknown_mode_is_refused_in_one_line(unknown) -> None:
    with pytest.raises(OptionError) as caught:
        PairOptions(register=unknown)
    assert str(caught.value) == f"`register` {unknown!r}: is not known; use auto, none, shift, field"
