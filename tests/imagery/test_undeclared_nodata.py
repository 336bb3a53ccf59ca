"""Pixels without data that no file declares, a band that is wrongly called alpha, and the seam of lossy compression."""

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray
from affine import Affine
from rasterio.enums import ColorInterp
from scipy.ndimage import gaussian_filter

from geosiam.errors import OptionError
from geosiam.imagery.grid import Window
from geosiam.imagery.masks import without_blur
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from tile_indexes import tile_index

SIDE = 260
UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
RGBA = [ColorInterp[name] for name in ("red", "green", "blue", "alpha")]
WHOLE = Window(0, SIDE, 0, SIDE)
JPEG = {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 128, "blockysize": 128}
Write = Callable[..., Path]


def footprint(degrees: float = 20, half: float = 90, row: float = 130, col: float = 125) -> np.ndarray:
    """Return the mask of a turned square, bool (SIDE, SIDE)."""
    rows, cols = np.indices((SIDE, SIDE))
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along, across = (cols - col) * cosine + (rows - row) * sine, (rows - row) * cosine - (cols - col) * sine
    return np.maximum(np.abs(along), np.abs(across)) < half


@pytest.fixture
def image(texture) -> np.ndarray:
    return texture(height=SIDE, width=SIDE)


def opened(first: object, second: object, **options: object) -> tuple[np.ndarray, str]:
    """Return the valid pixels of a pair, and its warnings."""
    with open_pair(first, second, options=PairOptions(radiometry="none", register=False, **options)) as pair:
        valid = pair.read(WHOLE).valid
        np.testing.assert_array_equal(pair.valid(WHOLE), valid)
        return valid, "; ".join(pair.report.warnings)


def filled(image: np.ndarray, inside: np.ndarray, value: float) -> np.ndarray:
    return np.where(inside, image, np.asarray(value, image.dtype))


CERTAIN = [
    ("uint8", 0), ("uint16", 0), ("int16", -9999), ("int16", -32768), ("int32", -2147483648), ("float32", -9999),
    ("float32", -10000), ("float32", np.finfo(np.float32).min), ("float32", 1e20), ("float64", -1.7976931348623157e308),
]  # fmt: skip


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(("dtype", "value"), CERTAIN)
def test_values_that_certainly_mean_nodata(
    dtype: str, value: float, bands: int, image: np.ndarray, write: Write
) -> None:
    inside = footprint()
    second = write("b.tif", filled(image[:bands].astype(dtype), inside, value))
    valid, warnings = opened(write("a.tif", image[:bands].astype(dtype)), second)
    np.testing.assert_array_equal(valid, inside)
    assert f"b.tif declares no nodata; its value {value:.8g} counts as such in" in warnings
    assert "a.tif" not in warnings
    valid, warnings = opened(second, second, nodata="none")
    assert valid.all()
    assert "nodata" not in warnings


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 0), ("float32", -9999)])
def test_they_are_not_mixed_with_others_by_a_warp(dtype: str, value: float, image: np.ndarray, write: Write) -> None:
    inside = footprint()
    moved = UTM @ Affine.translation(0.4, 0.4)
    second = write("b.tif", filled(image.astype(dtype), inside, value), transform=moved)
    with open_pair(write("a.tif", image.astype(dtype)), second, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(WHOLE)
        low, high = (np.array(bound) for bound in (pair.stretches[1].low, pair.stretches[1].high))
    core = footprint(half=86)
    assert block.valid[core].all()
    assert not block.valid[~footprint(half=94)].any()
    expected = (image - low[:, None, None]) / (high - low)[:, None, None]
    assert np.abs(block.after - expected.clip(0, 1))[:, core].mean() < 0.12, "its own values, not those of the collar"


def test_what_is_not_certain_is_left_alone(image: np.ndarray, write: Write) -> None:
    inside = footprint()
    plain = write("a.tif", image)
    white = write("white.tif", filled(image, inside, 255))
    valid, warnings = opened(plain, white)
    assert valid.all()
    assert "declares no nodata and is 255 in" in warnings
    assert "`nodata=255`" in warnings
    np.testing.assert_array_equal(opened(plain, white, nodata=("none", 255))[0], inside)

    reflectance = write("r.tif", filled(image.astype(np.float32) / 255, inside, 0))
    valid, warnings = opened(reflectance, reflectance)
    assert valid.all()
    assert "`nodata=0`" in warnings

    holes = image.copy()
    holes[:, 100:130, 60:90] = 0
    assert opened(plain, write("holes.tif", holes)) == (pytest.approx(np.ones((SIDE, SIDE), bool)), "")


def test_class_maps_and_elevations_have_no_collar(write: Write) -> None:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(1, SIDE, SIDE)), (0, 9, 9))
    noise[:, :90, :90] -= 1
    for name, values in (("classes", (noise > 0) * 255.0), ("sea", (noise * 9000).clip(0, 3000))):
        for dtype in ("uint8", "uint16", "int16"):
            path = write(f"{name}.tif", np.minimum(values, 255 if dtype == "uint8" else 3000).astype(dtype))
            valid, warnings = opened(path, path)
            assert valid.all(), name
            assert "counts as such" not in warnings


def test_elevations_near_a_usual_fill_value(write: Write) -> None:
    """-9999 is an ordinary value among others around it."""
    depth = -10_500 + 1000 * np.random.default_rng(0).random((1, SIDE, SIDE))
    depth[0, :3, :3] = -9999
    path = write("a.tif", depth.astype(np.float32))
    assert opened(path, path) == (pytest.approx(np.ones((SIDE, SIDE), bool)), "")


def test_a_last_band_of_two_values_is_alpha(image: np.ndarray, write: Write) -> None:
    inside = footprint()
    alpha = np.where(inside, 255, 0).astype(np.uint8)[None]
    plain, options = write("a.tif", image), {"photometric": "minisblack"}
    black = write("b.tif", np.concatenate([filled(image, inside, 0), alpha]), **options)
    valid, warnings = opened(plain, black)
    np.testing.assert_array_equal(valid, inside)
    assert "band 4 of" in warnings
    assert "counts as alpha" in warnings
    gray = write("gray.tif", np.concatenate([filled(image[:1], inside, 255), alpha]), **options)
    np.testing.assert_array_equal(opened(gray, gray)[0], inside)

    other = write("c.tif", np.concatenate([image, alpha]), **options)
    valid, warnings = opened(plain, other)
    assert valid.all(), "a mask of something else"
    assert "-colorinterp_4 alpha" in warnings


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_infrared_band_that_is_called_alpha_hides_no_water(dtype: str, image: np.ndarray, write: Write) -> None:
    scale = 1 if dtype == "uint8" else 200
    infrared = image[:1, ::-1].astype(dtype) * scale
    infrared[0, 100:140, 50:90] = 0
    path = write("a.tif", np.concatenate([image.astype(dtype) * scale, infrared]), colors=RGBA)
    valid, warnings = opened(path, path)
    assert valid.all()
    assert "band 4 of" in warnings
    assert "is called alpha but holds an image" in warnings
    valid, warnings = opened(path, path, nodata="none")
    assert not valid[100:140, 50:90].any()

    inside = footprint()
    alpha = gaussian_filter(inside * 255.0, 2).astype(dtype)[None]  # soft edges are alpha
    soft = write("b.tif", np.concatenate([image.astype(dtype), alpha]), colors=RGBA)
    np.testing.assert_array_equal(opened(soft, soft)[0], alpha[0] > 0)


def test_the_seam_that_jpeg_leaves_beside_nodata(image: np.ndarray, write: Write) -> None:
    inside = footprint()
    lossy = write("a.tif", filled(image, inside, 0), nodata=0, **JPEG)
    with open_pair(lossy, lossy, options=PairOptions(nodata="none")) as pair:
        decoded, whole = pair.stored(WHOLE).before, pair.read(WHOLE).valid
    assert decoded[:, ~footprint(half=93)].any(), "the collar is not exactly 0"
    assert whole[~footprint(half=93)].mean() < 1e-4
    assert whole[footprint(half=87)].mean() > 0.999
    moved = write("b.tif", filled(image, inside, 0), nodata=0, transform=UTM @ Affine.translation(0.4, 0.4), **JPEG)
    assert opened(lossy, moved)[0][~footprint(half=94)].mean() < 1e-4
    undeclared = write("c.tif", filled(image, inside, 0), **JPEG)
    valid, warnings = opened(undeclared, undeclared)
    np.testing.assert_array_equal(valid, whole)
    assert "its value 0 counts as such" in warnings


@pytest.mark.parametrize("kind", ["tile index", "virtual raster of a tile index", "array"])
def test_the_seam_in_what_hides_that_it_is_jpeg(kind: str, image: np.ndarray, write: Write) -> None:
    lossy = write("a.tif", filled(image, footprint(), 0), nodata=0, **JPEG)
    scene: object = tile_index(lossy)
    if kind == "virtual raster of a tile index":
        rasterio.shutil.copy(scene, lossy.with_name("a.vrt"), driver="VRT")
        scene = lossy.with_name("a.vrt")
    elif kind == "array":
        scene = rioxarray.open_rasterio(lossy)
    whole = write("whole.tif", image)
    np.testing.assert_array_equal(opened(scene, whole)[0], opened(lossy, whole)[0])


@pytest.mark.parametrize("bands", [1, 3])
def test_a_collar_that_jpeg_has_blurred_is_recognized(bands: int, image: np.ndarray, write: Write) -> None:
    storage = JPEG if bands == 3 else {key: value for key, value in JPEG.items() if key != "photometric"}
    path = write("a.tif", filled(image[:bands], footprint(), 0), **storage)
    valid, warnings = opened(path, path)
    assert "its value 0 counts as such" in warnings
    assert valid[~footprint(half=93)].mean() < 1e-3
    assert valid[footprint(half=87)].mean() > 0.999


def test_black_ground_in_a_jpeg_is_no_nodata(image: np.ndarray, write: Write) -> None:
    dark = image.copy()
    dark[:, 100:104, 100:104] = 0
    lossy = write("a.tif", dark, nodata=0, **JPEG)
    assert (~opened(lossy, lossy)[0]).sum() <= 36


@pytest.mark.parametrize("moved", [0.0, 0.4])
def test_the_seam_is_the_same_in_every_window(moved: float, image: np.ndarray, write: Write) -> None:
    lossy = write("a.tif", filled(image, footprint(), 0), nodata=0, **JPEG)
    second = write("b.tif", filled(image, footprint(35), 0), transform=UTM @ Affine.translation(moved, moved), **JPEG)
    with open_pair(lossy, second) as pair:
        whole = pair.read(WHOLE)
        for top, bottom in pairwise([0, 37, 101, 160, SIDE]):
            for left, right in pairwise([0, 90, 123, 201, SIDE]):
                pair.clear_cache()
                part = pair.read(Window(top, bottom, left, right))
                np.testing.assert_array_equal(part.valid, whole.valid[top:bottom, left:right])
                np.testing.assert_array_equal(part.after, whole.after[:, top:bottom, left:right])


def test_a_scene_with_recognized_nodata_reaches_other_processes(
    image: np.ndarray, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.tif", filled(image, footprint(), 0))
    monkeypatch.chdir(path.parent)
    with open_pair(path.name, path.name) as pair:
        text = pickle.dumps(pair)
    monkeypatch.chdir("/")
    with pickle.loads(text) as pair:
        np.testing.assert_array_equal(pair.read(WHOLE).valid, footprint())
        assert pair.report.before.driver == "GTiff"
        assert pair.report.before.fingerprint


def test_nodata_that_the_user_names(image: np.ndarray, write: Write) -> None:
    inside = footprint()
    one, other = write("a.tif", filled(image, inside, 7)), write("b.tif", filled(image, footprint(50), 9), nodata=7)
    np.testing.assert_array_equal(opened(one, one, nodata=7)[0], inside)
    np.testing.assert_array_equal(opened(one, other, nodata=(7, 9))[0], inside & footprint(50))
    np.testing.assert_array_equal(opened(other, one, nodata=("none", 7))[0], inside & (image > 7).any(axis=0))
    with pytest.raises(OptionError, match=r"`nodata` -1: is no uint8, the type of .*a\.tif; name a value"):
        opened(one, other, nodata=-1)
    for wrong in ((1, 2, 3), "nothing", ("none", "-")):
        with pytest.raises(OptionError, match="use a number, none, or one of them for each scene"):
            PairOptions(nodata=wrong)


def test_bands_of_each_scene(image: np.ndarray, write: Write, texture) -> None:
    """RGB against unnamed BGRN has no common choice of bands."""
    options = {"photometric": "minisblack"}
    infrared = texture(bands=1, height=SIDE, width=SIDE, seed=5)
    before, after = write("a.tif", image), write("b.tif", np.concatenate([image[::-1], infrared]), **options)
    with open_pair(before, after, options=PairOptions(bands=(1, 2, 3), after_bands=(3, 2, 1))) as pair:
        block = pair.read(WHOLE)
        assert pair.report.after_bands["indexes"] == (3, 2, 1)
    np.testing.assert_array_equal(block.before, block.after)
    with open_pair(before, after, options=PairOptions(after_bands=[3, 2, 1])) as pair:
        np.testing.assert_array_equal(pair.read(WHOLE).after, block.after)
    with pytest.raises(OptionError, match=r"b\.tif: has no band 5"):
        open_pair(before, after, options=PairOptions(after_bands=(5,)))


# -- tiles -------------------------------------------------------------------------------------------------------------


def tiled(write: Write, image: np.ndarray, folder: str, **options: object) -> Path:
    """Write an image as four tiles, without its last quarter; return their folder."""
    half = SIDE // 2
    for row, col in ((0, 0), (0, half), (half, 0)):
        part = image[:, row : row + half, col : col + half]
        path = Path(folder) / f"{row}_{col}.tif"
        made = write(str(path), part, transform=UTM @ Affine.translation(col, row), **options)
    return made.parent


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 0), ("int16", -32768), ("float32", -9999), ("float32", 1e20)])
def test_tiles_may_keep_silent_too(dtype: str, value: float, image: np.ndarray, write: Write, tmp_path: Path) -> None:
    """Between tiles are gaps, which are nodata anyway; that tells nothing of the pixels in the tiles."""
    (tmp_path / "tiles").mkdir()
    inside = footprint()
    tiles = tiled(write, filled(image.astype(dtype), inside, value), "tiles")
    plain = write("a.tif", image.astype(dtype))
    covered = np.ones((SIDE, SIDE), bool)
    covered[SIDE // 2 :, SIDE // 2 :] = False
    valid, warnings = opened(tiles, plain)
    np.testing.assert_array_equal(valid, inside & covered)
    assert f"tiles declares no nodata; its value {value:.8g} counts as such in" in warnings
    assert "plain" not in warnings


def test_gaps_between_tiles_are_no_collar(image: np.ndarray, write: Write, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    dark = image.copy()
    dark[:, 20:60, 20:60] = 0
    valid, warnings = opened(tiled(write, dark, "tiles"), write("a.tif", image))
    assert valid[20:60, 20:60].all()
    assert "nodata" not in warnings


def test_nodata_that_the_user_names_for_tiles(image: np.ndarray, write: Write, tmp_path: Path) -> None:
    for dtype in ("uint8", "float32"):
        (tmp_path / dtype).mkdir()
        inside = footprint()
        tiles = tiled(write, filled(image.astype(dtype), inside, 7), dtype)
        valid, _ = opened(tiles, tiles, nodata=7)
        inside[SIDE // 2 :, SIDE // 2 :] = False
        np.testing.assert_array_equal(valid, inside)


@pytest.mark.parametrize("declared", [0, 255])
def test_gaps_stay_gaps_if_the_user_names_another_value_than_the_tiles(
    declared: int, image: np.ndarray, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "tiles").mkdir()
    inside = footprint()
    tiles = tiled(write, filled(image, inside, 7), "tiles", nodata=declared)
    valid, _ = opened(tiles, tiles, nodata=7)
    inside[SIDE // 2 :, SIDE // 2 :] = False
    np.testing.assert_array_equal(valid, inside & (image != declared).any(axis=0))


def test_a_band_of_tiles_that_is_alpha_without_being_called_so(image: np.ndarray, write: Write, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    inside = footprint()
    alpha = np.where(inside, 255, 0).astype(np.uint8)[None]
    black = np.concatenate([filled(image, inside, 0), alpha])
    valid, warnings = opened(tiled(write, black, "tiles", photometric="minisblack"), write("a.tif", image))
    inside[SIDE // 2 :, SIDE // 2 :] = False
    np.testing.assert_array_equal(valid, inside)
    assert "counts as alpha" in warnings


def test_the_seam_where_nodata_narrows_towards_the_edge_of_a_scene() -> None:
    """There is no square of nodata between the picture and the edge, but there would be one beyond it."""
    values = np.full((3, 60, 60), 120, np.uint8)
    rows, cols = np.indices((60, 60))
    wedge = rows < 5 - cols / 12
    values[:, wedge] = 3
    values[:, wedge & (rows < 3)] = 0
    valid = ~(values == 0).all(axis=0)
    assert not without_blur(valid, values, 0)[wedge & (cols < 20)].any()
    assert without_blur(valid, values, 0)[~wedge].mean() > 0.98


def test_a_collar_of_a_scene_whose_infrared_band_is_called_alpha(image: np.ndarray, write: Write) -> None:
    infrared = image[:1, ::-1]
    path = write("a.tif", filled(np.concatenate([image, infrared]), footprint(), 0), colors=RGBA)
    valid, warnings = opened(path, path)
    np.testing.assert_array_equal(valid, footprint())
    assert "is called alpha but holds an image" in warnings
    assert "its value 0 counts as such" in warnings
