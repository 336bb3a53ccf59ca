"""Each refusal is one line that names the scene, the fact and the remedy."""

import warnings
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
import xarray
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC

from geosiam.errors import InputError, OptionError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.imagery import reader
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from tile_indexes import tile_index

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'


@pytest.fixture
def good(write, texture) -> Path:
    return write("good.tif", texture())


def refused(good: Path, other: object, kind: type[InputError], fact: str, **options: object) -> str:
    for pair in ((good, other), (other, good)):
        with pytest.raises(kind, match=fact) as caught:
            open_pair(*pair, options=PairOptions(**options))
        message = str(caught.value)
        assert "\n" not in message
        assert len(message.split("; ")) >= 2
    return message


def test_files_that_are_not_there(good, tmp_path) -> None:
    assert str(tmp_path / "absent.tif") in refused(good, tmp_path / "absent.tif", SceneNotFoundError, "does not exist")


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"II*\x00garbage"])
def test_files_that_are_no_rasters(content: bytes, good, tmp_path) -> None:
    path = tmp_path / "bad.tif"
    path.write_bytes(content)
    assert str(path) in refused(good, path, SceneUnreadableError, "cannot be opened")


def test_truncated_files(good, write, texture) -> None:
    whole = write("whole.tif", texture(height=900, width=900), tiled=True, blockxsize=128, blockysize=128)
    part = whole.with_name("part.tif")
    part.write_bytes(whole.read_bytes()[:60_000])
    refused(good, part, SceneUnreadableError, "cannot be (read|opened)")


def test_a_file_that_breaks_later_names_the_place(write, texture, monkeypatch) -> None:
    monkeypatch.setattr(reader, "CACHE_BYTES", 2_500_000)  # of a smaller scene all is decoded at the beginning
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    path = write("a.tif", texture(height=900, width=900), **tiles)
    with open_pair(path, path) as pair:
        pair.read(Window(0, 10, 0, 10))
        pair.before.scene.close()
        content = bytearray(path.read_bytes())
        content[20_000:] = bytes(len(content) - 20_000)
        path.write_bytes(content)
        with pytest.raises(SceneUnreadableError, match="rows 512-900, columns 0-900"):
            pair.read(Window(512, 900, 0, 900))


def test_a_virtual_raster_whose_file_breaks_later(write, texture, monkeypatch) -> None:
    """While GDAL has another one open, it reports such a file once and then reads it as zeros."""
    monkeypatch.setattr(reader, "CACHE_BYTES", 2_500_000)
    paths = [write(name, texture(height=900, width=900), tiled=True) for name in ("a.tif", "b.tif")]
    views = [path.with_suffix(".vrt") for path in paths]
    for path, view in zip(paths, views, strict=True):
        rasterio.shutil.copy(path, view, driver="VRT")
    with open_pair(*views, options=PairOptions(on_error="skip")) as pair:
        pair.read(Window(0, 10, 0, 10))
        pair.before.scene.close()
        pair.after.scene.close()
        paths[1].write_bytes(b"nothing of a raster")
        for _ in range(3):
            with pytest.raises(SceneRefusedError, match=r"b\.vrt: refers to .*b\.tif, which cannot be opened"):
                pair.read(Window(512, 900, 0, 900))
    paths[1].unlink()
    refused(views[0], views[1], SceneRefusedError, r"b\.tif, which cannot be opened; restore that file")


def test_a_tile_index_of_which_a_tile_is_gone(good, write, texture) -> None:
    """GDAL reads such a tile as a gap, and says so on standard error only."""
    tiles = [write("a.tif", texture()), write("b.tif", texture(), transform=UTM @ Affine.translation(150, 0))]
    index = tile_index(*tiles)
    with open_pair(good, index):
        pass
    tiles[1].unlink()
    assert "restore that file" in refused(good, index, SceneRefusedError, r"tiles\.gti\.gpkg: refers to .*b\.tif")


def test_complex_values(good, write) -> None:
    refused(good, write("c.tif", np.ones((1, 50, 50), np.complex64)), SceneRefusedError, "complex")


def test_no_coordinate_reference_system(good, write, texture) -> None:
    path = write("n.tif", texture(), crs=None)
    assert "gdal_edit" in refused(good, path, SceneRefusedError, "no coordinate reference system")
    with pytest.raises(SceneRefusedError, match="no coordinate reference system"):
        open_pair(path, path)
    array = xarray.DataArray(texture(), dims=("band", "y", "x"), name="my array")
    refused(good, array, SceneRefusedError, "my array: has no coordinate reference system")


def test_no_georeference(good, texture, tmp_path) -> None:
    image = texture()
    path = tmp_path / "plain.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=3, height=120, width=150, dtype="uint8") as file:
            file.write(image)
    refused(good, path, SceneRefusedError, "is not georeferenced")


def test_control_points_and_rpcs_want_a_warp_first(good, texture, tmp_path) -> None:
    corners = [(0, 0), (0, 150), (120, 0), (120, 150)]
    points = [GroundControlPoint(r, c, 400_000 + c / 2, 5_000_000 - r / 2) for r, c in corners]
    rpc = RPC(0, 100, 10, 1, [1] * 20, [1] * 20, 60, 60, 15, 1, [1] * 20, [1] * 20, 60, 60)
    kinds = {"gcps": {"gcps": points, "crs": "EPSG:32633"}, "rpcs": {"rpcs": rpc}}
    for name, options in kinds.items():
        path = tmp_path / f"{name}.tif"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            profile = {"driver": "GTiff", "count": 3, "height": 120, "width": 150, "dtype": "uint8"}
            with rasterio.open(path, "w", **profile, **options) as file:
                file.write(texture())
        assert "gdalwarp" in refused(good, path, SceneRefusedError, "control points|RPCs")


def test_scenes_of_different_places(good, write, texture) -> None:
    far = write("far.tif", texture(), transform=UTM @ Affine.translation(5000, 0))
    refused(good, far, SceneRefusedError, "does not overlap")
    other = write("zone.tif", texture(), crs="EPSG:32601")
    refused(good, other, SceneRefusedError, "does not overlap|lies outside")


def test_systems_that_have_nothing_in_common(good, write, texture) -> None:
    refused(good, write("site.tif", texture(), crs=LOCAL), SceneRefusedError, "cannot be transformed|lies outside")
    same = write("same.tif", texture(), crs=LOCAL)
    with open_pair(same, same) as pair:
        assert pair.read(Window(0, 9, 0, 9)).valid.all()


def test_nothing_valid_in_common(good, write, texture) -> None:
    refused(good, write("e.tif", np.zeros((3, 120, 150), np.uint8), nodata=0), SceneRefusedError, "no valid pixel")
    left, right = texture(), texture()
    left[:, :, 70:] = 0
    right[:, :, :80] = 0
    refused(write("l.tif", left, nodata=0), write("r.tif", right, nodata=0), SceneRefusedError, "no valid pixel")


def test_valid_areas_that_help_nobody(good, tmp_path) -> None:
    def area(name: str, geometry, crs="EPSG:32633") -> Path:
        geopandas.GeoDataFrame(geometry=[geometry], crs=crs).to_file(tmp_path / name)
        return tmp_path / name

    def refuse(path: Path, kind: type[InputError], fact: str) -> None:
        with pytest.raises(kind, match=fact):
            open_pair(good, good, options=PairOptions(aoi=path))

    (tmp_path / "text.gpkg").write_text("no vectors")
    refuse(tmp_path / "absent.gpkg", SceneNotFoundError, "does not exist")
    refuse(tmp_path / "text.gpkg", SceneUnreadableError, "not a readable vector file")
    refuse(area("far.gpkg", shapely.box(0, 0, 1, 1)), OptionError, "outside the before scene")
    refuse(area("line.gpkg", shapely.LineString([(0, 0), (1, 1)])), SceneRefusedError, "holds no polygons")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that is the point
        bare = area("bare.fgb", shapely.box(0, 0, 1, 1), None)
    refuse(bare, SceneRefusedError, "no coordinate reference system")


def test_unknown_radiometry(good) -> None:
    refused(good, good, OptionError, "is not known", radiometry="magic")


@pytest.mark.data
def test_odd_rasters_give_an_answer_or_one_line(data_dir: Path) -> None:
    refusals = {}
    answered = 0
    for path in sorted((data_dir / "odd").glob("*.tif")):
        try:
            with open_pair(path, path) as pair:
                height = pair.grid.height
                block = pair.read(Window(height - 20, height + 20, -5, 60))
        except InputError as error:
            refusals[path.name] = str(error)
            continue
        answered += 1
        assert block.before.shape == (3, 40, 65)
        np.testing.assert_array_equal(block.before, block.after)
    assert answered > 15
    assert {"broken_invalid.tif", "broken_corrupt.tif", "rioxarray__cint16.tif"} <= set(refusals)
    for name, message in refusals.items():
        assert name in message
        assert "\n" not in message
