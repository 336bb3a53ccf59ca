"""Passwords and signatures of URLs reach no result, no record, no page, no message and no log."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import rasterio

from geosiam.errors import GeosiamError, InputError, SceneNotFoundError, redacted
from geosiam.evaluation.api import Task
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import Scene, _cannot_be_opened
from geosiam.options import DetectOptions
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, make_pair, write_pair
from geosiam.training.api import TrainingOptions, data_description
from geosiam_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "S3CRET"
LOCATION = "https://host.example/data/after.tif"

NAMES = {
    # what a user gives: what is left of it
    f"{LOCATION}?sv=2020&sig={SECRET}": f"{LOCATION}?sv=...&sig=...",
    f"{LOCATION}?X-Amz-Date=2&X-Amz-Credential=A%2FB&X-Amz-Signature={SECRET}": None,
    f"{LOCATION}?X-Goog-Signature={SECRET}#x": None,
    f"{LOCATION}?{SECRET}": f"{LOCATION}?...",
    f"{LOCATION}?k={SECRET};sig={SECRET}": f"{LOCATION}?k=...;sig=...",
    f"{LOCATION}#access_token={SECRET}": f"{LOCATION}#access_token=...",
    f"https://host.example/wcs?SERVICE=WCS&coverage=dem&token={SECRET}": (
        "https://host.example/wcs?SERVICE=WCS&coverage=dem&token=..."
    ),
    f"https://me:{SECRET}@host.example/after.tif": "https://host.example/after.tif",
    f"https://{SECRET}@host.example/after.tif": "https://host.example/after.tif",
    f"https://me:{SECRET}@host.example:8443/after.tif?a={SECRET}": "https://host.example:8443/after.tif?a=...",
    f"https://me:a/{SECRET}@host.example/after.tif": "https://host.example/after.tif",
    f"ftp://me:p@{SECRET}@host.example/after.tif": "ftp://host.example/after.tif",
    f"s3://me:{SECRET}@bucket/after.tif": "s3://bucket/after.tif",
    f"/vsicurl/{LOCATION}?sig={SECRET}": f"/vsicurl/{LOCATION}?sig=...",
    f"/vsicurl?header.Authorization=Bearer%20{SECRET}&retry=2&url=https%3A%2F%2Fa:{SECRET}%40h%2Fb%3Fsig%3D{SECRET}": (
        "/vsicurl?header.Authorization=...&retry=...&url=https://h/b?sig=..."
    ),
    f"/vsizip//vsicurl/https://me:{SECRET}@host.example/a.zip/after.tif": (
        "/vsizip//vsicurl/https://host.example/a.zip/after.tif"
    ),
    f"/vsizip/{{/vsicurl/https://host.example/a.zip?sig={SECRET}}}/after.tif": (
        "/vsizip/{/vsicurl/https://host.example/a.zip?sig=...}/after.tif"
    ),
    f"zip+https://host.example/a.zip?sig={SECRET}!after.tif": "zip+https://host.example/a.zip?sig=...!after.tif",
    f"WMS:https://host.example/wms?LAYERS=a&api_key={SECRET}": "WMS:https://host.example/wms?LAYERS=a&api_key=...",
    f"PG:host=h user=me password='{SECRET}' table=t": "PG:host=h user=me password=... table=t",
    f"PLScenes:version=data_v1,api_key={SECRET}": "PLScenes:version=data_v1,api_key=...",
    f"<SourceFilename>/vsicurl/{LOCATION}?se=1&amp;sig={SECRET}</SourceFilename>": (
        f"<SourceFilename>/vsicurl/{LOCATION}?se=...&amp;sig=...</SourceFilename>"
    ),
}
TEXTS = {
    f"cannot open '{LOCATION}?sig={SECRET}' (403)": f"cannot open '{LOCATION}?sig=...' (403)",
    f"HTTP 403 ({LOCATION}?sig={SECRET}); use another": f"HTTP 403 ({LOCATION}?sig=...); use another",
    f"> Authorization: Bearer {SECRET}": "> Authorization: Bearer ...",
    f"AWS_SECRET_ACCESS_KEY={SECRET} AZURE_STORAGE_SAS_TOKEN={SECRET}": (
        "AWS_SECRET_ACCESS_KEY=... AZURE_STORAGE_SAS_TOKEN=..."
    ),
    f"GDAL_HTTP_USERPWD={SECRET}": "GDAL_HTTP_USERPWD=...",
    f"invalid address 'me:{SECRET}@127.0.0.1:8786'": "invalid address '127.0.0.1:8786'",
}
UNCHANGED = [
    "/data/what?sig=1.tif",
    "file:///data/a.tif?b=c",
    "http://host:8080/p@2x.tif",
    "C:\\data\\a@2x.tif: is not a raster",
    "mask: a@b.tif",
    "s3://bucket/a/b.tif",
    "/vsizip//data/a.zip/b.tif",
    "use `register=True`; 3 of 4 patches agree",
    "https://host.example/api?id=12&date=2020-01-01&url=s3://b/c.tif",
    "threshold=0.5",
]


@pytest.mark.parametrize("text", [*NAMES, *TEXTS])
def test_secrets_are_taken_out_of_texts(text: str) -> None:
    result = redacted(text)
    assert SECRET not in result
    expected = {**NAMES, **TEXTS}[text]
    assert expected is None or result == expected
    assert redacted(result) == result
    assert SECRET not in str(GeosiamError(text, f"fails at {text}", "try again"))
    assert SECRET not in redacted(f"two of them: {text} and {text}.")


@pytest.mark.parametrize("text", UNCHANGED)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("part", ["a", "a.b", "token", "a:b", "=@"])
def test_long_texts_take_no_time(part: str) -> None:
    start = time.process_time()
    redacted(f"{part * (8000 // len(part))} x=1 @")
    assert time.process_time() - start < 1


def test_values_of_all_kinds() -> None:
    value = {"a": [f"{LOCATION}?sig={SECRET}", 1, None, True], "b": (1.5, {"c": f"https://{SECRET}@h/"})}
    assert redacted(value) == {"a": [f"{LOCATION}?sig=...", 1, None, True], "b": (1.5, {"c": "https://h/"})}


@pytest.mark.parametrize("name", NAMES)
def test_no_scene_and_no_option_has_a_secret_in_its_name(name: str) -> None:
    assert SECRET not in Scene(name).name
    assert Scene(name).path == name
    assert SECRET not in json.dumps(DetectOptions(aoi=name, scheduler=name).to_dict())
    if "://" in name:
        assert SECRET not in Task("truth.tif", before=name, after=name).name
        assert SECRET not in TrainingOptions(Path("a.safetensors"), scenes=(name,)).command
        assert SECRET not in data_description(TrainingOptions(Path("a.safetensors"), scenes=(name,)))


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("HTTP response code: 404", "does not exist.*check the address"),
        ("HTTP error code : 404", "does not exist.*check the address"),
        ("HTTP response code: 410", "check the address"),
        ("HTTP response code: 403", "password or signature"),
        ("HTTP response code: 401", "password or signature"),
        ("HTTP response code: 503", "the server has a fault: try again later"),
        ("CURL error: Could not resolve host: nowhere.example", "check the address and the connection"),
        ("CURL error: Failed to connect to 127.0.0.1 port 9", "check the address and the connection"),
        ("AWS_SECRET_ACCESS_KEY and AWS_NO_SIGN_REQUEST configuration options not defined", "credentials in the env"),
        ("'a.txt' not recognized as being in a supported file format.", "use a raster that GDAL reads"),
        ("a404.tif: not recognized", "use a raster that GDAL reads"),
    ],
)
def test_the_remedy_fits_what_the_server_answers(answer: str, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        raise _cannot_be_opened("https://h/a.tif", rasterio.errors.RasterioIOError(answer))


# --- all that a run leaves ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    config = SyntheticConfig(height=192, width=192, seed=5)
    return write_pair(make_pair(config), tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def server(scenes: SyntheticPaths) -> Iterator[str]:
    script = Path(__file__).parent / "imagery" / "range_server.py"
    command = [sys.executable, str(script), str(scenes.before.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def secrets_in(folder: Path) -> list[str]:
    """Return the files in a folder, and members of its archives, that hold the secret, or are named after it."""
    found = [path.name for path in folder.rglob("*") if SECRET in path.name]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        contents = {path.name: path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents |= {f"{path.name}/{name}": archive.read(name) for name in archive.namelist()}
        found += [name for name, content in contents.items() if SECRET.encode() in content]
    return found


@pytest.fixture(params=["http://{host}/{name}?sv=1&sig=S3CRET", "/vsicurl/http://me:S3CRET@{host}/{name}"])
def address(request: pytest.FixtureRequest, server: str) -> str:
    return str(request.param).replace("{host}", server)


def test_a_run_leaves_no_secret(
    scenes: SyntheticPaths, address: str, tmp_path: Path, capsys, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = str(scenes.before), address.format(name="after.tif")
    words = ["-o", str(tmp_path / "o.gpkg"), "--qgz", str(tmp_path / "o.qgz"), "--json", "-vv"]
    with caplog.at_level(logging.DEBUG, "geosiam"):
        assert main(["detect", before, after, *words]) == 0
        assert main(["report", str(tmp_path / "o.gpkg"), "-o", str(tmp_path / "page")]) == 0
        assert main(["vectorize", str(tmp_path / "o.tif"), "-o", str(tmp_path / "v.geojson")]) == 0
        assert main(["info", before, after]) == 0
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err + caplog.text
    assert "without its password or signature" in printed.err
    assert secrets_in(tmp_path) == []
    assert b"after.tif" in (tmp_path / "o.gpkg").read_bytes()


def test_a_batch_leaves_no_secret(scenes: SyntheticPaths, address: str, tmp_path: Path, capsys) -> None:
    after, gone = (address.format(name=name) for name in ("after.tif", "gone.tif"))
    rows = ["before,after,name", f"{scenes.before},{after},good", f"{scenes.before},{gone},bad", f",{after},none"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    words = [str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out"), "--json-log", str(tmp_path / "out.jsonl")]
    assert main(["batch", *words, "--dry-run"]) == 0
    assert main(["batch", *words, "--dry-run", "--json"]) == 0
    assert main(["batch", *words]) == 4
    assert main(["batch", *words, "--json", "-vv"]) == 4
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    (tmp_path / "pairs.csv").unlink()
    assert secrets_in(tmp_path) == []
    assert "gone.tif" in (tmp_path / "out" / "summary.json").read_text()


def test_an_error_line_has_no_secret(scenes: SyntheticPaths, address: str, tmp_path: Path, capsys) -> None:
    gone = address.format(name="gone.tif")
    for words in ([], ["--json"]):
        assert main(["detect", str(scenes.before), gone, "-o", str(tmp_path / "o.gpkg"), *words]) == 3
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    assert "does not exist (the server answers 404); check the address" in printed.err
    assert main(["detect", str(scenes.before), gone, gone, "-o", str(tmp_path / "o.gpkg")]) == 2
    assert SECRET not in capsys.readouterr().err
    with pytest.raises(SceneNotFoundError, match="check the address"):
        open_scene(gone).handle()


def test_an_unexpected_error_has_no_secret(address: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"no idea what to do with {address}")

    monkeypatch.setattr("geosiam.inspection.inspect_pair", fail)
    assert main(["info", address, address, "--json"]) == 1
    printed = capsys.readouterr()
    assert "no idea" in printed.err
    assert SECRET not in printed.out + printed.err
