"""Every kind of file a scene may come in, against the plain one."""

import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from geosiam.errors import InputError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.imagery import scene
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair import PairBlock
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.vrt import VirtualRaster

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
HEIGHT, WIDTH = 300, 340
WHOLE = Window(-9, HEIGHT + 20, -3, WIDTH + 40)


@pytest.fixture
def image(texture) -> np.ndarray:
    return texture(height=HEIGHT, width=WIDTH)


def read(before: object, after: object, **options: object) -> PairBlock:
    with open_pair(before, after, options=PairOptions(radiometry="none", **options)) as pair:
        return pair.read(WHOLE)


def assert_same(found: PairBlock, image: np.ndarray) -> None:
    rows, cols = 9, 3
    inner = (slice(None), slice(rows, rows + HEIGHT), slice(cols, cols + WIDTH))
    np.testing.assert_allclose(found.after[inner], image / 255, atol=1e-6)
    np.testing.assert_array_equal(found.before, found.after)
    assert found.valid.all()


LAYOUTS = {
    "strips of one row": {"blockysize": 1},
    "one strip": {"blockysize": HEIGHT},
    "small tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "a tile larger than the scene": {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "compress": "deflate"},
    "bands apart": {"interleave": "band", "tiled": True, "blockxsize": 64, "blockysize": 128},
    "BigTIFF": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "deflate and predictor": {"compress": "deflate", "predictor": 2},
    "lzw": {"compress": "lzw"},
    "zstd": {"compress": "zstd"},
    "lossless webp": {"compress": "webp", "WEBP_LOSSLESS": True},
    "sparse": {"SPARSE_OK": True, "tiled": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, image, write) -> None:
    path = write("a.tif", image, **LAYOUTS[layout])
    assert_same(read(path, path), image)


@pytest.mark.parametrize(
    ("driver", "suffix"), [("COG", "tif"), ("PNG", "png"), ("VRT", "vrt"), ("HFA", "img"), ("ENVI", "dat")]
)
def test_formats(driver: str, suffix: str, image, write) -> None:
    plain = write("plain.tif", image)
    path = plain.with_name(f"scene.{suffix}")
    rasterio.shutil.copy(plain, path, driver=driver)
    assert_same(read(plain, path), image)
    assert_same(read(path, plain), image)


@pytest.mark.parametrize("bands", range(1, 13))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_numbers_of_bands_and_types(bands: int, dtype: str, image, write) -> None:
    many = np.concatenate([image] * 4)[:bands].astype(dtype)
    for moved in (0, 0.5):
        path = write("a.tif", many, photometric="minisblack")
        other = write("b.tif", many, photometric="minisblack", transform=UTM @ Affine.translation(moved, 0))
        block = read(path, other)
        assert np.isfinite(block.after).all()
        assert block.valid[20:280, 20:300].all()
        if not moved:
            np.testing.assert_array_equal(block.before, block.after)


def test_engineering_systems(image, write) -> None:
    local = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    moved = write("b.tif", image, crs=local, transform=UTM @ Affine.translation(0.5, 0.5))
    block = read(write("a.tif", image, crs=local), moved, register="none")
    expected = (image[:, :-1, :-1] / 4 + image[:, 1:, :-1] / 4 + image[:, :-1, 1:] / 4 + image[:, 1:, 1:] / 4) / 255
    np.testing.assert_allclose(block.after[:, 10 : 9 + HEIGHT, 4 : 3 + WIDTH], expected, atol=0.6 / 255)


def test_a_scene_in_an_archive(image, write, tmp_path) -> None:
    path = write("a.tif", image)
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "inside/a.tif")
    for name in (f"/vsizip/{tmp_path}/scenes.zip/inside/a.tif", f"zip://{tmp_path}/scenes.zip!inside/a.tif"):
        assert_same(read(path, name), image)
    for name in (
        f"/vsizip/{tmp_path}/scenes.zip/b.tif",
        f"/vsizip/{tmp_path}/none.zip/a.tif",
        f"zip://{tmp_path}/no!a",
    ):
        with pytest.raises(SceneUnreadableError, match="cannot be opened"):
            read(path, name)


def test_an_archive_in_several_views(image, write, tmp_path) -> None:
    """What needs a virtual raster in between is found by the same name."""
    alpha = np.full((1, HEIGHT, WIDTH), 255, np.uint8)
    colors = [rasterio.enums.ColorInterp[name] for name in ("red", "green", "blue", "alpha")]
    path = write("a.tif", np.concatenate([image, alpha]), colors=colors, nodata=0)
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(path, "a.tif")
    for name in (f"/vsizip/{tmp_path}/scenes.zip/a.tif", f"zip://{tmp_path}/scenes.zip!a.tif"):
        assert_same(read(path, name), image)


def test_a_virtual_raster_of_what_is_gone(image, write) -> None:
    path = write("a.tif", image)
    gone = write("gone.tif", image)
    with rasterio.open(gone) as file:
        view = VirtualRaster(Grid(file.crs, file.transform, WIDTH, HEIGHT))
    for band in (1, 2, 3):
        view.band("uint8").add(str(gone), band)
    (gone.parent / "b.vrt").write_text(view.xml())
    gone.unlink()
    with pytest.raises(InputError, match=r"b\.vrt: .*; "):
        read(path, gone.parent / "b.vrt")


# -- over the network ------------------------------------------------------------------------------------------------


def test_a_cloud_optimised_scene_over_the_network(server: str, image, write, tmp_path) -> None:
    plain = write("plain.tif", image)
    rasterio.shutil.copy(plain, tmp_path / "cog.tif", driver="COG", blocksize=128)
    for name in (f"{server}/cog.tif", f"/vsicurl/{server}/cog.tif"):
        assert_same(read(plain, name), image)
        assert_same(read(name, plain), image)


@pytest.mark.parametrize("name", ["absent.tif", "stall/absent.tif"])
def test_what_is_not_on_the_network(name: str, server: str, image, write) -> None:
    with pytest.raises(SceneNotFoundError, match="does not exist"):
        read(write("plain.tif", image), f"{server}/{name}")


def test_nobody_answers(image, write) -> None:
    with pytest.raises(SceneUnreadableError, match="cannot be opened"):
        read(write("plain.tif", image), "http://127.0.0.1:9/a.tif")


def test_a_server_that_stalls_is_left_after_a_while(server: str, write, tmp_path, monkeypatch) -> None:
    quick = {"GDAL_HTTP_LOW_SPEED_TIME": 2, "GDAL_HTTP_MAX_RETRY": 0}
    for name, value in quick.items():
        monkeypatch.setitem(scene.GDAL_OPTIONS, name, value)
    (tmp_path / "stall").mkdir()
    large = np.random.default_rng(0).integers(0, 255, (3, 600, 600), dtype=np.uint8)
    rasterio.shutil.copy(write("plain.tif", large), tmp_path / "stall" / "cog.tif", driver="COG", blocksize=128)
    start = time.monotonic()
    with pytest.raises(SceneUnreadableError, match="cannot be"):
        read(write("plain.tif", large), f"{server}/stall/cog.tif")
    assert time.monotonic() - start < 30


# -- control points --------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["mapchete__gcps.tif", "riotiler_fixtures__cog_gcps_ovr.tif", "rioxarray__test_rpcs.tif"]
)
def test_real_control_points_and_coefficients_want_a_warp(name: str, data_dir: Path) -> None:
    path = data_dir / "odd" / name
    with pytest.raises(SceneRefusedError, match=f"{name}: is georeferenced by .* only; .*gdalwarp"):
        open_pair(path, path)
