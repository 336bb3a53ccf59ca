"""A real Dask cluster on this machine: a scheduler and worker processes, reached over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
from affine import Affine
from same_result import assert_same

from bent_scenes import Bend, picture, texture
from geosiam.errors import ClusterError, OptionError, SceneNotFoundError
from geosiam.imagery import prepare
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair import ScenePair
from geosiam.imagery.prepare import open_pair
from geosiam.inference import cluster
from geosiam.inference import scorer as scorer_module
from geosiam.inference.cluster import connected, stream_on_cluster
from geosiam.inference.torch_engine import TorchEngine
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.scoring import score_to_file
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosiam.imagery.grid import Block, Lattice

distributed = pytest.importorskip("distributed")

CONFIG = SyntheticConfig(height=811, width=930, seed=5, objects=15)
BLOCK_PX = 64
ROOT = Path(__file__).parents[2]


@dataclass
class Cluster:
    """A scheduler and its workers, each a process of its own."""

    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *command: object, cwd: Path = ROOT) -> subprocess.Popen:
        search = os.pathsep.join([str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")])
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, command)],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def scheduler(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show")
        return f"tcp://127.0.0.1:{port}"

    def worker(self, scheduler: str) -> subprocess.Popen:
        # Started elsewhere: scenes named by a path relative to the client's folder must be found all the same.
        options = ("--nthreads", 1, "--no-nanny", "--no-dashboard", "--memory-limit", 0)
        return self.start("worker", scheduler, *options, "--local-directory", self.folder, cwd=self.folder)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def scheduler(crew: Cluster) -> str:
    address = crew.scheduler()
    crew.worker(address)
    crew.worker(address)
    return address


@pytest.fixture(scope="module")
def client(scheduler: str):
    with distributed.Client(scheduler, timeout=60, set_as_default=False) as made:
        made.wait_for_workers(2, timeout=120)
        yield made


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    return write_pair_tiles(CONFIG, tmp_path_factory.mktemp("pair"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "BLOCK_PX", BLOCK_PX)


@pytest.fixture(scope="module")
def here(scenes: SyntheticPaths) -> Path:
    folder = scenes.before.parent / "here"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "BLOCK_PX", BLOCK_PX)
        detect(scenes.before, scenes.after, folder / "a.gpkg")
    return folder / "a.gpkg"


def test_the_cluster_gives_the_same_bits(
    client, scenes: SyntheticPaths, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = cluster_calls(client)
    detect(scenes.before, scenes.after, tmp_path / "client.gpkg", options=DetectOptions(scheduler=client))
    assert_same(tmp_path / "client.gpkg", here)
    assert len(ran()) == 2
    monkeypatch.chdir(scenes.before.parent)
    options = DetectOptions(scheduler=client.scheduler.address)
    detect(scenes.before.name, scenes.after.name, tmp_path / "address.gpkg", options=options)
    assert_same(tmp_path / "address.gpkg", here)


def test_workers_read_through_the_field_of_a_pair_that_bends(
    client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was estimated now, or by the run that is resumed on the cluster."""
    before = texture(480, 480)
    images = before, Bend(amplitude=6.0).applied(before)
    scenes = [tmp_path / f"{name}.tif" for name in ("before", "after")]
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "width": 480, "height": 480}
    for path, image in zip(scenes, images, strict=True):
        with rasterio.open(path, "w", transform=Affine(0.1, 0, 500_000, 0, -0.1, 5_800_000), **profile) as file:
            file.write(np.stack([picture(image, 2)] * 3))
    for name, scheduler in (("cluster", client), ("here", None)):
        result = score_to_file(*scenes, tmp_path / f"{name}.tif", options=DetectOptions(scheduler=scheduler))
        assert result.report.displacement["applied"]
    with pytest.raises(KeyboardInterrupt):
        score_to_file(*scenes, tmp_path / "resumed.tif", on_progress=stop_after(9))
    monkeypatch.setattr(prepare, "estimate_field", lambda *_args, **_options: pytest.fail("estimated again"))
    score_to_file(*scenes, tmp_path / "resumed.tif", options=DetectOptions(scheduler=client))
    with rasterio.open(tmp_path / "here.tif") as raster:
        expected = raster.read()
        assert raster.read_masks(1).any()
    for name in ("cluster", "resumed"):
        with rasterio.open(tmp_path / f"{name}.tif") as raster:
            assert np.array_equal(raster.read(), expected)


def stop_after(blocks: int) -> Callable[[int, int], None]:
    left = iter(range(blocks))

    def stop(_done: int, _total: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return stop


def cluster_calls(client):
    """Return a function that says on which workers torch was used."""

    def used() -> bool:
        return "torch" in sys.modules

    return lambda: [address for address, loaded in client.run(used).items() if loaded]


def test_the_scheduler_does_without_torch(client, scenes: SyntheticPaths, tmp_path: Path) -> None:
    score_to_file(scenes.before, scenes.after, tmp_path / "a.tif", options=DetectOptions(scheduler=client))

    def used() -> bool:
        return "torch" in sys.modules

    assert client.run_on_scheduler(used) is False
    assert all(client.run(used).values())


def test_each_worker_is_given_neighbors(client, scenes: SyntheticPaths) -> None:
    noting = Noting(client)
    scorer = scorer_module.Scorer.of_model(load_model(), device="cpu", elsewhere=True)
    with open_pair(scenes.before, scenes.after) as pair:
        order = scorer.lattice(pair.grid)
        list(stream_on_cluster(noting, scorer_module.BlockTask(pair, scorer), *all_of(order)))
    assert sorted(index for indexes in noting.given.values() for index in indexes) == list(range(195))
    # What each is given before anything is finished: a slow one may lose the rest of its share.
    at_first = cluster._BLOCKS_PER_TASK * cluster._MIN_TASKS // 2
    first, second = (noting.given[worker][:at_first] for worker in client.nthreads())
    assert sorted((first[0], second[0])) == [0, 195 // 2]
    for indexes in (first, second):
        assert indexes == list(range(indexes[0], indexes[0] + at_first))


def test_a_job_gets_ready_on_each_worker(scenes: SyntheticPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has on one, such as the queues of a GPU, does not travel to the next."""
    scorer = scorer_module.Scorer.of_model(load_model(), device="cpu", elsewhere=True)
    monkeypatch.setattr(TorchEngine, "to_device", lambda self, _side: replace(self, batcher=threading.Lock()))
    with open_pair(scenes.before, scenes.after) as pair:
        contents = cluster._Payload.pack(scorer_module.BlockTask(pair, scorer))
    first = cluster._Payload(contents)
    assert first.task() is first.task()
    second = pickle.loads(pickle.dumps(first))
    assert second.task().scorer.engine.batcher not in (None, first.task().scorer.engine.batcher)


class Noting:
    """Stands before a client and notes which blocks are meant for which worker."""

    def __init__(self, client) -> None:
        self.client = client
        self.given: dict[str, list[int]] = defaultdict(list)

    def __getattr__(self, name: str):
        return getattr(self.client, name)

    def submit(self, function, *args: object, workers: list[str] = [], **options: object):  # noqa: B006 - not changed
        for worker in workers:
            self.given[worker] += [block.index for block in args[1]]
        return self.client.submit(function, *args, workers=workers or None, **options)


def test_a_worker_killed_midway_loses_nothing(
    client, crew: Cluster, scenes: SyntheticPaths, here: Path, tmp_path: Path
) -> None:
    third = crew.worker(client.scheduler.address)
    client.wait_for_workers(3, timeout=120)
    seen = []

    def kill(done: int, total: int) -> None:
        seen.append(done)
        if done > total / 4 and third.poll() is None:
            third.send_signal(signal.SIGKILL)
            third.wait()

    detect(scenes.before, scenes.after, tmp_path / "a.gpkg", options=DetectOptions(scheduler=client), on_progress=kill)
    assert third.returncode == -signal.SIGKILL
    assert seen == sorted(seen)
    assert_same(tmp_path / "a.gpkg", here)


def test_a_run_here_goes_on_on_the_cluster(client, scenes: SyntheticPaths, here: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_to_file(scenes.before, scenes.after, tmp_path / "a.tif", on_progress=stop_after(50))
    seen = []
    detect(
        scenes.before,
        scenes.after,
        tmp_path / "a.gpkg",
        options=DetectOptions(scheduler=client),
        on_progress=lambda done, _total: seen.append(done),
    )
    assert len(seen) == 195 - 51
    assert_same(tmp_path / "a.gpkg", here)


# --- scenes by URL --------------------------------------------------------------------------------------------------


# A process of its own: rasterio opens files without letting other threads of this one run.
RANGE_SERVER = """
import http.server, re, sys
from pathlib import Path

class RangeHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\\d+)-(\\d*)", self.headers.get("Range", ""))
        if not path.is_file() or wanted is None:
            return super().do_GET()
        size = path.stat().st_size
        start, stop = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1) + 1
        with path.open("rb") as file:
            file.seek(start)
            part = file.read(stop - start)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_request(self, code="-", size="-"):
        sys.stdout.write(f"{self.command} {int(code)} {self.path}\\n")  # one line at once: requests are threads
        sys.stdout.flush()

handler = lambda *args: RangeHandler(*args, directory=sys.argv[1])
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def served(folder: Path, log: Path):
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", RANGE_SERVER, folder], stdout=out, stderr=subprocess.DEVNULL)
    try:
        while not log.read_text().endswith("\n"):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{int(log.read_text())}"
    finally:
        process.kill()
        process.wait()


def test_workers_read_urls_by_ranges(client, scenes: SyntheticPaths, here: Path, tmp_path: Path) -> None:
    with served(scenes.before.parent, tmp_path / "log") as url:
        detect(f"{url}/before.tif", f"{url}/after.tif", tmp_path / "a.gpkg", options=DetectOptions(scheduler=client))
    requests = [line.split() for line in (tmp_path / "log").read_text().splitlines()[1:]]
    for name in ("/before.tif", "/after.tif"):
        codes = [code for method, code, path in requests if (method, path) == ("GET", name)]
        assert set(codes) == {"206"}
        assert len(codes) >= 3  # this process and both workers
    assert_same(tmp_path / "a.gpkg", here)


def test_workers_note_what_polygons_will_need(
    client, scenes: SyntheticPaths, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object) -> None:
        pytest.fail("the client read a block")

    monkeypatch.setattr(ScenePair, "read", again)
    detect(scenes.before, scenes.after, tmp_path / "a.gpkg", options=DetectOptions(scheduler=client))
    assert_same(tmp_path / "a.gpkg", here)


def all_of(blocks: Lattice) -> tuple[Callable[[range], list[Block]], int]:
    """Return a function that hands out blocks, and their number."""
    return lambda places: [blocks[place] for place in places], len(blocks)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_the_client_of_a_huge_scene_stays_small(client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a virtual scene of 100,000 x 100,000 px, all but the last ones empty: their number counts."""
    monkeypatch.setattr(scorer_module, "BLOCK_PX", 1024)
    side, transform = 100_000, Affine(0.1, 0, 500_000, 0, -0.1, 5_800_000)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": transform}
    tiles = {"tiled": True, "sparse_ok": True, "bigtiff": "YES"}
    with rasterio.open(tmp_path / "b.tif", "w", width=side, height=side, **tiles, **profile):
        pass
    x, y = transform @ (side, side)
    geopandas.GeoSeries([shapely.box(x - 5, y, x, y + 5)], crs="EPSG:32633").to_file(tmp_path / "area.gpkg")
    scorer = scorer_module.Scorer.of_model(load_model(), device="cpu", elsewhere=True)
    counting = Counting(client)
    with open_pair(tmp_path / "b.tif", tmp_path / "b.tif", options=PairOptions(aoi=tmp_path / "area.gpkg")) as pair:
        tracemalloc.start()
        stream = stream_on_cluster(counting, scorer_module.BlockTask(pair, scorer), *all_of(scorer.lattice(pair.grid)))
        most = 0
        for done in range(1000):
            result = next(stream)
            assert result.scores.shape == result.block.cells.shape
            most = max(most, cluster._BLOCKS_PER_TASK * (counting.submitted - 1) - done)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stream.close()
    assert most <= cluster._BLOCKS_PER_TASK * cluster._MIN_TASKS
    assert held < 10e6  # the scores of these blocks take 66 MB


class Counting:
    """Stands before a client and counts what is given to it."""

    def __init__(self, client) -> None:
        self.client = client
        self.submitted = 0

    def __getattr__(self, name: str):
        return getattr(self.client, name)

    def submit(self, *args: object, **options: object):
        self.submitted += 1
        return self.client.submit(*args, **options)


def test_a_scene_that_workers_do_not_find_says_so(client, scenes: SyntheticPaths, tmp_path: Path) -> None:
    scorer = scorer_module.Scorer.of_model(load_model(), device="cpu", elsewhere=True)
    moved = tmp_path / "moved.tif"
    moved.write_bytes(scenes.before.read_bytes())
    with open_pair(moved, scenes.after) as pair:
        moved.unlink()
        stream = stream_on_cluster(client, scorer_module.BlockTask(pair, scorer), *all_of(scorer.lattice(pair.grid)))
        with pytest.raises(SceneNotFoundError, match="does not exist on a worker of the cluster; name the scene by"):
            list(stream)


def test_what_a_worker_cannot_decode_is_a_result(client, scenes: SyntheticPaths, tmp_path: Path) -> None:
    scorer = scorer_module.Scorer.of_model(load_model(), device="cpu", elsewhere=True)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(scenes.before.read_bytes())
    with open_pair(cut, scenes.after) as pair:
        os.truncate(cut, cut.stat().st_size // 2)
        stream = stream_on_cluster(client, scorer_module.BlockTask(pair, scorer), *all_of(scorer.lattice(pair.grid)))
        errors = {result.block.index: result.error for result in stream}
    failed = [error for error in errors.values() if error is not None]
    assert 0 < len(failed) < len(errors) == 195
    assert str(failed[0]).startswith(f"{cut}: cannot be read at rows")


def test_an_array_in_memory_cannot_go_to_a_cluster(client, scenes: SyntheticPaths, tmp_path: Path) -> None:
    array = rioxarray.open_rasterio(scenes.before)
    with pytest.raises(OptionError, match="a scene in this process's memory"):
        score_to_file(array, scenes.after, tmp_path / "a.tif", options=DetectOptions(scheduler=client))
    array.close()


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(ClusterError, match="cannot be reached"), connected("tcp://127.0.0.1:1"):
        pass
    with pytest.raises(ClusterError, match="cannot be reached"), connected("nonsense://host"):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"pip install 'geosiam\[cluster\]'"), connected("tcp://127.0.0.1:1"):
        pass


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (distributed.KilledWorker("block", None, 3), "give the workers more memory or fewer threads"),
        (ModuleNotFoundError("No module named 'geosiam'"), "install the same geosiam on them"),
        (asyncio.CancelledError(), "restart the cluster, then run the same command again"),
    ],
)
def test_what_goes_wrong_on_a_cluster_is_one_line(client, error: BaseException, says: str) -> None:
    reported = cluster._user_error(client, error)
    assert isinstance(reported, ClusterError)
    assert reported.subject == f"scheduler {client.scheduler.address}"
    assert reported.remedy == says
    assert cluster._user_error(client, ZeroDivisionError()) is None


def test_a_scheduler_that_goes_away_is_one_line_and_the_run_is_kept(
    scenes: SyntheticPaths, here: Path, tmp_path: Path
) -> None:
    crew = Cluster(tmp_path)
    try:
        address = crew.scheduler()
        crew.worker(address)

        def kill(done: int, total: int) -> None:
            if done > total / 4:
                crew.processes[0].kill()

        out = tmp_path / "out"
        out.mkdir()
        start = time.monotonic()
        with pytest.raises(ClusterError, match="was lost"):
            detect(
                scenes.before,
                scenes.after,
                out / "a.gpkg",
                options=DetectOptions(scheduler=address),
                on_progress=kill,
            )
        assert time.monotonic() - start < 90
    finally:
        crew.stop()
    detect(scenes.before, scenes.after, out / "a.gpkg")
    assert_same(out / "a.gpkg", here)


def test_a_cluster_without_workers_is_not_waited_for_in_silence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Empty:
        def nthreads(self) -> dict[str, int]:
            return {}

    def pack(_: object) -> bytes:
        raise ConnectionError

    monkeypatch.setattr(cluster._Payload, "pack", staticmethod(pack))
    results = stream_on_cluster(Empty(), None, lambda _: [], 1)
    with pytest.raises(ConnectionError):
        next(results)
    assert "the cluster has no workers yet; waiting for the first one" in caplog.text
