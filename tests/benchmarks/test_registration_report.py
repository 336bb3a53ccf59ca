"""The report of `benchmarks/registration.py`: rows that are measured apart, and at different times, come together."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import registration
from protocols import PLACE, Case, Raster
from registration import Estimate, Figure, Report, measure


def figure(method: str, error: float | None = 0.5, scene: str = "field", added: float | None = None) -> Figure:
    return Figure(method, "E 8/400", scene, 0, error, error, 1.0, 2.0, 1.5, added)


def test_rows_that_are_measured_again_replace_their_own_only(tmp_path):
    report = Report.load(tmp_path, 1024)
    for row in (figure("geosiam", 0.9, added=0.4), figure("EFolki", 0.25), figure("EFolki", 0.75, "roofs")):
        report.add(row, "an old machine")
    report.save(tmp_path)
    again = Report.load(tmp_path, 1024)
    assert again == report
    again.add(figure("geosiam", 0.125, added=0.5), "a new machine")
    again.save(tmp_path)
    stored = json.loads((tmp_path / "REGISTRATION.json").read_text())
    assert stored["machines"] == {"geosiam": "a new machine", "EFolki": "an old machine"}
    assert [(row["method"], row["error"]) for row in stored["figures"]] == [
        ("geosiam", 0.125),
        ("EFolki", 0.25),
        ("EFolki", 0.75),
    ]
    text = (tmp_path / "REGISTRATION.md").read_text()
    assert "Measured on a new machine (geosiam)\n" in text
    assert "| EFolki | 0 / 0 / 1 |" in text  # the other scene was not run with geosiam
    assert "| geosiam | 1 | 0.12 (0.12-0.12) |" in text
    assert "| EFolki | 2 | 0.50 (0.25-0.75) | 0.50 (0.25-0.75) | 1.00 (1.00-1.00) | 1.50 (1.50-1.50) |" in text


def test_scenes_of_another_size_are_not_mixed(tmp_path):
    report = Report(600)
    report.add(figure("geosiam"), "a machine")
    report.save(tmp_path)
    with pytest.raises(SystemExit, match="has scenes of 600 px"):
        Report.load(tmp_path, 1024)


def test_a_method_that_knows_nothing_has_no_error(tmp_path):
    truth = np.ones((2, 40, 50), np.float32)
    scene = Raster("ground", np.zeros((3, 40, 50), np.uint8), *PLACE)
    case = Case("E 8/400", "ground", 3, scene, scene, np.zeros((40, 50), np.int32), truth, np.ones((40, 50), bool))

    def knows_nothing(_case: Case, _folder: Path) -> Estimate:
        return Estimate(np.full_like(truth, np.nan), 1.0, 2.0)

    def is_off(_case: Case, _folder: Path) -> Estimate:
        return Estimate(truth + np.float32(0.5), 1.0, 2.0, added_cpu_seconds=0.5)

    row = measure("none", knows_nothing, case)
    assert (row.error, row.known_fraction, row.key) == (None, 0.0, ("none", "E 8/400", "ground", 3))
    row = measure("off", is_off, case, tmp_path)
    assert row.error == pytest.approx(0.5**0.5, abs=1e-3)
    assert (row.cpu_seconds_per_mpx, row.added_per_mpx) == (1000.0, 250.0)
    (kept,) = tmp_path.iterdir()
    assert np.load(kept)["field"].shape == (2, 10, 13)


def test_the_flow_of_opencv_is_begun_at_the_shift():
    rng = np.random.default_rng(0)
    ground = registration.cv2.GaussianBlur(rng.normal(size=(300, 300)).astype(np.float32), (0, 0), 2)
    ground = np.clip(128 + 40 * ground / ground.std(), 0, 255).astype(np.uint8)
    first, second = (
        Raster(name, np.stack([image] * 3), *PLACE)
        for name, image in (("before", ground[40:240, 40:240]), ("after", ground[10:210, 60:260]))
    )
    truth = np.stack([np.full((200, 200), -20.0), np.full((200, 200), 30.0)]).astype(np.float32)
    case = Case("E", "ground", 0, first, second, np.zeros((200, 200), np.int32), truth, np.ones((200, 200), bool))
    errors = np.hypot(*(registration.by_flow(case, Path(), smoothed=False).field - truth))
    assert np.median(errors) < 0.1
