"""Names that no file can have: one line and exit code 3, wherever they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geosiam.errors import OutputError
from geosiam.files import LONGEST_NAME, check_writable, exists
from geosiam_cli.main import main

LONG = "x" * 300


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": Affine(1, 0, 4e5, 0, -1, 5e6), "dtype": "uint8"}
    with rasterio.open(path, "w", count=1, height=40, width=40, **profile) as file:
        file.write(np.arange(1600, dtype=np.uint8).reshape(1, 40, 40))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", f"{LONG}.tif", "{scene}"],
        ["info", "{scene}", f"{LONG}.tif"],
        ["info", f"{LONG}/a.tif", "{scene}"],
        ["info", "{scene}", "x/" * 3000],
        ["detect", "{scene}", "{scene}", "-o", f"{{folder}}/{LONG}.gpkg"],
        ["detect", "{scene}", "{scene}", "-o", f"{{folder}}/{LONG}/a.gpkg"],
        ["detect", "{scene}", "{scene}", "-o", "{folder}/a.gpkg", "--scores", f"{{folder}}/{LONG}.tif"],
        ["detect", "{scene}", "{scene}", "-o", "{folder}/" + "ä" * 120 + ".gpkg"],
        ["score", "{scene}", "{scene}", "-o", f"{{folder}}/{LONG}.tif"],
        ["vectorize", f"{LONG}.tif", "-o", "{folder}/a.gpkg", "--threshold", "0.5"],
        ["info", "{scene}", "{scene}", "--valid-area", f"{LONG}.gpkg"],
        ["info", "{scene}", "{scene}", "--model", LONG],
        ["info", "{scene}", "{scene}", "--model", f"{LONG}.safetensors"],
        ["info", "{scene}", "a\0b.tif"],
    ],
)
def test_long_names_are_refused_in_one_line(arguments: list[str], scene: Path, capsys) -> None:
    code = main([argument.format(scene=scene, folder=scene.parent) for argument in arguments])
    errors = capsys.readouterr().err.strip()
    assert code == 3
    assert "\n" not in errors
    assert {path.name for path in scene.parent.iterdir()} == {"a.tif"}


def test_the_longest_name_works(scene: Path, capsys) -> None:
    name = "y" * (LONGEST_NAME - 5) + ".gpkg"
    assert main(["detect", str(scene), str(scene), "-o", str(scene.parent / name)]) == 0
    assert Path(capsys.readouterr().out.splitlines()[0]).is_file()


def test_what_is_there(tmp_path: Path) -> None:
    assert exists(tmp_path)
    for absent in (tmp_path / "no", LONG, "a\0b", tmp_path / "no" / "a"):
        assert not exists(absent)
    with pytest.raises(OutputError, match="has 204 bytes; use a name of at most 200"):
        check_writable(tmp_path / ("z" * 200 + ".tif"))
