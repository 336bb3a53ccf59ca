"""Batches on a real Dask cluster on this machine: a scheduler and worker processes, reached over loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made import make_pair
from same_result import assert_same

from geosiam.batch.api import BatchOptions, plan_batch, run_batch
from geosiam.batch.pool import PairRequest
from geosiam.batch.resources import CostModel
from geosiam.errors import ClusterError
from geosiam.options import DetectOptions
from geosiam.pipeline import detect

if TYPE_CHECKING:
    from geosiam.batch.events import BatchEvent

distributed = pytest.importorskip("distributed")
dask_pool = pytest.importorskip("geosiam.batch.dask_pool")

ROOT = Path(__file__).parents[2]
FP32 = DetectOptions(precision="fp32")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    worker = f"worker {address} --nthreads 1 --no-nanny --no-dashboard --memory-limit 0".split()
    commands = [
        f"scheduler --host 127.0.0.1 --port {address.rsplit(':', maxsplit=1)[-1]} --no-dashboard --no-show".split(),
        *[[*worker, "--local-directory", str(folder)]] * 2,
    ]
    search = os.pathsep.join([str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        with distributed.Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(4):
        make_pair(folder / f"{number}-1.tif", folder / f"{number}-2.tif", number)
    rows = [f"site-{number},{number}-1.tif,{number}-2.tif" for number in range(4)]
    (folder / "pairs.csv").write_text("\n".join(["name,before,after", *rows, "no,0-1.tif,none.tif"]) + "\n")
    return folder / "pairs.csv"


def test_the_cluster_gives_the_same_bits_and_survives_a_crash(scheduler: str, manifest: Path, tmp_path: Path) -> None:
    killed = []

    def kill_once(event: BatchEvent) -> None:
        if event.kind == "ready" and not killed:
            os.kill(event.data["pid"], signal.SIGKILL)
            killed.append(event.pair)

    result = run_batch(
        plan_batch(manifest),
        tmp_path / "out",
        detect=FP32,
        options=BatchOptions(scheduler=scheduler),
        on_event=kill_once,
    )
    results = {pair.name: pair for pair in result.pairs}
    assert [pair.name for pair in result.failed] == ["no"]
    assert "does not exist" in results["no"].error
    if killed != ["no"]:
        assert results[killed[0]].attempts == 2
    for name in (f"site-{number}" for number in range(4)):
        single = tmp_path / f"{name}.gpkg"
        detect(results[name].before, results[name].after, single, options=FP32)
        os.link(results[name].anomalies, tmp_path / f"{name}-batch.gpkg")
        os.link(results[name].scores, tmp_path / f"{name}-batch.tif")
        assert_same(tmp_path / f"{name}-batch.gpkg", single)
    with distributed.Client(scheduler, set_as_default=False) as client:
        assert set(client.run(lambda dask_worker: len(dask_worker.plugins[dask_pool.PLUGIN].processes)).values()) == {
            0
        }  # no process is left behind


def test_a_large_pair_goes_block_by_block(
    scheduler: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CostModel, "blocks", lambda _cost, _shape: 64)
    plan = plan_batch(manifest)
    events: list[BatchEvent] = []
    result = run_batch(
        plan,
        tmp_path / "out",
        detect=FP32,
        options=BatchOptions(scheduler=scheduler),
        on_event=events.append,
    )
    assert [pair.name for pair in result.failed] == ["no"]
    assert {event.data["threads"] for event in events if event.kind == "start"} == {2}
    single = tmp_path / "single.gpkg"
    first = result.pairs[0]
    detect(first.before, first.after, single, options=FP32)
    os.link(first.anomalies, tmp_path / "batch.gpkg")
    os.link(first.scores, tmp_path / "batch.tif")
    assert_same(tmp_path / "batch.gpkg", single)


def test_a_pair_on_the_cluster_can_be_killed(scheduler: str, manifest: Path, tmp_path: Path) -> None:
    pair = plan_batch(manifest).pairs[0]
    request = PairRequest(pair.name, pair.before, pair.after, str(tmp_path), FP32)
    with distributed.Client(scheduler, set_as_default=False) as client:
        pool = dask_pool.DaskPool(client, CostModel(1e-7, 4e8, 2e8, 1024), memory=8e9)
        try:
            pool.start(request, pool.demand((160, 160), waiting=1, memory_factor=1))
            kinds = []
            deadline = time.monotonic() + 120
            while "died" not in kinds and time.monotonic() < deadline:
                event = pool.next_event(0.1)
                kinds += [] if event is None else [event.kind]
                if event is not None and event.kind == "ready":
                    assert event.pair == pair.name
                    pool.kill(pair.name)
            assert kinds[0] == "ready"
            assert kinds[-1] == "died"
        finally:
            pool.close()
        assert set(client.run(lambda dask_worker: len(dask_worker.plugins[dask_pool.PLUGIN].processes)).values()) == {0}


def test_a_folder_that_workers_do_not_find_is_refused(scheduler: str, manifest: Path, tmp_path: Path) -> None:
    with distributed.Client(scheduler, set_as_default=False) as client:
        with pytest.raises(ClusterError, match="does not exist on the worker tcp://"):
            dask_pool.check_shared(client, tmp_path / "none")
        dask_pool.check_shared(client, tmp_path)
    with pytest.raises(ClusterError, match="cannot be reached"):
        run_batch(plan_batch(manifest), tmp_path, options=BatchOptions(scheduler="nonsense://host"))
