"""Reading by shared tiles gives what reading each window by itself gives, and decodes each tile once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import SceneUnreadableError
from geosiam.imagery import reader
from geosiam.imagery.alignment import align
from geosiam.imagery.bands import choose_channels
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.reader import AlignedReader
from geosiam.imagery.scene import Scene, checked_grid

HEIGHT, WIDTH = 700, 900
STORED = {
    "small tiles": {"tiled": True, "blockxsize": 64, "blockysize": 32},
    "large tiles": {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"},
    "strips": {"tiled": False, "blockysize": 7, "compress": "deflate"},
    "one block": {"tiled": False, "blockysize": HEIGHT},
}
TARGETS = {
    "as it is": None,
    "moved": Affine.translation(-30, 11),
    "between pixels": Affine.translation(0.3, -5.6),
    "turned": Affine.rotation(20),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
    image[:, 300:340, 100:500] = 0  # nodata
    paths = {}
    for name, options in STORED.items():
        paths[name] = str(tmp_path_factory.mktemp("scenes") / "scene.tif")
        profile = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8", "nodata": 0}
        profile |= {"crs": CRS.from_epsg(32633), "transform": Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}
        with rasterio.open(paths[name], "w", **profile, **options) as file:
            file.write(image)
    return paths


def make_reader(path: str, to_target: Affine | None = None) -> AlignedReader:
    source = Scene(path)
    own = checked_grid(source)
    target = own if to_target is None else Grid(own.crs, own.transform @ to_target, WIDTH, HEIGHT)
    channels = choose_channels(path, source.handle(), None, by_color=False)
    return AlignedReader(source, channels, align(own, target))


def windows(count: int) -> list[Window]:
    rng = np.random.default_rng(1)
    rows, cols = np.sort(rng.integers(0, HEIGHT, (count, 2))), np.sort(rng.integers(0, WIDTH, (count, 2)))
    return [Window(int(a), int(b) + 1, int(c), int(d) + 1) for (a, b), (c, d) in zip(rows, cols, strict=True)]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("target", TARGETS)
def test_shared_tiles_give_what_single_windows_give(scenes, stored: str, target: str) -> None:
    tiled, alone = (make_reader(scenes[stored], TARGETS[target]) for _ in range(2))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(tiled.read, windows(12)))
    for window, (values, valid) in zip(windows(12), found, strict=True):
        expected, known = alone.read_once(window)
        np.testing.assert_array_equal(valid, known)
        np.testing.assert_array_equal(values[:, valid], expected[:, known])


@pytest.mark.parametrize("stored", ["small tiles", "large tiles", "strips"])
def test_nothing_is_decoded_twice(scenes, stored: str, monkeypatch) -> None:
    decoded = np.zeros((HEIGHT, WIDTH), int)
    plain = AlignedReader._decode_window

    def counted(self, dataset, window):
        decoded[window.slices] += 1
        return plain(self, dataset, window)

    monkeypatch.setattr(AlignedReader, "_decode_window", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make_reader(scenes[stored]).read, windows(30)))
    assert decoded.max() == 1


def test_a_scene_wider_than_what_can_be_kept_is_gone_through_in_stripes(scenes, monkeypatch) -> None:
    monkeypatch.setattr(reader, "CACHE_BYTES", 2_200_000)
    monkeypatch.setattr(reader, "_BLOCK_ROWS", 600)
    narrow = make_reader(scenes["small tiles"]).columns_at_once
    assert narrow is not None
    assert 256 <= narrow < WIDTH
    assert make_reader(scenes["strips"]).columns_at_once is None
    with open_pair(scenes["small tiles"], scenes["strips"]) as pair:
        assert pair.columns_at_once == narrow


def test_storage_that_has_to_be_decoded_again_is_told(scenes, monkeypatch) -> None:
    with open_pair(scenes["large tiles"], scenes["strips"]) as pair:
        assert not any("reading it is slow" in warning for warning in pair.report.warnings)
    monkeypatch.setattr(reader, "_MAX_CACHE_BYTES", 1_000_000)
    monkeypatch.setattr(reader, "GDAL_CACHE_BYTES", 1_000_000)
    monkeypatch.setattr(reader, "_MIN_TILES", 1)
    for stored in ("strips", "one block"):
        with open_pair(scenes["small tiles"], scenes[stored]) as pair:
            slow_warnings = [warning for warning in pair.report.warnings if "reading it is slow" in warning]
        assert len(slow_warnings) == 1
        assert scenes[stored] in slow_warnings[0]


def test_a_broken_tile_spoils_only_windows_that_touch_it(scenes, tmp_path) -> None:
    path = tmp_path / "broken.tif"
    with rasterio.open(scenes["large tiles"]) as file:
        place = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", 1))
    content = bytearray(Path(scenes["large tiles"]).read_bytes())
    content[place : place + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    broken, whole = make_reader(str(path)), make_reader(scenes["large tiles"])
    beside = Window(0, 512, 200, 700)
    np.testing.assert_array_equal(broken.read(beside)[0], whole.read(beside)[0])
    for _ in range(2):
        with pytest.raises(SceneUnreadableError, match="rows 400-600"):
            broken.read(Window(400, 600, 400, 600))
    np.testing.assert_array_equal(broken.read(beside)[0], whole.read(beside)[0])


def test_threads_that_begin_together_share_one_cache(scenes, monkeypatch) -> None:
    """Unlike before Python 3.12, `functools.cached_property` would let each of them make a cache of its own."""
    caches = []

    class SlowCache(reader.TileCache):
        def __init__(self, capacity: int) -> None:
            time.sleep(0.05)
            caches.append(self)
            super().__init__(capacity)

    monkeypatch.setattr(reader, "TileCache", SlowCache)
    shared = make_reader(scenes["small tiles"])
    barrier = threading.Barrier(8)

    def read(row: int) -> None:
        barrier.wait(30)
        shared.read(Window(row, row + 9, 0, 9))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(0, 80, 10)))
    assert len(caches) == 1
    assert shared.with_alignment(shared.alignment)._storage.cache is caches[0]
