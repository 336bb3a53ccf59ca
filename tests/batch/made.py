"""Pairs of small scenes, made in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

from geosiam.batch.state import PairRecord
from geosiam.provenance import ModelReference

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = (500_000.0, 5_800_000.0)
CRS = "EPSG:32633"


@dataclass(frozen=True)
class Made:
    """A pair of scenes in files."""

    before: Path
    after: Path


def ground(seed: int, height: int, width: int) -> np.ndarray:
    """Return something that looks like ground: uint8 (3, height, width)."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=(height, width)), 9) * 220
    fine = gaussian_filter(rng.normal(size=(height, width)), 1) * 30
    colors = np.array([118, 124, 96])[:, None, None] + np.array([0.9, 1.0, 0.7])[:, None, None] * (coarse + fine)
    return np.clip(colors + rng.normal(0, 2, (3, height, width)), 1, 255).astype(np.uint8)


def write(
    path: Path,
    image: np.ndarray,
    *,
    origin: tuple[float, float] = ORIGIN,
    crs: str | None = CRS,
    tags: dict[str, str] | None = None,
    compress: str = "lzw",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(0.2, 0, origin[0], 0, -0.2, origin[1])
    profile = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "crs": crs,
        "transform": transform,
        "compress": compress,
    }
    with rasterio.open(path, "w", height=image.shape[1], width=image.shape[2], photometric="RGB", **profile) as file:
        file.write(image)
        file.update_tags(**(tags or {}))
    return path


def changed(image: np.ndarray, seed: int, objects: int = 3) -> np.ndarray:
    """Return the image with bright sheets on it, and noise of its own."""
    rng = np.random.default_rng([seed, 1])
    other = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    for _ in range(objects):
        row, col = (int(rng.integers(20, side - 44)) for side in image.shape[1:])
        other[:, row : row + 24, col : col + 24] = rng.integers(0, 255, 3)[:, None, None]
    return other


def make_pair(before: Path, after: Path, seed: int, side: int = 160, origin: tuple[float, float] | None = None) -> Made:
    """Write a pair; each seed has a place of its own."""
    place = (ORIGIN[0] + 1000.0 * seed, ORIGIN[1]) if origin is None else origin
    image = ground(seed, side, side)
    return Made(write(before, image, origin=place), write(after, changed(image, seed), origin=place))


def record(**values: object) -> PairRecord:
    """Return the metadata of a pair that never ran, with these values in their places."""
    metadata: dict[str, object] = {
        "count": 3,
        "area_m2": 12.5,
        "score_max": 0.9,
        "threshold": 0.5,
        "seconds": 1.0,
        "pixels": 25_600,
        "overlap_fraction": 1.0,
        "valid_fraction": 1.0,
        "shift_px": None,
        "corrected": False,
        "pixel_size": (0.2, 0.2),
        "crs": CRS,
        "footprint": None,
        "model": ModelReference("survey", "survey", "0" * 64),
        "score_type": "uint8",
        "device": "cpu",
        "precision": "fp32",
        "geosiam_version": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "unreadable": 0,
        "warnings": (),
    }
    return PairRecord(**{**metadata, **values})
