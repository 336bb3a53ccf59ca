"""Measure what each part of recipe survey contributes: train without one part at a time, evaluate on real scenes.

    python benchmarks/ablations.py --data DIR --chips cifar10-jpeg.tar.xz --out OUT

`--data` holds scenes/ and change/ as the development data do. Every variant starts with the same random weights (or
with `--init`) and is trained for the same number of steps, far fewer than the bundled weights; none sees the scenes.
Evaluated are the scores of whole scenes, aligned and normalized as `detect` does, at the threshold of the variant's own
card. `accuracy.py` evaluates more, and more slowly. Variants that have been trained before are not trained again.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import torch
from affine import Affine
from PIL import Image
from scipy import ndimage
from sweep import object_scores_raster
from torch.nn.functional import binary_cross_entropy_with_logits

from geosiam.evaluation.metrics import auroc
from geosiam.imagery.grid import Window, reflected
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.inference.scorer import Scorer
from geosiam.network.architecture import NetworkConfig
from geosiam.network.weights import load_model
from geosiam.synthesis.insertion import insert_anomalies, nuisance
from geosiam.training.api import TrainingOptions, train
from geosiam.training.recipes import LEAST_COVER, CrossEntropy, Schedule, SurveyRecipe

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.training.recipes import Batch


@dataclass(frozen=True)
class Focal(CrossEntropy):
    """Focal loss (Lin et al., "Focal loss for dense object detection", 2017): confident cells hardly count."""

    gamma: float = 2.0

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the weighted mean over the cells."""
        confidence = 1 - (torch.sigmoid(logits) - batch.similar).abs()
        losses = binary_cross_entropy_with_logits(logits, batch.similar, weight=batch.weight, reduction="none")
        return ((1 - confidence) ** self.gamma * losses).sum() / batch.weight.sum().clamp(min=1)


@dataclass(frozen=True)
class Variant:
    """Recipe survey with a part left out or replaced."""

    anomalies: dict[str, float] = field(default_factory=dict)
    nuisance: dict[str, float] = field(default_factory=dict)
    network: dict[str, int] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    synthetic_pairs: bool = True

    def of(self, default: SurveyRecipe, schedule: Schedule) -> SurveyRecipe:
        """Return the variant of a recipe."""
        network = NetworkConfig.of_stride(4, **({"subcells": default.network.subcells} | self.network))
        parts = {
            "anomalies": replace(default.anomalies, **self.anomalies),
            "nuisance": replace(default.nuisance, **self.nuisance),
        }
        return replace(default, network=network, schedule=schedule, **parts, **self.recipe)


VARIANTS = {
    "the recipe": Variant(),
    "no synthetic pairs": Variant(synthetic_pairs=False),
    "flat fills alone": Variant(anomalies={"texture": 0.0, "same": 0.0}),
    "no shadows": Variant(anomalies={"shadow": 0.0}, nuisance={"shadow": 0.0}),
    "no misregistration": Variant(nuisance={"shift_px": 0.0, "warp": 0.0}),
    "no change of light": Variant(
        nuisance={"gain": 0.0, "cast": 0.0, "offset": 0.0, "gamma": 0.0, "saturation": 0.0, "haze": 0.0}
    ),
    "no seasons": Variant(nuisance={"years": 0.0}),
    "no cameras (blur, coarse, JPEG, noise)": Variant(nuisance={"blur": 0.0, "coarse": 0.0, "jpeg": 0.0, "noise": 0.0}),
    "no still pairs": Variant(nuisance={"still": 0.0}),
    "cells of 4 px": Variant(network={"subcells": 1}),
    "all-or-nothing labels": Variant(recipe={"least_cover": LEAST_COVER}),
    "focal loss": Variant(recipe={"objective": Focal()}),
}
SHOWN = (
    "flat, nuisance, recall", "flat, nuisance, precision", "self-texture, nuisance, recall",
    "self-texture, nuisance, precision", "flat, clean, IoU", "alarms per Mpx, no change", "real dates, AUROC",
    "LEVIR, AUROC",
)  # fmt: skip
TEMPLATES = ("aerial/5dded5bc0140b80006d2e565_23", "aerial/5b90f92da0d7280005fab355_4310", "drone/fotomap_small",
             "naip/m_4709963_se_14_1_20120731")  # fmt: skip
DATES = (("naip/m_4709963_se_14_1_20090818", "naip/m_4709963_se_14_1_20170827"),
         ("landsat/1985", "landsat/2015"), ("joplin/pre/tile_337-9136", "joplin/post/tile_31500-5137"))  # fmt: skip
HEIGHT, WIDTH = 720, 1000
EIGHT = np.ones((3, 3))


@dataclass(frozen=True)
class Pair:
    """Two dates, float16 (3, rows, cols) in [0, 1], where they are valid, and the number of the object or 0."""

    group: str
    before: NDArray[np.float16]
    after: NDArray[np.float16]
    valid: NDArray[np.bool_]
    truth: NDArray[np.int32]


def evaluation_pairs(data: Path) -> list[Pair]:
    """Return all pairs of the evaluation."""
    images = [template(data / "scenes" / f"{name}.tif") for name in TEMPLATES]
    result = []
    for index, image in enumerate(images):
        for fill in ("flat", "texture", "self-texture"):
            donor = images[(index + 1) % len(images)]
            inserted = insert_anomalies(image, shape="mixed", fill=fill, seed=11 + index, donor=donor)
            result.append(aligned(f"{fill}, clean", image, inserted.image, inserted.mask))
            moved = ndimage.shift(inserted.mask, (1, 1), order=0)
            result.append(aligned(f"{fill}, nuisance", image, other_flight(inserted.image, index), moved))
        result.append(aligned("no change", image, other_flight(image, index), np.zeros(image.shape[1:], np.int32)))
    result += [dates(*(data / "scenes" / f"{name}.tif" for name in names)) for names in DATES]
    for path in sorted((data / "change" / "levir" / "A").iterdir()):
        before, after = (picture(path.parents[1] / folder / path.name) for folder in "AB")
        label = Image.open(path.parents[1] / "label" / f"{path.stem}.png").convert("L")
        result.append(aligned("LEVIR", before, after, (np.asarray(label) > 127).astype(np.int32)))
    return result


def other_flight(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return the image under the nuisance of the protocol."""
    return nuisance(image, gamma=1.1, blur_px=0.5, seed=seed)


def picture(path: Path) -> NDArray[np.uint8]:
    """Return an image file, uint8 (3, rows, cols)."""
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def template(path: Path) -> NDArray[np.uint8]:
    """Return the central part of a scene, uint8 (3, rows, cols)."""
    with open_pair(path, path, options=PairOptions(radiometry="none")) as pair:
        height, width = pair.grid.shape
        rows, cols = min(HEIGHT, height), min(WIDTH, width)
        top, left = (height - rows) // 2, (width - cols) // 2
        block = pair.read(Window(top, top + rows, left, left + cols))
    return (block.before * 255).round().astype(np.uint8)


def aligned(group: str, before: NDArray[np.uint8], after: NDArray[np.uint8], truth: NDArray[np.int32]) -> Pair:
    """Return two images of one place as `detect` reads them."""
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "photometric": "rgb"}
    size = {"height": before.shape[1], "width": before.shape[2], "transform": Affine(1, 0, 0, 0, -1, 0)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "before.tif", Path(folder) / "after.tif"]
        for path, image in zip(paths, (before, after), strict=True):
            with rasterio.open(path, "w", **profile, **size) as file:
                file.write(image)
        with open_pair(*paths) as pair:
            block = pair.read(Window(0, before.shape[1], 0, before.shape[2]))
    return Pair(group, block.before.astype(np.float16), block.after.astype(np.float16), block.valid, truth)


def dates(before: Path, after: Path) -> Pair:
    """Return two real dates with objects inserted into the second; real changes are not labeled."""
    with open_pair(before, after) as pair:
        block = pair.read(Window(0, pair.grid.height, 0, pair.grid.width))
    rows, cols = (slice(where.min(), where.max() + 1) for where in np.nonzero(block.valid))
    valid = block.valid[rows, cols]
    image = (block.after[:, rows, cols] * 255).round().astype(np.uint8)
    inserted = insert_anomalies(image, count=60, size_px=(5, 30), shape="mixed", fill="flat", seed=5)
    first = block.before[:, rows, cols].astype(np.float16)
    return Pair(
        "real dates", first, (inserted.image / 255).astype(np.float16), valid, np.where(valid, inserted.mask, 0)
    )


def scored(scorer: Scorer, pair: Pair) -> NDArray[np.float32]:
    """Return the score of every pixel, float32 (rows, cols), NaN = not valid."""
    field, (height, width) = scorer.config.receptive_field, pair.valid.shape
    rows = reflected(-field.offset, height + field.overhang + -height % field.stride, height)
    cols = reflected(-field.offset, width + field.overhang + -width % field.stride, width)
    images = [image[:, *np.ix_(rows, cols)].astype(np.float32) for image in (pair.before, pair.after)]
    cells = scorer.probabilities(*images)
    pixels = np.kron(cells, np.ones((field.stride, field.stride), np.float32))[:height, :width]
    return np.where(pair.valid, pixels, np.nan)


def evaluated(model: str, pairs: list[Pair]) -> dict[str, float]:
    """Return the figures of a model: medians over pairs, and for LEVIR over all its pixels."""
    loaded = load_model(model)
    scorer, threshold = Scorer.of_model(loaded), loaded.card.threshold
    figures: dict[str, list[float]] = {}
    levir: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    for pair in pairs:
        scores = scored(scorer, pair)
        called, truth = scores >= threshold, pair.truth > 0
        labels, count = ndimage.label(called, EIGHT)
        objects = object_scores_raster(labels, np.where(pair.valid, pair.truth, 0))
        if pair.group == "LEVIR":
            levir.append((scores[::3, ::3].ravel(), truth[::3, ::3].ravel()))
        elif pair.group == "no change":
            figures.setdefault("alarms per Mpx, no change", []).append(count / pair.valid.sum() * 1e6)
        elif pair.group == "real dates":
            figures.setdefault("real dates, AUROC", []).append(auroc(scores, truth))
            figures.setdefault("real dates, share called", []).append(float(called.sum() / pair.valid.sum()))
        else:
            union = (called | truth) & pair.valid
            for name, value in (("recall", objects.recall), ("precision", objects.precision)):
                figures.setdefault(f"{pair.group}, {name}", []).append(value)
            figures.setdefault(f"{pair.group}, IoU", []).append(float((called & truth).sum() / union.sum()))
    medians = {name: float(np.nanmedian(values)) for name, values in figures.items()}
    scores, truth = (np.concatenate(part) for part in zip(*levir, strict=True))
    return medians | {"LEVIR, AUROC": auroc(scores, truth)}


def trained(name: str, args: argparse.Namespace) -> str:
    """Train a variant, unless it was trained before, and return its weights file."""
    variant = VARIANTS[name]
    weights: Path = args.out / f"{'-'.join(word.strip('(),') for word in name.split())}-{args.seed}.safetensors"
    if weights.exists():
        return str(weights)
    options = TrainingOptions(
        out=weights, data=(str(args.chips),), init=args.init, seed=args.seed,
        generated=args.generated if variant.synthetic_pairs else 0, precision=args.precision,
    )  # fmt: skip
    default = SurveyRecipe()
    schedule = replace(default.schedule, epochs=3, steps=args.steps // 3)
    return str(train(options, recipe=variant.of(default, schedule)).weights)


def main() -> None:
    """Train every variant, evaluate it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and change/")
    parser.add_argument("--chips", type=Path, help="CIFAR-10; needed to train")
    parser.add_argument("--init", help="initial weights of stride 4; by default random ones")
    parser.add_argument("--generated", type=int, default=48)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--out", type=Path, default=Path("ablations"))
    parser.add_argument("--model", action="append", default=[], help="evaluate these weights, and train nothing")
    args = parser.parse_args()
    evaluation = evaluation_pairs(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(args.model or args.only)
    tables = {name: evaluated(name if args.model else trained(name, args), evaluation) for name in names}
    figures = list(SHOWN)
    print("| | " + " | ".join(figures) + " |\n|---|" + "---|" * len(figures))
    for name, table in tables.items():
        print(f"| {name} | " + " | ".join(f"{table[figure]:.3f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
