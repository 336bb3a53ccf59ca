"""What was looked at, against the union of all scored cells."""

from dataclasses import dataclass

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS

from geosiam.imagery.grid import Grid, Window
from geosiam.vector import footprint
from geosiam.vector.options import PolygonOptions
from geosiam.vector.polygons import polygon_pieces


@dataclass
class Scores:
    known: np.ndarray
    stride: int = 2

    @property
    def grid(self) -> Grid:
        rows, cols = self.known.shape
        return Grid(CRS.from_epsg(32633), Affine(2, 0, 400_000, 0, -2, 5_000_000), cols, rows)

    @property
    def extent(self) -> tuple[float, float]:
        return tuple(map(float, self.known.shape))

    def strips(self, rows: int = 3):
        for start in range(0, len(self.known), rows):
            yield start, self.read(Window(start, min(start + rows, len(self.known)), 0, self.known.shape[1]))

    def read(self, window: Window) -> np.ndarray:
        return np.where(self.known[window.slices], np.float32(0), np.float32(np.nan))


def outline(known: np.ndarray):
    pieces = polygon_pieces(Scores(known), PolygonOptions(0.5))
    assert len(pieces.frame()) == 0
    return pieces.footprint_frame()


@settings(deadline=None, max_examples=40)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_it_covers_the_scored_cells_and_nothing_else(known: np.ndarray) -> None:
    frame = outline(known)
    rows, cols = np.nonzero(known)
    cells = shapely.union_all(
        shapely.box(400_000 + 2 * cols, 5_000_000 - 2 * rows - 2, 400_000 + 2 * cols + 2, 5_000_000 - 2 * rows)
    )
    assert frame.geometry.is_valid.all()
    assert shapely.area(shapely.symmetric_difference(shapely.union_all(frame.geometry.to_numpy()), cells)) < 1e-6
    assert frame.looked_at_m2.sum() == pytest.approx(4 * known.sum())


def test_a_large_one_is_as_exact_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "MOST_CELLS", 16)
    known = np.ones((60, 50), bool)
    known[20:40, 10:30] = False
    frame = outline(known)
    (exact,) = frame.accuracy_px
    assert exact == 8  # four cells of two pixels
    scene, hole = (
        shapely.box(400_000, 4_999_880, 400_100, 5_000_000),
        shapely.box(400_020, 4_999_920, 400_060, 4_999_960),
    )
    apart = shapely.symmetric_difference(frame.geometry[0], scene - hole)
    assert shapely.area(apart) <= exact * shapely.length(hole)
