"""Areas on the ground, against geodesics."""

import numpy as np
import pyproj
import pytest
from affine import Affine
from rasterio.crs import CRS
from single_components import single

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.imagery.grid import Grid
from geosiam.polygons.areas import CellAreas, pixel_lengths
from geosiam.polygons.components import component_batches
from geosiam.polygons.options import MinArea


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1.5m2", 1.5, "m2"),
        ("20px", 20, "px"),
        (" 3 M2 ", 3, "m2"),
        (".5m²", 0.5, "m2"),
        ("1e3m^2", 1000, "m2"),
        ("0px", 0, "px"),
    ],
)
def test_min_area_is_a_number_and_a_unit(text, value, unit):
    assert MinArea.parse(text) == MinArea(value, unit)


@pytest.mark.parametrize("text", ["", "20", "m2", "-1m2", "20 ha", "nanpx", "infm2", "1e999px", "1,5m2"])
def test_anything_else_is_refused(text):
    with pytest.raises(OptionError, match="`min_area`"):
        MinArea.parse(text)


def geodesic(grid, batch, index):
    """Return the area of a component, cell by cell, from geodesics between the corners on the CRS's own datum."""
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    geod = crs.get_geod()
    total = 0.0
    for row, start, stop in single(batch)[index].runs.tolist():
        for col in range(start, stop):
            corners = [grid.transform @ c for c in ((col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1))]
            lon, lat = to_degrees.transform(*zip(*corners, strict=True))
            total += abs(geod.polygon_area_perimeter(lon, lat)[0])
    return total


GRIDS = {
    "degrees": (4326, Affine(1e-4, 0, 15, 0, -1e-4, 52), 1e-6),
    "degrees, wide, far south": (4326, Affine(0.02, 0, 15, 0, -0.02, -70), 1e-5),
    "degrees, rotated": (4326, Affine(1e-3, 4e-4, 15, 3e-4, -1e-3, 52), 1e-5),
    "degrees, south up": (4326, Affine(1e-3, 0, 15, 0, 1e-3, 40), 1e-5),
    "World Mercator": (3395, Affine(8, 0, 1.6e6, 0, -8, 6.8e6), 1e-5),
    "Web Mercator": (3857, Affine(8, 0, 1.6e6, 0, -8, 6.8e6), 4e-3),  # PROJ takes it for a projection of a sphere
    "UTM": (32633, Affine(4, 0, 500_000, 0, -4, 5_800_000), 1e-3),
    "feet": (2263, Affine(3, 1, 1e6, 1, -3, 2e5), 1e-3),
}


@pytest.mark.parametrize("name", GRIDS)
def test_areas_are_those_on_the_ground(name):
    epsg, transform, tolerance = GRIDS[name]
    mask = np.random.default_rng(0).random((20, 30)) > 0.6
    grid = Grid(CRS.from_epsg(epsg), transform, 30, 20)
    areas = CellAreas(grid)
    for batch in component_batches([mask.astype(np.float32)], 0.5):
        found = areas.of(batch)
        for i in range(len(batch)):
            assert found[i] == pytest.approx(geodesic(grid, batch, i), rel=tolerance)


def test_projected_areas_are_exact_in_the_plane():
    grid = Grid(CRS.from_epsg(32633), Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000), 10, 10)
    assert CellAreas(grid).uniform == 0.25
    survey_foot = 1200 / 3937
    grid = Grid(CRS.from_epsg(2263), Affine(3, 0, 1e6, 0, -3, 2e5), 10, 10)
    assert CellAreas(grid).uniform == pytest.approx(9 * survey_foot**2)


def test_without_a_place_on_earth_there_is_no_area():
    with pytest.raises(SceneRefusedError, match="no coordinate reference system"):
        CellAreas(Grid(CRS(), Affine.identity(), 1, 1))


def test_a_crs_of_its_own_is_measured_in_its_units():
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]')
    assert CellAreas(Grid(local, Affine(2, 0, 0, 0, -2, 0), 5, 5)).uniform == 4


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        (32633, Affine(0.5, 0, 500_000, 0, -0.25, 5_800_000), (0.5, 0.25)),
        (32633, Affine(0.5, 0, 500_000, 0, -0.25, 5_800_000) @ Affine.rotation(90), (0.25, 0.5)),
        (2263, Affine(2, 0, 980_000, 0, -2, 200_000), (2 * 1200 / 3937, 2 * 1200 / 3937)),  # US survey feet
        (3857, Affine(1, 0, 1_000_000, 0, -1, 8_399_737.9), (0.50126, 0.50042)),  # at 60 degrees north
        (4326, Affine(1e-5, 0, 15, 0, -1e-5, 60), (0.5580, 1.1141)),  # likewise
    ],
)
def test_pixels_have_their_length_on_the_ground(crs, transform, expected):
    """Lengths of a degree at 60 degrees north: 111 412 m of the meridian, 55 800 m of the parallel (WGS 84)."""
    grid = Grid(CRS.from_epsg(crs), transform, 100, 100)
    lengths = pixel_lengths(grid, np.array([0.0, 50.0]), np.array([0.0, 50.0]))
    assert lengths.shape == (2, 2)
    np.testing.assert_allclose(lengths, np.array(expected)[:, None] * np.ones(2), rtol=2e-4)
