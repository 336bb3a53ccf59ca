"""Does fine-tuning on one's own scenes help? Real dates with inserted objects, on ground it has seen and on other.

    python benchmarks/finetuning.py --data DIR --site naip --site joplin

Objects of 5-30 px, half of them flat, half of a foreign texture, are inserted into the second date of two real scenes.
The weights are fine-tuned on the left half (`geosiam train --scenes BEFORE --scenes AFTER`), the objects that are to
be found already there, as they are in anybody's own scenes, and nobody tells which they are. Both halves are judged as
in `accuracy.py`: what really changed is not labelled, so alarms are not all false. Prints Markdown.
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

from geosiam.network.default import DEFAULT_MODEL
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
    """Return the left and the right half of the first date, each with the second date, in which there are objects."""
    before, after = (whole(data / "scenes", name) for name in SITES[site])
    donor = whole(data / "scenes", SITES["landsat" if site != "landsat" else "naip"][0]).pixels
    image, objects = after.pixels, []
    count = round(after.pixels[0].size / 1e6 * PER_MEGAPIXEL / 2)
    for number, fill in enumerate(("flat", "texture")):
        made = insert_anomalies(
            image, count=count, size_px=SIZE_PX, shape="mixed", fill=fill, seed=2 * seed + number, donor=donor
        )
        image = made.image
        objects += [(each.geometry, each.id + number * count) for each in made.truth]
    image = np.where(known_pixels(after), image, after.pixels)
    truth = on_grid(objects, after, before) * known_pixels(before)
    cols = truth.shape[1] // 2
    return {
        name: Case(f"B {name}", site, seed, _cut(before, part), after.like(image), truth[:, part])
        for name, part in (("learnt", slice(0, cols)), ("unseen", slice(cols, 2 * cols)))
    }


def _cut(scene: Raster, cols: slice) -> Raster:
    pixels = np.ascontiguousarray(scene.pixels[:, :, cols])
    return replace(scene, pixels=pixels, transform=scene.transform @ Affine.translation(cols.start, 0))


def fine_tuned(learnt: Case, folder: Path, seed: int, precision: str, *, alone: bool) -> str:
    """Fine-tune the default model on a pair, or on its second date alone; return the weights file."""
    scenes = [learnt.before.write(folder / "earlier.tif"), learnt.after.write(folder / "later.tif")]
    named = tuple(map(str, scenes[alone:]))
    out = folder / "fine-tuned.safetensors"
    return str(train(TrainingOptions(out=out, scenes=named, seed=seed, precision=precision)).weights)


def line(site: str, ground: str, model: str, figures: Sequence[float]) -> str:
    """Return a line of the table."""
    return f"| {site} | {ground} | {Path(model).stem} | {' | '.join(f'{figure:.3f}' for figure in figures)} |"


def main() -> None:
    """Learn, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/")
    parser.add_argument("--site", action="append", choices=SITES, help="repeat for more; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="learn from the second date alone")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"], help="of the training")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"| site | ground | weights | {' | '.join(FIGURES)} |\n|---|---|---{'|---' * len(FIGURES)}|")
    for site in args.site or SITES:
        found: dict[tuple[str, str], list[list[float]]] = {}
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as name:
                folder, cases = Path(name), halves(args.data, site, seed)
                mine = fine_tuned(cases["learnt"], folder, seed, args.precision, alone=args.alone)
                for (ground, case), model in itertools.product(cases.items(), (DEFAULT_MODEL, mine)):
                    pair = case.before.write(folder / "before.tif"), case.after.write(folder / "after.tif")
                    figures, _ = judge(case, by_model(model, *pair, folder / "found.gpkg"))
                    seen = [figures[figure] for figure in FIGURES]
                    found.setdefault((ground, Path(model).stem), []).append(seen)
                    print(line(f"{site}, seed {seed}", ground, model, seen), flush=True)
        for (ground, model), rows in found.items():
            print(line(f"{site}, mean of {args.seeds}", ground, model, np.mean(rows, axis=0).tolist()), flush=True)


if __name__ == "__main__":
    main()
