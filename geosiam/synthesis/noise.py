"""Noise that is a function of the position: any window of it can be computed alone and fits its neighbors.

Random values are hashes of (row, column, seed), not the stream of a generator, so the value at a position does not
depend on what was computed before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Window

_MASK = 0xFFFFFFFF
# Standard deviation of uniform [-1, 1) values under a cubic B-spline in two directions, averaged over the phase.
_SPLINE_STD = 0.2769


def uniform(window: Window, seed: int) -> NDArray[np.float32]:
    """Return hashed values in [0, 1), one per position.

    Parameters
    ----------
    window
        Rows and columns, which may be negative.
    seed
        Seed of the noise.

    Returns
    -------
    float32 (rows, cols)
    """
    rows = _keys(window.row_start, window.row_stop, 0x9E3779B1, seed)
    cols = _keys(window.col_start, window.col_stop, 0x85EBCA77, seed ^ 0x5BD1E995)
    mixed = rows[:, None] ^ cols[None, :]
    # Two rounds of xor-shift and multiply: enough that neighbors share no visible pattern.
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3C6D)
    mixed ^= mixed >> np.uint32(12)
    mixed *= np.uint32(0x297A2D39)
    mixed >>= np.uint32(8)
    out = mixed.astype(np.float32)
    out *= np.float32(2.0**-24)
    return out


def smooth(window: Window, pitch: int, seed: int) -> NDArray[np.float32]:
    """Return smooth noise with features of about ``pitch`` pixels.

    Hashed values on a lattice are interpolated with a cubic B-spline, which has neither creases nor visible lines.

    Parameters
    ----------
    window
        Rows and columns in pixels.
    pitch
        Distance of the lattice points in pixels, at least 1.
    seed
        Seed of the noise.

    Returns
    -------
    float32 (rows, cols), mean 0, standard deviation about 1
    """
    row_span, row_skip = _lattice_span(window.row_start, window.row_stop, pitch)
    col_span, col_skip = _lattice_span(window.col_start, window.col_stop, pitch)
    lattice = uniform(type(window)(*row_span, *col_span), seed)
    lattice = (lattice * 2 - 1) / np.float32(_SPLINE_STD)
    weights = _spline_weights(pitch)
    height, width = window.shape
    tall = sliding_window_view(lattice, 4, axis=0) @ weights  # (cells, cols, pitch)
    tall = tall.transpose(0, 2, 1).reshape(-1, lattice.shape[1])[row_skip : row_skip + height]
    wide = sliding_window_view(tall, 4, axis=1) @ weights  # (rows, cells, pitch)
    return np.ascontiguousarray(wide.reshape(height, -1)[:, col_skip : col_skip + width])


def _keys(start: int, stop: int, factor: int, seed: int) -> NDArray[np.uint32]:
    """Hash the indices of one axis, so that rows and columns can be combined by xor."""
    keys = np.arange(start, stop, dtype=np.int64) + (seed * 0x632BE5AB & _MASK)
    mixed = (keys & _MASK).astype(np.uint32)
    mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= mixed >> np.uint32(15)
    return mixed


def _lattice_span(start: int, stop: int, pitch: int) -> tuple[tuple[int, int], int]:
    """Return the lattice indices that an axis needs, and the number of pixels to skip in the first lattice cell."""
    first, last = start // pitch, (stop - 1) // pitch
    return (first - 1, last + 3), start - first * pitch


@lru_cache(maxsize=64)
def _spline_weights(pitch: int) -> NDArray[np.float32]:
    """Return the weights of the 4 lattice points around each pixel of a lattice cell: float32 (4, pitch)."""
    t = (np.arange(pitch) + 0.5) / pitch
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3],
    )
    return (weights / 6).astype(np.float32)
