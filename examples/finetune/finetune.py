"""Does fine-tuning on one's own site help? A site that looks like nothing the weights know, and the answer in numbers.

    python examples/finetune/finetune.py [FOLDER] [--steps N] [--generated N]

Makes two sites as an infrared camera with a coarse, noisy sensor shows them. On the first one the weights learn, from
its two scenes alone; on the second one, which they never see, both weights are judged. About five minutes on one core.
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
    """Redraw both scenes as another camera sees them: near infrared, red, green; coarse and noisy."""
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
    """Make the sites, train, judge, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("finetune"))
    parser.add_argument("--steps", type=int, default=100, help="batches an epoch, of which there are four")
    parser.add_argument("--generated", type=int, default=24, help="generated surveys beside the scenes")
    parser.add_argument("--size", type=int, default=1024, help="side of the sites in pixels")
    args = parser.parse_args()
    sites = {}
    for seed, name in enumerate(("learnt", "judged")):
        (args.folder / name).mkdir(parents=True, exist_ok=True)
        config = SyntheticConfig(height=args.size, width=args.size, seed=40 + seed, objects=30)
        sites[name] = infrared(write_pair_tiles(config, args.folder / name), seed)

    own = geosiam.train(
        geosiam.TrainingOptions(
            out=args.folder / "mine.safetensors",
            scenes=(str(sites["learnt"].before), str(sites["learnt"].after)),
            steps=args.steps,
            generated=args.generated,
            restart=True,
        )
    )
    judged = sites["judged"]
    task = Task(str(judged.truth), before=str(judged.before), after=str(judged.after))
    print("| weights | " + " | ".join(FIGURES) + " |\n|---" + "|---" * len(FIGURES) + "|")
    for found in evaluate(task, models=["survey", str(own.weights)]):
        figures = found.agreement.metrics()
        print(f"| {found.method} | " + " | ".join(f"{figures[name]:.3f}" for name in FIGURES) + " |")


if __name__ == "__main__":
    main()
