"""``geosiam models``: the weights that --model takes by name."""

from __future__ import annotations

from geosiam_cli import options, output

SHOWN = ("name", "summary", "recipe", "data", "bands", "stride", "receptive_field", "threshold", "license")


@options.command("models", examples=("geosiam models", "geosiam models --json"))
@options.json_output
def command() -> None:
    """List the weights that come with geosiam.

    For each its name, what it looks for, what it was trained on, the bands it takes, the pixels a score stands for and
    depends on, and the threshold that 'auto' means. '--json' prints the whole model cards. '--model' takes the name,
    or the path of a file that 'geosiam train' wrote.
    """
    from geosiam.network.weights import available_models

    cards = [card.to_dict() for card in available_models()]
    output.result([{key: card[key] for key in SHOWN} for card in cards], as_json=cards)
