"""The difference of heights in QGIS: red where the ground was lowered, blue where it was raised, clear in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from rasterio.crs import CRS

from geosiam.imagery.grid import Grid, Window
from geosiam.qml import DIFFERENCE_COLORS, difference_qml
from geosiam.scores.writer import write_bands

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.qgis
def test_raised_is_blue_and_lowered_red(qgis, tmp_path: Path) -> None:
    from affine import Affine

    grid = Grid(CRS.from_epsg(32633), Affine(1, 0, 500_000, 0, -1, 5_800_000), 60, 60)
    dz = np.zeros((1, 60, 60), np.float32)
    dz[0, :, :20], dz[0, :, 40:] = -2.0, 2.0
    write_bands(tmp_path / "dz.tif", grid, {"dz": "m"}, [(Window(0, 60, 0, 60), dz)], tags={})
    (tmp_path / "dz.qml").write_text(difference_qml(0.1), encoding="utf-8")
    points = [[500_010, 5_799_970], [500_030, 5_799_970], [500_050, 5_799_970]]
    picture = {"layers": ["raster"], "width": 60, "height": 60, "points": points}
    (seen,) = qgis.look({"raster": str(tmp_path / "dz.tif"), "pictures": [picture]})
    assert [item[0] for item in seen["items"]] == pytest.approx([0.1 * times for times, _, _ in DIFFERENCE_COLORS])
    lowered, level, raised = seen["colors"][0]
    assert lowered[0] > lowered[2] + 40
    assert raised[2] > raised[0] + 40
    assert level[3] == 0 or level[:3] == [255, 255, 255]
