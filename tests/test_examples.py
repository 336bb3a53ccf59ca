"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(script: str, *args: object) -> str:
    path = os.pathsep.join((str(ROOT), str(ROOT / "cli")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / script), *map(str, args)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_api_from_scenes_to_pictures(tmp_path: Path) -> None:
    output = run("python_api.py", tmp_path)
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    sweep = re.findall(r"from ([\d.]+) on: (\d+) polygons, recall ([\d.]+), precision ([\d.]+)", output)
    assert len(sweep) == 6
    recall = [float(row[2]) for row in sweep]
    assert recall == sorted(recall, reverse=True)
    assert recall[0] >= 0.9
    assert max(float(row[3]) for row in sweep) >= 0.9
    assert "shadow_fraction" in output


@pytest.mark.slow
def test_fine_tuning_prints_both_weights_beside_each_other(tmp_path: Path) -> None:
    output = run("finetune/finetune.py", tmp_path, "--steps", 2, "--generated", 1, "--size", 512)
    rows = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("| ")]
    assert rows == ["weights", "survey", "mine"]


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.name not in {"README.md", "__pycache__"}:
            assert f"[{path.name}" in listed, path.name
