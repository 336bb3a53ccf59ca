"""Scenes of different pixel sizes, against means of blocks."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


def block_means(image: np.ndarray, times: int) -> np.ndarray:
    bands, rows, cols = image.shape
    return image.reshape(bands, rows // times, times, cols // times, times).mean(axis=(2, 4))


@pytest.mark.parametrize("times", [2, 3, 5, 10])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_finer_scene_is_averaged_over_area(times: int, dtype: str, write, texture) -> None:
    fine = texture(height=40 * times, width=50 * times, seed=2).astype(dtype)
    before = write("a.tif", texture(height=40, width=50))
    after = write("b.tif", fine, transform=UTM @ Affine.scale(1 / times))
    with open_pair(before, after, options=PairOptions(radiometry="none")) as pair:
        block, low, high = (
            pair.read(Window(0, 40, 0, 50)),
            *map(np.array, (pair.stretches[1].low, pair.stretches[1].high)),
        )
        assert pair.report.resampling == "average"
        assert f"the after scene has {times}x finer pixels; they are averaged" in pair.report.warnings
        part = pair.read(Window(7, 31, 12, 33))
    assert block.valid.all()
    expected = (block_means(fine.astype(float), times) - low[:, None, None]) / (high - low)[:, None, None]
    tolerance = 0.51 / 255 if dtype == "uint8" else 1e-4
    np.testing.assert_allclose(block.after, expected.clip(0, 1), atol=tolerance)
    np.testing.assert_array_equal(part.after, block.after[:, 7:31, 12:33])


def test_holes_of_a_finer_scene_do_not_count(write, texture) -> None:
    fine = texture(height=400, width=500).astype(np.int16)
    fine[:, 3:200, 5:300] = -999
    before = write("a.tif", texture(height=40, width=50))
    after = write("b.tif", fine, nodata=-999, transform=UTM @ Affine.scale(0.1))
    with open_pair(before, after) as pair:
        valid = pair.read(Window(0, 40, 0, 50)).valid
    assert not valid[1:20, 1:30].any()
    assert valid[21:, 31:].all()
    assert valid[0, 0]


def test_a_finer_palette_is_reduced_to_its_most_frequent_color(write) -> None:
    classes = np.random.default_rng(1).integers(0, 3, (1, 20, 30), dtype=np.uint8)
    fine = np.repeat(np.repeat(classes, 5, axis=1), 5, axis=2)
    fine[:, ::5, ::5] = 0
    path = write("b.tif", fine, transform=UTM @ Affine.scale(0.2), photometric="palette")
    colors = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 200, 0, 255)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colors)
    with open_pair(write("a.tif", np.repeat(classes, 3, axis=0)), path, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(Window(0, 20, 0, 30))
        assert any("the most frequent value of them is used" in warning for warning in pair.report.warnings)
    expected = np.array([colors[i][:3] for i in range(3)])[classes[0]].transpose(2, 0, 1)
    np.testing.assert_allclose(block.after, expected / 255, atol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
@pytest.mark.parametrize(("times", "kind"), [(11, "small"), (1000, "small"), (1 / 11, "large"), (1 / 900, "large")])
def test_much_finer_and_much_coarser_scenes_are_refused(times: float, kind: str, crs: str, write, texture) -> None:
    before = write("a.tif", texture())
    place = UTM @ Affine.scale(1 / times)
    if crs == "EPSG:4326":
        x, y = (values[0] for values in rasterio.warp.transform("EPSG:32633", crs, [400_000], [5_000_000]))
        place = Affine.translation(x, y) @ Affine.scale(6.3e-6 / times, -4.5e-6 / times)
    after = write("b.tif", texture(), crs=crs, transform=place)
    with pytest.raises(SceneRefusedError, match=rf"b\.tif: has pixels .* times as {kind} as those of") as caught:
        open_pair(before, after)
    named = "b.tif" if kind == "small" else "a.tif"
    assert f"{named} first: gdalwarp -r average -tr" in str(caught.value)
