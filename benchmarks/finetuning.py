"""Does fine-tuning on your own scenes help? Real dates with inserted objects, on the same ground and elsewhere.

    python benchmarks/finetuning.py --data DIR --site naip --site joplin

Objects of 5-30 px, half of them flat, half of a foreign texture, are inserted into the second date of two real scenes.
The weights are fine-tuned on the left half (`geosiam train --scenes BEFORE --scenes AFTER`), which contains the objects
to find, unlabeled, as anybody's own scenes do. Both halves are evaluated as in `accuracy.py`: real changes are not
labeled, so not all alarms are false. Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accuracy import by_model, judge
from affine import Affine
from protocols import Case, Raster, known_pixels, on_grid, whole

from geosiam.network import DEFAULT_MODEL
from geosiam.synthesis.insertion import insert_anomalies
from geosiam.training.api import TrainingOptions, train

if TYPE_CHECKING:
    from collections.abc import Sequence

SITES = {
    "naip": ("naip/m_4709963_se_14_1_20140720", "naip/m_4709963_se_14_1_20170827"),
    "landsat": ("landsat/2000", "landsat/2015"),
    "joplin": ("joplin/pre", "joplin/post"),
}
SIZE_PX = (5, 30)
PER_MEGAPIXEL = 120
FIGURES = (
    "AUROC", "AP", "recall at 5/Mpx", "recall at 20/Mpx", "recall at 100/Mpx", "recall", "alarms/Mpx", "IoU",
)  # fmt: skip


def halves(data: Path, site: str, seed: int) -> dict[str, Case]:
    """Return the left and the right half of the first date, each with the second date and its inserted objects."""
    before, after = (whole(data / "scenes", name) for name in SITES[site])
    donor = whole(data / "scenes", SITES["landsat" if site != "landsat" else "naip"][0]).pixels
    image, objects = after.pixels, []
    count = round(after.pixels[0].size / 1e6 * PER_MEGAPIXEL / 2)
    for number, fill in enumerate(("flat", "texture")):
        inserted = insert_anomalies(
            image, count=count, size_px=SIZE_PX, shape="mixed", fill=fill, seed=2 * seed + number, donor=donor
        )
        image = inserted.image
        objects += [(each.geometry, each.id + number * count) for each in inserted.truth]
    image = np.where(known_pixels(after), image, after.pixels)
    truth = on_grid(objects, after, before) * known_pixels(before)
    cols = truth.shape[1] // 2
    return {
        name: Case(f"B {name}", site, seed, _cut(before, part), after.like(image), truth[:, part])
        for name, part in (("same ground", slice(0, cols)), ("elsewhere", slice(cols, 2 * cols)))
    }


def _cut(scene: Raster, cols: slice) -> Raster:
    pixels = np.ascontiguousarray(scene.pixels[:, :, cols])
    return replace(scene, pixels=pixels, transform=scene.transform @ Affine.translation(cols.start, 0))


def fine_tuned(case: Case, folder: Path, seed: int, precision: str, *, alone: bool) -> str:
    """Fine-tune the default model on a pair, or on its second date alone; return the weights file."""
    scenes = [case.before.write(folder / "earlier.tif"), case.after.write(folder / "later.tif")]
    paths = tuple(map(str, scenes[alone:]))
    out = folder / "fine-tuned.safetensors"
    return str(train(TrainingOptions(out=out, scenes=paths, seed=seed, precision=precision)).weights)


def line(site: str, ground: str, model: str, figures: Sequence[float]) -> str:
    """Return a line of the table."""
    return f"| {site} | {ground} | {Path(model).stem} | {' | '.join(f'{figure:.3f}' for figure in figures)} |"


def main() -> None:
    """Fine-tune, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/")
    parser.add_argument("--site", action="append", choices=SITES, help="repeat for more; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="fine-tune on the second date alone")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"], help="of the training")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"| site | ground | weights | {' | '.join(FIGURES)} |\n|---|---|---{'|---' * len(FIGURES)}|")
    for site in args.site or SITES:
        results: dict[tuple[str, str], list[list[float]]] = {}
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as name:
                folder, cases = Path(name), halves(args.data, site, seed)
                weights = fine_tuned(cases["same ground"], folder, seed, args.precision, alone=args.alone)
                for (ground, case), model in itertools.product(cases.items(), (DEFAULT_MODEL, weights)):
                    pair = case.before.write(folder / "before.tif"), case.after.write(folder / "after.tif")
                    figures, _ = judge(case, by_model(model, *pair, folder / "found.gpkg"))
                    row = [figures[figure] for figure in FIGURES]
                    results.setdefault((ground, Path(model).stem), []).append(row)
                    print(line(f"{site}, seed {seed}", ground, model, row), flush=True)
        for (ground, model), rows in results.items():
            print(line(f"{site}, mean of {args.seeds}", ground, model, np.mean(rows, axis=0).tolist()), flush=True)


if __name__ == "__main__":
    main()
