"""``geosiam train``: weights of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import options, output, progress

if TYPE_CHECKING:
    from pathlib import Path

TRAINING_OPTIONS = {
    "recipe": click.option(
        "--recipe",
        type=click.Choice(["survey", "target", "paper"]),
        show_default="survey",
        help="What counts as an anomaly, and what as the same.",
    ),
    "anomaly": click.option(
        "--anomaly",
        multiple=True,
        metavar="DIR|SPEC",
        help="What to find (recipe target): a folder of crops, each with alpha or a mask NAME_mask.png, or a "
        'specification such as "color=70,100,200 spread=25 texture=folds size=8-60". Repeat for more.',
    ),
    "data": click.option(
        "--data",
        multiple=True,
        metavar="PATH",
        show_default="CIFAR-10, downloaded once; none with --scenes or --review",
        help="Images to learn from: a folder or tar of pictures or GeoTIFFs, or a CIFAR-10 archive. Repeat for more; "
        "each takes an equal share.",
    ),
    "scenes": click.option(
        "--scenes",
        multiple=True,
        metavar="SCENE",
        help="A scene of your own to fine-tune weights on, in minutes: chips of it with inserted objects. Repeat for "
        "more, in the order of their dates; what differs between two of one place is learnt as normal.",
    ),
    "review": click.option(
        "--review",
        metavar="POLYGONS.gpkg",
        help="Polygons of 'geosiam detect' with your verdicts in the field 'review', to fine-tune weights on: rejected "
        "ones become normal. Finds their two scenes itself; where these have moved, name them with --scenes.",
    ),
    "generated": click.option(
        "--generated",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="160; 60 for target; 24 with --scenes or --review",
        help="Generated surveys at two dates that join the data and take half of every batch (not recipe paper).",
    ),
    "epochs": click.option(
        "--epochs",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="the recipe's",
        help="Length of the training in epochs.",
    ),
    "steps": click.option(
        "--steps",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="the recipe's",
        help="Length of an epoch in steps.",
    ),
    "learning_rate": click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="RATE",
        show_default="the recipe's",
        help="Peak of the learning rate.",
    ),
    "stride": click.option(
        "--stride",
        type=click.IntRange(min=1),
        metavar="8|4",
        show_default="that of --init, else 4, and 8 for paper",
        help="Pixels between neighboring features of the encoder; 8 is three times as fast as 4, and coarser.",
    ),
    "subcells": click.option(
        "--subcells",
        type=click.IntRange(min=1),
        metavar="1|2|4",
        show_default="that of --init, else 2, and 1 for paper",
        help="Scores along each side of a stride: 2 halves the size of a cell at next to no cost.",
    ),
    "least_cover": click.option(
        "--least-cover",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        show_default="0.5; 0.125 for cells of 8 px; none for those of 2 px, whose labels say how much it is",
        help="Share of a cell's own pixels from which on it is labelled anomalous, all or nothing (not recipe paper): "
        "larger for tighter outlines.",
    ),
    "init": click.option(
        "--init",
        metavar="NAME|FILE",
        show_default="random weights; the default model for recipe target and with --scenes or --review",
        help="Weights to begin with, of the same stride: go on learning instead of beginning anew.",
    ),
    "average": click.option(
        "--average",
        multiple=True,
        metavar="NAME|FILE",
        help="Weights of the same network that the trained ones are averaged with in the end, such as those of --init: "
        "the mean of weights of one line is steadier than each. Repeat for more.",
    ),
    "seed": click.option(
        "--seed", type=int, metavar="N", show_default="0", help="Of everything that is drawn at random."
    ),
    "device": click.option("--device", metavar="auto|cpu|cuda|cuda:N", show_default="auto", help="Where to train."),
    "precision": click.option(
        "--precision", type=click.Choice(["fp32", "bf16"]), show_default="fp32", help="Arithmetic while training."
    ),
    "restart": click.option(
        "--restart/--resume",
        default=None,
        show_default="resume",
        help="Begin again, or go on from the checkpoint beside the output.",
    ),
    "name": click.option("--name", metavar="NAME", show_default="the output's stem", help="What the model is called."),
    "license": click.option(
        "--license",
        "license",
        metavar="NAME",
        show_default="Apache-2.0",
        help="Under which others may use the weights.",
    ),
}


@options.command(
    "train",
    examples=(
        "geosiam train --recipe paper --data cifar-10-python.tar.gz -o paper.safetensors",
        "geosiam train --scenes before.tif --scenes after.tif -o mine.safetensors",
        'geosiam train --recipe target --anomaly "color=70,100,200 texture=folds" -o tarps.safetensors',
        "geosiam train --review anomalies.gpkg -o mine.safetensors",
        "geosiam train --data my-orthophotos/ -o new.safetensors --epochs 40 --device cuda",
    ),
)
@options.output("Weights to write (safetensors); learning curves and the checkpoint go beside it.")
@options.library_options(*TRAINING_OPTIONS, table=TRAINING_OPTIONS)
@options.json_output
def command(*, output_path: Path, chosen: dict[str, Any]) -> None:
    """Train the network and write its weights with their model card.

    The recipe 'survey' learns whatever differs between two views of the same place, apart from light, color, blur and
    a slight shift. 'target' learns one kind of thing, named by --anomaly, and to ignore whatever else has changed.
    'paper' learns blue rectangles on random pairs, as the seed paper did. With --scenes or --review,
    weights that know their trade learn your place, or your verdicts, in minutes. An interrupted training goes on where
    its last checkpoint stands.
    """
    from geosiam.training.api import TrainingOptions, train

    with progress.progress_report("training", unit="steps") as report:
        trained = train(
            TrainingOptions(out=output_path, **chosen),
            on_step=lambda done, total, loss: report(done, total, f"loss {loss:.3f}"),
        )
    output.result(
        trained.weights,
        as_json={"weights": trained.weights, "card": trained.card.to_dict(), "history": trained.history},
    )
