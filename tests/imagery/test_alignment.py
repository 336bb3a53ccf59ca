"""Where one scene lies on the grid of another, against a look at every pixel."""

import numpy as np
import pytest
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS

from geosiam.imagery.alignment import align, footprint
from geosiam.imagery.grid import Grid, Window, apply_affine

EARTH = Grid(CRS.from_epsg(4326), Affine(0.5, 0, -180, 0, -0.5, 90), 720, 360)
GRIDS = {
    "earth": EARTH,
    "mercator": Grid(CRS.from_epsg(3857), Affine(80_000, 0, -2e7, 0, -80_000, 2e7), 500, 500),
    "pole": Grid(CRS.from_epsg(3413), Affine(10_000, 0, -1.5e6, 0, -10_000, 1.5e6), 300, 300),
    "zone": Grid(CRS.from_epsg(32633), Affine(5000, 0, 1e5, 0, -5000, 5.5e6), 200, 150),
    "dateline": Grid(CRS.from_epsg(32660), Affine(3000, 0, 5e5, 0, -3000, -1.5e6), 150, 120),
    "rotated": Grid(
        CRS.from_epsg(32633), Affine.translation(4e5, 5e6) @ Affine.rotation(25) @ Affine.scale(4000, -4000), 90, 70
    ),
    "crumb": Grid(CRS.from_epsg(4326), Affine(0.001, 0, 15.01, 0, -0.001, 47.03), 3, 2),
}


def covered(scene: Grid, target: Grid) -> np.ndarray:
    """Return which of the target's pixels have their center in the scene."""
    rows, cols = np.indices(target.shape) + 0.5
    x, y = apply_affine(target.transform, cols, rows)
    to_scene = Transformer.from_crs(target.crs.to_wkt(), scene.crs.to_wkt(), always_xy=True)
    x, y = to_scene.transform(x, y)
    known = np.isfinite(x) & np.isfinite(y)
    cols, rows = apply_affine(~scene.transform, np.where(known, x, np.nan), np.where(known, y, np.nan))
    return (cols > 0) & (cols < scene.width) & (rows > 0) & (rows < scene.height)


@pytest.mark.parametrize("scene", GRIDS)
@pytest.mark.parametrize("target", GRIDS)
def test_no_covered_pixel_is_outside_the_footprint(scene: str, target: str) -> None:
    truth = covered(GRIDS[scene], GRIDS[target])
    window = footprint(GRIDS[scene], GRIDS[target])
    if window is not None:
        assert window.intersection(Window(0, truth.shape[0], 0, truth.shape[1])) == window
        truth[window.slices] = False
    assert not truth.any()


def test_footprints_are_no_larger_than_needed() -> None:
    utm = CRS.from_epsg(32633)
    target = Grid(utm, Affine(1, 0, 0, 0, -1, 0), 1000, 800)
    part = Grid(utm, Affine(0.5, 0, 300, 0, -0.5, -200), 400, 100)
    window = footprint(part, target)
    assert window is not None
    assert window.row_start <= 200
    assert window.row_stop >= 250
    assert window.shape == (52, 202)
    assert footprint(part, Grid(utm, Affine(1, 0, 5000, 0, -1, 0), 1000, 800)) is None


@pytest.mark.parametrize("turn", [0, 20, 90])
def test_scale_is_the_size_of_the_scenes_pixels_on_the_target(turn: float) -> None:
    utm = CRS.from_epsg(32633)
    target = Grid(utm, Affine(2, 0, 0, 0, -2, 0), 100, 100)
    scene = Grid(utm, Affine.rotation(turn) @ Affine.scale(1, -1), 300, 300)
    alignment = align(scene, target)
    assert alignment.scale == pytest.approx((0.5, 0.5))
    assert alignment.ratio == pytest.approx(2)
    assert alignment.resampling == "average"


def test_a_scene_far_from_its_own_middle_is_measured_where_it_is_used() -> None:
    north = Grid(CRS.from_epsg(3857), Affine(1000, 0, 0, 0, -1000, 1.2e7), 50, 50)  # 1 km of Mercator at 73 degrees
    across, down = align(EARTH, north).scale
    assert across == pytest.approx(55.7, rel=0.01)  # half a degree of longitude
    assert down == pytest.approx(55.7 / np.cos(np.radians(72.7)), rel=0.05)
