"""Polygons, records and scenes that do not come from a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS

from geosiam.polygons.schema import SCHEMA
from geosiam.polygons.table import to_frame

if TYPE_CHECKING:
    from pathlib import Path

UTM = CRS.from_epsg(32633)
GRID = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
SIZE = 320


def squares(count: int, crs: CRS = UTM, transform: Affine = GRID) -> geopandas.GeoDataFrame:
    """Return as many polygons as asked for, 8 x 8 pixels each, weaker and weaker, all over a scene of 320 pixels."""
    if not count:
        return to_frame(SCHEMA.empty_table(), crs)
    rng = np.random.default_rng(1)
    corners = rng.integers(0, SIZE // 8, (count, 2)) * 8
    boxes = []
    for col, row in corners:
        ring = [transform @ corner for corner in ((col, row), (col + 8, row), (col + 8, row + 8), (col, row + 8))]
        boxes.append(shapely.MultiPolygon([shapely.Polygon(ring)]))
    columns = {
        "id": np.arange(1, count + 1),
        "score_mean": np.linspace(0.99, 0.5, count),
        "score_max": np.linspace(1.0, 0.6, count),
        "area_m2": rng.uniform(1, 30, count),
        "cells": np.full(count, 1),
        "valid_fraction": 1.0,
        "touches_nodata": np.arange(count) % 5 == 4,
        "shift_px": np.nan,
        "review": np.full(count, None, dtype=object),
    }
    return geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(boxes, crs=crs), crs=crs)


def record(folder: Path) -> dict:
    """Return what a run on before.tif and after.tif would have recorded."""
    full = {"low": [0, 0, 0], "high": [255, 255, 255]}
    facts = {"scaling": {"before": full, "after": full}, "shift_px": 0.4, "moved_px": [0, 0], "shift": None}
    for which in ("before", "after"):
        facts[which] = {"name": str(folder / f"{which}.tif"), "fingerprint": ""}
        facts[f"{which}_bands"] = {"indexes": [1, 2, 3]}
    return {"pair": facts, "model": {"name": "survey"}, "threshold": 0.5, "warnings": ["the after scene was warped"]}


def write_scene(path: Path, image: np.ndarray, crs: CRS = UTM, transform: Affine = GRID, **options: object) -> Path:
    """Write a scene (bands, rows, cols)."""
    count, height, width = image.shape
    profile = {"driver": "GTiff", "dtype": image.dtype, "count": count, "height": height, "width": width} | options
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(image)
    return path
