"""The results of a batch as a STAC 1.1 item collection, together with the model.

Each pair is an item. Each model is one too, with the fields of the Machine Learning Model extension, and pairs link to
it by ``derived_from``. The extension's list of tasks has no change detection; semantic segmentation is the nearest.
"""

from __future__ import annotations

import math
import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

from geosiam.batch.dates import iso_date
from geosiam.errors import InputError
from geosiam.inference.scorer import model_file
from geosiam.network.weights import is_onnx
from geosiam.scores.working_file import SCORE_NODATA, SCORE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from geosiam.batch.events import PairResult
    from geosiam.batch.state import PairRecord
    from geosiam.network.weights import ModelCard, ModelFile

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
    """Return an item collection of all pairs with results and of their models, with hrefs relative to a folder."""
    completed = [(pair, pair.record) for pair in pairs if pair.record is not None]
    models = [_model_item(model) for model in _models(record for _, record in completed)]
    return {
        "type": "FeatureCollection",
        "features": [*models, *(_pair_item(pair, record, folder) for pair, record in completed)],
    }


def _pair_item(pair: PairResult, record: PairRecord, folder: Path) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "title": pair.name,
        "created": _utc(record.created),
        "processing:software": {"geosiam": record.geosiam_version},
        "geosiam:count": record.count,
        "geosiam:area_m2": record.area_m2,
        "geosiam:threshold": record.threshold,
        "geosiam:shift_px": record.shift_px,
        "geosiam:bend_px": record.bend_px,
        "geosiam:warnings": list(record.warnings),
        **_times(pair, record),
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [PROCESSING],
        "id": pair.name,
        "geometry": record.footprint,
        **({} if record.footprint is None else {"bbox": _bbox(record.footprint)}),
        "properties": properties,
        "links": [
            {"rel": "derived_from", "href": _href(pair.before), "title": "before"},
            {"rel": "derived_from", "href": _href(pair.after), "title": "after"},
            {
                "rel": "derived_from",
                "href": f"#{_model_id(record.model.name, record.model.checksum)}",
                "title": "model",
            },
        ],
        "assets": _pair_assets(pair, record, folder),
    }


def _pair_assets(pair: PairResult, record: PairRecord, folder: Path) -> dict[str, Any]:
    assert pair.scores is not None
    assert pair.anomalies is not None
    return {
        "scores": {
            "href": _relative(pair.scores, folder),
            "type": _GEOTIFF,
            "roles": ["data"],
            "title": "Anomaly probability",
            "bands": [{"name": "score", **_STORED[record.score_type]}],
        },
        "anomalies": {
            "href": _relative(pair.anomalies, folder),
            "type": "application/geopackage+sqlite3",
            "roles": ["data"],
            "title": "Polygons of anomalies",
        },
    }


def _times(pair: PairResult, record: PairRecord) -> dict[str, str | None]:
    """Return the time span of an item: that between the two scenes or, if their dates are unknown, that of the run."""
    dates = [iso_date(text, "") for text in (pair.before_date, pair.date) if text]
    if not dates:
        return {"datetime": _utc(record.created)}
    first, last = (date.start.strftime("%Y-%m-%dT%H:%M:%SZ") for date in (min(dates), max(dates)))
    return {"datetime": last} if first == last else {"datetime": None, "start_datetime": first, "end_datetime": last}


def _models(records: Iterable[PairRecord]) -> list[ModelFile]:
    """Load each model that was used, except those that do not exist any more or have changed."""
    references = dict.fromkeys(record.model for record in records)
    by_id = {_model_id(reference.name, reference.checksum): reference for reference in references}
    models = []
    for reference in by_id.values():
        try:
            model = model_file(reference.source)
        except InputError:
            continue
        if model.card.checksum == reference.checksum:
            models.append(model)
    return models


def _model_item(model: ModelFile) -> dict[str, Any]:
    card, exported = model.card, is_onnx(model.source)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [MLM],
        "id": _model_id(card.name, card.checksum),
        "geometry": None,
        "properties": {
            "title": f"{card.name}: {card.summary}",
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",  # model cards have no date, and models suit scenes of any
            "end_datetime": "2100-01-01T00:00:00Z",
            "license": card.license,
            "bands": [{"name": name} for name in _BANDS],
            "mlm:name": card.name if len(card.name) > 2 else f"geosiam {card.name}",  # noqa: PLR2004 - its pattern
            "mlm:architecture": "fully convolutional Siamese network",
            "mlm:tasks": ["semantic-segmentation"],
            **_framework(model),
            "mlm:total_parameters": sum(
                math.prod(shape)
                for name, shape in card.network.tensor_shapes().items()
                if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            ),
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
                "type": f"application/octet-stream; application={'onnx' if exported else 'safetensors'}",
                "title": f"SHA-256 {card.checksum}",
                "roles": ["mlm:model", "mlm:weights"],
                "bands": [{"name": name} for name in _BANDS],  # STAC allows them above only if an asset has them
                "mlm:artifact_type": "onnx.save" if exported else "safetensors.torch.save_file",
            }
        },
    }


def _framework(model: ModelFile) -> dict[str, str]:
    """Return the framework that runs a model file, and its version here if it is installed."""
    name, package = ("ONNX", "onnxruntime") if is_onnx(model.source) else ("PyTorch", "torch")
    try:
        return {"mlm:framework": name, "mlm:framework_version": metadata.version(package).split("+")[0]}
    except metadata.PackageNotFoundError:
        return {"mlm:framework": name}


def _inputs(model: ModelFile) -> list[dict[str, Any]]:
    """Return the description of both scenes for the Machine Learning Model extension."""
    side = model.card.receptive_field
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
    """Return the description of the scores for the same extension."""
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


def _model_id(name: str, checksum: str) -> str:
    return f"model-{name}-{checksum[:8]}"


def _utc(time: str) -> str:
    """Return a time in ISO 8601 with Z for UTC, as STAC wants it."""
    return time.replace("+00:00", "Z")


def _href(scene: str) -> str:
    """Return a link to a scene: a URL unchanged, or a path with forward slashes."""
    return scene if "://" in scene else scene.replace(os.sep, "/")


def _relative(path: Path, folder: Path) -> str:
    return f"./{path.relative_to(folder).as_posix()}"


def _bbox(geometry: Mapping[str, Any]) -> list[float]:
    lon, lat = zip(*geometry["coordinates"][0], strict=True)
    return [min(lon), min(lat), max(lon), max(lat)]
