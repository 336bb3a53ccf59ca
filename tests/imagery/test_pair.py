"""Reading pairs, against rasterio and numpy."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import shapely
import xarray
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.features import geometry_mask
from rasterio.warp import reproject

from geosiam.errors import OptionError
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair import NEUTRAL, ScenePair
from geosiam.imagery.prepare import open_pair

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


def whole(pair: ScenePair) -> Window:
    return Window(0, pair.grid.height, 0, pair.grid.width)


def same(a, b) -> None:
    np.testing.assert_array_equal(a.before, b.before)
    np.testing.assert_array_equal(a.after, b.after)
    np.testing.assert_array_equal(a.valid, b.valid)


def part(block, window: Window):
    rows, cols = window.slices
    return type(block)(block.before[:, rows, cols], block.after[:, rows, cols], block.valid[rows, cols])


def test_equal_grids_are_read_as_they_are(write, texture) -> None:
    first, second = texture(seed=1), texture(seed=2)
    with open_pair(write("a.tif", first), write("b.tif", second), options=PairOptions(radiometry="none")) as pair:
        block = pair.read(whole(pair))
        assert pair.report.resampling == "none"
    np.testing.assert_allclose(block.before, first / 255, atol=1e-6)
    np.testing.assert_allclose(block.after, second / 255, atol=1e-6)
    assert block.before.dtype == block.after.dtype == np.float32
    assert block.valid.all()


def test_the_outer_margin_is_reflected(write, texture) -> None:
    image = texture()
    with open_pair(write("a.tif", image), write("b.tif", image)) as pair:
        block = pair.read(Window(-7, 130, -200, 160))
    expected = np.pad(image, ((0, 0), (7, 10), (200, 10)), mode="reflect")
    np.testing.assert_allclose(block.before, expected / 255, atol=1e-6)
    np.testing.assert_array_equal(block.before, block.after)


def test_whole_pixels_are_moved_not_resampled(write, texture) -> None:
    image = texture()
    moved = write("b.tif", image, transform=UTM @ Affine.translation(30, -20))
    with open_pair(write("a.tif", image), moved, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(whole(pair))
        assert "moved by -20 rows and 30 columns" in pair.report.alignment
    expected = np.zeros((120, 150), bool)
    expected[:100, 30:] = True
    np.testing.assert_array_equal(block.valid, expected)
    np.testing.assert_allclose(block.after[:, :100, 30:], image[:, 20:, :120] / 255, atol=1e-6)
    for scene in (block.before, block.after):
        assert (scene[:, ~expected] == NEUTRAL).all()


@pytest.mark.parametrize(
    ("crs", "transform", "resampling"),
    [
        ("EPSG:32633", UTM @ Affine.translation(-3.3, 2.6), Resampling.bilinear),
        ("EPSG:32633", UTM @ Affine.scale(1.3), Resampling.bilinear),
        ("EPSG:32633", UTM @ Affine.scale(0.4), Resampling.average),
        ("EPSG:32633", UTM @ Affine.rotation(20), Resampling.bilinear),
        ("EPSG:4326", None, Resampling.bilinear),
    ],
)
def test_other_grids_are_warped_as_rasterio_warps_the_whole_scene(write, texture, crs, transform, resampling) -> None:
    first, second = texture(seed=1), texture(seed=2, height=200, width=190)
    if transform is None:
        x, y = (values[0] for values in rasterio.warp.transform("EPSG:32633", crs, [400_000], [5_000_000]))
        transform = Affine(6e-6, 0, x, 0, -5e-6, y)
    with open_pair(
        write("a.tif", first),
        write("b.tif", second, crs=crs, transform=transform),
        options=PairOptions(radiometry="none"),
    ) as pair:
        block = pair.read(whole(pair))
        assert pair.report.resampling == resampling.name
    with_alpha = np.concatenate([second, np.full_like(second[:1], 255)])
    expected = np.zeros((4, 120, 150), np.uint8)
    # GDAL takes a rotated scene's bounding box for a larger scene, and would blur.
    sharp = {"XSCALE": 1, "YSCALE": 1} if transform.b else {}
    reproject(
        with_alpha, expected, src_crs=crs, src_transform=transform, dst_crs="EPSG:32633", dst_transform=UTM,
        resampling=resampling, src_alpha=4, tolerance=1e-6, **sharp,
    )  # fmt: skip
    covered = expected[3] > 0
    assert covered.mean() > 0.2
    assert (covered != block.valid).mean() < 0.02  # the warper's own edge
    both = covered & block.valid
    assert np.abs(block.after[:, both] - expected[:3, both] / 255).max() <= 1.01 / 255


def test_warped_windows_are_parts_of_the_whole(write, texture) -> None:
    second = write("b.tif", texture(seed=2), transform=UTM @ Affine.translation(3.3, 2.6) @ Affine.rotation(2))
    with open_pair(write("a.tif", texture(seed=1)), second) as pair:
        block = pair.read(whole(pair))
        for window in (Window(0, 50, 0, 60), Window(33, 34, 17, 99), Window(90, 120, 100, 150)):
            same(pair.read(window), part(block, window))


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("step", [6e-6, 2e-6])  # interpolated, averaged
def test_warped_windows_of_measured_values_are_parts_of_the_whole(bands: int, step: float, write, texture) -> None:
    # Without an alpha band, GDAL would warp large requests in one go and small ones by blocks.
    x, y = (values[0] for values in rasterio.warp.transform("EPSG:32633", "EPSG:4326", [400_000], [5_000_000]))
    image = texture(bands, 700, 700, seed=2).astype(np.float32)
    image[:, 300:320, 350:400] = np.nan
    second = write("b.tif", image, crs="EPSG:4326", transform=Affine(step, 0, x, 0, -step, y))
    with open_pair(write("a.tif", texture(3, 600, 700)), second) as pair:
        block = pair.read(whole(pair))
        assert 0.02 < block.valid.mean() < 1
        for window in (Window(0, 50, 0, 600), Window(33, 334, 17, 99), Window(90, 520, 5, 650), Window(128, 256, 0, 9)):
            same(pair.read(window), part(block, window))


@pytest.mark.data
def test_real_warped_windows_are_parts_of_the_whole(data_dir: Path) -> None:
    joplin = data_dir / "scenes" / "joplin"
    with open_pair(joplin / "pre" / "tile_337-9136.tif", joplin / "post" / "tile_31500-5137.tif") as pair:
        block = pair.read(whole(pair))
        assert 0.3 < block.valid.mean() < 0.7
        for window in (Window(400, 717, 0, 333), Window(511, 513, 200, 1024), Window(700, 1024, 500, 900)):
            same(pair.read(window), part(block, window))


def test_two_threads_read_what_one_reads(write, texture) -> None:
    second = write("b.tif", texture(seed=2), transform=UTM @ Affine.translation(3.3, 2.6))
    with open_pair(write("a.tif", texture(seed=1)), second) as pair:
        windows = [Window(row, row + 40, col, col + 50) for row in range(-10, 90, 7) for col in range(-10, 110, 9)]
        expected = [pair.read(window) for window in windows]
        with ThreadPoolExecutor(2) as pool:
            for block, other in zip(expected, pool.map(pair.read, windows), strict=True):
                same(block, other)


def test_a_pair_can_be_sent_to_another_process(write, texture) -> None:
    second = write("b.tif", texture(seed=2), transform=UTM @ Affine.translation(3.3, 2.6))
    with open_pair(write("a.tif", texture(seed=1)), second) as pair, pickle.loads(pickle.dumps(pair)) as copy:
        same(copy.read(whole(copy)), pair.read(whole(pair)))


def georeferenced(image: np.ndarray) -> xarray.DataArray:
    array = xarray.DataArray(image, dims=("band", "y", "x"))
    return array.rio.write_crs("EPSG:32633").rio.write_transform(UTM)


def test_arrays_and_datasets_are_scenes(write, texture) -> None:
    first, second = texture(seed=1), texture(seed=2)
    path = write("a.tif", first)
    with open_pair(path, write("b.tif", second)) as pair:
        expected = pair.read(whole(pair))
    with rasterio.open(path) as dataset, open_pair(dataset, georeferenced(second)) as pair:
        same(pair.read(whole(pair)), expected)
        with pytest.raises(TypeError, match="cannot be sent"):
            pickle.dumps(pair)
    assert open_pair(path, path).read(Window(0, 1, 0, 1)).valid.all()


# -- what is valid ---------------------------------------------------------------------------------------------------


def hole() -> np.ndarray:
    mask = np.ones((120, 150), bool)
    mask[40:60, 30:70] = False
    return mask


def with_hole(kind: str, write, image: np.ndarray, **options) -> Path:
    mask = hole()
    if kind == "nodata":
        return write("b.tif", np.where(mask, image, 0).astype(np.uint8), nodata=0, **options)
    if kind == "alpha":
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        rgba = np.concatenate([image, np.where(mask, 255, 0).astype(np.uint8)[None]])
        return write("b.tif", rgba, colors=colors, **options)
    if kind == "NaN":
        return write("b.tif", np.where(mask, image, np.nan).astype(np.float32), **options)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal mask"):
        return write("b.tif", image, mask=mask, **options)


@pytest.mark.parametrize("kind", ["nodata", "alpha", "NaN", "internal mask", "sidecar mask"])
def test_holes_are_neutral_in_both_scenes(kind: str, write, texture) -> None:
    image = texture()
    with open_pair(write("a.tif", image), with_hole(kind, write, image)) as pair:
        block = pair.read(whole(pair))
    np.testing.assert_array_equal(block.valid, hole())
    for scene in (block.before, block.after):
        assert (scene[:, ~hole()] == NEUTRAL).all()
        assert np.isfinite(scene).all()


@pytest.mark.parametrize("kind", ["nodata", "alpha", "NaN", "internal mask", "sidecar mask"])
def test_holes_do_not_bleed_when_warped(kind: str, write, texture) -> None:
    image = np.full((3, 120, 150), 200, np.uint8)
    second = with_hole(kind, write, image, transform=UTM @ Affine.translation(0.4, 0.3))
    with open_pair(write("a.tif", texture()), second, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(whole(pair))
        top = pair.stretches[1].high[0]
    assert 0.9 < (block.valid & hole())[2:-2, 2:-2].sum() / hole()[2:-2, 2:-2].sum() <= 1
    assert not block.valid[43:58, 33:68].any()
    level = 200 / 255 if top == 255 else 0.0  # a constant scene of another type becomes 0
    np.testing.assert_allclose(block.after[:, block.valid], level, atol=1e-5)


def test_a_dark_pixel_of_one_band_is_no_hole(write, texture) -> None:
    image = texture()
    image[0, 10, 10] = 0
    image[:, 20, 20] = 0
    with open_pair(write("a.tif", image, nodata=0), write("b.tif", image, nodata=0)) as pair:
        valid = pair.read(whole(pair)).valid
    assert valid[10, 10]
    assert not valid[20, 20]
    assert valid.sum() == valid.size - 1


@pytest.mark.parametrize("kind", ["none", "nodata", "alpha", "NaN", "internal mask"])
@pytest.mark.parametrize("offset", [(0, 0), (30, -20), (-40.5, 60.3)])
def test_validity_alone_is_that_of_the_block(kind: str, offset, write, texture, tmp_path) -> None:
    image = texture()
    place = UTM @ Affine.translation(*offset)
    second = (
        write("b.tif", image, transform=place) if kind == "none" else with_hole(kind, write, image, transform=place)
    )
    area = shapely.Polygon([(400_005, 4_999_995), (400_070, 4_999_980), (400_030, 4_999_945)])
    geopandas.GeoDataFrame(geometry=[area], crs="EPSG:32633").to_file(tmp_path / "area.gpkg")
    for options in ({}, {"aoi": tmp_path / "area.gpkg"}):
        with open_pair(write("a.tif", texture()), second, options=PairOptions(**options)) as pair:
            for window in (whole(pair), Window(-9, 140, -3, 20), Window(100, 130, 10, 40), Window(0, 9, 0, 9)):
                np.testing.assert_array_equal(pair.valid(window), pair.read(window).valid)


def test_windows_beyond_the_overlap_are_not_read(write, texture, monkeypatch) -> None:
    second = write("b.tif", texture(), transform=UTM @ Affine.translation(100.5, 50.5))
    with open_pair(write("a.tif", texture()), second) as pair:
        monkeypatch.setattr(type(pair.before), "read", lambda *_: pytest.fail("read"))
        block = pair.read(Window(-5, 30, -5, 60))
        assert not pair.valid(Window(-5, 30, -5, 60)).any()
    assert block.before.shape == block.after.shape == (3, 35, 65)
    assert (block.before == NEUTRAL).all()
    assert (block.after == NEUTRAL).all()
    assert not block.valid.any()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_a_measurement_missing_in_one_band_is_a_hole(dtype: str, shift: float, write, texture) -> None:
    image = texture(bands=4).astype(dtype)
    image[0, 20:30, 40:60] = -999
    image[3, 70:80, 40:60] = -999  # a band that is not used
    second = write("b.tif", image, nodata=-999, transform=UTM @ Affine.translation(shift, shift))
    with open_pair(write("a.tif", texture()), second, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(whole(pair))
    assert not block.valid[21:29, 41:59].any()
    assert block.valid[70:80].all()
    assert block.valid[1:-1, 1:-1].sum() >= 118 * 148 - 11 * 21
    assert pair.stretches[1].low[0] > 0


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_only_the_valid_area_is_valid(crs: str, write, texture, tmp_path: Path) -> None:
    area = shapely.Polygon([(400_010, 4_999_990), (400_060, 4_999_980), (400_030, 4_999_950)])
    frame = geopandas.GeoDataFrame(geometry=[area], crs="EPSG:32633").to_crs(crs)
    frame.to_file(tmp_path / "area.gpkg")
    path = write("a.tif", texture())
    with open_pair(path, path, options=PairOptions(aoi=tmp_path / "area.gpkg")) as pair:
        valid = pair.read(whole(pair)).valid
        window = Window(30, 60, 20, 90)
        np.testing.assert_array_equal(pair.read(window).valid, valid[window.slices])
        outside = pair.read(Window(0, 10, 0, 10))
    expected = geometry_mask([area], (120, 150), UTM, invert=True)
    assert (valid != expected).mean() < (0.003 if crs == "EPSG:4326" else 1e-9)  # the diagonal meets centers
    assert not outside.valid.any()


# -- which bands, and which range ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bands", "colors", "asked", "expected"),
    [
        (1, None, None, (1, 1, 1)),
        (2, None, None, (1, 1, 1)),
        (3, None, None, (1, 2, 3)),
        (5, None, None, (1, 2, 3)),
        (4, "bgr+", None, (3, 2, 1)),
        (4, "rgba", None, (1, 2, 3)),
        (4, "rgba", (4,), (4, 4, 4)),
        (5, None, (5, 1, 3), (5, 1, 3)),
    ],
)
def test_bands(bands, colors, asked, expected, write, texture) -> None:  # noqa: PLR0917
    names = {"r": ColorInterp.red, "g": ColorInterp.green, "b": ColorInterp.blue, "a": ColorInterp.alpha}
    kinds = [names.get(letter, ColorInterp.undefined) for letter in colors] if colors else None
    image = texture(bands=bands)
    if colors == "rgba":
        image[3] = 255
    path = write("a.tif", image, colors=kinds)
    with open_pair(path, path, options=PairOptions(bands=asked)) as pair:
        block = pair.read(whole(pair))
        assert pair.report.before_bands["indexes"] == expected
    np.testing.assert_allclose(block.before, image[[band - 1 for band in expected]] / 255, atol=1e-6)


def test_colors_are_used_only_if_both_scenes_name_them(write, texture) -> None:
    image = texture(bands=4)
    kinds = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    plain = [ColorInterp.gray, *[ColorInterp.undefined] * 3]
    with open_pair(write("a.tif", image, colors=kinds), write("b.tif", image, colors=plain)) as pair:
        assert pair.report.before_bands["indexes"] == pair.report.after_bands["indexes"] == (1, 2, 3)


def test_palettes_are_expanded(write) -> None:
    index = np.random.default_rng(0).integers(0, 4, (1, 60, 70), dtype=np.uint8)
    table = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 200, 0, 255), 3: (0, 0, 200, 255)}
    path = write("a.tif", index, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
    with open_pair(path, path) as pair:
        block = pair.read(whole(pair))
    with open_pair(path, path, options=PairOptions(bands=(1,))) as pair:
        same(pair.read(whole(pair)), block)
    expected = np.array([table[i][:3] for i in index.ravel()]).T.reshape(3, 60, 70)
    np.testing.assert_allclose(block.before, expected / 255, atol=1e-6)


@pytest.mark.parametrize("bands", [(), (1, 2), (0, 1, 2), (1, 2, 9), (1.5,)])
def test_impossible_bands_are_refused(bands, write, texture) -> None:
    path = write("a.tif", texture())
    with pytest.raises(OptionError):
        open_pair(path, path, options=PairOptions(bands=bands))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_other_types_share_one_stretch(dtype: str, write, texture) -> None:
    image = texture().astype(dtype) * 7 - 100
    with open_pair(write("a.tif", image), write("b.tif", image), options=PairOptions(radiometry="none")) as pair:
        block = pair.read(whole(pair))
        scaling = pair.stretches
    assert scaling[0] == scaling[1]
    low, high = np.percentile(image.reshape(3, -1).astype(float), (0.5, 99.5), axis=1)
    expected = ((image - low[:, None, None]) / (high - low)[:, None, None]).clip(0, 1)
    np.testing.assert_allclose(block.before, expected, atol=1e-5)


def test_a_constant_scene_is_no_division_by_zero(write) -> None:
    flat = np.full((1, 40, 40), 1000, np.uint16)
    path = write("a.tif", flat)
    with open_pair(path, path) as pair:
        assert np.isfinite(pair.read(whole(pair)).before).all()


def test_scarce_data_are_found(write, texture) -> None:
    image = np.zeros((3, 1500, 1500), np.uint8)
    image[:, 777:783, 401:407] = texture(height=6, width=6) + 1
    path = write("a.tif", image, nodata=0)
    with open_pair(path, path) as pair:
        assert pair.read(Window(770, 790, 395, 415)).valid.sum() == 36


def test_a_scene_of_one_pixel(write) -> None:
    path = write("a.tif", np.full((3, 1, 1), 9, np.uint8))
    with open_pair(path, path) as pair:
        block = pair.read(Window(-12, 20, -12, 20))
    np.testing.assert_allclose(block.before, 9 / 255)


def test_the_report_is_plain_json(write, texture) -> None:
    with open_pair(write("a.tif", texture(), nodata=0), write("b.tif", texture().astype(np.float32))) as pair:
        report = pair.report.to_dict()
    read = json.loads(json.dumps(report, allow_nan=False))
    assert read["before"]["crs"] == "EPSG:32633"
    assert read["before"]["mask"] == "nodata"
    assert read["overlap"] == [0, 120, 0, 150]
    assert read["overlap_fraction"] == read["valid_fraction"] == 1


def test_a_small_overlap_is_reported(write, texture) -> None:
    moved = write("b.tif", texture(), transform=UTM @ Affine.translation(100, 50))
    with open_pair(write("a.tif", texture()), moved) as pair:
        assert any("can be compared" in warning for warning in pair.report.warnings)
