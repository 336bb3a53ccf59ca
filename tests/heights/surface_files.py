"""Surface models for tests: ground of hills, written as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from scipy import ndimage

if TYPE_CHECKING:
    from pathlib import Path

CORNER, PIXEL = (500_000.0, 5_400_000.0), 0.5


def hills(rows: int, cols: int, *, right: float = 0.0, down: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return smooth ground, float64 (rows, cols), whose content lies some pixels too far right and down."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols].astype(float)
    ground = np.zeros((rows, cols))
    for _ in range(12):
        length, angle, phase = rng.uniform(15, 70), rng.uniform(0, 2 * np.pi), rng.uniform(0, 6)
        along = np.cos(angle) * (x - right) + np.sin(angle) * (y - down)
        ground += length / 60 * np.sin(2 * np.pi * along / length + phase)
    return ground


def correlated(rows: int, cols: int, sigma: float, seed: int) -> np.ndarray:
    """Return noise of a standard deviation of 1, correlated over some pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(rows + 40, cols + 40)), sigma)
    return noise[20:-20, 20:-20] / noise.std()


def write(
    path: Path, heights: np.ndarray, *, crs: object = "EPSG:32633", transform: Affine | None = None, **profile: object
) -> Path:
    """Write heights as a GeoTIFF; NaN is nodata."""
    place = transform or Affine(PIXEL, 0, CORNER[0], 0, -PIXEL, CORNER[1])
    unit = profile.pop("units", None)
    profile = {"dtype": "float32", "nodata": np.nan, **profile}
    size = {"height": heights.shape[-2], "width": heights.shape[-1], "count": 1 if heights.ndim == 2 else len(heights)}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=place, **size, **profile) as target:
        target.write(heights.reshape(size["count"], *heights.shape[-2:]).astype(profile["dtype"]))
        if unit is not None:
            target.units = (unit,) * size["count"]
    return path
