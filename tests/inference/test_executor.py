"""The stream of blocks: bounded, without barriers, and as small for a huge scene as for a small one."""

import contextlib
import threading
import tracemalloc
from dataclasses import dataclass, field

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import SceneUnreadableError
from geosiam.imagery.grid import Grid, Lattice
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.inference import executor
from geosiam.inference.executor import stream_scores
from geosiam.inference.scorer import BlockResult, Scorer
from geosiam.network.weights import load_model
from geosiam.scores.writer import ScoreRasterWriter

GRID = Grid(CRS.from_epsg(32633), Affine(0.5, 0, 1000, 0, -0.5, 2000), 70, 50)


@dataclass
class FakePair:
    grid: Grid = GRID
    columns_at_once: int | None = None


@dataclass
class FakeScorer:
    """Scores a cell a pixel by the block's index, and does for a block whatever the test says."""

    do: object = lambda _index: None
    started: list = field(default_factory=list)
    blocks_waiting: int = 0

    def lattice(self, grid):
        return Lattice(*grid.shape, 10, 10)

    def score_block(self, _pair, block, statistics):
        self.started.append(block.index)
        self.do(block.index)
        scores = np.full(block.cells.shape, block.index, np.float32)
        return BlockResult(block, scores, None if statistics is None else statistics(block))


class Store:
    """A store with room for a few statistics, which exist for blocks with an odd number."""

    def __init__(self, room):
        self.room, self.added, self.computed, self.threads = room, [], [], set()

    @property
    def full(self):
        return len(self.added) >= self.room

    def statistics(self, block):
        self.computed.append(block.index)
        return block.index if block.index % 2 else None

    def add(self, statistics):
        self.added.append(statistics)
        self.threads.add(threading.current_thread())


def test_blocks_come_in_raster_order_with_their_scores():
    results = list(stream_scores(FakePair(), FakeScorer(), workers=3))
    assert [result.block.index for result in results] == list(range(35))
    assert all((result.scores == result.block.index).all() for result in results)


def test_finished_blocks_are_left_out_and_counted_as_progress():
    finished = np.zeros(35, bool)
    finished[5:] = True
    scorer, seen = FakeScorer(), []
    list(stream_scores(FakePair(), scorer, workers=2, finished=finished, on_progress=lambda *p: seen.append(p)))
    assert sorted(scorer.started) == list(range(5))
    assert seen[0] == (3500 * 31 // 35, 3500)
    assert seen[-1] == (3500, 3500)


def test_statistics_are_stored_by_the_caller():
    store = Store(room=100)
    list(stream_scores(FakePair(), FakeScorer(), workers=3, zonal_stats=store))
    assert store.added == list(range(1, 35, 2))
    assert store.threads == {threading.current_thread()}


def test_for_a_full_store_nothing_is_computed():
    store = Store(room=3)
    list(stream_scores(FakePair(), FakeScorer(), workers=1, zonal_stats=store))
    assert len(store.computed) <= 2 * 3 + executor._MAX_GRAPHS


def test_nothing_waits_for_a_slow_block():
    reached = threading.Event()

    def wait_for_a_later_one(index):
        if index == 0:
            assert reached.wait(20)
        elif index == 2 * executor._MAX_GRAPHS - 1:
            reached.set()

    assert len(list(stream_scores(FakePair(), FakeScorer(wait_for_a_later_one), workers=2))) == 35


def test_blocks_in_flight_are_bounded():
    scorer, most = FakeScorer(), 0
    for done, _ in enumerate(stream_scores(FakePair(), scorer, workers=2)):
        most = max(most, len(scorer.started) - done)
    assert most <= 2 * executor._MAX_GRAPHS


def test_leaving_early_leaves_the_rest_alone():
    scorer = FakeScorer()
    stream = stream_scores(FakePair(), scorer, workers=2)
    next(stream)
    stream.close()
    assert len(scorer.started) <= 2 * executor._MAX_GRAPHS + 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("geosiam")]


def unreadable(index):
    if index == 6:
        raise SceneUnreadableError("b.tif", "cannot be read", "copy it again")


@pytest.mark.parametrize("workers", [1, 4])
def test_what_cannot_be_read_is_a_result_that_raises(workers):
    seen = []
    results = list(
        stream_scores(
            FakePair(), FakeScorer(unreadable), workers=workers, on_progress=lambda done, _total: seen.append(done)
        )
    )
    assert [result.block.index for result in results] == list(range(35))
    assert [result.block.index for result in results if result.error is not None] == [6]
    with pytest.raises(SceneUnreadableError, match=r"b\.tif"):
        results[6].scores  # noqa: B018 - raises
    assert seen[-1] == 3500


def test_any_other_error_comes_through():
    def broken(index):
        if index == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(stream_scores(FakePair(), FakeScorer(broken), workers=2))


SIDES = {"small": 2_000, "huge": 100_000}


@pytest.fixture(scope="module")
def virtual(tmp_path_factory):
    """Scenes that take no space, up to 100,000 x 100,000 px, and an area in the last corner of the huge one."""
    folder = tmp_path_factory.mktemp("virtual")
    transform = Affine(0.1, 0, 500_000, 0, -0.1, 5_800_000)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": transform}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "bigtiff": "YES"}
    for name, side in SIDES.items():
        with rasterio.open(folder / f"{name}.tif", "w", width=side, height=side, **profile, **tiles):
            pass
    x, y = transform @ (SIDES["huge"], SIDES["huge"])
    geopandas.GeoSeries([shapely.box(x - 20, y, x, y + 20)], crs="EPSG:32633").to_file(folder / "area.gpkg")
    return folder


@contextlib.contextmanager
def traced():
    """Give a function for the most bytes that Python and numpy held since."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_planning_and_journal_of_a_huge_scene_take_a_few_megabytes(virtual, tmp_path):
    scorer = Scorer.of_model(load_model("paper"), device="cpu")  # its blocks are small, so that lists would show
    with open_pair(virtual / "huge.tif", virtual / "huge.tif", options=PairOptions(aoi=virtual / "area.gpkg")) as pair:
        cells, lattice = pair.grid.coarsened(scorer.stride), scorer.lattice(pair.grid)
        with (
            traced() as peak,
            contextlib.suppress(KeyboardInterrupt),
            ScoreRasterWriter(tmp_path / "s.tif", cells, tags={}, lattice=lattice) as raster,
        ):
            stream = stream_scores(pair, scorer, workers=2, finished=raster.finished)
            for _ in range(300):
                result = next(stream)
                raster.write(result.block, result.scores)
            stream.close()
            assert len(lattice) == 98 * 98
            assert peak() < 2e6
            raise KeyboardInterrupt  # the rest would be just more of it


def test_opening_a_huge_scene_takes_no_more_memory_than_a_small_one(virtual):
    peaks = {}
    for name in ("small", "small", "huge"):  # the first one pays for imports
        path = virtual / f"{name}.tif"
        with traced() as peak, open_pair(path, path):
            peaks[name] = peak()
    assert peaks["huge"] < 1.1 * peaks["small"]
