"""The two limits of a run, measured with as many threads as there are processors.

    python benchmarks/_limits.py forward|decode MODEL PRECISION BEFORE AFTER

Prints Mpx/s of pairs. `forward`: nothing but the network, over windows of the size that geosiam uses, which are in
memory and laid out already. `decode`: nothing but reading both scenes, each of their tiles once.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import rasterio
import torch

from geosiam.detection.scoring import FORWARD_PX, Scorer
from geosiam.imagery.tile_cache import TileLayout
from geosiam.memory import keep_freed_memory
from geosiam.network.quantised import LEVELS
from geosiam.network.siamese import normalised
from geosiam.network.weights import load_model
from geosiam.processors import default_workers

SECONDS = 6.0


def forward(scorer: Scorer) -> float:
    """Return the Mpx/s of the network alone."""
    field = scorer.network.config.receptive_field
    side = FORWARD_PX + field.size - field.stride
    layout = torch.channels_last
    counts, stop = [], time.perf_counter() + SECONDS

    def work(seed: int) -> None:
        torch.set_num_threads(1)
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))
        images = (images * LEVELS).byte() if scorer.dtype == torch.int8 else normalised(images).to(scorer.dtype)
        images = images.contiguous(memory_format=layout)
        count = 0
        with torch.inference_mode():
            while time.perf_counter() < stop:
                torch.sigmoid(-scorer.network.compare(images).float())
                count += 1
        counts.append(count)

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(default_workers())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * FORWARD_PX**2 / 1e6 / (time.perf_counter() - start)


def decode(before: str, after: str) -> float:
    """Return the Mpx/s at which the tiles of both scenes can be decoded."""
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


def main() -> None:
    """Print one of the limits."""
    limit, model, precision, before, after = sys.argv[1:]
    keep_freed_memory()  # as the program does
    if limit == "forward":
        print(forward(Scorer.of_model(load_model(model), device="cpu", precision=precision)))
    else:
        print(decode(before, after))


if __name__ == "__main__":
    main()
