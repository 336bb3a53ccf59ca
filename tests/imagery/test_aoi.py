"""The valid area, against a look at every pixel: on plain maps, around the earth, across the dateline and the poles."""

import contextlib
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS

from geosiam.errors import InputError, OptionError, SceneRefusedError
from geosiam.imagery.aoi import AreaOfInterest
from geosiam.imagery.grid import Grid, Window, apply_affine
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.options import DetectOptions

MARS = 'GEOGCS["Mars",DATUM["D_Mars",SPHEROID["Mars",3396190,169.89]],PRIMEM["0",0],UNIT["degree",0.0174532925199433]]'
GRIDS = {
    "zone": Grid(CRS.from_epsg(32633), Affine(50, 0, 4e5, 0, -50, 5e6), 150, 100),
    "dateline zone": Grid(CRS.from_epsg(32660), Affine(3000, 0, 5e5, 0, -3000, -1.5e6), 150, 120),
    "earth": Grid(CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90), 360, 180),
    "earth from 0 to 360": Grid(CRS.from_epsg(4326), Affine(1, 0, 0, 0, -1, 90), 360, 180),
    "dateline degrees": Grid(CRS.from_epsg(4326), Affine(0.2, 0, 170, 0, -0.2, 10), 100, 90),
    "pole": Grid(CRS.from_epsg(3413), Affine(20_123, 0, -1.5e6, 0, -20_123, 1.5e6), 150, 150),
    "mercator": Grid(CRS.from_epsg(3857), Affine(160_000, 0, -2e7, 0, -160_000, 2e7), 250, 250),
    "rotated": Grid(
        CRS.from_epsg(32633), Affine.translation(4e5, 5e6) @ Affine.rotation(25) @ Affine.scale(40, -40), 90, 70
    ),
}
AREAS = {
    "earth": (shapely.box(-180, -90, 180, 90), 4326),
    "earth from 0 to 360": (shapely.box(0, -90, 360, 90), 4326),
    "mercator's earth": (shapely.box(-2.0037e7, -2.0037e7, 2.0037e7, 2.0037e7), 3857),
    "west of the dateline": (shapely.box(175, -89, 185, 80), 4326),
    "triangle": (shapely.Polygon([(13, 44), (16, 46), (14, 45.1)]), 4326),
    "across the dateline": (shapely.box(2e5, -5e5, 9e5, 5e5), 32660),
    "around the pole": (shapely.Point(0, 0).buffer(1.2e6).difference(shapely.Point(0, 0).buffer(4e5)), 3413),
    "around the other pole": (shapely.Point(0, 0).buffer(1e6), 3031),
}


def truth_of(grid: Grid, area: shapely.Geometry, epsg: int) -> np.ndarray:
    rows, cols = np.indices(grid.shape) + 0.5
    x, y = apply_affine(grid.transform, cols, rows)
    x, y = Transformer.from_crs(grid.crs.to_wkt(), epsg, always_xy=True).transform(x, y)
    known = np.isfinite(x) & np.isfinite(y)
    inside = np.zeros(grid.shape, bool)
    for turn in (-360, 0, 360) if epsg == 4326 else (0,):
        inside[known] |= shapely.intersects_xy(area, x[known] + turn, y[known])
    return inside


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_pixels_in_the_area(grid: str, area: str, tmp_path: Path) -> None:
    target, (geometry, epsg) = GRIDS[grid], AREAS[area]
    path = tmp_path / "area.gpkg"
    geopandas.GeoDataFrame(geometry=[geometry], crs=epsg).to_file(path)
    truth = truth_of(target, geometry, epsg)
    found = np.zeros(target.shape, bool)
    with contextlib.suppress(OptionError):  # it lies outside
        found = AreaOfInterest.read(path, target).mask(Window(0, target.height, 0, target.width))
    assert (found != truth).mean() < 0.002  # edges that meet centers, and the seam of the polygon around the earth


def write_area(path: Path, geometries: list, crs: object) -> Path:
    geopandas.GeoDataFrame({"n": range(len(geometries))}, geometry=geometries, crs=crs).to_file(path)
    return path


def test_a_window_of_the_mask_is_a_part_of_it(tmp_path) -> None:
    for name, area in (("mercator", "around the pole"), ("zone", "triangle")):
        geometry, epsg = AREAS[area]
        if name == "zone":
            geometry, epsg = shapely.Polygon([(4.01e5, 4.999e6), (4.05e5, 4.996e6), (4.02e5, 4.997e6)]), 32633
        valid = AreaOfInterest.read(write_area(tmp_path / "a.gpkg", [geometry], epsg), GRIDS[name])
        whole = valid.mask(Window(0, 90, 0, 120))
        window = Window(7, 60, 30, 111)
        np.testing.assert_array_equal(valid.mask(window), whole[window.slices])


@pytest.mark.parametrize(
    ("geometries", "crs", "kind", "fact"),
    [
        ([shapely.Polygon()], 4326, SceneRefusedError, "holds no polygons"),
        ([None], 4326, SceneRefusedError, "holds no polygons"),
        ([shapely.box(15, 44, 16, 46)], MARS, SceneRefusedError, "cannot be transformed"),
        ([shapely.box(0, 0, 9e5, 9e6)], 'LOCAL_CS["site",UNIT["metre",1]]', SceneRefusedError, "cannot be transformed"),
        ([shapely.box(np.nan, 0, np.nan, 9e6)], 32633, SceneRefusedError, "no polygons|not finite"),
        ([shapely.box(1e300, 0, 1e301, 9e6)], 32633, SceneRefusedError, "not finite"),
        ([shapely.box(1e20, 0, 1e21, 9e6)], 32633, OptionError, "lies outside"),
    ],
)
def test_areas_that_are_none(geometries, crs, kind: type[InputError], fact: str, write, texture, tmp_path) -> None:  # noqa: PLR0917
    good = write("a.tif", texture())
    with pytest.raises(kind, match=fact) as caught:
        open_pair(good, good, options=PairOptions(aoi=write_area(tmp_path / "a.gpkg", geometries, crs)))
    assert "\n" not in str(caught.value)


def test_an_empty_polygon_beside_another_one_is_left_out(write, texture, tmp_path) -> None:
    good = write("a.tif", texture())
    area = [shapely.Polygon(), shapely.box(400_000, 4_999_970, 400_030, 5_000_000)]
    with open_pair(good, good, options=PairOptions(aoi=write_area(tmp_path / "a.gpkg", area, 32633))) as pair:
        assert pair.read(Window(0, 120, 0, 150)).valid.sum() == 60 * 60


def test_a_table_without_geometry_is_no_area(write, texture, tmp_path) -> None:
    good = write("a.tif", texture())
    (tmp_path / "a.csv").write_text("name,size\nfield,3\n")
    with pytest.raises(SceneRefusedError, match="holds no polygons"):
        open_pair(good, good, options=PairOptions(aoi=tmp_path / "a.csv"))


def test_one_of_several_layers_is_named(write, texture, tmp_path) -> None:
    scene, path = write("a.tif", texture()), tmp_path / "areas.gpkg"
    left, top = 400_000, 5_000_000
    for layer, width in (("west", 20), ("whole", 75)):
        frame = geopandas.GeoDataFrame(geometry=[shapely.box(left, top - 60, left + width, top)], crs="EPSG:32633")
        frame.to_file(path, layer=layer)
    with pytest.raises(SceneRefusedError, match=r"several layers of polygons \(west, whole\); name one: .*gpkg:west"):
        open_pair(scene, scene, options=PairOptions(aoi=path))
    with pytest.raises(SceneRefusedError, match="has no layer 'east'; name one of west, whole"):
        open_pair(scene, scene, options=PairOptions(aoi=f"{path}:east"))
    for layer, columns in (("west", 40), ("whole", 150)):
        with open_pair(scene, scene, options=PairOptions(aoi=f"{path}:{layer}")) as pair:
            assert pair.valid(Window(0, 120, 0, 150)).sum() == 120 * columns
    assert DetectOptions(aoi=f"{path}:west").files == (str(path),)
