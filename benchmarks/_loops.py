"""Common ways to run the same network, each in its own process, for comparison.

    python benchmarks/_loops.py plain|grid|blend|chips MODEL BEFORE AFTER OUT

All of them read with rasterio, run the network in plain PyTorch (fp32, batch norm not folded, NCHW, PyTorch's own
threads), and write a score raster.

- plain: the forward pass over one window of 2048 px, without reading and writing
- grid: windows of 256 px side by side from a DataLoader with worker processes, as with torchgeo's GridGeoSampler
- blend: windows of 256 px that overlap by half, averaged with smooth weights
- chips: one chip per step of the encoder, in batches
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch.utils.data import DataLoader, Dataset

from geosiam.network.weights import load_model
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from geosiam.network.siamese import SiameseNetwork

    Image = NDArray[np.float32]

PLAIN_PX, WINDOW_PX = 2048, 256
BATCH = 8


class Pair(Dataset[tuple[int, int, Any, Any]]):
    """Windows of two scenes on one grid, padded with 0 beyond the edges."""

    def __init__(self, before: str, after: str, side: int, step: int) -> None:
        self.paths = before, after
        self.side = side
        with rasterio.open(before) as scene:
            self.shape = scene.shape
        rows, cols = (range(0, max(1, length - side + step), step) for length in self.shape)
        self.corners = [(row, col) for row in rows for col in cols]
        self.scenes: list[rasterio.DatasetReader] = []

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[int, int, Image, Image]:
        self.scenes = self.scenes or [rasterio.open(path) for path in self.paths]
        row, col = self.corners[index]
        before, after = (
            scene.read(window=Window(col, row, self.side, self.side), boundless=True, fill_value=0).astype(np.float32)
            / 255
            for scene in self.scenes
        )
        return row, col, before, after


def scores(network: SiameseNetwork, before: Any, after: Any) -> NDArray[np.float32]:  # noqa: ANN401 - arrays or tensors
    """Return the anomaly probabilities of a batch: (n, rows, cols)."""
    with torch.inference_mode():
        logits = network(torch.as_tensor(before), torch.as_tensor(after))
        probabilities: NDArray[np.float32] = torch.sigmoid(-logits)[:, 0].numpy()
    return probabilities


def batches(pair: Pair, workers: int = 0) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield the windows of a pair in batches."""
    yield from DataLoader(pair, batch_size=BATCH, num_workers=workers)


def grid(network: SiameseNetwork, before: str, after: str) -> Image:
    """Score windows side by side; cells whose receptive field exceeds their window stay NaN."""
    pair, field = Pair(before, after, WINDOW_PX, WINDOW_PX), network.config.receptive_field
    result = np.full([-(-side // WINDOW_PX) * WINDOW_PX // field.stride for side in pair.shape], np.nan, np.float32)
    margin = network.config.halo.leading // field.stride + 1
    for rows, cols, *images in batches(pair, workers=default_workers()):
        for row, col, cells in zip(rows // field.stride, cols // field.stride, scores(network, *images), strict=True):
            top, left = row + margin, col + margin
            result[top : top + cells.shape[0], left : left + cells.shape[1]] = cells
    return result


def blend(network: SiameseNetwork, before: str, after: str) -> Image:
    """Score windows that overlap by half and average them with weights that decrease towards the edges."""
    pair, field = Pair(before, after, WINDOW_PX, WINDOW_PX // 2), network.config.receptive_field
    shape = [(-(-side // WINDOW_PX) + 1) * WINDOW_PX // field.stride for side in pair.shape]
    total, weight = np.zeros(shape, np.float32), np.full(shape, 1e-6, np.float32)
    cells = field.cells(WINDOW_PX)
    window = np.outer(*[np.hanning(cells + 2)[1:-1].astype(np.float32)] * 2)
    for rows, cols, *images in batches(pair):
        for row, col, part in zip(rows // field.stride, cols // field.stride, scores(network, *images), strict=True):
            target = slice(row, row + cells), slice(col, col + cells)
            total[target] += part * window
            weight[target] += window
    return total / weight


def chips(network: SiameseNetwork, before: str, after: str) -> Image:
    """Cut one chip per step of the encoder and score them in batches."""
    config = network.config
    side = config.receptive_field.size + (config.subcells - 1) * config.receptive_field.stride
    step = config.window.stride
    images = []
    for path in (before, after):
        with rasterio.open(path) as scene:
            image = torch.from_numpy(scene.read().astype(np.float32) / 255)
        images.append(image.unfold(1, side, step).unfold(2, side, step).permute(1, 2, 0, 3, 4))
    parts_of_rows = [scores(network, *rows).transpose(1, 0, 2) for rows in zip(*images, strict=True)]
    return np.concatenate([parts.reshape(len(parts), -1) for parts in parts_of_rows])


def plain(network: SiameseNetwork, before: str, after: str) -> None:
    """Print the speed of the forward pass over one window in Mpx/s."""
    images = []
    for path in (before, after):
        with rasterio.open(path) as scene:
            images.append(scene.read(window=Window(0, 0, PLAIN_PX, PLAIN_PX)).astype(np.float32)[None] / 255)
    scores(network, *images)
    start = time.perf_counter()
    scores(network, *images)
    print(images[0].shape[-1] * images[0].shape[-2] / 1e6 / (time.perf_counter() - start))


LOOPS: dict[str, Callable[[SiameseNetwork, str, str], Image | None]] = {
    "plain": plain,
    "grid": grid,
    "blend": blend,
    "chips": chips,
}


def main() -> None:
    """Run one of the loops and write its scores."""
    loop, model, before, after, output = sys.argv[1:]
    torch.set_num_threads(default_workers())
    network = load_model(model).network
    result = LOOPS[loop](network, before, after)
    if result is None:
        return
    profile = {"driver": "GTiff", "width": result.shape[1], "height": result.shape[0], "count": 1, "dtype": "float32"}
    with rasterio.open(before) as scene:
        profile |= {
            "crs": scene.crs,
            "transform": scene.transform @ scene.transform.scale(network.config.receptive_field.stride),
        }
    with rasterio.open(output, "w", compress="deflate", **profile) as target:
        target.write(result, 1)


if __name__ == "__main__":
    main()
