"""Opening scenes by name, and what GDAL is told meanwhile."""

import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray
from affine import Affine
from rasterio.env import get_gdal_config

from geosiam.errors import SceneRefusedError
from geosiam.imagery.pair import open_pair
from geosiam.imagery.scene import ENVIRONMENT, Scene, fingerprint

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


def test_the_block_cache_is_counted_in_bytes() -> None:
    # GDAL's option of the same name takes 256 for megabytes; here that would be no cache at all.
    with rasterio.Env(**ENVIRONMENT):
        assert 64e6 <= get_gdal_config("GDAL_CACHEMAX") <= 1e9


def array(image: np.ndarray, name: str | None = "survey") -> xarray.DataArray:
    scene = xarray.DataArray(image, dims=("band", "y", "x"), name=name)
    return scene.rio.write_crs("EPSG:32633").rio.write_transform(UTM)


def test_a_fingerprint_tells_content_and_time(write, texture) -> None:
    path = write("a.tif", texture())
    first = fingerprint(path)
    assert fingerprint(str(path)) == first != ""
    with rasterio.open(path) as dataset:
        assert fingerprint(dataset) == first
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(path) != first  # same size, same time, another pixel
    assert fingerprint(array(texture())) == fingerprint(array(texture())) != fingerprint(array(texture(seed=5)))
    assert fingerprint("https://example.org/no/such.tif") == ""


def test_reports_and_messages_call_an_array_by_its_name(write, texture) -> None:
    with open_pair(write("a.tif", texture()), array(texture())) as pair:
        assert pair.report().after.name == "survey"
    bare = xarray.DataArray(texture(), dims=("band", "y", "x")).rio.write_crs("EPSG:32633")
    with pytest.raises(SceneRefusedError, match=r"^the DataArray: is not georeferenced"):
        open_pair(write("a.tif", texture()), bare)


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: scene > 3,
        lambda scene: scene.astype("float16"),
        lambda scene: scene.expand_dims(time=2),
        lambda scene: scene.transpose("y", "x", "band"),
    ],
)
def test_arrays_that_are_no_rasters(change, write, texture) -> None:
    with pytest.raises(SceneRefusedError, match=r"survey: cannot be taken for a raster .*; give it dimensions"):
        open_pair(write("a.tif", texture()), change(array(texture())).rename("survey"))


@pytest.mark.parametrize("scene", [None, 5, np.zeros((3, 9, 9))])
def test_what_is_no_scene_at_all(scene: object) -> None:
    with pytest.raises(TypeError, match=f"not a {type(scene).__name__}"):
        Scene.of(scene)


def test_opening_in_many_threads_leaves_the_warnings_alone(write, texture) -> None:
    source = Scene(str(write("a.tif", texture())))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(lambda _: source._opened().close(), range(40)))
    assert warnings.filters == before


def test_a_source_keeps_its_names_on_the_way_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(Scene("/data/a.tif", "a")))
    assert (copy.path, copy.name) == ("/data/a.tif", "a")
