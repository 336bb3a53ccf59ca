import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from torch import Generator

from geosiam.errors import InputError, OptionError, OutputError, TrainingDataError
from geosiam.network.architecture import NetworkConfig
from geosiam.network.weights import load_model
from geosiam.paper import fig6
from geosiam.paper.api import EXPERIMENTS, reproduce
from geosiam.paper.results import Finding, Picture, Record, Result, Table, write_report
from geosiam.paper.templates import figure_templates, middle, squares
from geosiam.paper.workbench import PaperOptions, Workbench, file_checksum, machine
from geosiam.training.recipes import PaperRecipe, Schedule
from geosiam.training.sources import ChipStack
from geosiam_cli.main import main
from geosiam_cli.paper import NAMES

RESULT = Result(
    name="fig2",
    title="Figure 2: clusters",
    setup="A few seeds.",
    findings=(Finding("it is so | or not", "holds", "Accuracy 1."),),
    tables=(Table("Numbers", ("|a|", "b"), (("1", "2"),)),),
    pictures=(Picture("fig2.png", "Dots."),),
    notes=("A note.",),
    numbers={"values": [1.0, 2.0]},
)
RECORD = Record(
    RESULT, "geosiam paper fig2", quick=True, key="k", seconds=1.0, training_seconds=240.0, machine=machine()
)


def write_scene(path: Path, height: int = 640, width: int = 700, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rough = np.kron(rng.integers(40, 200, (3, height // 10, width // 10)), np.ones((10, 10))).astype(np.uint8)
    image = rough + rng.integers(0, 20, rough.shape).astype(np.uint8)
    transform = Affine(0.1, 0, 500_000, 0, -0.1, 5_600_000)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "photometric": "rgb"}
    with rasterio.open(path, "w", height=height, width=width, transform=transform, **profile) as file:
        file.write(image)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_scene(tmp_path / "data" / "scenes" / "aerial" / "a.tif")
    return tmp_path / "data"


def test_an_experiment_runs_once_and_again_when_its_data_change(data: Path, tmp_path: Path) -> None:
    options = PaperOptions(data, tmp_path / "out", quick=True)
    report = reproduce(["position"], options)
    assert report == tmp_path / "out" / "REPRODUCTION.md"
    text = report.read_text("utf-8")
    assert "position" in text
    assert "holds" in text
    assert "smoke test" in text
    assert (tmp_path / "out" / "position.png").read_bytes().startswith(b"\x89PNG")
    numbers = tmp_path / "out" / "position.json"
    os.utime(numbers, (0, 0))
    reproduce(["position"], options)
    assert numbers.stat().st_mtime == 0, "it was run again on the same data"
    write_scene(data / "scenes" / "aerial" / "a.tif", seed=1)
    reproduce(["position"], options)
    assert numbers.stat().st_mtime > 0
    os.utime(numbers, (0, 0))
    (tmp_path / "out" / "position.png").unlink()
    reproduce(["position"], options)
    assert numbers.stat().st_mtime > 0, "a picture was missing"
    found = json.loads(numbers.read_text("utf-8"))["result"]["numbers"]["models"]
    assert all(row["cropped"] < 1e-4 for row in found)
    assert all(row["moved_by_strides"] < 1e-4 for row in found)


def test_figure_6_runs_on_a_scene_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fig6, "available_models", lambda: [load_model("paper").card])
    (tmp_path / "data").mkdir()
    scene = write_scene(tmp_path / "mine.tif")
    options = PaperOptions(tmp_path / "data", tmp_path / "out", quick=True, seeds=1, scenes=(str(scene),))
    reproduce(["fig6"], options)
    record = Record.load(tmp_path / "out" / "fig6.json")
    runs = record.result.numbers["runs"]
    blue = [run for run in runs if (run["model"], run["fill"], run["nuisance"]) == ("paper", "blue", False)]
    assert blue[0]["auroc"] > 0.98
    assert blue[0]["recall"] > 0.9
    assert "--scene mine.tif" in record.command
    assert all((tmp_path / "out" / picture.file).exists() for picture in record.result.pictures)


def test_the_command_line_knows_every_experiment() -> None:
    assert ("all", *EXPERIMENTS) == NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig2", "--data", "nowhere"], "nowhere"),
        (["fig2", "--data", "."], "train-images"),
        (["fig4", "--data", "."], "cifar"),
        (["fig6", "--data", "."], "--scene"),
    ],
)
def test_missing_data_give_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *arguments, "--out", "out"]) == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_bad_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="seeds=0"):
        PaperOptions(tmp_path, tmp_path, seeds=0)
    with pytest.raises(OptionError, match="fig9"):
        reproduce(["fig9"], PaperOptions(tmp_path, tmp_path))
    with pytest.raises(InputError, match="not a folder"):
        reproduce(["fig2"], PaperOptions(tmp_path / "absent", tmp_path))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be created"):
        Workbench(PaperOptions(tmp_path, tmp_path / "file" / "out")).path("fig2.json")


def test_a_network_is_trained_once(tmp_path: Path) -> None:
    chips = ChipStack(torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0)))
    recipe = PaperRecipe(NetworkConfig.of_stride(8, width=4, features=8, hidden=8), Schedule(2, 3, 16))
    progress = []
    bench = Workbench(PaperOptions(tmp_path, tmp_path), lambda *event: progress.append(event))
    first = bench.train("blue", recipe, chips, chips, seed=0, fingerprint="a")
    assert progress[-1] == (6, 6, "training blue, seed 0")
    again = Workbench(PaperOptions(tmp_path, tmp_path), lambda *_: pytest.fail("it was trained again")).train(
        "blue", recipe, chips, chips, seed=0, fingerprint="a"
    )
    for key, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key])
    longer = replace(recipe, schedule=replace(recipe.schedule, epochs=3))
    assert len(bench.train("blue", longer, chips, chips, seed=0, fingerprint="a").history) == 3
    assert len(bench.used) == 2


def test_a_record_is_read_back_and_invalid_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fig2.json"
    RECORD.save(path)
    assert Record.load(path) == RECORD
    for text in ("", "{}", '{"result": {"findings": 3}}', "[]"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a result"):
            Record.load(path)
    with pytest.raises(ValueError, match="2 entries"):
        Table("t", ("a", "b"), (("1",),))


def test_numpy_values_are_saved_and_objects_are_not(tmp_path: Path) -> None:
    path = tmp_path / "fig2.json"
    numbers = {"a": np.float32(0.5), "b": np.arange(3), "c": Path("/far/away/scene.tif")}
    replace(RECORD, result=replace(RESULT, numbers=numbers)).save(path)
    assert Record.load(path).result.numbers == {"a": 0.5, "b": [0, 1, 2], "c": "scene.tif"}
    with pytest.raises(TypeError, match="does not belong"):
        replace(RECORD, result=replace(RESULT, numbers={"a": object()})).save(path)


def test_the_report_shows_claims_commands_and_times(tmp_path: Path) -> None:
    write_report([RECORD], tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text("utf-8")
    for part in ("[fig2](#figure-2-clusters)", r"it is so \| or not", "**holds.** Accuracy 1.", "`geosiam paper fig2`",
                 r"| \|a\| | b |", "![Dots.](fig2.png)", "- A note.", "plus 4 min of training"):  # fmt: skip
        assert part in text


def test_templates_are_the_middle_of_scenes_and_lie_where_it_lies(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "aerial" / "big.tif", 1000, 1400)
    template = middle(path)
    assert template is not None
    assert template.image.shape == (3, 720, 1260)
    with rasterio.open(path) as scene:
        np.testing.assert_array_equal(template.image, scene.read()[:, 140:860, 70:1330])
        assert template.transform == scene.transform @ Affine.translation(70, 140)
    with rasterio.open(template.write(tmp_path / "copy.tif")) as copy:
        np.testing.assert_array_equal(copy.read(), template.image)
    assert middle(write_scene(tmp_path / "small.tif", 300, 300)) is None
    pieces = squares(path, 320, 4)
    assert len(pieces) == 4
    assert {piece.image.shape for piece in pieces} == {(3, 320, 320)}
    with pytest.raises(TrainingDataError, match="aerial, naip, drone"):
        figure_templates(Workbench(PaperOptions(tmp_path / "nothing", tmp_path)))


def test_a_checksum_covers_all_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = file_checksum(tmp_path / "a")
    (tmp_path / "a" / "x").write_text("2")
    assert file_checksum(tmp_path / "a") != before
    (tmp_path / "a" / "x").write_text("1")
    assert file_checksum(tmp_path / "a") == before


@pytest.mark.slow
@pytest.mark.data
def test_all_experiments_run_quickly_on_real_data(data_dir: Path, tmp_path: Path) -> None:
    assert main(["paper", "all", "--data", str(data_dir), "--out", str(tmp_path), "--quick"]) == 0
    text = (tmp_path / "REPRODUCTION.md").read_text("utf-8")
    for name in EXPERIMENTS:
        assert f"[{name}](" in text
        assert Record.load(tmp_path / f"{name}.json").quick
