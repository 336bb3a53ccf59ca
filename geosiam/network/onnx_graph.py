"""The network as an ONNX model, made from a weights file without PyTorch.

The graph takes images as they are stored and gives anomaly scores: everything between is inside. Batch norms and the
normalization of the input are folded into the convolutions, in double precision, so the graph has no more layers than
the paper's figure. It is the fp32 network to within rounding, for images of any size.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from geosiam import __version__
from geosiam.errors import OptionError, OutputError
from geosiam.files import atomic_write, check_writable, exists
from geosiam.network import DEFAULT_MODEL
from geosiam.network.architecture import (
    BATCH_NORM_TENSORS,
    INPUT_CENTER,
    INPUT_SPREAD,
    SMALLEST_SQUARE,
    discriminator_name,
    interpolated_from,
)
from geosiam.network.weights import CARD_KEY, is_onnx, read_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from geosiam.network.architecture import NetworkConfig
    from geosiam.network.weights import ModelCard, Weights

    Shape: TypeAlias = tuple[int | str, ...]
    Tensors: TypeAlias = Mapping[str, NDArray[Any]]

InputType = Literal["uint8", "float32"]

OPSET, IR_VERSION = 17, 8
"""Versions of the operators and of the file: onnxruntime reads them from 1.12 (2022) on."""

BEFORE, AFTER, STACK, SCORE = "before", "after", "scenes", "score"
"""Names of the inputs of a model of two scenes, of the input of a stacked one, and of the output."""

DEFAULT_TILE_PX = 512

_LEVELS = 255  # steps of a byte between 0 and 1
_MAX_OVERLAP_PERCENT = 80
_BATCH_NORM_EPSILON = 1e-5  # PyTorch's
_TO_THE_END = np.iinfo(np.int64).max
_ROWS_AND_COLS = np.array([2, 3])  # axes of an image (n, channels, rows, cols)


def export_model(
    model: str = DEFAULT_MODEL,
    output: str | os.PathLike[str] = "model.onnx",
    *,
    input_type: InputType | None = None,
    stacked: bool = False,
    tile: int | None = None,
) -> Path:
    """Write weights as an ONNX model, atomically; return its path.

    Parameters
    ----------
    model
        Name of bundled weights or path of a weights file.
    output
        File to write, with the suffix ``.onnx``.
    input_type
        ``"uint8"``: images of bytes (the default); ``"float32"``: images in [0, 1] (the default if `stacked`).
    stacked
        One input that holds the bands of both scenes, before first, and an output as large as the input, both of a
        fixed side: what the QGIS plugin Deepness takes. Images are in [0, 1].
    tile
        Side in pixels of the stacked input, a multiple of the model's stride.

    Raises
    ------
    OptionError
        The suffix is another one, options do not fit each other, or the package `onnx` is not installed.
    WeightsError
        The weights cannot be read.
    OutputError
        The file cannot be written, or is the weights file.
    """
    target = Path(output)
    if not is_onnx(target):
        raise OptionError(target, f"has the suffix {target.suffix!r}", "use .onnx")
    check_writable(target)
    if exists(model) and exists(target) and target.samefile(model):
        raise OutputError(target, "is an input too and would be overwritten", "choose another output")
    if input_type not in (None, "uint8", "float32"):
        raise OptionError(f"`input_type={input_type}`", "is not known", "use uint8 or float32")
    if stacked and input_type == "uint8":
        raise OptionError(
            "`input_type=uint8`", "does not go with `stacked`, whose images are in [0, 1]", "leave it out"
        )
    if tile is not None and not stacked:
        raise OptionError(f"`tile={tile}`", "is the size of a stacked input", "add `stacked`, or leave it out")
    weights = read_weights(model)
    side = (tile or DEFAULT_TILE_PX) if stacked else None
    content = onnx_model(weights, input_type=input_type or ("float32" if stacked else "uint8"), tile=side)
    try:
        with atomic_write(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "choose another output") from error
    return target


def onnx_model(weights: Weights, *, input_type: InputType = "uint8", tile: int | None = None) -> bytes:
    """Return the content of an ONNX file: the network of weights, with the card in its metadata.

    Parameters
    ----------
    weights
        The weights, with their card.
    input_type
        Type of the images: bytes, or float32 in [0, 1].
    tile
        Side in pixels of the only input of a stacked model; None: two inputs of any size.

    Raises
    ------
    OptionError
        The tile does not fit the network, or the package `onnx` is not installed.
    """
    config, graph = weights.card.network, _Graph()
    levels = _LEVELS if input_type == "uint8" else 1
    if tile is None:
        images = graph.add("Concat", BEFORE, AFTER, axis=0)
        if input_type == "uint8":
            images = graph.cast_to_float(images)
        graph.name(_scored(graph, images, weights.tensors, config, levels), SCORE)
        inputs: dict[str, Shape] = dict.fromkeys((BEFORE, AFTER), ("n", config.channels, "height", "width"))
        return graph.model(weights.card, inputs, input_type, ("n", 1, "rows", "cols"))
    check_tile(config, tile)
    field = config.receptive_field
    margins = graph.constant(np.array([0, 0, field.offset, field.offset, 0, 0, field.overhang, field.overhang]))
    scenes = [graph.add("Pad", scene, margins, mode="reflect") for scene in graph.split(STACK, axis=1)]
    cells = _scored(graph, graph.add("Concat", *scenes, axis=0), weights.tensors, config, levels)
    enlarged = graph.enlarged(cells, field.stride, mode="nearest", coordinates="asymmetric", nearest_mode="floor")
    graph.name(enlarged, SCORE)
    inputs = {STACK: ("n", 2 * config.channels, tile, tile)}
    return graph.model(weights.card, inputs, input_type, ("n", 1, tile, tile), deepness(weights.card, tile))


def check_tile(config: NetworkConfig, tile: int) -> None:
    """Refuse the side of a stacked input that holds no whole number of cells, or no cell with its surroundings."""
    step = max(config.alignment, config.receptive_field.stride)
    least = -(-config.receptive_field.size // step) * step
    if tile % step or tile < least:
        fact = f"is no multiple of {step} px" if tile % step else "is smaller than the receptive field"
        raise OptionError(
            f"`tile={tile}`", fact, f"use a multiple of {step} from {least} on, such as {DEFAULT_TILE_PX}"
        )


def metadata(card: ModelCard) -> dict[str, str]:
    """Return the metadata of an ONNX file: the card, and what a user of the file must know as texts of their own."""
    field = card.network.receptive_field
    return {
        "name": card.name,
        "summary": card.summary,
        "license": card.license,
        "bands": card.bands,
        "threshold": str(card.threshold),
        "receptive_field": str(field.size),
        "stride": str(field.stride),
        "halo": f"{field.offset} {field.overhang}",
        "alignment": str(card.network.alignment),
        "checksum": card.checksum,
        "geosiam_version": __version__,
        CARD_KEY: json.dumps(card.to_dict(), sort_keys=True),
    }


def deepness(card: ModelCard, tile: int) -> dict[str, str]:
    """Return the metadata that the QGIS plugin Deepness reads, as JSON: tiles overlap by all that depends on edges."""
    field = card.network.receptive_field
    overlap = -(-100 * (2 * max(field.offset, field.overhang) + field.stride) // tile)
    values = {
        "model_type": "Segmentor",
        "class_names": [{"0": "background", "1": "anomaly"}],
        "tile_size": tile,
        "tiles_overlap": min(overlap, _MAX_OVERLAP_PERCENT),
        "seg_thresh": card.threshold,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def _scored(graph: _Graph, images: str, tensors: Tensors, config: NetworkConfig, levels: int) -> str:
    """Return the scores (n, 1, rows, cols) of images (2n, channels, h, w), the before images first.

    It mirrors :meth:`geosiam.network.siamese.SiameseNetwork.compare`. Where a scale covers more than the cells need,
    the rest is cut off at the end: only where things begin is known before the size of the images is.
    """
    field, pyramid, scales = config.receptive_field, config.pyramid, config.scales
    axis = range(2 * config.alignment)  # of cells; any number of them begin at the same places
    sources = [span.start for span in pyramid.features(axis)]
    targets = [span.start for span in pyramid.logits(axis)]
    layers = list(_folded_encoder(tensors, config, levels))
    evidence = []
    for level, (scale, pixels) in enumerate(zip(scales, pyramid.pixels(axis), strict=True)):
        values = graph.cropped(images, pixels.start + field.offset)
        if scale > 1:
            values = graph.add("AveragePool", values, kernel_shape=[scale, scale], strides=[scale, scale])
        features = _encoded(graph, values, layers)
        evidence.append(_evidence(graph, features, tensors, config, level))
    total = ""
    for level in reversed(range(len(scales))):
        inputs = graph.cropped(evidence[level][0], targets[level] - sources[level])
        for coarser in range(level + 1, len(scales)):
            factor = scales[coarser] // scales[level]
            context = evidence[coarser][coarser - level]
            context = _interpolated(graph, context, factor, sources[coarser], targets[level])
            inputs = graph.sum_of_common(inputs, context)
        logits = _logits(graph, inputs, tensors, config, level)
        if level > 0:
            logits = graph.add("Min", logits, graph.constant(np.zeros((), np.float32)))
        logits = _interpolated(graph, logits, scales[level], targets[level] * config.subcells, 0)
        total = graph.sum_of_common(total, logits) if total else logits
    if config.subcells > 1 or len(scales) > 1:
        total = graph.cropped(total, 0, graph.cells(images, field.size, field.stride))
    return graph.add("Sigmoid", graph.add("Neg", total))


def _folded_encoder(
    tensors: Tensors, config: NetworkConfig, levels: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], int]]:
    """Yield weight, bias and stride of each convolution, with the batch norm behind it and the input's scaling inside.

    Parameters
    ----------
    tensors, config
        The network.
    levels
        Value of the input that stands for 1.
    """
    scale, offset = 1 / (levels * INPUT_SPREAD), -INPUT_CENTER / INPUT_SPREAD
    place = 0
    for number, layer in enumerate(config.convolutions, 1):
        weight = tensors[f"encoder.{place}.weight"].astype(np.float64)
        if config.batch_norm and number < len(config.convolutions):
            place += 1
            gain, shift, mean, variance = (
                tensors[f"encoder.{place}.{name}"].astype(np.float64) for name in BATCH_NORM_TENSORS
            )
            gain = gain / np.sqrt(variance + _BATCH_NORM_EPSILON)
            weight, bias = weight * gain[:, None, None, None], shift - mean * gain
        else:
            bias = tensors[f"encoder.{place}.bias"].astype(np.float64)
        bias = bias + offset * weight.sum((1, 2, 3))
        yield (weight * scale).astype(np.float32), bias.astype(np.float32), layer.stride
        place, scale, offset = place + 2, 1.0, 0.0


def _encoded(graph: _Graph, values: str, layers: list[tuple[NDArray[np.float32], NDArray[np.float32], int]]) -> str:
    """Return the features of images (n, channels, h, w)."""
    for number, (weight, bias, stride) in enumerate(layers, 1):
        values = graph.convolved(values, weight, bias, stride)
        if number < len(layers):
            values = graph.add("Relu", values)
    return values


def _evidence(graph: _Graph, features: str, tensors: Tensors, config: NetworkConfig, level: int) -> list[str]:
    """Return what a discriminator's first convolution gives for its own scale and each finer one, finest last."""
    before, after = graph.split(features, axis=0)
    difference = graph.add("Sub", before, after)
    if config.distance == "elementwise":
        distance = graph.add("Abs", difference)
    else:
        squares = graph.add("Mul", difference, difference)
        total = graph.add("ReduceSum", squares, graph.constant(np.array([1])), keepdims=1)
        distance = graph.add("Sqrt", graph.add("Add", total, graph.constant(np.float32(SMALLEST_SQUARE))))
    inputs = distance
    if config.head == "concat":
        inputs = graph.add("Concat", before, after, distance, axis=1)
        if config.symmetric:
            swapped = graph.add("Concat", after, before, distance, axis=1)
            inputs = graph.add("Concat", inputs, swapped, axis=0)
    name = f"{discriminator_name(level)}.layers.0"
    evidence = graph.convolved(inputs, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
    return [evidence] if level == 0 else graph.split(evidence, axis=1, parts=1 + level)


def _logits(graph: _Graph, evidence: str, tensors: Tensors, config: NetworkConfig, level: int) -> str:
    """Return the logits of a scale's cells from the evidence, the mean over both orders if it is symmetric."""
    hidden = graph.add("Relu", evidence)
    if config.symmetric and config.head == "concat":
        first, second = graph.split(hidden, axis=0)
        hidden = graph.add("Mul", graph.add("Add", first, second), graph.constant(np.float32(0.5)))
    name = f"{discriminator_name(level)}.layers.2"
    logits = graph.convolved(hidden, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
    if config.subcells == 1:
        return logits
    return graph.add("DepthToSpace", logits, blocksize=config.subcells, mode="CRD")


def _interpolated(graph: _Graph, values: str, factor: int, source: int, target: int) -> str:
    """Interpolate values bilinearly to cells `factor` times as fine.

    Parameters
    ----------
    graph, values
        The graph, and values of coarse cells.
    factor
        Number of fine cells along a coarse one.
    source, target
        Number of the first coarse cell that is given, and of the first fine one that is wanted.
    """
    if factor > 1:
        first = interpolated_from(range(target, target + 1), factor).start
        values = graph.cropped(values, first - source)
        values = graph.enlarged(values, factor, mode="linear", coordinates="pytorch_half_pixel")
        source = factor * first
    return graph.cropped(values, target - source)


class _Graph:
    """Nodes and constants of an ONNX graph while it is built; a value is known by its name."""

    def __init__(self) -> None:
        try:
            import onnx  # noqa: PLC0415 - an extra
        except ImportError as error:
            fact = "cannot be written, because the package onnx is not installed"
            raise OptionError("the model as ONNX", fact, "pip install 'geosiam[onnx]'") from error
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - of any type
        """Add a node with one output; return the output's name."""
        return self._add(operator, inputs, 1, attributes)[0]

    def _add(self, operator: str, inputs: tuple[str, ...], outputs: int, attributes: dict[str, Any]) -> list[str]:
        name = f"{operator}_{len(self._nodes)}"
        names = [f"{name}_{number}" for number in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, names, name=name, **attributes))
        return names

    def name(self, value: str, name: str) -> None:
        """Give the output of the last node another name."""
        node = self._nodes[-1]
        assert list(node.output) == [value]
        node.output[0] = name

    def constant(self, array: NDArray[Any] | np.float32) -> str:
        """Add a constant; return its name."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def cast_to_float(self, value: str) -> str:
        """Return a value as float32."""
        return self.add("Cast", value, to=self._onnx.TensorProto.FLOAT)

    def convolved(self, values: str, weight: NDArray[Any], bias: NDArray[Any], stride: int = 1) -> str:
        """Convolve values without padding."""
        kernel, strides = list(weight.shape[2:]), [stride, stride]
        return self.add(
            "Conv", values, self.constant(weight), self.constant(bias), kernel_shape=kernel, strides=strides
        )

    def split(self, value: str, *, axis: int, parts: int = 2) -> list[str]:
        """Split a value into equal parts along an axis."""
        return self._add("Split", (value,), parts, {"axis": axis})

    def cropped(self, value: str, first: int, stop: str | None = None) -> str:
        """Return the rows and columns from `first` on, up to the numbers in the value `stop` if there is one."""
        if first == 0 and stop is None:
            return value
        end = self.constant(np.full(2, _TO_THE_END)) if stop is None else stop
        return self.add("Slice", value, self.constant(np.full(2, first)), end, self.constant(_ROWS_AND_COLS))

    def size(self, value: str) -> str:
        """Return the numbers of rows and columns of a value (n, channels, rows, cols)."""
        return self.add("Shape", value, start=2, end=4)

    def cells(self, images: str, size: int, stride: int) -> str:
        """Return the numbers of rows and columns of cells of a valid convolution over images."""
        room = self.add("Sub", self.size(images), self.constant(np.full(2, size - stride)))
        return self.add("Div", room, self.constant(np.full(2, stride)))

    def sum_of_common(self, first: str, second: str) -> str:
        """Add two values where both have rows and columns; they begin at the same place."""
        common = self.add("Min", self.size(first), self.size(second))
        return self.add("Add", self.cropped(first, 0, common), self.cropped(second, 0, common))

    def enlarged(self, value: str, factor: int, *, mode: str, coordinates: str, **attributes: str) -> str:
        """Return a value with `factor` times as many rows and columns."""
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        settings = {"mode": mode, "coordinate_transformation_mode": coordinates, **attributes}
        return self.add("Resize", value, "", scales, **settings)

    def model(
        self,
        card: ModelCard,
        inputs: Mapping[str, Shape],
        input_type: InputType,
        output: Shape,
        further: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """Return the graph as the content of a file.

        Parameters
        ----------
        card
            Card of the weights.
        inputs, output
            Shapes of the inputs and of the output, in which names stand for any size.
        input_type
            Type of the inputs.
        further
            Metadata besides those of the card.
        """
        helper, number = self._onnx.helper, self._onnx.TensorProto
        kind = number.UINT8 if input_type == "uint8" else number.FLOAT
        graph = helper.make_graph(
            self._nodes,
            f"geosiam {card.name}",
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(SCORE, number.FLOAT, output)],
            self._constants,
            doc_string=card.summary,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="geosiam",
            producer_version=__version__,
        )
        helper.set_model_props(model, {**metadata(card), **further})
        self._onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
