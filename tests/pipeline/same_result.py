"""Whether two runs of `detect` left the same behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas
import numpy as np
import rasterio

if TYPE_CHECKING:
    from pathlib import Path


def assert_same(polygons: Path, expected: Path) -> None:
    with rasterio.open(polygons.with_suffix(".tif")) as one, rasterio.open(expected.with_suffix(".tif")) as other:
        np.testing.assert_array_equal(one.read(), other.read())
        for level in range(len(other.overviews(1))):
            with (
                rasterio.open(one.name, overview_level=level) as a,
                rasterio.open(other.name, overview_level=level) as b,
            ):
                np.testing.assert_array_equal(a.read(), b.read())
    first, second = (geopandas.read_file(path, layer="anomalies") for path in (polygons, expected))
    assert len(second) > 0
    assert first.drop(columns="created").equals(second.drop(columns="created"))
