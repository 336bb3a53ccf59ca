"""The metadata of scenes, and the fingerprint that tells whether one has changed."""

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray
from affine import Affine

from geosiam.errors import SceneNotFoundError
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene_info import describe, fingerprint

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


def array(image: np.ndarray) -> xarray.DataArray:
    scene = xarray.DataArray(image, dims=("band", "y", "x"), name="survey")
    return scene.rio.write_crs("EPSG:32633").rio.write_transform(UTM)


def test_a_fingerprint_tells_content_and_time(write, texture) -> None:
    path = write("a.tif", texture())
    first = fingerprint(path)
    assert fingerprint(str(path)) == first != ""
    with rasterio.open(path) as dataset:
        assert fingerprint(dataset) == first
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(path) != first  # same size, same time, another pixel
    assert fingerprint(array(texture())) == fingerprint(array(texture())) != fingerprint(array(texture(seed=5)))
    assert fingerprint("https://example.org/no/such.tif") == ""


def test_an_opened_scene_has_the_fingerprint_of_its_file(write, texture) -> None:
    path = write("a.tif", texture())
    scene = open_scene(path)
    assert describe(scene).fingerprint == fingerprint(scene) == fingerprint(path)
    assert scene.handle().count == 3  # and stays open
    scene.close()


def test_a_missing_file_has_no_fingerprint_and_a_pattern_without_files_is_refused(tmp_path) -> None:
    assert fingerprint(tmp_path / "absent.tif") == ""
    with pytest.raises(SceneNotFoundError, match="matches no file"):
        fingerprint(f"{tmp_path}/*.tif")


def test_a_scene_that_changes_on_the_server_has_another_fingerprint(server: str, write, texture) -> None:
    path = write("a.tif", texture())
    first = fingerprint(f"{server}/a.tif")
    assert first == fingerprint(f"/vsicurl/{server}/a.tif") != ""
    os.utime(path, (1e9, 1e9))
    assert fingerprint(f"{server}/a.tif") not in ("", first)


def test_a_server_without_the_scene_gives_no_fingerprint(server: str) -> None:
    assert fingerprint(f"{server}/absent.tif") == fingerprint("http://127.0.0.1:9/a.tif") == ""


@contextmanager
def server_that_sends(headers: dict[str, str], status: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(status)  # without Date and Server
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/a.tif"
        server.shutdown()
        thread.join()


TIME = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "1000"}])
def test_a_server_that_sends_neither_date_nor_etag_gives_no_fingerprint(headers) -> None:
    """Another version of the scene may have the same length."""
    with server_that_sends(headers) as url:
        assert fingerprint(url) == ""
        assert fingerprint(f"/vsicurl/{url}") == ""


@pytest.mark.parametrize("status", [403, 405, 500])
def test_a_server_that_refuses_to_answer_gives_no_fingerprint(status: int) -> None:
    with server_that_sends({"ETag": '"1"', "Content-Length": "0"}, status) as url:
        assert fingerprint(url) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        (TIME, {"Last-Modified": "Wed, 21 Oct 2015 07:28:01 GMT"}),
        (TIME | {"Content-Length": "1000"}, TIME | {"Content-Length": "1001"}),
    ],
)
def test_each_header_tells_a_changed_scene(one, other) -> None:
    fingerprints = []
    for headers in (one, one, other):
        with server_that_sends(headers) as url:
            fingerprints.append(fingerprint(url))
    assert "" not in fingerprints
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
