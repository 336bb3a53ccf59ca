"""Objects at known places on earth are found there, whatever the scenes' systems and geotransforms."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter, map_coordinates

from geosiam.errors import SceneRefusedError
from geosiam.imagery.grid import Grid, apply_affine
from geosiam.pipeline import detect

SIDE = 360
OBJECTS = [(60.0, 72.0), (90.0, 250.0), (200.0, 150.0), (270.0, 290.0), (300.0, 60.0)]  # rows and columns of centers
HALF = 12.0  # of an object's side in pixels


def at(crs: int | str, x: float, y: float, change: Affine) -> Grid:
    return Grid(CRS.from_user_input(crs), Affine.translation(x, y) @ change, SIDE, SIDE)


GRIDS = {
    "north up": at(32633, 400_000, 5_000_000, Affine.scale(0.5, -0.5)),
    "rotated": at(32633, 400_000, 5_000_000, Affine.rotation(33) @ Affine.scale(0.5, -0.5)),
    "south up": at(32633, 400_000, 5_000_000, Affine.scale(0.5, 0.5)),
    "mirrored": at(32633, 400_000, 5_000_000, Affine.scale(-0.5, -0.5)),
    "sheared": at(32633, 400_000, 5_000_000, Affine.shear(12, 0) @ Affine.scale(0.5, -0.6)),
    "degrees": at(4326, 13.4, 52.5, Affine.scale(6e-6, -4e-6)),
    "degrees on the dateline": at(4326, 179.999, -17.0, Affine.scale(6e-6, -6e-6)),
    "zone on the dateline": at(32760, 819_500, 8_118_000, Affine.scale(0.5, -0.5)),
    "feet": at(2263, 980_000, 200_000, Affine.scale(1.5, -1.5)),
    "mercator": at(3857, 1_490_000, 6_890_000, Affine.scale(0.6, -0.6)),
    "pole": at(3413, -100, 100, Affine.scale(0.5, -0.5)),
    "site": at('LOCAL_CS["site",UNIT["metre",1]]', 100, 900, Affine.scale(0.5, -0.5)),
    "mars": at(
        'GEOGCS["Mars",DATUM["D_Mars",SPHEROID["Mars",3396190,169.89]],PRIMEM["0",0],UNIT["degree",0.0174532925199433]]',
        137.4,
        -4.6,
        Affine.scale(6e-6, -6e-6),
    ),
}


def ground() -> np.ndarray:
    """Return a picture of the ground with a margin, float (3, rows, cols) in 0 to 255."""
    noise = np.random.default_rng(4).normal(size=(3, SIDE + 400, SIDE + 400))
    smooth = sum(gaussian_filter(noise, (0, sigma, sigma)) * sigma for sigma in (2, 6, 20))
    return 110 + 18 * smooth / smooth.std()


def picture(cols: np.ndarray, rows: np.ndarray, *, objects: bool) -> np.ndarray:
    """Return what lies at pixel coordinates of the before scene, uint8 (3, rows, cols)."""
    image = np.stack(
        [map_coordinates(band, [rows + 199.5, cols + 199.5], order=1, mode="reflect") for band in ground()]
    )
    if objects:
        for row, col in OBJECTS:
            inside = (np.abs(rows - row) <= HALF) & (np.abs(cols - col) <= HALF)
            image[:, inside] = np.array([235, 60, 40])[:, None]
    return image.clip(0, 255).astype(np.uint8)


def write(path: Path, grid: Grid, before: Grid, *, objects: bool) -> Path:
    """Write what a camera with this grid sees of the ground, looked up point by point."""
    rows, cols = np.indices(grid.shape) + 0.5
    if grid != before:
        x, y = apply_affine(grid.transform, cols, rows)
        x = x - 360 * np.round(x / 360) if grid.crs.is_geographic else x
        x, y = Transformer.from_crs(grid.crs.to_wkt(), before.crs.to_wkt(), always_xy=True).transform(x, y)
        cols, rows = apply_affine(~before.transform, _near(x, before), y)
    profile = {"driver": "GTiff", "crs": grid.crs, "transform": grid.transform, "dtype": "uint8", "count": 3}
    with rasterio.open(path, "w", width=grid.width, height=grid.height, **profile) as file:
        file.write(picture(cols, rows, objects=objects))
    return path


def _near(x: np.ndarray, grid: Grid) -> np.ndarray:
    """Return longitudes as the grid has them, beyond 180 degrees where it lies across the dateline."""
    return x + 360 * np.round((grid.transform.c - x) / 360) if grid.crs.is_geographic else x


def found_at(before: Path, after: Path, grid: Grid, folder: Path) -> np.ndarray:
    """Return the centroids of the polygons in pixel coordinates (row, col)."""
    result = detect(before, after, folder / "found.gpkg")
    assert result.warnings == () or "compared" in result.warnings[0]
    return _in_pixels(geopandas.read_file(result.polygons_path, layer="anomalies"), grid)


def assert_found(centroids: np.ndarray, expected: list[tuple[float, float]]) -> None:
    for centroid in centroids:
        assert np.hypot(*(np.array(OBJECTS) - centroid).T).min() < 2 * HALF
    off = np.array([centroids[np.hypot(*(centroids - place).T).argmin()] - place for place in expected])
    assert np.abs(off).max() < 8  # a cell
    assert np.abs(off.mean(axis=0)).max() < 3


@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS:UserWarning")
@pytest.mark.parametrize("name", GRIDS)
def test_objects_are_found_where_they_are(name: str, tmp_path) -> None:
    grid = GRIDS[name]
    before = write(tmp_path / "a.tif", grid, grid, objects=False)
    after = write(tmp_path / "b.tif", grid, grid, objects=True)
    assert_found(found_at(before, after, grid, tmp_path), OBJECTS)


OTHERS = {
    "another zone": ("north up", 32634, Affine.rotation(4.4) @ Affine.scale(0.45, -0.45)),
    "degrees for a zone": ("rotated", 4326, Affine.scale(6e-6, -4.5e-6)),
    "a zone for degrees": ("degrees", 32633, Affine.scale(0.4, -0.4)),
    "a rotated zone for one south up": ("south up", 32633, Affine.rotation(-70) @ Affine.scale(0.5, -0.5)),
    "a zone across the dateline for degrees": ("degrees on the dateline", 32760, Affine.scale(0.6, -0.6)),
    "the next zone across the dateline": ("zone on the dateline", 32701, Affine.scale(0.5, -0.5)),
    "degrees for a zone across the dateline": ("zone on the dateline", 4326, Affine.scale(5e-6, -5e-6)),
    "degrees for the pole": ("pole", 3995, Affine.scale(0.5, -0.5)),
    "meters for feet": ("feet", 32618, Affine.scale(0.45, -0.45)),
    "a sphere for an ellipsoid": ("north up", 3857, Affine.scale(0.7, -0.7)),
}


@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS:UserWarning")
@pytest.mark.parametrize("turn", [-360, 360])
@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_longitudes_may_be_counted_from_elsewhere(turn: int, scale: float, tmp_path) -> None:
    grid = GRIDS["degrees on the dateline"]
    place = Affine.translation(turn, 0) @ grid.transform @ Affine.translation(18, 18) @ Affine.scale(scale)
    other = Grid(grid.crs, place, SIDE, SIDE)
    before = write(tmp_path / "a.tif", grid, grid, objects=False)
    after = write(tmp_path / "b.tif", other, grid, objects=True)
    assert_found(found_at(before, after, grid, tmp_path), OBJECTS)


@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS:UserWarning")
@pytest.mark.parametrize("case", OTHERS)
def test_objects_are_found_where_they_are_in_a_scene_of_another_system(case: str, tmp_path) -> None:
    name, epsg, change = OTHERS[case]
    grid = GRIDS[name]
    x, y = grid.transform @ (SIDE / 2, SIDE / 2)
    lon, lat = Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True).transform(x, y)
    corner = at(epsg, *Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat), change)
    to_middle = Affine.translation(-SIDE / 2, -SIDE / 2)
    other = Grid(corner.crs, corner.transform @ to_middle, SIDE, SIDE)
    before = write(tmp_path / "a.tif", grid, grid, objects=False)
    after = write(tmp_path / "b.tif", other, grid, objects=True)
    centroids = found_at(before, after, grid, tmp_path)
    inside = _covered(grid, other)
    assert len(inside) >= 3
    assert_found(centroids, inside)


@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS:UserWarning")
@pytest.mark.parametrize("turn", [-360, 0, 360])
@pytest.mark.parametrize("first", ["degrees", "zone"])
def test_longitudes_counted_from_elsewhere_of_a_datum_that_is_moved(turn: int, first: str, tmp_path: Path) -> None:
    """PROJ has a transformation of this datum for these places, 0.4 km long, and none for those 360 degrees away."""
    corner = Transformer.from_crs(4326, 24817, always_xy=True).transform(-78.5, 0.002)
    zone = at(24817, *corner, Affine.scale(0.5, -0.5))
    degrees = at(4326, -78.5 + turn, 0.002, Affine.scale(4.5e-6, -4.5e-6))
    grid, later = (degrees, zone) if first == "degrees" else (zone, degrees)
    before = write(tmp_path / "a.tif", grid, grid, objects=False)
    after = write(tmp_path / "b.tif", later, grid, objects=True)
    assert_found(found_at(before, after, grid, tmp_path), OBJECTS)


DEGREE_PX = 4.7e-6  # half a meter at 17 degrees south


@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS:UserWarning")
@pytest.mark.parametrize("other_system", [32760, 32701, 4269, 3832])
@pytest.mark.parametrize("first", ["degrees", "other"])
@pytest.mark.parametrize(("share", "turn"), [(0.25, 0), (0.5, -360), (0.8, 0)])
def test_the_dateline_between_two_systems(
    share: float, turn: int, first: str, other_system: int, tmp_path: Path
) -> None:
    """The dateline is at this share of the width of both scenes, one of which has degrees that go on across it."""
    west = 180 - share * SIDE * DEGREE_PX
    degrees = at(4326, west + turn, -17.0, Affine.scale(DEGREE_PX, -DEGREE_PX))
    if other_system == 4269:
        turned = west + (0 if turn else -360)
        other = at(other_system, turned, -17.0, Affine.scale(DEGREE_PX, -DEGREE_PX))
    else:
        corner = Transformer.from_crs(4326, other_system, always_xy=True).transform(west, -17.0)
        other = at(other_system, *corner, Affine.scale(0.5, -0.5))
    grid, later = (degrees, other) if first == "degrees" else (other, degrees)
    before = write(tmp_path / "a.tif", grid, grid, objects=False)
    after = write(tmp_path / "b.tif", later, grid, objects=True)
    result = detect(before, after, tmp_path / "found.gpkg")
    assert result.report.overlap_fraction > 0.85
    polygons = geopandas.read_file(result.polygons_path, layer="anomalies")
    assert polygons["centroid_lon"].between(-180, 180).all()
    assert_found(_in_pixels(polygons, grid), _covered(grid, later))
    assert len(_covered(grid, later)) == len(OBJECTS)


def test_a_datum_that_cannot_be_turned_is_refused(tmp_path: Path) -> None:
    grid = at(32760, 819_500, 8_118_000, Affine.scale(0.5, -0.5))
    write(tmp_path / "a.tif", grid, grid, objects=False)
    west = Transformer.from_crs(32760, 4135, always_xy=True).transform(819_500, 8_118_000)
    other = at(4135, 180 - SIDE / 2 * DEGREE_PX, west[1], Affine.scale(DEGREE_PX, -DEGREE_PX))
    write(tmp_path / "b.tif", other, other, objects=False)
    with pytest.raises(SceneRefusedError, match=r"b\.tif: lies across the dateline in EPSG:4135"):
        detect(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "found.gpkg")


def _in_pixels(polygons: geopandas.GeoDataFrame, grid: Grid) -> np.ndarray:
    """Return the centroids of polygons in pixel coordinates (row, col) of a grid."""
    centroids = np.array([(point.x, point.y) for point in polygons.geometry.apply(lambda shape: shape.centroid)])
    cols, rows = apply_affine(~grid.transform, *centroids.T)
    return np.column_stack([rows, cols])


def _covered(grid: Grid, other: Grid) -> list[tuple[float, float]]:
    """Return the objects that lie well inside the other grid."""
    there = Transformer.from_crs(grid.crs.to_wkt(), other.crs.to_wkt(), always_xy=True)
    found = []
    for row, col in OBJECTS:
        x, y = there.transform(*grid.transform @ (col, row))
        own_col, own_row = ~other.transform @ (float(_near(np.array(x), other)), y)
        if 20 < own_col < SIDE - 20 and 20 < own_row < SIDE - 20:
            found.append((row, col))
    return found
