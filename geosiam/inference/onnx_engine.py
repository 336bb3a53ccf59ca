"""The network's forward pass in onnxruntime, without PyTorch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.errors import OptionError, WeightsError
from geosiam.files import is_file, parse_json
from geosiam.network.architecture import INPUT_CENTER
from geosiam.network.onnx_graph import AFTER, BEFORE, SCORE, onnx_model
from geosiam.network.weights import CARD_KEY, ModelCard, ModelFile, is_onnx, read_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from geosiam.imagery.normalization import PixelTransform
    from geosiam.imagery.pair import StoredBlock
    from geosiam.network.architecture import NetworkConfig

_LEVELS = 255  # steps of a byte between 0 and 1
_INPUT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
_ERRORS_ONLY = 3  # of onnxruntime's log levels
_REMEDY = "use a file that `geosiam export` wrote without `stacked`"


class OnnxEngine:
    """Compute scores with onnxruntime, on the CPU in fp32.

    All threads share one session, which computes in the thread that calls it: a sum that is split over threads would
    depend on their number.

    Parameters
    ----------
    content
        Content of an ONNX file of two inputs.
    source
        Name of the model in messages.
    """

    name, device_type, precision = "onnx", "cpu", "fp32"
    takes_blocks, blocks_waiting = False, 0

    def __init__(self, content: bytes, source: str) -> None:
        self._content, self._source = content, source
        self._session, self.version = _session(content, source)
        inputs = {each.name: each.type for each in self._session.get_inputs()}
        kinds = set(inputs.values())
        if set(inputs) != {BEFORE, AFTER} or len(kinds) != 1 or not kinds <= set(_INPUT_TYPES):
            raise WeightsError(source, "does not have two inputs, before and after, of bytes or float32", _REMEDY)
        self._dtype = np.dtype(_INPUT_TYPES[kinds.pop()])
        try:
            self.card = ModelCard.from_dict(parse_json(self._session.get_modelmeta().custom_metadata_map[CARD_KEY]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(source, "has no model card of geosiam inside", _REMEDY) from error

    @classmethod
    def load(cls, name: str, *, device: str = "auto", precision: str = "auto") -> tuple[ModelFile, OnnxEngine]:
        """Load an ONNX model by its path, or make one of weights.

        Parameters
        ----------
        name
            Path of an ONNX model, or name of bundled weights or path of a weights file.
        device, precision
            Names of device and precision: the CPU and fp32, or ``"auto"``.

        Raises
        ------
        WeightsError
            The model cannot be read, or is none of ours.
        OptionError
            Another device or precision is wanted, or a package is not installed.
        """
        if device not in ("auto", "cpu"):
            raise OptionError(f"`device={device}`", "is not for `engine=onnx`, which computes on the CPU", "use cpu")
        if precision not in ("auto", "fp32"):
            raise OptionError(
                f"`precision={precision}`", "is not for `engine=onnx`, which computes in fp32", "use fp32"
            )
        if not is_onnx(name):
            weights = read_weights(name)
            engine = cls(onnx_model(weights, input_type="float32"), weights.source)
        elif is_file(name):
            engine = cls(_read(name), name)
        else:
            raise WeightsError(name, "does not exist", _REMEDY)
        return ModelFile(engine.card, name), engine

    @property
    def config(self) -> NetworkConfig:
        """Architecture of the network."""
        return self.card.network

    def to_device(self, _side: int) -> OnnxEngine:
        """Return the engine: its device is the CPU."""
        return self

    def close(self) -> None:
        """Do nothing: there are no threads."""

    def __call__(self, pixels: StoredBlock, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Return the scores of the cells of a valid convolution over a part of a block: float32 (rows, cols)."""
        images = pixels.before[:, rows, cols], pixels.after[:, rows, cols]
        before, after = (
            self._input(image, transform) for image, transform in zip(images, pixels.transforms, strict=True)
        )
        invalid = ~pixels.valid[rows, cols]
        if invalid.any():
            neutral = _of_unit(np.float32(INPUT_CENTER), self._dtype)
            before[:, invalid] = after[:, invalid] = neutral
        (scores,) = self._session.run([SCORE], {BEFORE: before[None], AFTER: after[None]})
        cells: NDArray[np.float32] = scores[0, 0]
        return cells

    def _input(self, image: NDArray[Any], transform: PixelTransform) -> NDArray[Any]:
        """Return the model's input for an image in its own values, a new array (3, rows, cols)."""
        table = _lookup_table(transform, image.dtype.str, self._dtype)
        if table is None:
            return np.asarray(_of_unit(transform.apply(image), self._dtype))
        result = np.empty(image.shape, self._dtype)
        for values, channel, target in zip(table, image.view(f"u{image.itemsize}"), result, strict=True):
            np.take(values, channel, out=target, mode="clip")  # the mode that fills `out` directly
        return result

    def __reduce__(self) -> tuple[type[OnnxEngine], tuple[bytes, str]]:
        """Pickle the model; another process makes a session of its own."""
        return OnnxEngine, (self._content, self._source)


def _session(content: bytes, source: str) -> tuple[InferenceSession, str]:
    """Return a session that computes in the calling thread, and the version of onnxruntime."""
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as error:
        fact = "needs the package onnxruntime, which is not installed"
        raise OptionError("`engine=onnx`", fact, "pip install 'geosiam[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(source, "is not an ONNX model that onnxruntime can read", _REMEDY) from error
    return session, f"onnxruntime {onnxruntime.__version__}"


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", _REMEDY) from error


@lru_cache(maxsize=16)
def _lookup_table(transform: PixelTransform, stored: str, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return the model's input for each value of a stored type: (3, levels); None if the type has too many values."""
    table = transform.table(stored)
    return None if table is None else _of_unit(table, dtype)


def _of_unit(values: NDArray[np.float32] | np.float32, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401 - array or number
    """Return values in [0, 1] as the model's input: bytes are 255 times as much."""
    return np.rint(values * _LEVELS).astype(dtype) if dtype == np.uint8 else values
