"""Small GeoTIFFs for the tests of this room."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an array (bands, rows, cols) as a GeoTIFF and returns its path."""

    def _write(name: str, image: np.ndarray, **options: object) -> Path:
        path = tmp_path / name
        mask = options.pop("mask", None)
        colors = options.pop("colors", None)
        profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": UTM, "dtype": image.dtype} | options
        count, height, width = image.shape
        with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as file:
            file.write(image)
            if colors is not None:
                file.colorinterp = colors
            if mask is not None:
                file.write_mask(mask)
        return path

    return _write


@pytest.fixture
def texture() -> Callable[..., np.ndarray]:
    """Return a function that makes a smooth random image, uint8 (bands, rows, cols)."""

    def _texture(bands: int = 3, height: int = 120, width: int = 150, seed: int = 0) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(bands, height, width))
        smooth = gaussian_filter(noise, (0, 1.5, 1.5))
        smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
        return (10 + 235 * smooth).astype(np.uint8)

    return _texture


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder over HTTP, and return the address."""
    script = Path(__file__).with_name("range_server.py")
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()
