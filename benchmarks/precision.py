"""How far the scores of bf16 lie from those of fp32, for the bundled weights.

    python benchmarks/precision.py
    python benchmarks/precision.py --data DIR    # real scenes under DIR too, as tests/ names them

For each model and pair: the largest and the 99.9th percentile of the absolute difference of a cell's score, its mean,
and the share of cells that lie on the other side of the model's threshold.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from geosiam.network.weights import load_model
from geosiam.pipeline import DetectOptions, score
from geosiam.synthesis.survey import SurveyConfig, write_survey_tiles

REAL = {
    "naip": ("naip/m_4709963_se_14_1_20090818.tif", "naip/m_4709963_se_14_1_20170827.tif"),
    "landsat": ("landsat/1985.tif", "landsat/2015.tif"),
    "joplin": ("joplin/pre/tile_337-9136.tif", "joplin/post/tile_31500-5137.tif"),
}


def differences(before: Path, after: Path, model: str) -> tuple[float, float, float, float]:
    """Return largest, 99.9th percentile and mean of |bf16 - fp32|, and the share of cells called otherwise."""
    exact, rough = (
        score(before, after, options=DetectOptions(model=model, precision=name, device="cpu")).to_numpy()
        for name in ("fp32", "bf16")
    )
    valid = ~np.isnan(exact)
    exact, rough = exact[valid], rough[valid]
    apart = np.abs(exact - rough)
    threshold = load_model(model).card.threshold
    called = (exact >= threshold) != (rough >= threshold)
    return float(apart.max()), float(np.quantile(apart, 0.999)), float(apart.mean()), float(called.mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with real scenes")
    parser.add_argument("--size", type=int, default=1024, help="side of the generated scenes in pixels")
    parser.add_argument("--seeds", type=int, default=5, help="number of generated pairs")
    args = parser.parse_args()
    print("| model | pair | max | 99.9 % | mean | called otherwise |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        pairs: dict[str, tuple[Path, Path]] = {}
        for seed in range(100, 100 + args.seeds):
            config = SurveyConfig(height=args.size, width=args.size, seed=seed)
            paths = write_survey_tiles(config, Path(folder) / str(seed))
            pairs[f"survey, seed {seed}"] = paths.before, paths.after
        if args.data:
            for name, (before, after) in REAL.items():
                pairs[name] = args.data / "scenes" / before, args.data / "scenes" / after
        for model in ("survey", "paper"):
            for name, pair in pairs.items():
                most, nearly, mean, called = differences(*pair, model)
                print(f"| {model} | {name} | {most:.4f} | {nearly:.4f} | {mean:.6f} | {called:.4%} |", flush=True)


if __name__ == "__main__":
    main()
