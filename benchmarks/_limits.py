"""Measure one stage of a run alone, with one thread per processor.

    python benchmarks/_limits.py forward|decode|open|write|vectorize MODEL PRECISION BEFORE AFTER [SCORES]

Prints Mpx/s of pairs. `forward`: the network only, over windows of the size that geosiam uses, already in memory.
`decode`: reading each tile of both scenes once. `open`: checking both scenes, and deciding shift and normalization from
a sample. `write`: a score raster, which is read from SCORES first, block by block until it is a cloud-optimized GeoTIFF
with overviews. `vectorize`: from that raster to a closed GeoPackage. The first two limit the speed of a run.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import torch

import geosiam.polygons.writer  # noqa: F401 - its imports are not part of a stage
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.tile_cache import TileLayout
from geosiam.inference.scorer import FORWARD_PX, Scorer
from geosiam.network.cpu_layers import LEVELS
from geosiam.network.siamese import normalized
from geosiam.network.weights import load_model
from geosiam.pipeline import vectorize_to_file
from geosiam.runtime import default_workers, tune_allocator
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.writer import ScoreRasterWriter

if TYPE_CHECKING:
    from geosiam.imagery.grid import Grid

SECONDS = 6.0
"""Duration of the measurement of the forward pass."""


def forward(scorer: Scorer) -> float:
    """Return the speed of the network alone in Mpx/s."""
    field, dtype = scorer.config.receptive_field, scorer.engine.dtype
    side = FORWARD_PX + field.size - field.stride
    counts, stop = [], time.perf_counter() + SECONDS

    def run(seed: int) -> None:
        torch.set_num_threads(1)
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))
        images = (images * LEVELS).byte() if dtype == torch.int8 else normalized(images).to(dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        count = 0
        with torch.inference_mode():
            while time.perf_counter() < stop:
                torch.sigmoid(-scorer.engine.network.compare(images).float())
                count += 1
        counts.append(count)

    start = time.perf_counter()
    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(default_workers())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * FORWARD_PX**2 / 1e6 / (time.perf_counter() - start)


def decode(before: str, after: str) -> float:
    """Return the speed of decoding the tiles of both scenes in Mpx/s."""
    local = threading.local()
    with rasterio.open(before) as scene:
        layout = TileLayout.of_blocks(scene.shape, scene.block_shapes[0])
    tiles = layout.over(layout.window((0, 0)).union(layout.window(((layout.height - 1) // layout.rows, 0))))
    tiles = [(row, col) for row, _ in tiles for col in range(-(-layout.width // layout.cols))]

    def read(position: tuple[int, int]) -> int:
        if not hasattr(local, "scenes"):
            local.scenes = [rasterio.open(path) for path in (before, after)]
        window = rasterio.windows.Window.from_slices(*layout.window(position).slices)
        return sum(int(np.asarray(scene.read(window=window)).size > 0) for scene in local.scenes)

    start = time.perf_counter()
    with ThreadPoolExecutor(default_workers()) as pool:
        assert sum(pool.map(read, tiles)) == 2 * len(tiles)
    return layout.height * layout.width / 1e6 / (time.perf_counter() - start)


def open_scenes(before: str, after: str) -> float:
    """Return the speed of opening a pair in Mpx/s."""
    start = time.perf_counter()
    with open_pair(before, after) as pair:
        return megapixels(pair.grid) / (time.perf_counter() - start)


def write(model: str, before: str, scores: str) -> float:
    """Return the speed of writing a score raster in Mpx/s."""
    raster = ScoreRaster.open(scores)
    cells = np.concatenate([strip for _, strip in raster.strips()])
    with open_pair(before, before, options=PairOptions(radiometry="none")) as pair:
        scorer, grid = Scorer.of_model(load_model(model), device="cpu"), pair.grid
    lattice = scorer.lattice(grid)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        target = Path(folder) / "scores.tif"
        with ScoreRasterWriter(target, grid.coarsened(scorer.stride), tags=raster.tags, lattice=lattice) as writer:
            for block in lattice:
                writer.write(block, cells[block.cells.slices])
        return megapixels(grid) / (time.perf_counter() - start)


def vectorize(before: str, scores: str) -> float:
    """Return the speed of making polygons from a score raster in Mpx/s."""
    with (
        open_pair(before, before, options=PairOptions(radiometry="none")) as pair,
        tempfile.TemporaryDirectory() as folder,
    ):
        start = time.perf_counter()
        vectorize_to_file(scores, Path(folder) / "polygons.gpkg")
        return megapixels(pair.grid) / (time.perf_counter() - start)


def megapixels(grid: Grid) -> float:
    """Return the number of pixels of a scene in millions."""
    return grid.width * grid.height / 1e6


def main() -> None:
    """Print the speed of one stage."""
    stage, model, precision, before, after, *scores = sys.argv[1:]
    tune_allocator()  # as the program does
    stages = {
        "forward": lambda: forward(Scorer.of_model(load_model(model), device="cpu", precision=precision)),
        "decode": lambda: decode(before, after),
        "open": lambda: open_scenes(before, after),
        "write": lambda: write(model, before, *scores),
        "vectorize": lambda: vectorize(before, *scores),
    }
    print(stages[stage]())


if __name__ == "__main__":
    main()
