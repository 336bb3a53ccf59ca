"""Measure whether fine-tuning helps on a site that differs from the training data of the weights.

    python examples/finetune/finetune.py [FOLDER] [--steps N] [--generated N]

Generates two sites as seen by an infrared camera with a coarse, noisy sensor. The weights are fine-tuned on the two
scenes of the first site; both weights are evaluated on the second, which they never see. About five minutes on one
core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio

import geosiam
from geosiam.evaluation.api import Task, evaluate
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

FIGURES = ("auroc", "average_precision", "best_f1", "object_recall", "object_precision")


def infrared(paths: SyntheticPaths, seed: int) -> SyntheticPaths:
    """Redraw both scenes as seen by another camera: near infrared, red, green; coarse and noisy."""
    rng = np.random.default_rng(seed)
    for number, path in enumerate((paths.before, paths.after)):
        with rasterio.open(path, "r+") as file:
            red, green, blue = file.read().astype(np.float64)
            vegetation = np.clip((green - 0.5 * (red + blue)) / 40, 0, 1)
            image = np.stack([80 + 150 * vegetation, 0.8 * red + 20, green * 0.7])
            noise = rng.normal(0, 14 + 6 * number, image.shape)  # the second flight was at dusk
            noise += np.repeat(rng.normal(0, 5, (*image.shape[:2], 1)), image.shape[2], axis=2)  # lines of the sensor
            file.write(np.clip(image + noise, 0, 255).astype(np.uint8))
    return paths


def main() -> None:
    """Generate the sites, fine-tune, evaluate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("finetune"))
    parser.add_argument("--steps", type=int, default=100, help="batches per epoch, of which there are four")
    parser.add_argument("--generated", type=int, default=24, help="synthetic pairs besides the scenes")
    parser.add_argument("--size", type=int, default=1024, help="side of the sites in pixels")
    args = parser.parse_args()
    sites = {}
    for seed, name in enumerate(("training", "evaluation")):
        (args.folder / name).mkdir(parents=True, exist_ok=True)
        config = SyntheticConfig(height=args.size, width=args.size, seed=40 + seed, objects=30)
        sites[name] = infrared(write_pair_tiles(config, args.folder / name), seed)

    trained = geosiam.train(
        geosiam.TrainingOptions(
            out=args.folder / "mine.safetensors",
            scenes=(str(sites["training"].before), str(sites["training"].after)),
            steps=args.steps,
            generated=args.generated,
            restart=True,
        )
    )
    site = sites["evaluation"]
    task = Task(str(site.truth), before=str(site.before), after=str(site.after))
    print("| weights | " + " | ".join(FIGURES) + " |\n|---" + "|---" * len(FIGURES) + "|")
    for result in evaluate(task, models=["survey", str(trained.weights)]):
        figures = result.agreement.metrics()
        print(f"| {result.method} | " + " | ".join(f"{figures[name]:.3f}" for name in FIGURES) + " |")


if __name__ == "__main__":
    main()
