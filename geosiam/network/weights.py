"""Weights on disk: safetensors with a model card inside, checked against the architecture when loaded."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from geosiam.errors import OutputError, WeightsError
from geosiam.files import check_writable, exists
from geosiam.network.default import DEFAULT_MODEL
from geosiam.network.siamese import NetworkConfig, SiameseNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_CARD = "geosiam_model_card"
_FORMER_KEYS = {"licence": "license"}  # spelling of the cards of weights trained before the American spelling
_SUFFIX = ".safetensors"
_REMEDY = "use a file that `geosiam train` wrote, or a name that `geosiam models` lists"


@dataclass(frozen=True)
class ModelCard:
    """What one should know of weights before one uses them; stored inside the weights file.

    Parameters
    ----------
    name
        Short name.
    recipe
        Name of the recipe that trained it.
    summary
        What it looks for, in one sentence.
    network
        The architecture.
    data
        What it was trained on.
    seed, epochs
        Of the training.
    threshold
        Suggested anomaly probability from which on a cell is an anomaly.
    temperature
        By which the logits were divided to make probabilities honest; it is in the weights already. 1 = not fitted.
    metrics
        Figures on held-out chips, by name.
    bands, scaling
        What the three input channels are and how their values are scaled.
    license
        Under which the weights may be used.
    command
        The command that produced them.
    version
        Of geosiam that wrote the file.
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
        """Pixels an output cell stands for."""
        return self.network.receptive_field.stride

    @property
    def receptive_field(self) -> int:
        """Pixels an output cell depends on."""
        return self.network.receptive_field.size

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {**asdict(self), "stride": self.stride, "receptive_field": self.receptive_field}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the card that :meth:`to_dict` wrote; keys of later versions are ignored."""
        values = {_FORMER_KEYS.get(key, key): value for key, value in values.items()}
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**{**known, "network": NetworkConfig.from_dict(values["network"])})


@dataclass(frozen=True)
class Model:
    """A network with its weights, its card, and the file they came from."""

    network: SiameseNetwork
    card: ModelCard
    source: str


def save_model(network: SiameseNetwork, card: ModelCard, path: str | os.PathLike[str]) -> ModelCard:
    """Write weights and card to ``path`` (complete or not at all); return the card with its checksum."""
    target = Path(path)
    check_writable(target)
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    card = ModelCard(**{**{f.name: getattr(card, f.name) for f in fields(card)}, "checksum": _checksum(tensors)})
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(save(tensors, metadata={_CARD: json.dumps(card.to_dict(), sort_keys=True)}))
        partial.replace(target)
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "choose a folder that exists") from error
    finally:
        partial.unlink(missing_ok=True)
    return card


def load_model(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL) -> Model:
    """Load bundled weights by name, or any weights file by path.

    Raises
    ------
    WeightsError
        No such name or file; no safetensors; no card; tensors that do not fit the card's architecture or checksum.
    """
    name = os.fspath(name_or_path)
    for bundled in (files("geosiam.network") / "bundled").iterdir():
        if bundled.name == f"{name}{_SUFFIX}":
            with as_file(bundled) as path:
                return _load(path, name)
    if not (exists(name) and Path(name).is_file()):
        raise WeightsError(name, "is neither a bundled model nor a weights file", _REMEDY)
    return _load(Path(name), name)


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a weights file without its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(path, f"is no safetensors file ({error})", _REMEDY) from error
    return _card(metadata, str(path))


def available_models() -> list[ModelCard]:
    """Return the cards of the weights that ship with the package, the default first."""
    cards = []
    for entry in (files("geosiam.network") / "bundled").iterdir():
        if entry.name.endswith(_SUFFIX):
            with as_file(entry) as path:
                cards.append(read_card(path))
    return sorted(cards, key=lambda card: (card.name != DEFAULT_MODEL, card.name))


def _load(path: Path, source: str) -> Model:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(source, f"is no safetensors file ({error})", _REMEDY) from error
    card = _card(metadata, source)
    network = SiameseNetwork(card.network)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(source, "its tensors do not fit the architecture in its card", _REMEDY) from error
    if card.checksum != _checksum(tensors):
        raise WeightsError(source, "its tensors do not have the checksum in its card", "fetch or train it again")
    return Model(network.eval(), card, source)


def _card(metadata: Mapping[str, str], source: str) -> ModelCard:
    try:
        return ModelCard.from_dict(json.loads(metadata[_CARD]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(source, "has no model card of geosiam inside", _REMEDY) from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
