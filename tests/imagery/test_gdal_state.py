"""After any call, the caller's warning filters and GDAL options are as they were, in every thread."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import rasterio
from rasterio.env import get_gdal_config, getenv, hasenv, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning

from geosiam.errors import SceneRefusedError
from geosiam.imagery import scene
from geosiam.imagery.grid import Window
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.scene import GDAL_CACHE_BYTES, GDAL_OPTIONS, environment


def state() -> dict[str, object]:
    """Return the filters and options of this thread, and what GDAL really uses of these."""
    names = ["GDAL_CACHEMAX", "GDAL_HTTP_TIMEOUT", *GDAL_OPTIONS]
    return {
        "filters": list(warnings.filters),
        "environment": getenv() if hasenv() else None,
        "GDAL": {name: get_gdal_config(name) for name in names},
    }


OUTER = {
    "no environment": {},
    "an environment": {"GDAL_HTTP_TIMEOUT": 7},
    "our options otherwise": {"GDAL_HTTP_MAX_RETRY": 9, "GDAL_CACHEMAX": 77_000_000},
    "our own options": GDAL_OPTIONS,
}


@pytest.mark.parametrize("outer", OUTER)
def test_opening_reading_and_closing_leave_everything_as_it_was(outer: str, write, texture) -> None:
    paths = write("a.tif", texture()), write("b.tif", texture(seed=1))
    with rasterio.Env(**OUTER[outer]) if OUTER[outer] else nullcontext():
        before = state()
        pair = open_pair(*paths)
        assert state() == before
        pair.read(Window(-5, 60, 3, 99))
        pair.valid(Window(-5, 60, 3, 99))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda row: pair.read(Window(row, row + 30, 0, 150)), range(0, 90, 3)))
        assert state() == before
        pair.close()
        assert state() == before
    assert not hasenv()


def test_a_refused_scene_leaves_everything_as_it_was(write, texture) -> None:
    good = write("a.tif", texture())
    with pytest.warns(NotGeoreferencedWarning):
        plain = write("b.tif", texture(), transform=rasterio.Affine.identity())
    before = state()
    with pytest.raises(SceneRefusedError, match="is not georeferenced"):
        open_pair(good, plain)
    assert state() == before


def test_the_options_hold_inside() -> None:
    # GDAL's own option takes small numbers for megabytes; here 128 million would be no cache at all.
    with environment(), environment():
        assert get_gdal_config("GDAL_CACHEMAX") == GDAL_CACHE_BYTES
        assert get_gdal_config("GDAL_HTTP_MAX_RETRY") == 3
    with rasterio.Env(GDAL_HTTP_MAX_RETRY=9), environment():
        assert get_gdal_config("GDAL_HTTP_MAX_RETRY") == 3


def test_threads_that_enter_and_leave_in_turn_restore_the_cache_limit() -> None:
    """Each of rasterio's environments would restore what it met, the second one the limit of the first."""
    before = get_gdal_config("GDAL_CACHEMAX")
    first_inside, second_inside = threading.Event(), threading.Event()

    def first() -> None:
        with environment():
            first_inside.set()
            assert second_inside.wait(30)

    def second() -> None:
        assert first_inside.wait(30)
        with environment():
            second_inside.set()
            threads[0].join(30)
            assert get_gdal_config("GDAL_CACHEMAX") == GDAL_CACHE_BYTES

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    try:
        assert get_gdal_config("GDAL_CACHEMAX") == before
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)


def test_reading_threads_never_touch_the_filters(write, texture, monkeypatch) -> None:
    """Filters belong to the process: a thread that restores them undoes what another one has set meanwhile."""
    paths = write("a.tif", texture()), write("b.tif", texture(seed=1))
    with open_pair(*paths) as pair:
        monkeypatch.setattr(warnings, "catch_warnings", lambda *_, **__: pytest.fail("filters touched"))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda row: pair.read(Window(row, row + 30, 0, 150)), range(0, 90, 3)))


def test_opening_in_many_threads_leaves_the_filters_alone(write, texture) -> None:
    path = str(write("a.tif", texture()))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            opened = scene.Scene(path)
            list(pool.map(lambda _, opened=opened: opened._open().close(), range(40)))
            list(pool.map(lambda _: scene.Scene(path)._open().close(), range(40)))
    assert warnings.filters == before
