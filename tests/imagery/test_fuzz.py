"""Broken and malicious files: a right answer or one line, in little time and memory."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import SceneRefusedError
from geosiam.imagery import sampling
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.vrt import VirtualRaster

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


@pytest.mark.parametrize(
    ("seed", "cases"), [(0, 500), *(pytest.param(seed, 2500, marks=pytest.mark.slow) for seed in range(1, 5))]
)
def test_broken_files(seed: int, cases: int, tmp_path) -> None:
    worker = Path(__file__).with_name("fuzz_worker.py")
    command = [sys.executable, str(worker), str(tmp_path), str(seed), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["outcomes"]["answered"] > cases / 6
    assert result["outcomes"]["answered"] + result["outcomes"]["refused"] == cases
    assert result["peak MiB"] < 1500


def virtual(path: Path, width: int, height: int, source: Path, *, nodata: float | None = None) -> Path:
    """Write a virtual raster of any size with one small source in its first corner."""
    raster = VirtualRaster(Grid(CRS.from_epsg(32633), UTM, width, height))
    for band in (1, 2, 3):
        raster.band("uint8", nodata=nodata).add(str(source), band, Window(0, 120, 0, 150))
    path.write_text(raster.xml())
    return path


def test_absurd_sizes(write, texture, tmp_path) -> None:
    small = write("a.tif", texture())
    most = 2**31 - 1
    start = time.monotonic()
    for size in ((most, most), (most, 10_000), (10_000, most)):
        large = virtual(tmp_path / "b.vrt", *size, small)
        with open_pair(small, large) as pair:
            np.testing.assert_array_equal(pair.read(Window(0, 50, 0, 60)).before, pair.read(Window(0, 50, 0, 60)).after)
        with pytest.raises(SceneRefusedError, match=r"b\.vrt: has .* pixels, more than 1e\+13; cut out a part"):
            open_pair(large, small)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("size", [(4_000_000, 2_000_000), (2**31 - 1, 4000)])
def test_the_search_for_data_in_a_gigantic_scene_ends(size, write, texture, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "_MAX_SEARCHED_PIXELS", 40_000_000)
    small = write("a.tif", np.zeros_like(texture()))
    large = virtual(tmp_path / "b.vrt", *size, small, nodata=0)
    start = time.monotonic()
    with pytest.raises(SceneRefusedError, match="no valid pixel in common"):
        open_pair(large, large)
    assert time.monotonic() - start < 60


def test_blocks_larger_than_memory_are_refused(tmp_path) -> None:
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": UTM, "dtype": "uint8", "count": 3}
    tiles = {"tiled": True, "blockxsize": 40_000, "blockysize": 40_000, "compress": "deflate", "SPARSE_OK": True}
    path = tmp_path / "bomb.tif"
    with rasterio.open(path, "w", width=40_000, height=40_000, **profile, **tiles):
        pass
    assert path.stat().st_size < 10_000
    with pytest.raises(SceneRefusedError, match=r"bomb\.tif: is stored in blocks of 40000 x 40000 pixels.*TILED=YES"):
        open_pair(path, path)


@pytest.mark.parametrize("change", [Affine.scale(1e300), Affine.translation(1e200, 0), Affine.scale(1e-300, 1e-300)])
def test_places_beyond_any_planet_are_refused(change: Affine, write, texture) -> None:
    good, far = write("a.tif", texture()), write("b.tif", texture(), transform=change @ UTM)
    for pair in ((good, far), (far, good), (far, far)):
        with pytest.raises(SceneRefusedError, match=r"b\.tif: (has an invalid georeference|is not georeferenced)"):
            open_pair(*pair)
