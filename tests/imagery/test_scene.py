"""Opening scenes by name, as arrays, and in another process."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray
from affine import Affine

from geosiam.errors import SceneRefusedError
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.scene import Scene

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


def array(image: np.ndarray, name: str | None = "survey") -> xarray.DataArray:
    scene = xarray.DataArray(image, dims=("band", "y", "x"), name=name)
    return scene.rio.write_crs("EPSG:32633").rio.write_transform(UTM)


def test_reports_and_messages_call_an_array_by_its_name(write, texture) -> None:
    with open_pair(write("a.tif", texture()), array(texture())) as pair:
        assert pair.report.after.name == "survey"
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
    with pytest.raises(SceneRefusedError, match=r"survey: cannot be converted to a raster .*; give it dimensions"):
        open_pair(write("a.tif", texture()), change(array(texture())).rename("survey"))


@pytest.mark.parametrize("scene", [None, 5, np.zeros((3, 9, 9))])
def test_what_is_no_scene_at_all(scene: object) -> None:
    with pytest.raises(TypeError, match=f"not a {type(scene).__name__}"):
        open_scene(scene)


def test_a_scene_keeps_its_names_on_the_way_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(Scene("/data/a.tif", "a")))
    assert (copy.path, copy.name) == ("/data/a.tif", "a")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {"driver": "JPEG"}),
        ("a.tif", {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 64, "blockysize": 64}),
        ("a.tif", {"compress": "webp", "webp_level": 20}),
        ("a.jp2", {"driver": "JP2OpenJPEG", "quality": 10}),
    ],
)
def test_an_array_keeps_its_values_whatever_file_they_are_from(name: str, options, write, texture) -> None:
    """Of an array that is just read, rioxarray remembers how the file is stored, and would store it so again."""
    path = write(name, texture(), **options)
    with rasterio.open(path) as file:
        decoded = file.read()
    scene = open_scene(rioxarray.open_rasterio(path))
    np.testing.assert_array_equal(scene.handle().read(), decoded)
    scene.close()


@pytest.mark.parametrize("angle", [33, 90])
@pytest.mark.parametrize("pixel", [0.5, 1e-6])
def test_an_array_whose_rows_are_turned(angle: float, pixel: float, texture, tmp_path: Path) -> None:
    """Pixels of less than 1e-5 degrees look to rioxarray as if they were not turned."""
    crs = 4326 if pixel < 1e-5 else 32633
    transform = Affine.translation(12, 50) @ Affine.rotation(angle) @ Affine.scale(pixel, -pixel)
    image = texture()
    profile = {"driver": "GTiff", "count": 3, "height": 120, "width": 150, "dtype": "uint8", "crs": crs}
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **profile) as file:
        file.write(image)
    with rioxarray.open_rasterio(tmp_path / "a.tif") as opened_array:
        scene = open_scene(opened_array)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert scene.handle().transform == file.transform
    scene.close()
