import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from geosiam.evaluation.plots import _block_maxima, _meters_per_pixel, save_panel
from geosiam.imagery.grid import Grid


def grid_of(width, height, epsg=32633, size=0.1):
    origin = (400_000, 5_000_000) if epsg == 32633 else (12, 60)
    return Grid(CRS.from_epsg(epsg), Affine.translation(*origin) @ Affine.scale(size, -size), width, height)


@pytest.mark.parametrize("shape", [(120, 160), (1600, 2900), (40, 31)])
def test_panel_of_any_scene(tmp_path, shape):
    rng = np.random.default_rng(0)
    grid = grid_of(shape[1], shape[0])
    image = rng.integers(0, 255, (3, *shape)).astype(np.uint8)
    scores = rng.random((-(-shape[0] // 8), -(-shape[1] // 8)))
    scores[0] = np.nan
    x, y = grid.transform @ (10, 10)
    truth = geopandas.GeoDataFrame(geometry=[shapely.box(x, y - 1, x + 1, y)], crs=grid.crs)
    path = tmp_path / "panel.png"
    save_panel(path, image, image[0], scores, grid=grid, predicted=truth.buffer(0.3), truth=truth, title="a title")
    with Image.open(path) as picture:
        assert picture.width == 1600
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Both outlines are there in their colors.
    for color in ((255, 45, 85), (0, 229, 255)):
        assert (np.abs(pixels - color).max(axis=2) < 40).any()


def test_panel_without_any_polygon(tmp_path):
    image = np.zeros((3, 64, 64), np.uint8)
    save_panel(tmp_path / "panel.png", image, image, np.zeros((8, 8)), grid=grid_of(64, 64), width_px=800)
    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.width == 800


def test_small_objects_survive_downsampling():
    scores = np.zeros((10, 10))
    scores[7, 2] = 0.9
    scores[:2, :2] = np.nan
    small = _block_maxima(scores, 2)
    assert small.shape == (5, 5)
    assert small[3, 1] == 0.9
    assert np.isnan(small[0, 0])


def test_scale_in_meters_whatever_the_crs():
    assert _meters_per_pixel(grid_of(10, 10)) == pytest.approx(0.1)
    assert _meters_per_pixel(grid_of(10, 10, 4326, 1e-5)) == pytest.approx(0.5566, rel=0.01)
