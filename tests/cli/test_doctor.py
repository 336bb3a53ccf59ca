"""What ``geosiam doctor`` and ``geosiam completion`` print."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pyproj
import pytest
import rasterio
import torch
from click.testing import CliRunner

from geosiam_cli.main import COMMANDS, cli


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geosiam_cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)


def test_the_facts_are_those_of_the_libraries() -> None:
    facts = json.loads(doctor("--json").stdout)
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["packages"]["rasterio"] == rasterio.__version__
    assert facts["gdal"]["rasterio"] == rasterio.__gdal_version__
    assert facts["gdal"]["proj"] == pyproj.proj_version_str
    assert {"GTiff", "COG", "VRT"} <= set(facts["gdal"]["drivers"].split(", "))
    assert facts["processor"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert 0 < facts["memory"]["available_gib"] <= facts["memory"]["total_gib"]
    assert "ruff" not in facts["packages"]  # a developers' tool


def test_settings_appear_without_secrets() -> None:
    settings = {
        "GDAL_CACHEMAX": "512",
        "GDAL_HTTP_USERPWD": "anna:hunter2",
        "GDAL_HTTP_HEADERS": "Authorization: Bearer hunter2",
        "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "tif",
        "GDAL_HTTP_PROXY": "http://anna:hunter2@proxy.example:3128",
        "VSI_CACHE": "TRUE",
        "UNRELATED": "hunter2",
    }
    text = doctor(**settings).stdout
    assert "hunter2" not in text
    assert "UNRELATED" not in text
    shown = json.loads(doctor("--json", **settings).stdout)["settings"]
    assert shown["GDAL_CACHEMAX"] == "512"
    assert shown["GDAL_HTTP_USERPWD"] == "set"
    assert shown["GDAL_HTTP_PROXY"] == "http://proxy.example:3128"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_valid(shell: str, tmp_path) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_GEOSIAM_COMPLETE" in result.output
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not here")
    script = tmp_path / "completion"
    script.write_text(result.output)
    subprocess.run([program, "-n", script], check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("geosiam ", set(COMMANDS)),
        ("geosiam det", {"detect"}),
        ("geosiam detect --regis", {"--register"}),
        ("geosiam detect --radiometry h", {"histogram"}),
    ],
)
def test_words_are_completed(words: str, expected: set[str]) -> None:
    number = len(words.split(" ")) - 1
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(number), "_GEOSIAM_COMPLETE": "bash_complete"}
    # Bash calls the program without arguments.
    completed = subprocess.run(
        [sys.executable, "-c", "from geosiam_cli.main import program; program()"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    assert {line.split(",")[1] for line in completed.stdout.splitlines()} == expected
