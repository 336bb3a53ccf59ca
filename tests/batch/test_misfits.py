"""Pairs whose scenes do not fit: listed, flagged and counted."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from made import changed, ground, write
from scipy import ndimage

from geosiam.batch.api import plan_batch, run_batch
from geosiam.imagery.prepare import open_pair
from geosiam_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.batch.events import BatchResult
    from geosiam.imagery.pair_report import PairReport

SIDE = 480
NAMES = ("fits", "apart", "bends")
LOCAL = {
    "applied": False,
    "median_px": 1.0,
    "p95_px": 1.5,
    "largest_px": 2.0,
    "agreement": 0.95,
    "unknown_fraction": 0.1,
    "checksum": None,
}


def bent(image: np.ndarray) -> np.ndarray:
    """Return a picture whose content lies up to 5 px too far down or up."""
    rows, cols = np.indices(image.shape[1:], float)
    places = [rows - 5 * np.sin(2 * np.pi * cols / 400), cols]
    return np.stack([ndimage.map_coordinates(band.astype(float), places, order=1, mode="reflect") for band in image])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a pair that fits, one that is 6 px apart and left as it is, and one that bends apart."""
    folder = tmp_path_factory.mktemp("scenes")
    image = ground(5, SIDE + 6, SIDE)
    after = changed(image, 3)
    write(folder / "before.tif", image[:, 6:])
    write(folder / "fits.tif", after[:, 6:])
    write(folder / "apart.tif", after[:, :-6])
    write(folder / "bends.tif", bent(after[:, 6:]).clip(0, 255).astype(np.uint8))
    rows = [("before.tif", f"{name}.tif", name, "none" if name == "apart" else "auto") for name in NAMES]
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("before", "after", "name", "register"), *rows])
    return folder


@pytest.fixture(scope="module")
def ran(scenes: Path) -> BatchResult:
    return run_batch(plan_batch(scenes / "pairs.csv"), scenes / "out")


def test_shift_and_bend_are_listed(ran: BatchResult) -> None:
    assert ran.failed == ()
    table = pd.read_csv(ran.files["csv"]).set_index("pair")
    assert list(table.columns).index("bend_px") == list(table.columns).index("shift_px") + 1
    assert table.shift_px["apart"] == pytest.approx(6, abs=0.3)
    assert np.isnan(table.bend_px["apart"])  # not estimated
    assert table.bend_px["fits"] < 1
    displacement = 5 * np.sin(2 * np.pi * np.arange(SIDE) / 400)
    bend = np.percentile(np.abs(displacement - np.median(displacement)), 95)
    assert table.bend_px["bends"] == pytest.approx(bend, abs=0.5)
    items = json.loads(ran.files["stac"].read_text())["features"]
    properties = {item["id"]: item["properties"] for item in items}
    assert properties["bends"]["geosiam:bend_px"] == table.bend_px["bends"]
    assert properties["apart"]["geosiam:bend_px"] is None
    page = ran.files["page"].read_text(encoding="utf-8")
    assert f"{table.bend_px['bends']:.1f} px (95th percentile), corrected" in page


def test_pairs_that_do_not_fit_are_flagged_and_counted(ran: BatchResult) -> None:
    """The pair that bends apart is read through a field, so it fits."""
    assert list(ran.misfits) == ["apart"]
    assert ran.misfits["apart"].startswith("the scenes are misregistered by about ")
    table = pd.read_csv(ran.files["csv"], keep_default_na=False).set_index("pair")
    assert table.warnings["apart"].count("misregistered by about") == 1  # not once more for the flag
    assert json.loads(ran.files["summary"].read_text())["misfits"] == ran.misfits == ran.to_dict()["misfits"]


def test_the_command_says_which_pairs_do_not_fit(
    ran: BatchResult, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", str(scenes / "pairs.csv"), "-o", str(ran.folder)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("geosiam: warning: apart: the scenes are misregistered by about") for line in lines)
    assert "the scenes of 1 of 3 pairs do not fit, or may not: see the warnings" in lines


@pytest.fixture(scope="module")
def report(scenes: Path) -> PairReport:
    with open_pair(scenes / "before.tif", scenes / "fits.tif") as pair:
        return pair.report


@pytest.mark.parametrize(
    ("shift", "local", "why"),
    [
        (0.2, None, None),
        (None, LOCAL, None),
        (2.5, LOCAL, "the scenes are misregistered by about 2.5 px"),
        (0.2, {**LOCAL, "p95_px": 3.1}, "the scenes bend apart by 3.1 px (95th percentile), which is not corrected"),
        (0.2, {**LOCAL, "p95_px": 3.1, "applied": True}, None),
        (
            0.2,
            {**LOCAL, "p95_px": 3.1, "unknown_fraction": 0.7},  # the bend of the rest says little
            "the scenes cannot be matched on 70% of the ground; look whether they fit there",
        ),
    ],
)
def test_what_does_not_fit(report: PairReport, shift: float | None, local: dict | None, why: str | None) -> None:
    assert replace(report, shift_px=shift, displacement=local).misfit == why
