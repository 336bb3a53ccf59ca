"""Surface models on any grid, in any unit, with voids; what cannot be used is refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.vrt import WarpedVRT
from surface_files import CORNER, PIXEL, hills, write

import geosiam as gs
from geosiam.errors import InputError, OptionError, SceneRefusedError
from geosiam.heights.surfaces import HeightOptions, open_surfaces
from geosiam.imagery.grid import Window

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLS = 60, 80
WHOLE = Window(0, ROWS, 0, COLS)


def read(paths: list[Path], units: str = "auto") -> np.ndarray:
    with open_surfaces(paths, HeightOptions(dsm_units=units)) as surfaces:
        return surfaces.read(WHOLE)


@pytest.mark.parametrize(
    ("settings", "units", "factor"),
    [
        ({}, "auto", 1.0),
        ({"units": "metre"}, "auto", 1.0),
        ({"units": "ft"}, "auto", 0.3048),
        ({"units": "US survey foot"}, "auto", 1200 / 3937),
        ({"crs": CRS.from_user_input("EPSG:32633+5703")}, "auto", 1.0),
        ({"crs": CRS.from_user_input("EPSG:32633+6360")}, "auto", 1200 / 3937),
        ({"crs": CRS.from_user_input("EPSG:32633+8228")}, "auto", 0.3048),
        ({"units": "metre"}, "ft", 0.3048),
    ],
)
def test_units(tmp_path: Path, settings: dict, units: str, factor: float) -> None:
    heights = hills(ROWS, COLS)
    found = read([write(tmp_path / "a.tif", heights, **settings)], units)
    np.testing.assert_allclose(found[0], heights.astype(np.float32) * factor, rtol=1e-6)


def test_two_units_and_another_grid(tmp_path: Path) -> None:
    """The second surface in feet, of another CRS and pixel size: the same heights, where GDAL has them too."""
    heights = hills(ROWS, COLS)
    first = write(tmp_path / "a.tif", heights)
    with (
        rasterio.open(first) as source,
        WarpedVRT(source, crs="EPSG:4326", resampling=rasterio.enums.Resampling.cubic) as warped,
    ):
        other = write(
            tmp_path / "b.tif", warped.read(1) / 0.3048, crs=warped.crs, transform=warped.transform, units="ft"
        )
    before, after = read([first, other])
    known = np.isfinite(after)
    assert known.mean() > 0.85
    assert np.nanstd((after - before)[known]) < 0.05 * heights.std()


def test_windows_are_parts_of_the_whole(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.tif", hills(ROWS, COLS, seed=i)) for i in (0, 1)]
    with open_surfaces(paths) as surfaces:
        shifted = surfaces.shifted((0.37, -1.21))
        whole = shifted.read(WHOLE)
        for window in (Window(7, 33, 11, 64), Window(0, 1, 0, 80), Window(59, 60, 79, 80)):
            np.testing.assert_array_equal(shifted.read(window), whole[:, *window.slices])
        beyond = shifted.read(Window(-5, 10, 70, 90))
    assert np.isnan(beyond[:, :5]).all()
    assert np.isnan(beyond[:, :, 10:]).all()


@pytest.mark.parametrize("void", [np.nan, -9999.0, -32767.0, 1e38])
def test_voids(tmp_path: Path, void: float) -> None:
    heights = hills(ROWS, COLS)
    heights[10:20, 30:50] = void
    (found,) = read([write(tmp_path / "a.tif", heights, nodata=None)])
    np.testing.assert_array_equal(
        np.isnan(found), np.isin(np.arange(ROWS), range(10, 20))[:, None] & np.isin(np.arange(COLS), range(30, 50))
    )


def test_what_is_no_surface_model_is_refused(tmp_path: Path) -> None:
    picture = write(tmp_path / "rgb.tif", np.stack([hills(9, 9)] * 3))
    here = write(tmp_path / "here.tif", hills(9, 9))
    away = write(tmp_path / "away.tif", hills(9, 9), transform=Affine(PIXEL, 0, CORNER[0] + 9e4, 0, -PIXEL, CORNER[1]))
    feet = write(tmp_path / "feet.tif", hills(9, 9), crs="EPSG:2263", transform=Affine(1, 0, 9e5, 0, -1, 2e5))
    fathoms = write(tmp_path / "fathoms.tif", hills(9, 9), units="fathom")
    for paths, words in (
        ([picture], "has 3 bands, a surface model has one band of heights; give the DSM"),
        ([here, away], "away.tif: does not overlap"),
        ([feet], "in meters or feet, and its CRS is in feet; set `dsm_units=m`"),
        ([fathoms], "in 'fathom', which is no known unit; set `dsm_units`"),
        ([tmp_path / "nowhere.tif"], "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            open_surfaces(paths)
    with open_surfaces([feet], HeightOptions(dsm_units="ft")) as surfaces:
        assert surfaces.surfaces[0].info.units_from == "option"


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="use auto, m, ft, us-ft"):
        HeightOptions(dsm_units="yard")
    for wrong in ("a.tif", ("a.tif",), ("a.tif", "b.tif", "c.tif")):
        with pytest.raises(OptionError, match="does not name two surface models"):
            gs.DetectOptions(dsm=wrong)
    assert "dsm" not in gs.DetectOptions().to_dict()
    assert issubclass(OptionError, InputError)
    assert issubclass(SceneRefusedError, ValueError)
