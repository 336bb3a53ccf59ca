"""``geosiam export``: weights as an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import options, output

if TYPE_CHECKING:
    from pathlib import Path

EXPORT_OPTIONS = {
    "input_type": options.option(
        "--input",
        "input_type",
        **options.choice("uint8", "float32"),
        show_default="uint8; float32 with --stacked",
        help="Type of the images: bytes, or float32 from 0 to 1.",
    ),
    "stacked": options.option(
        "--stacked",
        is_flag=True,
        default=None,
        show_default="two inputs of any size",
        help="One input of a fixed size with the bands of both scenes, as the QGIS plugin Deepness takes it.",
    ),
    "tile": options.option(
        "--tile",
        type=click.IntRange(min=1),
        metavar="PX",
        show_default="512",
        help="Side of the stacked input in pixels.",
    ),
}


@options.command(
    "export",
    examples=(
        "geosiam export survey -o survey.onnx",
        "geosiam export mine.safetensors -o mine.onnx --input float32",
        "geosiam export survey -o deepness.onnx --stacked",
    ),
)
@options.argument("model", metavar="MODEL")
@options.output("ONNX file to write.")
@options.library_options(*EXPORT_OPTIONS, table=EXPORT_OPTIONS)
@options.json_output
def command(*, model: str, output_path: Path, given_values: dict[str, Any]) -> None:
    """Write weights as an ONNX model, for other programs.

    MODEL is the name of bundled weights, as for --model of 'geosiam detect', or a .safetensors file. The ONNX model
    takes two images of the same size, "before" and "after", (n, 3, height, width), and gives "score", (n, 1, rows,
    cols): the probability that they differ in each cell. Preprocessing is inside; receptive field, stride, halo,
    threshold, license and the complete model card are in the metadata. Prints the path of the file. Needs the extra
    'onnx'.
    """
    from geosiam.network.onnx_graph import export_model

    path = export_model(model, output_path, **given_values)
    output.result([path], as_json={"model": str(path)})
