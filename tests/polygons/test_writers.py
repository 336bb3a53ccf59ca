"""Two real processes and one output: the second is refused, and what a killed one left is cleared away."""

import os
import signal
import subprocess
import sys
import textwrap

import geopandas
import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from geosiam.imagery.grid import Block, Grid, Window
from geosiam.scores.writer import ScoreRasterWriter

SLOW = """
    import sys
    from dataclasses import replace
    from geosiam.scores.raster import ScoreRaster
    from geosiam.polygons.options import PolygonOptions
    from geosiam.polygons.table import polygon_table
    from geosiam.polygons.writer import write_polygons

    def waiting(tables):
        print("writing", flush=True)
        sys.stdin.readline()
        yield from tables

    table = polygon_table(ScoreRaster.open(sys.argv[1]), PolygonOptions(threshold=0.5))
    print(write_polygons(replace(table, tables=waiting(table.tables)), sys.argv[2]))
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks")


@pytest.fixture
def raster(tmp_path):
    grid = Grid(CRS.from_epsg(32633), Affine(4, 0, 500_000, 0, -4, 5_800_000), 60, 50)
    scores = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    with ScoreRasterWriter(tmp_path / "s.tif", grid, tags={}) as writer:
        writer.write(Block(0, Window(0, 50, 0, 60)), scores)
    return tmp_path / "s.tif"


@pytest.fixture
def first(raster, tmp_path):
    """A process that holds the output open until it gets a line."""
    command = [sys.executable, "-c", textwrap.dedent(SLOW), raster, tmp_path / "a.gpkg"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def second(raster, output):
    command = [sys.executable, "-m", "geosiam_cli", "vectorize", raster, "-o", output, "--threshold", "0.7"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_while_one_writes_the_other_is_refused(first, raster, tmp_path):
    refused = second(raster, tmp_path / "a.gpkg")
    assert refused.returncode == 3
    assert refused.stderr.splitlines()[-1].endswith(
        "is being written by another run; wait for it or choose another output"
    )
    assert not (tmp_path / "a.gpkg").exists()
    assert second(raster, tmp_path / "b.gpkg").returncode == 0  # another output is free

    stdout, _ = first.communicate("go on\n", timeout=60)
    assert first.returncode == 0
    assert len(geopandas.read_file(tmp_path / "a.gpkg", layer="anomalies")) == int(stdout)
    assert listed(tmp_path) == ["a.gpkg", "b.gpkg", "s.qml", "s.tif"]


def test_a_killed_one_leaves_the_output_free(first, raster, tmp_path):
    os.kill(first.pid, signal.SIGKILL)
    first.wait(timeout=60)
    assert len(listed(tmp_path)) > 2  # what it left
    done = second(raster, tmp_path / "a.gpkg")
    assert done.returncode == 0, done.stderr
    assert listed(tmp_path) == ["a.gpkg", "s.qml", "s.tif"]
