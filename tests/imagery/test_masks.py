"""Scenes that say in several ways, or differently for each band, which of their pixels are known."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.vrt import VirtualRaster

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
HALF = UTM @ Affine.translation(0.4, 0.4)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]


def valid_of(first: Path, second: Path) -> np.ndarray:
    with open_pair(first, second, options=PairOptions(radiometry="none")) as pair:
        whole = Window(0, pair.grid.height, 0, pair.grid.width)
        valid = pair.read(whole).valid
        np.testing.assert_array_equal(pair.valid(whole), valid)
    return valid


def assert_holes(valid: np.ndarray, holes: list[tuple[slice, slice]], *, warped: bool) -> None:
    """Check that just these are holes; the kernel of a warp may blur their outlines, and the scene's."""
    expected = np.ones(valid.shape, bool)
    for hole in holes:
        expected[hole] = False
    if not warped:
        np.testing.assert_array_equal(valid, expected)
        return
    for rows, cols in holes:
        assert not valid[rows.start + 1 : rows.stop - 1, cols.start + 1 : cols.stop - 1].any()
    assert (valid != expected).sum() <= 2 * sum(valid.shape) + sum(
        4 * (rows.stop - rows.start + cols.stop - cols.start) for rows, cols in holes
    )


A, B = (slice(20, 40), slice(30, 70)), (slice(70, 90), slice(100, 120))


@pytest.mark.parametrize("transform", [UTM, HALF], ids=["as it is", "warped"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_and_nodata(dtype: str, transform: Affine, write, texture) -> None:
    image = np.concatenate([texture().astype(dtype), np.full((1, 120, 150), 255, dtype)])
    image[(3, *A)] = 0
    image[(slice(0, 3), *B)] = 0
    second = write("b.tif", image, colors=RGBA, nodata=0, transform=transform)
    assert_holes(valid_of(write("a.tif", texture()), second), [A, B], warped=transform is HALF)
    with open_pair(second, second) as pair:
        assert pair.report.before.mask == "alpha and nodata"


@pytest.mark.parametrize("transform", [UTM, HALF], ids=["as it is", "warped"])
def test_mask_and_nodata(transform: Affine, write, texture) -> None:
    image, mask = texture().astype(np.int16), np.ones((120, 150), bool)
    mask[A] = False
    image[(1, *B)] = -999
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        second = write("b.tif", image, nodata=-999, mask=mask, transform=transform)
    assert_holes(valid_of(write("a.tif", texture()), second), [A, B], warped=transform is HALF)


def with_nodata_per_band(path: Path, image: np.ndarray, values: list[float | None], write, transform: Affine) -> Path:
    """Write a virtual raster: a GeoTIFF has one nodata value for all bands."""
    plain = write(f"{path.stem}_plain.tif", image, transform=transform)
    with rasterio.open(plain) as file:
        view = VirtualRaster(Grid(file.crs, file.transform, file.width, file.height))
    for index, value in enumerate(values, 1):
        view.band(str(image.dtype), nodata=value).add(str(plain), index)
    path.write_text(view.xml())
    return path


@pytest.mark.parametrize("transform", [UTM, HALF], ids=["as it is", "warped"])
def test_a_measurement_has_its_own_nodata_in_each_band(transform: Affine, write, texture, tmp_path) -> None:
    image = texture().astype(np.int16)
    image[(0, *A)] = -1
    image[(2, *B)] = -2
    image[0, 100:110, 10:30] = -2  # another band's
    second = with_nodata_per_band(tmp_path / "b.vrt", image, [-1, -99, -2], write, transform)
    assert_holes(valid_of(write("a.tif", texture()), second), [A, B], warped=transform is HALF)


@pytest.mark.parametrize("transform", [UTM, HALF], ids=["as it is", "warped"])
def test_a_color_is_a_hole_if_each_band_has_its_own_nodata(transform: Affine, write, texture, tmp_path) -> None:
    image = texture().clip(2, 250)
    image[(slice(None), *A)] = np.array([255, 0, 1])[:, None, None]
    image[(0, *B)] = 255  # pure in one band only
    second = with_nodata_per_band(tmp_path / "b.vrt", image, [255, 0, 1], write, transform)
    assert_holes(valid_of(write("a.tif", texture()), second), [A], warped=transform is HALF)


@pytest.mark.parametrize("nodata", [0, 0.5, -1e30, float("nan"), float("inf")])
def test_odd_nodata_values_of_floats(nodata: float, write, texture) -> None:
    image = texture().astype(np.float32) + 1
    image[(0, *A)] = nodata
    for transform in (UTM, HALF):
        second = write("b.tif", image, nodata=nodata, transform=transform)
        assert_holes(valid_of(write("a.tif", texture()), second), [A], warped=transform is HALF)


@pytest.mark.parametrize("transform", [UTM, HALF], ids=["as it is", "warped"])
def test_transparent_entries_of_a_palette_are_holes(transform: Affine, write, texture, tmp_path) -> None:
    index = texture(bands=1) % 4
    index[:, 20:40, 30:70] = 3
    colors = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 200, 0, 128), 3: (0, 0, 200, 0)}
    profile = {"driver": "PNG", "crs": "EPSG:32633", "transform": transform, "dtype": "uint8", "count": 1}
    path = tmp_path / "b.png"
    with rasterio.open(path, "w", height=120, width=150, **profile) as file:
        file.write_colormap(1, colors)
        file.write(index)
    with open_pair(write("a.tif", texture()), path, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(Window(0, 120, 0, 150))
        np.testing.assert_array_equal(pair.valid(Window(0, 120, 0, 150)), block.valid)
    known = index[0] < 3
    if transform is UTM:
        np.testing.assert_array_equal(block.valid, known)
        table = np.array([colors[i][:3] for i in range(4)])
        np.testing.assert_allclose(block.after[:, known], (table[index[0]] / 255)[known].T, atol=1e-6)
    else:
        assert not block.valid[21:39, 31:69].any()
        assert block.valid.mean() == pytest.approx(known.mean(), abs=0.03)


def test_a_palette_of_sixteen_bits(write) -> None:
    index = np.random.default_rng(0).integers(0, 1000, (1, 60, 70), dtype=np.uint16)
    path = write("a.tif", index, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {i: (i % 256, i // 256, 7, 255) for i in range(1000)})
    with open_pair(path, path) as pair:
        block = pair.read(Window(0, 60, 0, 70))
    np.testing.assert_allclose(block.before[0], index[0] % 256 / 255, atol=1e-6)
    np.testing.assert_allclose(block.before[1], index[0] // 256 / 255, atol=1e-6)


TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]


@pytest.mark.parametrize("transform", [UTM, HALF], ids=["as it is", "warped"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["alpha", "mask", "none"])
def test_holes_of_every_type(kind: str, dtype: str, transform: Affine, write, texture) -> None:
    # GDAL makes a mask of an alpha band for two of these types only, also of the one that it adds while warping.
    image, mask = (texture() // 2).astype(dtype), np.ones((120, 150), bool)
    mask[A] = kind == "none"
    moved = transform @ Affine.translation(10, 0)
    if kind == "alpha":
        bands = np.concatenate([image, 100 * mask[None].astype(dtype)])
        second = write("b.tif", bands, colors=RGBA, transform=moved)
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            second = write("b.tif", image, transform=moved, **({"mask": mask} if kind == "mask" else {}))
    holes = [] if kind == "none" else [(A[0], slice(A[1].start + 10, A[1].stop + 10))]
    beyond = (slice(0, 120), slice(0, 10))
    valid = valid_of(write("a.tif", texture()), second)
    assert not valid[:, :10].any()
    assert_holes(valid, [*holes, beyond], warped=transform is HALF)
