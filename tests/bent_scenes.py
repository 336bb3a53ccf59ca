"""Textured scenes whose second date is bent by a known displacement, resampled by SciPy's splines alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return ground with details of 2 to 20 pixels, float64 (height, width) in [20, 230]."""
    noise = np.random.default_rng(seed).standard_normal
    ground = sum(gaussian_filter(noise((height, width)), sigma, mode="wrap") * sigma * 40 for sigma in (2, 6, 20))
    return (ground + 125).clip(20, 230)


@dataclass(frozen=True)
class Bend:
    """A smooth displacement: where the second date shows what lies at a place.

    Parameters
    ----------
    shift
        Displacement (down, right) in pixels on average.
    amplitude, wavelength
        Of the sine waves around it, in pixels.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    amplitude: float = 6.0
    wavelength: float = 600.0

    def source(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the first date that the second shows at its pixels (rows, cols)."""
        row_phase, col_phase = (2 * np.pi * at / self.wavelength for at in (rows, cols))
        down = self.shift[0] + self.amplitude * np.sin(col_phase) * np.cos(0.7 * row_phase)
        right = self.shift[1] + self.amplitude * np.cos(0.8 * col_phase + 0.5) * np.sin(row_phase)
        return rows - down, cols - right

    def displacement(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the displacement (2, ...) of the content that the first date shows at (rows, cols)."""
        at = rows, cols
        for _ in range(60):  # a contraction, because the waves are long
            source = self.source(*at)
            at = at[0] + rows - source[0], at[1] + cols - source[1]
        return np.stack([at[0] - rows, at[1] - cols])

    def at_nodes(self, shape: tuple[int, int], spacing: int = 16) -> np.ndarray:
        """Return the displacement (2, rows, cols) in the middles of squares of pixels."""
        rows, cols = (spacing * (np.arange(side) + 0.5) - 0.5 for side in shape)
        return self.displacement(*np.meshgrid(rows, cols, indexing="ij"))

    def applied(self, image: np.ndarray) -> np.ndarray:
        """Return an image (..., height, width) as the second date shows it."""
        height, width = image.shape[-2:]
        places = self.source(*np.indices((height, width), float))
        bands = image.reshape(-1, height, width).astype(float)
        return np.stack([map_coordinates(band, places, order=3, mode="reflect") for band in bands]).reshape(image.shape)


def picture(image: np.ndarray, noise: float = 0.0, seed: int = 9) -> np.ndarray:
    """Return an image as bytes, with noise of a standard deviation."""
    noisy = image + np.random.default_rng(seed).normal(0, noise, image.shape) if noise else image
    return noisy.round().clip(1, 255).astype(np.uint8)
