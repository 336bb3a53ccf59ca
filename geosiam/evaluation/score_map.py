"""Scores in memory as a source of strips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from geosiam.imagery.grid import Grid, Window


@dataclass(frozen=True)
class ScoreMap:
    """Scores of every pixel, such as a baseline's.

    Parameters
    ----------
    scores
        float32 (rows, cols) in [0, 1], NaN = not scored.
    grid
        Where they lie.
    """

    scores: NDArray[np.float32]
    grid: Grid
    stride: int = 1

    @property
    def extent(self) -> tuple[float, float]:
        """Where the scene ends, in cells (rows, cols)."""
        return float(self.grid.height), float(self.grid.width)

    def strips(self, rows: int = 512) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and scores, from top to bottom."""
        for start in range(0, self.grid.height, rows):
            yield start, self.scores[start : start + rows]

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the scores of a window inside the map."""
        scores: NDArray[np.float32] = self.scores[window.slices]
        return scores
