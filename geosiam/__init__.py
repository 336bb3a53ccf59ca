"""geosiam finds what changed or does not belong between two georeferenced scenes.

The public names are imported when they are first used, so that ``import geosiam`` stays cheap.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geosiam.inspection import inspect_pair
    from geosiam.network.weights import Model, ModelCard, available_models, load_model
    from geosiam.pipeline import DetectOptions, DetectResult, detect, score, vectorize
    from geosiam.training.api import TrainingOptions, TrainingResult, train

__version__ = version("geosiam")

_HOMES = {
    "DetectOptions": "geosiam.pipeline",
    "DetectResult": "geosiam.pipeline",
    "Model": "geosiam.network.weights",
    "ModelCard": "geosiam.network.weights",
    "TrainingOptions": "geosiam.training.api",
    "TrainingResult": "geosiam.training.api",
    "available_models": "geosiam.network.weights",
    "detect": "geosiam.pipeline",
    "load_model": "geosiam.network.weights",
    "inspect_pair": "geosiam.inspection",
    "score": "geosiam.pipeline",
    "train": "geosiam.training.api",
    "vectorize": "geosiam.pipeline",
}

__all__ = [
    "DetectOptions",
    "DetectResult",
    "Model",
    "ModelCard",
    "TrainingOptions",
    "TrainingResult",
    "available_models",
    "detect",
    "inspect_pair",
    "load_model",
    "score",
    "train",
    "vectorize",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'geosiam' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
