"""Results are in the scene's own coordinate system, or are refused before any work."""

import contextlib
import sqlite3
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import OutputError
from geosiam.imagery.grid import authority_code
from geosiam.pipeline import detect, vectorize_to_file
from geosiam.scoring import score_to_file

SIDE, DEGREES, METERS = 160, Affine(1e-6, 0, 12, 0, -1e-6, 50), Affine(0.1, 0, 4_500_000, 0, -0.1, 5_400_000)
ZONE_4 = "+proj=tmerc +lat_0=0 +lon_0=12 +k=1 +x_0=4500000 +y_0=0 +ellps=bessel +units=m"
BESSEL = 'ELLIPSOID["Bessel 1841",6377397.155,299.1528128]'
GAUSS = f"""BASEPROJCRS["zone 4",BASEGEOGCRS["site",DATUM["site",{BESSEL}]],CONVERSION["zone 4",
METHOD["Transverse Mercator",ID["EPSG",9807]],PARAMETER["Latitude of natural origin",0],
PARAMETER["Longitude of natural origin",12],PARAMETER["Scale factor at natural origin",1],
PARAMETER["False easting",4500000],PARAMETER["False northing",0]]]"""
SYSTEMS: dict[str, tuple[str, Affine]] = {
    "custom without a datum": (ZONE_4, METERS),
    "custom with a shift of the datum": (f"{ZONE_4} +towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7", METERS),
    "degrees without a datum": ("+proj=longlat +ellps=bessel", DEGREES),
    "rotated pole": ("+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +datum=WGS84", DEGREES),
    "derived": (
        f"""DERIVEDPROJCRS["site",{GAUSS},DERIVINGCONVERSION["moved",METHOD["Affine parametric transformation",
        ID["EPSG",9624]],PARAMETER["A0",3],PARAMETER["A1",1],PARAMETER["A2",0],PARAMETER["B0",4],PARAMETER["B1",0],
        PARAMETER["B2",1]],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]""",
        METERS,
    ),
    "local": ('LOCAL_CS["site",UNIT["metre",1]]', Affine(0.1, 0, 100, 0, -0.1, 900)),
    "Mars": ("+proj=eqc +R=3396190 +units=m", Affine(0.1, 0, 100, 0, -0.1, 900)),
    "of another authority": ("ESRI:54009", METERS),
    "usual": ("EPSG:31468", METERS),
}
WITHOUT_WGS84 = ("local", "Mars")
UNSAYABLE_IN_A_SHAPEFILE = ("custom with a shift of the datum", "rotated pole", "derived")


def scenes(folder: Path, system: str) -> tuple[Path, Path]:
    """Write two scenes, the second of which has a square that the first lacks."""
    crs, transform = SYSTEMS[system]
    image = np.random.default_rng(1).integers(90, 130, (3, SIDE, SIDE), np.uint8)
    changed = image.copy()
    changed[:, 60:90, 70:100] = np.array([240, 40, 30])[:, None, None]
    paths = folder / "before.tif", folder / "after.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": SIDE, "height": SIDE}
    for path, picture in zip(paths, (image, changed), strict=True):
        with rasterio.open(path, "w", crs=CRS.from_user_input(crs), transform=transform, **profile) as file:
            file.write(picture)
    return paths


def system_of(path: Path) -> pyproj.CRS:
    with rasterio.open(path) as file:
        return pyproj.CRS.from_wkt(file.crs.to_wkt())


def polygons_of(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return geopandas.read_file(path, layer="anomalies" if path.suffix == ".gpkg" else None)


@pytest.fixture(scope="module", params=SYSTEMS)
def detected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return each system's name, and the folder of a pair in it with its results."""
    folder = tmp_path_factory.mktemp("system")
    result = detect(*scenes(folder, request.param), folder / "found.gpkg", project=folder / "found.qgz")
    with rasterio.open(folder / "before.tif") as file:
        wkt = file.crs.to_wkt()
    assert result.report.before.crs == (authority_code(pyproj.CRS.from_wkt(wkt)) or wkt)
    return request.param, folder


def test_every_format_keeps_the_coordinate_system(detected: tuple[str, Path]) -> None:
    system, folder = detected
    expected, center = system_of(folder / "before.tif"), SYSTEMS[system][1] @ (85, 75)
    assert system_of(folder / "found.tif").equals(expected, ignore_axis_order=True)
    for suffix in (".gpkg", ".fgb", ".parquet"):
        path = folder / f"again{suffix}"
        vectorize_to_file(folder / "found.tif", path)
        found = polygons_of(path)
        assert found.crs.equals(expected, ignore_axis_order=True), suffix
        assert found.geometry.iloc[0].contains(shapely.Point(center))
        place = found[["centroid_lon", "centroid_lat"]].iloc[0]
        if system in WITHOUT_WGS84:
            assert place.isna().all()
        else:
            np.testing.assert_allclose(place, longitude_and_latitude(expected, center), atol=3e-5)
    with contextlib.closing(sqlite3.connect(folder / "found.gpkg")) as db:
        assert db.execute("SELECT count(DISTINCT srs_id) FROM gpkg_geometry_columns").fetchone() == (1,)


def longitude_and_latitude(crs: pyproj.CRS, point: tuple[float, float]) -> tuple[float, float]:
    x, y = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(*point)
    return float(x), float(y)


@pytest.mark.parametrize("suffix", [".geojson", ".shp"])
def test_a_format_that_cannot_say_the_system_is_refused(suffix: str, detected: tuple[str, Path]) -> None:
    system, folder = detected
    path, center = folder / f"again{suffix}", SYSTEMS[system][1] @ (85, 75)
    if system in (WITHOUT_WGS84 if suffix == ".geojson" else UNSAYABLE_IN_A_SHAPEFILE):
        with pytest.raises(OutputError, match=r"coordinate system.*; use \.gpkg"):
            vectorize_to_file(folder / "found.tif", path)
        assert not path.exists()
        return
    vectorize_to_file(folder / "found.tif", path)
    found = polygons_of(path)
    outline = found.geometry.iloc[0]
    if system in WITHOUT_WGS84:
        assert outline.contains(shapely.Point(center))
        return
    place = longitude_and_latitude(found.crs, (outline.centroid.x, outline.centroid.y))
    expected = longitude_and_latitude(system_of(folder / "before.tif"), center)
    np.testing.assert_allclose(place, expected, atol=3e-5)


@pytest.mark.parametrize(("system", "suffix"), [("local", ".geojson"), ("rotated pole", ".shp")])
def test_it_is_refused_before_any_work(system: str, suffix: str, tmp_path: Path) -> None:
    before, after = scenes(tmp_path, system)
    with pytest.raises(OutputError, match=r"coordinate system.*; use \.gpkg"):
        detect(before, after, tmp_path / f"found{suffix}", on_progress=lambda *_: pytest.fail("work was done"))
    assert not list(tmp_path.glob("*found*"))


def test_a_resumed_score_raster_keeps_a_system_that_a_geotiff_cannot_say(tmp_path: Path) -> None:
    before, after = scenes(tmp_path, "rotated pole")

    def stop(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        score_to_file(before, after, tmp_path / "scores.tif", on_progress=stop)
    score_to_file(before, after, tmp_path / "scores.tif")
    assert system_of(tmp_path / "scores.tif").equals(system_of(before), ignore_axis_order=True)


def test_an_outdated_sidecar_does_not_overrule_a_new_score_raster(tmp_path: Path) -> None:
    """GDAL reads the system of a raster from the file beside it before that in the raster."""
    (tmp_path / "rotated").mkdir()
    old = scenes(tmp_path / "rotated", "rotated pole")
    detect(*old, tmp_path / "found.gpkg")
    assert (tmp_path / "found.tif.aux.xml").is_file()
    detect(*scenes(tmp_path, "usual"), tmp_path / "found.gpkg")
    assert system_of(tmp_path / "found.tif").to_epsg() == 31468


def test_a_project_of_polygons_that_gdal_may_not_read(tmp_path: Path) -> None:
    before, after = scenes(tmp_path, "usual")
    detect(before, after, tmp_path / "found.parquet", project=tmp_path / "found.qgz")
    assert (tmp_path / "found.qgz").is_file()


def test_a_code_is_named_only_if_it_means_the_same() -> None:
    assert authority_code(pyproj.CRS.from_epsg(31468)) == "EPSG:31468"
    assert authority_code(pyproj.CRS.from_user_input("ESRI:54009")) == "ESRI:54009"
    similar = pyproj.CRS.from_user_input(ZONE_4)
    assert similar.to_epsg() is not None, "PROJ takes it for another one"
    assert authority_code(similar) is None
