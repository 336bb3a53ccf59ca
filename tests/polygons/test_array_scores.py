"""Georeferenced arrays as scores: strips, windows, and where they lie."""

from pathlib import Path

import dask.array
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - the accessor
import xarray as xr
from affine import Affine
from array_cells import vectorize
from hypothesis import given, settings
from hypothesis import strategies as st

from geosiam.imagery.grid import Window
from geosiam.polygons.score_stream import ArrayScores
from geosiam.scores.raster import SCENE_TAG, STRIDE_TAG
from geosiam.scoring import score

TRANSFORM = Affine(4, 0, 500_000, 0, -4, 5_800_000)
SHAPE = 40, 30


def georeferenced(values, **attributes):
    array = xr.DataArray(values, dims=("y", "x"), attrs=attributes)
    return array.rio.write_crs("EPSG:32633").rio.write_transform(TRANSFORM)


def noise(seed=0):
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


@given(st.integers(1, 45), st.integers(1, 45), st.integers(1, 35), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_strips_and_windows_are_parts_of_the_array(rows, chunk_rows, chunk_cols, lazy, data):
    values = noise()
    whole = dask.array.from_array(values, (chunk_rows, chunk_cols)) if lazy else values
    scores = ArrayScores.of(georeferenced(whole))
    starts, strips = zip(*scores.strips(rows), strict=True)
    assert list(starts) == np.cumsum([0, *map(len, strips)])[:-1].tolist()
    assert np.array_equal(np.concatenate(strips), values)
    top, left = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 29))
    window = Window(top, data.draw(st.integers(top + 1, 40)), left, data.draw(st.integers(left + 1, 30)))
    part = scores.read(window)
    assert part.dtype == np.float32
    assert np.array_equal(part, values[window.slices])


@pytest.mark.parametrize("names", [("stride", "scene_px"), (STRIDE_TAG, SCENE_TAG)])
def test_the_last_cells_end_with_the_scene(names):
    attributes = dict(zip(names, (8, "317 233"), strict=True))  # 40 x 30 cells of 8 px, the last ones in part
    scores = ArrayScores.of(georeferenced(noise(), **attributes))
    assert scores.stride == 8
    assert scores.extent == (317 / 8, 233 / 8)
    everything = vectorize(georeferenced(np.ones(SHAPE, np.float32), **attributes), smooth=False)
    assert everything.total_bounds.tolist() == [500_000, 5_800_000 - 317 / 2, 500_000 + 233 / 2, 5_800_000]
    assert everything.area_m2.tolist() == [317 * 233 / 4]


def test_a_part_of_an_array_lies_where_it_did():
    values = noise()
    array = georeferenced(values, stride=8, scene_px="320 240")
    x, y = 500_002 + 4.0 * np.arange(30), 5_799_998 - 4.0 * np.arange(40)
    part = array.assign_coords(x=x, y=y)[10:25, 5:20]
    part = part.rio.write_transform(part.rio.transform(recalc=True))
    alone = np.zeros(SHAPE, np.float32)
    alone[10:25, 5:20] = values[10:25, 5:20]
    cut, placed = (vectorize(scores, smooth=False) for scores in (part, georeferenced(alone, stride=8)))
    assert cut.geometry.tolist() == placed.geometry.tolist()


def test_attributes_that_say_nonsense_of_the_scene_are_left():
    scores = ArrayScores.of(georeferenced(noise(), scene_px="many pixels"))
    assert scores.extent == (40, 30)
    assert scores.stride == 1


def test_doubles_are_scores_too():
    values = noise()
    assert vectorize(georeferenced(values.astype(float))).equals(vectorize(georeferenced(values)))


@pytest.mark.parametrize("angle", [0, 33, 90])
def test_scores_of_a_turned_grid_of_tiny_pixels_lie_where_it_does(angle: float, tmp_path: Path) -> None:
    """Affine takes no turn for one where pixels are smaller than 1e-5 degrees, and an array has no turned axes."""
    transform = Affine.translation(12, 50) @ Affine.rotation(angle) @ Affine.scale(1e-6, -1e-6)
    image = np.random.default_rng(0).integers(50, 200, (3, 64, 96), np.uint8)
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=3,
        height=64,
        width=96,
        dtype="uint8",
        crs=4326,
        transform=transform,
    ) as file:
        file.write(image)
    with score(tmp_path / "a.tif", tmp_path / "a.tif") as scores:
        assert set(scores.coords) == {"spatial_ref", *(() if angle else "xy")}
        grid = ArrayScores.of(scores.load()).grid
        cells = transform @ Affine.scale(scores.attrs["stride"])
        assert np.allclose(grid.transform, cells, rtol=0, atol=1e-12)
