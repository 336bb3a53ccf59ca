"""The results of a survey as a STAC item collection, with the model that made them.

STAC 1.1. Each pair is an item; each model is one too, with the fields of the Machine Learning Model extension, and
pairs link to it as what they are derived from. That extension's list of tasks has no change detection; the nearest of
its words is semantic segmentation: a class probability for each cell.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch

from geosiam.batch.dates import iso_date
from geosiam.errors import InputError, OutputError
from geosiam.network.weights import load_model
from geosiam.scores.working_file import SCORE_NODATA, SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from geosiam.batch.events import PairResult
    from geosiam.network.weights import Model, ModelCard

STAC_VERSION = "1.1.0"
MLM = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
_STORED: dict[str, dict[str, Any]] = {
    "uint8": {"data_type": "uint8", "nodata": SCORE_NODATA, "raster:scale": 1 / SCORE_STEPS},
    "float32": {"data_type": "float32", "nodata": "nan"},
}
_GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
_BANDS = ("red", "green", "blue")


def item_collection(pairs: Sequence[PairResult], folder: Path) -> dict[str, Any]:
    """Return the item collection of all pairs that are done; hrefs are relative to the folder."""
    done = [pair for pair in pairs if pair.done]
    return {
        "type": "FeatureCollection",
        "features": [*(_model_item(model) for model in _models(done)), *(_pair_item(pair, folder) for pair in done)],
    }


def write_items(pairs: Sequence[PairResult], folder: Path, target: Path) -> None:
    """Write :func:`item_collection` to a file that appears complete, or not at all.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(json.dumps(item_collection(pairs, folder), indent=1) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(target, f"cannot be written ({error})", "check permissions and free disk space") from error


def _pair_item(pair: PairResult, folder: Path) -> dict[str, Any]:
    facts = pair.facts
    assert pair.scores is not None
    assert pair.anomalies is not None
    properties: dict[str, Any] = {
        "title": pair.name,
        "created": facts["created"].replace("+00:00", "Z"),
        "processing:software": {"geosiam": facts["geosiam_version"]},
        "geosiam:count": facts["count"],
        "geosiam:area_m2": facts["area_m2"],
        "geosiam:threshold": facts["threshold"],
        "geosiam:shift_px": facts["shift_px"],
        "geosiam:warnings": facts["warnings"],
        **_times(pair),
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [PROCESSING],
        "id": pair.name,
        "geometry": facts["footprint"],
        **({} if facts["footprint"] is None else {"bbox": _bbox(facts["footprint"])}),
        "properties": properties,
        "links": [
            {"rel": "derived_from", "href": _href(pair.before), "title": "before"},
            {"rel": "derived_from", "href": _href(pair.after), "title": "after"},
            {"rel": "derived_from", "href": f"#{_model_id(facts['model'])}", "title": "model"},
        ],
        "assets": {
            "scores": {
                "href": _relative(pair.scores, folder),
                "type": _GEOTIFF,
                "roles": ["data"],
                "title": "Anomaly probability",
                "bands": [{"name": "score", **_STORED[facts["score_type"]]}],
            },
            "anomalies": {
                "href": _relative(pair.anomalies, folder),
                "type": "application/geopackage+sqlite3",
                "roles": ["data"],
                "title": "Polygons of anomalies",
            },
        },
    }


def _times(pair: PairResult) -> dict[str, str | None]:
    """Return the time that an item covers: between the two scenes, or when it was made, where nothing tells."""
    dates = [iso_date(text, "") for text in (pair.before_date, pair.date) if text]
    if not dates:
        return {"datetime": pair.facts["created"].replace("+00:00", "Z")}
    first, last = (date.start.strftime("%Y-%m-%dT%H:%M:%SZ") for date in (min(dates), max(dates)))
    return {"datetime": last} if first == last else {"datetime": None, "start_datetime": first, "end_datetime": last}


def _models(pairs: Iterable[PairResult]) -> list[Model]:
    """Load each model that was used; one that is gone in the meantime is left out."""
    used = {_model_id(pair.facts["model"]): pair.facts["model"] for pair in pairs}
    found = []
    for model in used.values():
        try:
            loaded = load_model(model["source"])
        except InputError:
            continue
        if loaded.card.checksum == model["checksum"]:
            found.append(loaded)
    return found


def _model_item(model: Model) -> dict[str, Any]:
    card = model.card
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [MLM],
        "id": _model_id({"name": card.name, "checksum": card.checksum}),
        "geometry": None,
        "properties": {
            "title": f"{card.name}: {card.summary}",
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",  # a model has no date in its card, and is for scenes of any
            "end_datetime": "2100-01-01T00:00:00Z",
            "license": card.license,
            "bands": [{"name": name} for name in _BANDS],
            "mlm:name": card.name if len(card.name) > 2 else f"geosiam {card.name}",  # noqa: PLR2004 - its pattern
            "mlm:architecture": "fully convolutional Siamese network",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "PyTorch",
            "mlm:framework_version": torch.__version__.split("+")[0],
            "mlm:total_parameters": sum(weights.numel() for weights in model.network.parameters()),
            "mlm:pretrained": True,
            "mlm:pretrained_source": card.data,
            "mlm:input": _inputs(model),
            "mlm:output": [_output(card)],
            "mlm:hyperparameters": {"recipe": card.recipe, "seed": card.seed, "epochs": card.epochs},
        },
        "links": [],
        "assets": {
            "weights": {
                "href": _href(model.source),
                "type": "application/octet-stream; application=safetensors",
                "title": f"SHA-256 {card.checksum}",
                "roles": ["mlm:model", "mlm:weights"],
                "bands": [{"name": name} for name in _BANDS],  # STAC allows them above only if an asset has them
                "mlm:artifact_type": "safetensors.torch.save_file",
            }
        },
    }


def _inputs(model: Model) -> list[dict[str, Any]]:
    """Describe both scenes as the machine learning model extension wants it."""
    side = model.network.config.receptive_field.size
    structure = {"shape": [-1, len(_BANDS), -1, -1], "dim_order": ["batch", "bands", "height", "width"]}
    return [
        {
            "name": name,
            "description": f"{model.card.bands}; at least {side} x {side} px",
            "bands": list(_BANDS),
            "input": {**structure, "data_type": "float32"},
            "value_scaling": [{"type": "min-max", "minimum": 0, "maximum": 255}],
        }
        for name in ("before", "after")
    ]


def _output(card: ModelCard) -> dict[str, Any]:
    """Describe the scores likewise."""
    return {
        "name": "score",
        "description": f"probability that the scenes differ, one cell for {card.stride} x {card.stride} px",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, 1, -1, -1],
            "dim_order": ["batch", "score", "height", "width"],
            "data_type": "float32",
        },
    }


def _model_id(model: dict[str, Any]) -> str:
    return f"model-{model['name']}-{model['checksum'][:8]}"


def _href(scene: str) -> str:
    """Return a scene as a link: a URL as it is, a path with forward slashes."""
    return scene if "://" in scene else scene.replace(os.sep, "/")


def _relative(path: Path, folder: Path) -> str:
    return f"./{path.relative_to(folder).as_posix()}"


def _bbox(geometry: dict[str, Any]) -> list[float]:
    lon, lat = zip(*geometry["coordinates"][0], strict=True)
    return [min(lon), min(lat), max(lon), max(lat)]
