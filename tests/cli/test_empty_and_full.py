"""Arguments that are empty, like variables that are not set, and output that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from geosiam.batch.api import plan_batch
from geosiam.errors import InputError
from geosiam.imagery.open_scene import open_scene
from geosiam.options import DetectOptions
from geosiam.pipeline import detect, vectorize_to_file
from geosiam.polygons.results import read_polygons
from geosiam.report import find_pairs, write_verdicts
from geosiam.report.inputs import find_results
from geosiam.scoring import score_to_file
from geosiam.training.datasets import load_chips
from geosiam_cli.main import COMMANDS, cli, main

FULL = Path("/dev/full")


def parameters() -> list[tuple[str, str]]:
    """Return every parameter of every command that takes a text or a path."""
    commands = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    return [
        (name, parameter.name)
        for name, command in commands.items()
        for parameter in command.params
        if not getattr(parameter, "is_flag", False) and not getattr(parameter, "count", False)
    ]


@pytest.mark.parametrize(("name", "field"), parameters())
@pytest.mark.parametrize("attached", [False, True])
def test_an_empty_argument_is_refused(
    name: str, field: str, *, attached: bool, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    words: list[str] = []
    for parameter in command.params:
        given = parameter.name == field
        if isinstance(parameter, click.Argument):
            words.append("" if given else "fig5" if name == "paper" else "x")
        elif given and attached and (long := next((o for o in parameter.opts if o.startswith("--")), None)):
            words += [f"{long}=", *[""] * (parameter.nargs - 1)]
        elif given:
            words += [parameter.opts[0], *[""] * parameter.nargs]
        elif parameter.required:
            words += [parameter.opts[0], "x.gpkg"]
    assert main([name, *words]) == 2
    errors = capsys.readouterr().err
    assert "is empty, like a variable that is not set" in errors
    assert list(tmp_path.iterdir()) == []


def test_the_library_refuses_an_empty_name_too(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.parent)
    for call in (
        lambda: open_scene(""),
        lambda: detect(scene, "", "o.gpkg"),
        lambda: detect("", scene, "o.gpkg"),
        lambda: detect(scene, scene, ""),
        lambda: score_to_file(scene, scene, ""),
        lambda: detect(scene, scene, "o.gpkg", scores=""),
        lambda: detect(scene, scene, "o.gpkg", project=""),
        lambda: detect(scene, scene, "o.gpkg", options=DetectOptions(aoi="")),
        lambda: detect(scene, scene, "o.gpkg", options=DetectOptions(model="")),
        lambda: vectorize_to_file("", "o.gpkg"),
        lambda: plan_batch(""),
        lambda: plan_batch(scene.parent, before=""),
        lambda: find_pairs([""]),
        lambda: read_polygons(""),
        lambda: load_chips(""),
        lambda: write_verdicts("", [scene]),
        lambda: find_results(""),
    ):
        with pytest.raises(InputError):
            call()
    assert [path.name for path in Path().iterdir()] == ["a.tif"]


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
@pytest.mark.parametrize(
    ("words", "stdout", "stderr", "code"),
    [
        (["--help"], "full", "pipe", 3),
        (["models", "--json"], "full", "pipe", 3),
        (["detect", "{scene}", "{scene}", "-o", "{folder}/o.gpkg", "--json"], "full", "pipe", 3),
        (["detect", "{scene}", "{folder}/no.tif", "-o", "{folder}/o.gpkg", "--json"], "full", "pipe", 3),
        (["detect", "{scene}", "{scene}", "-o", "{folder}/o.gpkg", "--progress", "json", "-vv"], "pipe", "full", 0),
        (["detect", "{scene}", "{folder}/no.tif", "-o", "{folder}/o.gpkg"], "pipe", "full", 3),
        (["detect", "--no-such-option"], "pipe", "full", 2),
    ],
)
def test_a_full_device(scene: Path, words: list[str], stdout: str, stderr: str, code: int) -> None:
    """As of a pipe into a file on a disk that is full: one line, and no code of the interpreter's own."""
    command = [word.format(scene=scene, folder=scene.parent) for word in words]
    with FULL.open("w") as full:
        streams = {"full": full, "pipe": subprocess.PIPE}
        result = subprocess.run(
            [sys.executable, "-P", "-m", "geosiam_cli", *command],
            stdout=streams[stdout],
            stderr=streams[stderr],
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    assert result.returncode == code
    if stderr == "pipe":
        lines = [line for line in result.stderr.splitlines() if "polygons with a score" not in line]
        assert len(lines) == 1
        assert "No space left on device" in lines[0] or "no.tif" in lines[0]
    if code == 0:
        assert Path(result.stdout.splitlines()[0]).is_file()


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("option", ["-o", "--scores"])
def test_a_device_is_not_replaced(scene: Path, capsys, option: str, tmp_path: Path) -> None:
    link = tmp_path / ("o.gpkg" if option == "-o" else "o.tif")
    link.symlink_to(FULL)
    words = ["-o", str(tmp_path / "o.gpkg"), *(["--scores", str(link)] if option == "--scores" else [])]
    assert main(["detect", str(scene), str(scene), *words]) == 3
    assert "because it is a device" in capsys.readouterr().err
    assert link.is_symlink()
