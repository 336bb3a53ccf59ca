"""The metadata of scenes, and the fingerprint that tells whether one has changed."""

import http.server
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray  # noqa: F401
import xarray
from affine import Affine

from geosiam.errors import SceneNotFoundError
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene_info import describe, fingerprint
from tile_indexes import tile_index

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


# -- through what refers to other files --------------------------------------------------------------------------------


def exported_again(path: Path) -> None:
    """Write other pixels into a file, as another export does."""
    with rasterio.open(path, "r+") as file:
        file.write(255 - file.read())


def wrapped(path: Path, kind: str) -> str:
    """Return a name by which a raster is read through something else."""
    folder = path.parent
    if kind in ("VRT", "VRT of a VRT", "file URI of a VRT"):
        rasterio.shutil.copy(path, folder / "one.vrt", driver="VRT")
        rasterio.shutil.copy(folder / "one.vrt", folder / "two.vrt", driver="VRT")
        return {"VRT": str(folder / "one.vrt"), "VRT of a VRT": str(folder / "two.vrt")}.get(
            kind, f"file://{folder}/one.vrt"
        )
    if kind == "tile index":
        return str(tile_index(path))
    if kind in ("folder", "pattern"):
        (folder / "tiles").mkdir(exist_ok=True)
        (folder / "tiles" / path.name).symlink_to(path)
        return str(folder / "tiles") if kind == "folder" else f"{folder}/tiles/*.tif"
    return {"file URI": f"file://{path}", "part of a file": f"/vsisubfile/0_{path.stat().st_size},{path}"}[kind]


KINDS = ("VRT", "VRT of a VRT", "file URI", "file URI of a VRT", "folder", "pattern", "part of a file", "tile index")


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_exported_again(kind: str, write, texture) -> None:
    path = write("a.tif", texture())
    name = wrapped(path, kind)
    first = fingerprint(name)
    assert fingerprint(name) == first != ""
    exported_again(path)
    assert fingerprint(name) not in ("", first)


@pytest.mark.parametrize("sidecar", ["a.tif.msk", "a.tif.ovr", "a.tif.aux.xml"])
@pytest.mark.parametrize("kind", ["itself", "VRT", "folder"])
def test_a_sidecar_that_is_exported_again(kind: str, sidecar: str, write, texture) -> None:
    path = write("a.tif", texture())
    name = str(path) if kind == "itself" else wrapped(path, kind)
    without = fingerprint(name)
    folder = path.parent / "tiles" if kind == "folder" else path.parent
    beside = folder / sidecar
    if sidecar.endswith(".xml"):
        beside.write_text("<PAMDataset><Metadata><MDI key='A'>1</MDI></Metadata></PAMDataset>")
    else:
        half = {"height": 60, "width": 75} if sidecar.endswith(".ovr") else {}
        write("other.tif", texture(bands=1 if sidecar.endswith(".msk") else 3, **half)).rename(beside)
    first = fingerprint(name)
    assert first not in ("", without)
    os.utime(beside, ns=(1, 1))
    assert fingerprint(name) not in ("", first, without)


def test_a_member_of_an_archive_and_a_database(write, texture, tmp_path) -> None:
    path = write("a.tif", texture())
    name = f"zip://{tmp_path}/scenes.zip!a.tif"
    for seconds in (100, 200):
        with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
            archive.write(path, "a.tif")
        os.utime(tmp_path / "scenes.zip", (seconds, seconds))
        assert fingerprint(name).split("-")[1] == f"{seconds}000000000"
    assert fingerprint("PG:dbname=survey") == ""


def test_a_virtual_raster_of_remote_data_is_as_trustworthy_as_their_server(server: str, write, texture) -> None:
    path = write("a.tif", texture())
    virtual = path.with_name("a.vrt")
    rasterio.shutil.copy(f"{server}/a.tif", virtual, driver="VRT")
    first = fingerprint(virtual)
    os.utime(path, (100, 100))
    assert fingerprint(virtual) not in ("", first)
    path.unlink()
    assert fingerprint(virtual) == "", "nobody knows"
