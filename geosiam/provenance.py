"""Where a result comes from: what is recorded in it, and what a run must have in common with the one it continues."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from geosiam import __version__
from geosiam.polygons.table import Origin
from geosiam.scores.raster import SCENE_TAG, STRIDE_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geosiam.imagery.pair import ScenePair
    from geosiam.inference.scorer import Scorer
    from geosiam.network.weights import Model
    from geosiam.options import DetectOptions

_DECISIONS = (
    "before_bands", "after_bands", "alignment", "resampling", "scaling", "radiometry", "overlap", "shift", "moved_px",
)  # fmt: skip


def provenance(pair: ScenePair, model: Model, scorer: Scorer, options: DetectOptions) -> dict[str, Any]:
    """Return everything that says how a result came about, as JSON can hold it."""
    from geosiam.inference.device import precision_name  # noqa: PLC0415 - brings PyTorch, which a scorer has brought

    return {
        "geosiam_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "pair": pair.report.to_dict(),
        "model": {"source": model.source, "name": model.card.name, "checksum": model.card.checksum},
        "options": options.to_dict(),
        "computed": {"device": scorer.device.type, "precision": precision_name(scorer.dtype)},
        "warnings": list(pair.report.warnings),
    }


def raster_tags(pair: ScenePair, model: Model, record: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a score raster, which carry its provenance."""
    shift = record["pair"].get("shift_px")
    tags = {
        "GEOSIAM_VERSION": __version__,
        STRIDE_TAG: str(model.card.stride),
        SCENE_TAG: f"{pair.grid.height} {pair.grid.width}",
        "GEOSIAM_MODEL": model.card.name,
        "GEOSIAM_THRESHOLD": str(model.card.threshold),
        "GEOSIAM_PROVENANCE": json.dumps(record, sort_keys=True),
    }
    return tags if shift is None else {**tags, "GEOSIAM_SHIFT_PX": str(shift)}


def origin(record: dict[str, Any], tags: Mapping[str, str]) -> Origin:
    """Return what each polygon says of where it comes from, by the provenance and the tags of a score raster."""
    pair = record.get("pair", {})
    before, after = (PurePath(pair[scene]["name"]).name if scene in pair else None for scene in ("before", "after"))
    shift = tags.get("GEOSIAM_SHIFT_PX")
    return Origin(before, after, record.get("created"), None if shift is None else float(shift))


def identity(pair: ScenePair, model: Model, scorer: Scorer, options: DetectOptions) -> dict[str, str]:
    """Return what the scores depend on: a digest each, by the name that a refusal calls it.

    Two runs that differ in nothing here have the same scores to the bit, so one may go on where the other stopped.
    Who does the work, and what becomes of the scores, is not part of it.
    """
    import torch  # noqa: PLC0415 - slow to import, and a scorer has done so already

    from geosiam.inference.device import precision_name  # noqa: PLC0415 - likewise
    from geosiam.inference.scorer import BLOCK_PX, FORWARD_PX  # noqa: PLC0415 - likewise

    report = pair.report.to_dict()
    area = pair.aoi
    return {
        "before-scene": _digest(_content(report["before"])),
        "after-scene": _digest(_content(report["after"])),
        "model": model.card.checksum,
        "valid area": "" if area is None else _digest([polygon.wkb_hex for polygon in area.polygons]),
        "choice of bands, registration or radiometry": _digest([options.bands, options.register, options.radiometry]),
        "reading of the scenes": _digest([report[decision] for decision in _DECISIONS]),
        "device or precision": f"{scorer.device.type} {precision_name(scorer.dtype)}",
        "version of geosiam or torch": f"{__version__} {torch.__version__} {BLOCK_PX} {FORWARD_PX}",
    }


def _content(facts: dict[str, Any]) -> dict[str, Any]:
    """Leave out the name of a file that has a fingerprint: it may be called by another path."""
    return {key: value for key, value in facts.items() if key != "name" or not facts["fingerprint"]}


def _digest(value: Sequence[Any] | dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
