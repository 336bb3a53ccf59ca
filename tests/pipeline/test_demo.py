import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
from PIL import Image

from geosiam.demo import run_demo
from geosiam.errors import OutputError
from geosiam_cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_the_demo_finds_most_changes_and_draws_what_it_found(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = run_demo(folder, size=512, seed=1, on_progress=lambda *pixels: seen.append(pixels))
    assert seen[-1] == (512 * 512, 512 * 512)
    assert done.recall == done.found / done.changed >= 0.8
    assert done.precision == done.right / done.reported >= 0.8
    assert len(geopandas.read_file(done.truth)) == done.changed
    picture = np.asarray(Image.open(done.panel).convert("RGB"), np.int16)
    right_below = picture[picture.shape[0] // 2 :, picture.shape[1] // 2 :]
    red = (right_below[..., 0] - right_below[..., 1:].max(axis=2)) > 120
    assert red.mean() > 1e-3  # outlines of the polygons


def test_the_command_prints_how_well_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(folder), "--size", "512", "--seed", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["recall"] >= 0.8
    assert Path(printed["panel"]).is_file()


def test_an_interrupted_demo_is_no_hindrance_to_another(tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, size=256, seed=1, on_progress=interrupt)
    assert run_demo(tmp_path, size=256, seed=2).scores.exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written to"):
        run_demo(tmp_path / "file" / "demo", size=256)
