"""Names that no file can have: one line and exit code 3, wherever they are given."""

from __future__ import annotations

import errno
import fcntl
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from geosiam.errors import OutputError
from geosiam.files import MAX_NAME_BYTES, check_writable, exists, locked
from geosiam_cli.main import main

LONG = "x" * 300


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
        ["batch", "{folder}", "-o", f"{{folder}}/{LONG}"],
        ["batch", f"{LONG}.csv", "-o", "{folder}/out"],
        ["report", f"{LONG}.gpkg", "-o", "{folder}/out"],
        ["review", f"{LONG}.json", "{scene}"],
        ["evaluate", f"{LONG}.tif", "{scene}"],
        ["evaluate", "{scene}", f"{LONG}.gpkg"],
        ["train", "--scenes", "{scene}", "-o", f"{{folder}}/{LONG}.safetensors"],
        ["train", "--scenes", "{scene}", "-o", f"{{folder}}/{LONG}/m.safetensors"],
        ["train", "--data", f"{LONG}.tif", "-o", "{folder}/m.safetensors"],
        ["demo", f"{{folder}}/{LONG}"],
    ],
)
def test_long_names_are_refused_in_one_line(arguments: list[str], scene: Path, capsys) -> None:
    code = main([argument.format(scene=scene, folder=scene.parent) for argument in arguments])
    errors = capsys.readouterr().err.strip()
    assert code == 3
    assert "\n" not in errors
    assert {path.name for path in scene.parent.iterdir()} == {"a.tif"}


def test_the_longest_name_works(scene: Path, capsys) -> None:
    name = "y" * (MAX_NAME_BYTES - 5) + ".gpkg"
    assert main(["detect", str(scene), str(scene), "-o", str(scene.parent / name)]) == 0
    assert Path(capsys.readouterr().out.splitlines()[0]).is_file()


def test_what_is_there(tmp_path: Path) -> None:
    assert exists(tmp_path)
    for absent in (tmp_path / "no", LONG, "a\0b", tmp_path / "no" / "a", ""):
        assert not exists(absent)
    with pytest.raises(OutputError, match="has 204 bytes; use a name of at most 200"):
        check_writable(tmp_path / ("z" * 200 + ".tif"))


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "l", tmp_path / "a.tif"):
            assert (tmp_path / "l").exists()
            with (
                pytest.raises(OutputError, match=r"a\.tif: is being written by another run; wait for it"),
                locked(tmp_path / "l", tmp_path / "a.tif"),
            ):
                pass
        assert not list(tmp_path.iterdir())


HOLDER = """
import os, sys
from pathlib import Path
from geosiam.files import locked
with locked(Path(sys.argv[1]), Path("a.tif")):
    print("held", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


def test_a_lock_holds_between_processes_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "l"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="is being written by another run"), locked(lock, tmp_path / "a.tif"):
            pass
        holder.stdin.close()
        assert holder.wait() == -9
    assert lock.exists()
    with locked(lock, tmp_path / "a.tif"):
        pass
    assert not lock.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "l", tmp_path / "a.tif"):
        pass
    assert "a.tif: its file system has no locks" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), locked(tmp_path / "no" / "l", tmp_path / "a.tif"):
        pass
