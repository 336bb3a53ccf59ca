"""``geosiam train``: train the network and write its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import options, output
from geosiam_cli.progress import progress_report

if TYPE_CHECKING:
    from pathlib import Path

TRAINING_OPTIONS: dict[str, options.Decorator] = {
    "recipe": options.option(
        "--recipe",
        **options.choice("survey", "target", "paper"),
        show_default="survey",
        help="What counts as an anomaly, and what as normal.",
    ),
    "anomaly": options.option(
        "--anomaly",
        multiple=True,
        metavar="DIR|SPEC",
        help="What to find (recipe target): a folder of crops, each with an alpha channel or a mask NAME_mask.png, or "
        'a specification such as "color=70,100,200 spread=25 texture=folds size=8-60". Repeat for more.',
    ),
    "data": options.option(
        "--data",
        multiple=True,
        metavar="PATH",
        show_default="CIFAR-10, downloaded once; nothing with --scenes or --review",
        help="Images to learn from: a folder or tar file of pictures or GeoTIFFs, or a CIFAR-10 archive. Repeat for "
        "more; each gets an equal share.",
    ),
    "scenes": options.option(
        "--scenes",
        multiple=True,
        metavar="SCENE",
        help="A scene of your own to fine-tune weights on, in minutes, with inserted objects as anomalies. Repeat for "
        "more, in the order of their dates; what differs between two scenes of one place is learned as normal. Or a "
        "folder of pairs: A/ and B/ with images of the same names, label/ with masks if you have them.",
    ),
    "review": options.option(
        "--review",
        metavar="POLYGONS.gpkg",
        help="Polygons of 'geosiam detect' with your verdicts in the column review, to fine-tune weights on: rejected "
        "ones become normal, confirmed ones anomalies. Its two scenes are found by the paths recorded in it; if they "
        "have moved, name them with --scenes.",
    ),
    "generated": options.option(
        "--generated",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="160; 60 for recipe target; 24 with --scenes or --review",
        help="Number of generated scene pairs, which fill half of every training batch (not for recipe paper).",
    ),
    "epochs": options.option(
        "--epochs",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="the recipe's",
        help="Number of epochs; with 0, the weights of --init are only calibrated.",
    ),
    "steps": options.option(
        "--steps",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="the recipe's",
        help="Number of steps per epoch.",
    ),
    "learning_rate": options.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="RATE",
        show_default="the recipe's",
        help="Peak learning rate.",
    ),
    "stride": options.option(
        "--stride",
        type=click.IntRange(min=1),
        metavar="8|4",
        show_default="that of --init, else 4, or 8 for recipe paper",
        help="Encoder stride: pixels between neighboring features. 8 is three times as fast as 4, and coarser.",
    ),
    "subcells": options.option(
        "--subcells",
        type=click.IntRange(min=1),
        metavar="1|2|4",
        show_default="those of --init, else 2, or 1 for recipe paper",
        help="Scores per feature along each side; 2 halves the cell size at almost no cost.",
    ),
    "scales": options.option(
        "--scales",
        type=click.IntRange(min=1),
        metavar="1|2|3",
        show_default="those of --init, else 1",
        help="Scales of the image that the network sees, each half as fine as the one before. With more it sees "
        "further, takes longer, and its scores do not depend on the order of the scenes.",
    ),
    "least_cover": options.option(
        "--least-cover",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="FRACTION",
        show_default="0.5; 0.125 for cells of 8 px; none for cells of 2 px, which have fractional labels",
        help="Minimum covered fraction of a cell's own pixels for it to be labeled anomalous, all or nothing, above 0, "
        "up to 1 (not for recipe paper). Larger values give tighter outlines.",
    ),
    "init": options.option(
        "--init",
        metavar="NAME|FILE",
        show_default="random weights; the default model for recipe target and with --scenes or --review",
        help="Initial weights, of the same stride: a name that 'geosiam models' lists, or a .safetensors file.",
    ),
    "freeze_encoder": options.option(
        "--freeze-encoder/--train-encoder",
        default=None,
        show_default="train-encoder",
        help="Train the discriminators only, not the encoder: faster, and what it tells apart is not unlearned.",
    ),
    "average": options.option(
        "--average",
        multiple=True,
        metavar="NAME|FILE",
        help="Average the result with other checkpoints of the same lineage (model soup), such as those of --init; "
        "usually more robust than a single one. Repeat for more.",
    ),
    "seed": options.option("--seed", type=int, metavar="N", show_default="0", help="Random seed."),
    "device": options.option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        show_default="auto",
        help="Where to train. auto: on a GPU if there is one; cuda:N: on this one.",
    ),
    "precision": options.option(
        "--precision", **options.choice("fp32", "bf16"), show_default="fp32", help="Arithmetic of the training."
    ),
    "restart": options.option(
        "--restart/--resume",
        default=None,
        show_default="resume",
        help="Start from scratch, or continue from the checkpoint beside the output.",
    ),
    "name": options.option("--name", metavar="NAME", show_default="the output's stem", help="Name of the model."),
    "license": options.option(
        "--license",
        "license",
        also=["--licence"],
        metavar="NAME",
        show_default="Apache-2.0",
        help="License under which others may use the weights.",
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
@options.output("Weights to write (.safetensors); learning curves and the checkpoint go beside it.", name="out")
@options.library_options(*TRAINING_OPTIONS, table=TRAINING_OPTIONS)
@options.json_output
def command(*, out: Path, given_values: dict[str, Any]) -> None:
    """Train the network and write its weights with their model card.

    Recipe 'survey' learns whatever differs between two views of one place, except light, color, blur and a slight
    shift. 'target' learns the objects that --anomaly describes, whatever else has changed. 'paper' learns blue
    rectangles on random pairs, as in the seed paper. --scenes or --review fine-tune existing weights on your own scenes
    or verdicts, in minutes. An interrupted training resumes from its last checkpoint.
    """
    from geosiam.training.api import TrainingOptions, train

    settings = TrainingOptions(out=out, **given_values)
    with progress_report("training", unit="steps") as on_progress:
        result = train(settings, on_step=lambda done, total, loss: on_progress(done, total, f"loss {loss:.3f}"))
    content = {"weights": result.weights, "card": result.card.to_dict(), "history": result.history}
    output.result(result.weights, as_json=content)
