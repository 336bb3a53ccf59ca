"""What pixels say of components, on scenes in which it is known."""

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import SceneUnreadableError
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.pair import PairBlock
from geosiam.vector.options import PolygonOptions
from geosiam.vector.polygons import Origin, polygon_pieces
from geosiam.vector.witness import PixelWitness

STRIDE, CELLS = 4, 48
RNG = np.random.default_rng(0)
GROUND = np.clip(np.array([0.45, 0.5, 0.4])[:, None, None] + RNG.normal(0, 0.02, (3, 192, 192)), 0, 1)
PLACES = {"appeared": (4, 4), "vanished": (4, 30), "shadow": (30, 4), "recoloured": (30, 30)}


class Scores:
    """Four squares of 8 x 8 cells."""

    stride = STRIDE
    grid = Grid(CRS.from_epsg(32633), Affine(4, 0, 400_000, 0, -4, 5_000_000), CELLS, CELLS)
    extent = (float(CELLS), float(CELLS))

    def __init__(self) -> None:
        self.values = np.zeros((CELLS, CELLS), np.float32)
        for row, col in PLACES.values():
            self.values[row : row + 8, col : col + 8] = 0.9

    def strips(self, rows: int = 16):
        for start in range(0, CELLS, rows):
            yield start, self.values[start : start + rows]

    def read(self, window: Window) -> np.ndarray:
        return self.values[window.slices]


def pixels(name: str) -> tuple[slice, slice, slice]:
    row, col = (place * STRIDE for place in PLACES[name])
    return slice(None), slice(row, row + 8 * STRIDE), slice(col, col + 8 * STRIDE)


class Pair:
    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.before, self.after = GROUND.astype(np.float32), GROUND.astype(np.float32)
        self.after[pixels("appeared")] = np.array([0.9, 0.1, 0.1])[:, None, None]
        self.before[pixels("vanished")] = np.array([0.1, 0.2, 0.9])[:, None, None]
        self.after[pixels("shadow")] *= 0.5

        self.before[pixels("recoloured")] = np.array([0.95, 0.9, 0.1])[:, None, None]
        self.after[pixels("recoloured")] = np.array([0.05, 0.1, 0.7])[:, None, None]

    def read(self, window: Window) -> PairBlock:
        if self.broken:
            raise SceneUnreadableError("after.tif", "cannot be read", "mend it")
        where = (slice(None), *window.slices)
        return PairBlock(self.before[where], self.after[where], np.ones(window.shape, bool))


def table(pair: Pair, *, coloured: bool = True):
    witness = PixelWitness(pair, STRIDE, 0.5, coloured=coloured)
    frame = polygon_pieces(Scores(), PolygonOptions(0.5), Origin(), witness).frame()
    assert len(frame) == 4
    col, row = (frame.geometry.bounds.minx - 400_000) / 4, (5_000_000 - frame.geometry.bounds.maxy) / 4
    names = {place: name for name, place in PLACES.items()}
    return frame.set_index(pd.Index([names[round(r), round(c)] for r, c in zip(row, col, strict=True)]))


def test_shadows_are_told_from_objects() -> None:
    share = table(Pair()).shadow_fraction
    assert share["shadow"] > 0.95
    assert share[["appeared", "vanished", "recoloured"]].max() < 0.05


def test_hints_say_in_which_scene_something_stands_out() -> None:
    hint = table(Pair()).hint
    assert hint["appeared"] == "appeared"
    assert hint["vanished"] == "vanished"
    assert hint["recoloured"] is None or hint.isna()["recoloured"]


def test_without_colour_nothing_is_said_of_shadows() -> None:
    frame = table(Pair(), coloured=False)
    assert frame.shadow_fraction.isna().all()
    assert frame.hint["appeared"] == "appeared"


def test_the_scenes_the_other_way_round_turn_the_hints() -> None:
    pair = Pair()
    pair.before, pair.after = pair.after, pair.before
    hint = table(pair).hint
    assert (hint["appeared"], hint["vanished"]) == ("vanished", "appeared")


def test_what_cannot_be_read_is_not_known() -> None:
    frame = table(Pair(broken=True))
    assert frame.shadow_fraction.isna().all()
    assert frame.hint.isna().all()


@pytest.mark.parametrize("side", [8, 24, 128])
def test_neither_blocks_nor_strips_matter(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = table(Pair())
    monkeypatch.setattr("geosiam.vector.witness.BLOCK_PX", side)
    assert table(Pair()).drop(columns="geometry").equals(expected.drop(columns="geometry"))
