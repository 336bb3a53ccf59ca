"""Weights files: safetensors with a model card inside, checked against the card's architecture when loaded.

They are read and written as arrays: PyTorch is imported where a network is made of them, and not before.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from geosiam.errors import OutputError, WeightsError
from geosiam.files import atomic_write, check_writable, exists, parse_json
from geosiam.network import DEFAULT_MODEL
from geosiam.network.architecture import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

    from numpy.typing import NDArray

    from geosiam.network.siamese import SiameseNetwork

CARD_KEY = "geosiam_model_card"
"""Key of the model card, as JSON, in the metadata of a weights file and of an ONNX model."""

_FORMER_KEYS = {"licence": "license"}  # keys of older cards, and their present names
_SUFFIX = ".safetensors"
_REMEDY = "use a file that `geosiam train` wrote, or a name that `geosiam models` lists"


@dataclass(frozen=True)
class ModelCard:
    """Description of weights, stored inside the weights file.

    Parameters
    ----------
    name
        Name of the model.
    recipe
        Name of the training recipe.
    summary
        Description of what the model detects, in one sentence.
    network
        Architecture of the network.
    data
        Data that the model was trained on.
    seed, epochs
        Random seed and number of epochs of the training.
    threshold
        Suggested minimum anomaly probability of an anomalous cell.
    temperature
        Divisor of the logits that calibrates the probabilities; the weights include it already. 1 = not fitted.
    metrics
        Metrics on held-out chips, by name.
    bands, scaling
        Meaning of the three input channels, and how their values are scaled.
    license
        License of the weights.
    command
        Command that produced the weights.
    version
        Version of geosiam that wrote the file.
    checksum
        SHA-256 of the tensors, hexadecimal; filled in when saved.
    """

    name: str
    recipe: str
    summary: str
    network: NetworkConfig
    data: str
    seed: int
    epochs: int
    threshold: float = 0.5
    temperature: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    bands: str = "red, green, blue"
    scaling: str = "[0, 1]: uint8 / 255, other types stretched once per pair"
    license: str = "Apache-2.0"
    command: str = ""
    version: str = ""
    checksum: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"a threshold lies between 0 and 1, not {self.threshold}")

    @property
    def stride(self) -> int:
        """Pixels along a side of an output cell."""
        return self.network.receptive_field.stride

    @property
    def receptive_field(self) -> int:
        """Pixels along a side of the square that an output cell depends on."""
        return self.network.receptive_field.size

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain values for JSON."""
        return {**asdict(self), "stride": self.stride, "receptive_field": self.receptive_field}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the card that :meth:`to_dict` wrote; keys of later versions are ignored."""
        values = {_FORMER_KEYS.get(key, key): value for key, value in values.items()}
        supported = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**{**supported, "network": NetworkConfig.from_dict(values["network"])})


def is_onnx(model: str | os.PathLike[str]) -> bool:
    """Return whether a model is named by the path of an ONNX file."""
    return Path(model).suffix.lower() == ".onnx"


@dataclass(frozen=True)
class ModelFile:
    """The card of a model, and the name or path that it was loaded from."""

    card: ModelCard
    source: str


@dataclass(frozen=True)
class Weights(ModelFile):
    """The content of a weights file: its tensors by their names in the network, and its card."""

    tensors: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Model:
    """A network with its weights, its card, and the name or path that it was loaded from."""

    network: SiameseNetwork
    card: ModelCard
    source: str


def save_model(network: SiameseNetwork, card: ModelCard, path: str | os.PathLike[str]) -> ModelCard:
    """Write weights and card to a file, atomically; return the card with its checksum."""
    target = Path(path)
    check_writable(target)
    tensors = {key: np.asarray(value.numpy(force=True), order="C") for key, value in network.state_dict().items()}
    card = ModelCard(**{**{f.name: getattr(card, f.name) for f in fields(card)}, "checksum": _checksum(tensors)})
    try:
        with atomic_write(target) as partial:
            partial.write_bytes(save(tensors, metadata={CARD_KEY: json.dumps(card.to_dict(), sort_keys=True)}))
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "choose a folder that exists") from error
    return card


def load_model(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL) -> Model:
    """Load bundled weights by name, or any weights file by path, as a network of PyTorch.

    Raises
    ------
    WeightsError
        As :func:`read_weights`.
    """
    import torch  # noqa: PLC0415 - slow to import, and what reads cards or exports weights does without

    from geosiam.network.siamese import SiameseNetwork  # noqa: PLC0415 - likewise

    weights = read_weights(name_or_path)
    tensors = {key: torch.from_numpy(value) for key, value in weights.tensors.items()}
    network = SiameseNetwork.of_weights(weights.card.network, tensors)
    return Model(network.eval(), weights.card, weights.source)


def read_weights(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL) -> Weights:
    """Read bundled weights by name, or any weights file by path, as arrays.

    Raises
    ------
    WeightsError
        There is no such name or file, it is not a safetensors file, it has no card, or its tensors do not fit the
        architecture or checksum in the card.
    """
    name = os.fspath(name_or_path)
    for file in _bundled_files():
        if file.name == f"{name}{_SUFFIX}":
            with as_file(file) as path:
                return _read(path, name)
    if not (exists(name) and Path(name).is_file()):
        raise WeightsError(name, "is neither a bundled model nor a weights file", _REMEDY)
    return _read(Path(name), name)


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a weights file without its tensors."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(path, f"is not a safetensors file ({error})", _REMEDY) from error
    return _card(metadata, str(path))


def available_models() -> list[ModelCard]:
    """Return the cards of the weights that ship with the package, the default first."""
    cards = []
    for file in _bundled_files():
        with as_file(file) as path:
            cards.append(read_card(path))
    return sorted(cards, key=lambda card: (card.name != DEFAULT_MODEL, card.name))


def _bundled_files() -> list[Traversable]:
    folder = files("geosiam.network") / "bundled"
    return [file for file in folder.iterdir() if file.name.endswith(_SUFFIX)]


def _read(path: Path, source: str) -> Weights:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(source, f"is not a safetensors file ({error})", _REMEDY) from error
    card = _card(metadata, source)
    if {key: tensor.shape for key, tensor in tensors.items()} != card.network.tensor_shapes():
        raise WeightsError(source, "its tensors do not fit the architecture in its card", _REMEDY)
    if card.checksum != _checksum(tensors):
        raise WeightsError(source, "its tensors do not match the checksum in its card", "download or train it again")
    return Weights(card, source, tensors)


def _card(metadata: Mapping[str, str], source: str) -> ModelCard:
    try:
        return ModelCard.from_dict(parse_json(metadata[CARD_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(source, "has no model card of geosiam inside", _REMEDY) from error


def _checksum(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].shape}".encode())
        digest.update(tensors[key].tobytes())
    return digest.hexdigest()
