"""``geosiam models``: the weights that ``--model`` takes by name."""

from __future__ import annotations

from geosiam_cli import options, output

FIELDS = ("name", "summary", "recipe", "data", "bands", "stride", "receptive_field", "threshold", "license")


@options.command("models", examples=("geosiam models", "geosiam models --json"))
@options.json_output
def command() -> None:
    """List the bundled weights: the names that --model takes.

    Shows for each its name, what it detects, recipe and data of its training, the number of bands, stride and receptive
    field in pixels, the threshold that 'auto' starts from, and the license. --json prints the complete model cards.
    --model also takes the path of a file that 'geosiam train' wrote.
    """
    from geosiam.network.weights import available_models

    cards = [card.to_dict() for card in available_models()]
    output.result([{field: card[field] for field in FIELDS} for card in cards], as_json=cards)
