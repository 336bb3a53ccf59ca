"""Compare rules to fuse the scores of one network at several scales of the image, without training.

    python benchmarks/scales.py --data DIR --model survey

The network runs on both orders of the scenes, on the images averaged over 1 x 1, 2 x 2 and 4 x 4 pixels. The log-odds
of a change are interpolated to the finest cells and fused. AUROC and AP are by cell, over all pairs of a group at once;
a cell is changed if more than half of it is. Protocols and groups are those of `accuracy.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from protocols import cases
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import interpolate, pad

from geosiam.evaluation.counts import in_cells
from geosiam.imagery.grid import Window
from geosiam.imagery.prepare import open_pair
from geosiam.network.siamese import averaged
from geosiam.network.weights import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from protocols import Case

    from geosiam.network.siamese import SiameseNetwork

GROUPS = {"A": ("A 5-15 px, flat, nuisance", "A 5-15 px, own texture, nuisance"), "C": ("C LEVIR", "C Beijing")}
SCALES = (1, 2, 4)
FUSIONS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "1": lambda a, _b, _c: a,
    "1/2": lambda _a, b, _c: b,
    "1/4": lambda _a, _b, c: c,
    "mean of 1, 1/2": lambda a, b, _c: a + b,
    "mean of 1, 1/2, 1/4": lambda a, b, c: a + b + c,
    "larger of 1, 1/2": lambda a, b, _c: np.maximum(a, b),
    "1, and 1/2 above 0": lambda a, b, _c: a + np.maximum(b, 0),
    "1, and 1/2 above -1": lambda a, b, _c: a + np.maximum(b, -1),
    "1, and 1/2 above -2": lambda a, b, _c: a + np.maximum(b, -2),
    "1, and 1/2 above -3": lambda a, b, _c: a + np.maximum(b, -3),
    "1, and 1/2, 1/4 above -1": lambda a, b, c: a + np.maximum(b, -1) + np.maximum(c, -1),
}


@torch.inference_mode()
def log_odds(network: SiameseNetwork, before: torch.Tensor, after: torch.Tensor, scale: int) -> NDArray[np.float32]:
    """Return the log-odds of a change at one scale, for the cells of the full image: float32 (rows, cols).

    Parameters
    ----------
    network
        Network of one scale.
    before, after
        (1, 3, h, w) in [0, 1].
    scale
        Side of the squares that are averaged.
    """
    field, size = network.config.receptive_field, before.shape[-2:]
    coarse = field.stride * scale
    right, below = (field.overhang * scale - side % -coarse for side in reversed(size))
    start = field.offset * scale
    small = [averaged(pad(image, (start, right, start, below), mode="reflect"), scale) for image in (before, after)]
    logits = network(*small) + network(*reversed(small))
    fine = interpolate(logits, scale_factor=float(scale), mode="bilinear") if scale > 1 else logits
    rows, cols = (-(-side // field.stride) for side in size)
    result: NDArray[np.float32] = -fine[0, 0, :rows, :cols].numpy() / 2
    return result


def cells_of(network: SiameseNetwork, case: Case, folder: Path) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """Return the log-odds of a pair at each scale, and which cells are changed."""
    paths = case.before.write(folder / "before.tif"), case.after.write(folder / "after.tif")
    with open_pair(*paths) as pair:
        block = pair.read(Window(0, pair.grid.height, 0, pair.grid.width))
    images = [torch.from_numpy(image)[None] for image in (block.before, block.after)]
    changed, total = in_cells(case.truth > 0, network.config.receptive_field.stride)
    return [log_odds(network, *images, scale).ravel() for scale in SCALES], (2 * changed > total).ravel()


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and change/")
    parser.add_argument("--model", default="survey", help="bundled name or weights file of a network of one scale")
    args = parser.parse_args()
    network = load_model(args.model).network.for_inference()
    columns: dict[str, tuple[list[NDArray[np.float32]], NDArray[np.bool_]]] = {}
    for protocol, groups in GROUPS.items():
        for group in groups:
            with tempfile.TemporaryDirectory() as folder:
                pairs = [cells_of(network, case, Path(folder)) for case in cases(args.data, protocol, range(1), group)]
            scores = [np.concatenate([scores[level] for scores, _ in pairs]) for level in range(len(SCALES))]
            columns[group] = scores, np.concatenate([changed for _, changed in pairs])
    print("| log-odds | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, fuse in FUSIONS.items():
        fused = [(changed, fuse(*scores)) for scores, changed in columns.values()]
        values = [f"{roc_auc_score(*pair):.3f}, {average_precision_score(*pair):.3f}" for pair in fused]
        print(f"| {name} | " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
