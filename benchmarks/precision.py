"""How far the scores of int8 and bf16 lie from those of fp32, for the bundled weights.

    python benchmarks/precision.py
    python benchmarks/precision.py --data DIR    # real scenes under DIR too, as tests/ names them

For each model and pair: the largest and the 99.9th percentile of the absolute difference of a cell's score, its mean,
and the share of cells that lie on the other side of the model's threshold.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geosiam.network.weights import load_model
from geosiam.options import DetectOptions
from geosiam.scoring import score
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

REAL = {
    "naip": ("naip/m_4709963_se_14_1_20090818.tif", "naip/m_4709963_se_14_1_20170827.tif"),
    "landsat": ("landsat/1985.tif", "landsat/2015.tif"),
    "joplin": ("joplin/pre/tile_337-9136.tif", "joplin/post/tile_31500-5137.tif"),
}


def scored(before: Path, after: Path, model: str, precision: str) -> NDArray[np.float32]:
    """Return the scores of a pair."""
    return score(before, after, options=DetectOptions(model=model, precision=precision, device="cpu")).to_numpy()


def differences(exact: NDArray[np.float32], rough: NDArray[np.float32], threshold: float) -> tuple[float, ...]:
    """Return largest, 99.9th percentile and mean of the difference, and the share of cells called otherwise."""
    valid = ~np.isnan(exact)
    exact, rough = exact[valid], rough[valid]
    apart = np.abs(exact - rough)
    called = (exact >= threshold) != (rough >= threshold)
    return float(apart.max()), float(np.quantile(apart, 0.999)), float(apart.mean()), float(called.mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with real scenes")
    parser.add_argument("--size", type=int, default=1024, help="side of the generated scenes in pixels")
    parser.add_argument("--seeds", type=int, default=5, help="number of generated pairs")
    args = parser.parse_args()
    print("| model | pair | precision | max | 99.9 % | mean | called otherwise |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        pairs: dict[str, tuple[Path, Path]] = {}
        for seed in range(100, 100 + args.seeds):
            config = SyntheticConfig(height=args.size, width=args.size, seed=seed)
            paths = write_pair_tiles(config, Path(folder) / str(seed))
            pairs[f"survey, seed {seed}"] = paths.before, paths.after
        if args.data:
            for name, (before, after) in REAL.items():
                pairs[name] = args.data / "scenes" / before, args.data / "scenes" / after
        for model in ("survey", "survey-fast", "tarp", "paper"):
            threshold = load_model(model).card.threshold
            for name, pair in pairs.items():
                exact = scored(*pair, model, "fp32")
                for precision in ("int8", "bf16"):
                    most, nearly, mean, called = differences(exact, scored(*pair, model, precision), threshold)
                    print(f"| {model} | {name} | {precision} | {most:.4f} | {nearly:.4f} | {mean:.6f} | {called:.4%} |")


if __name__ == "__main__":
    main()
