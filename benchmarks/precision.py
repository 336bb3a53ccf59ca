"""Measure the differences of scores in int8 and bf16 from those in fp32, for the bundled weights.

    python benchmarks/precision.py
    python benchmarks/precision.py --data DIR    # also real scenes below DIR, in the layout of the test data

Prints the page benchmarks/PRECISION.md: for each model and pair, the largest absolute difference of a cell's score, the
99.9th percentile, the mean, and the share of cells on the other side of the model's threshold.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geosiam.inference.torch_engine import multiplies_int8
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions
from geosiam.scoring import score
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTRODUCTION = """\
# Precision: int8 and bf16 against fp32

How far the scores of each precision lie from fp32, for every bundled model:
`python benchmarks/precision.py --data DIR`. What this means for results is in
[docs/models.md](../docs/models.md#precision).

*max*, *99.9 %* and *mean*: the largest difference of a cell's score, the one that 99.9 % of the cells do not exceed,
and the average. The last column is the share of cells that change sides of the model's threshold.

| model | pair | precision | max | 99.9 % | mean | other side of the threshold |
|---|---|---|---|---|---|---|"""
REAL = {
    "NAIP, 2009 and 2017": ("naip/m_4709963_se_14_1_20090818.tif", "naip/m_4709963_se_14_1_20170827.tif"),
    "Landsat, 1985 and 2015": ("landsat/1985.tif", "landsat/2015.tif"),
    "Joplin, before and after the tornado": ("joplin/pre/tile_337-9136.tif", "joplin/post/tile_31500-5137.tif"),
}


def compute_scores(before: Path, after: Path, model: str, precision: str) -> NDArray[np.float32]:
    """Return the scores of a pair."""
    return score(before, after, options=DetectOptions(model=model, precision=precision, device="cpu")).to_numpy()


def differences(exact: NDArray[np.float32], rounded: NDArray[np.float32], threshold: float) -> tuple[float, ...]:
    """Return the largest, 99.9th percentile and mean difference, and the share of cells across the threshold."""
    valid = ~np.isnan(exact)
    exact, rounded = exact[valid], rounded[valid]
    difference = np.abs(exact - rounded)
    crosses = (exact >= threshold) != (rounded >= threshold)
    largest, nearly_all = difference.max(), np.quantile(difference, 0.999)
    return float(largest), float(nearly_all), float(difference.mean()), float(crosses.mean())


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with real scenes")
    parser.add_argument("--size", type=int, default=1024, help="side of the generated scenes in pixels")
    parser.add_argument("--seeds", type=int, default=5, help="number of generated pairs")
    args = parser.parse_args()
    precisions = ("int8", "bf16") if multiplies_int8() else ("bf16",)
    print(INTRODUCTION)
    with tempfile.TemporaryDirectory() as folder:
        generated = []
        for seed in range(100, 100 + args.seeds):
            config = SyntheticConfig(height=args.size, width=args.size, seed=seed)
            paths = write_pair_tiles(config, Path(folder) / str(seed))
            generated.append((paths.before, paths.after))
        groups: dict[str, list[tuple[Path, Path]]] = {f"generated survey, worst of {args.seeds} seeds": generated}
        if args.data:
            for name, pair in REAL.items():
                before, after = (args.data / "scenes" / scene for scene in pair)
                groups[name] = [(before, after)]
        for model in ("survey", "survey-fast", "tarp", "paper"):
            threshold = load_model(model).card.threshold
            for name, pairs in groups.items():
                exact = [compute_scores(*pair, model, "fp32") for pair in pairs]
                for precision in precisions:
                    figures = [
                        differences(scores, compute_scores(*pair, model, precision), threshold)
                        for pair, scores in zip(pairs, exact, strict=True)
                    ]
                    largest, nearly_all, mean, share = (max(column) for column in zip(*figures, strict=True))
                    print(
                        f"| {model} | {name} | {precision} | {largest:.4f} | {nearly_all:.4f} | {mean:.6f} "
                        f"| {100 * share:.4f} % |"
                    )


if __name__ == "__main__":
    main()
