"""Provenance of a result: what is recorded in it, and what a run must have in common with the one it resumes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from geosiam import __version__
from geosiam.files import file_name, parse_json
from geosiam.polygons.table import Origin
from geosiam.scores.raster import SCENE_TAG, STRIDE_TAG, THRESHOLD_TAG
from geosiam.scores.working_file import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geosiam.imagery.grid import Block, Grid
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.pair_report import PairReport
    from geosiam.inference.scorer import Scorer
    from geosiam.network.weights import ModelFile
    from geosiam.options import ScoreOptions

_DECISIONS = (
    "before_bands", "after_bands", "alignment", "resampling", "scaling", "radiometry", "overlap", "shift", "moved_px",
    "displacement",
)  # fmt: skip


@dataclass(frozen=True)
class UnreadableBlock:
    """A block without scores, because a scene cannot be decoded there.

    Parameters
    ----------
    rows, cols
        Its pixels of the before scene, half-open.
    reason
        The reader's message.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    reason: str

    @classmethod
    def of(cls, block: Block, stride: int, grid: Grid, error: Exception) -> Self:
        """Return the pixels of a block of cells, which end where the scene ends."""
        cells, (height, width) = block.cells, grid.shape
        rows = cells.row_start * stride, min(cells.row_stop * stride, height)
        cols = cells.col_start * stride, min(cells.col_stop * stride, width)
        return cls(rows, cols, str(error))


@dataclass(frozen=True)
class ModelReference:
    """The weights that scored: the name or path that the user gave, their own name, and their checksum."""

    source: str
    name: str
    checksum: str


@dataclass(frozen=True)
class Computation:
    """How the forward pass was computed: type of the device, names of the precision and of the engine."""

    device: str
    precision: str
    engine: str = "torch"


@dataclass(frozen=True)
class Provenance:
    """Inputs, model, options and version that scores were computed with.

    Parameters
    ----------
    geosiam_version
        Version of geosiam that computed the scores.
    created
        Time of the run, ISO 8601, UTC.
    pair
        How both scenes were read.
    model
        Weights that scored.
    options
        Options of the run.
    computed
        Device, precision and engine of the forward pass.
    unreadable
        Blocks without scores because a scene cannot be decoded there.
    """

    geosiam_version: str
    created: str
    pair: PairReport
    model: ModelReference
    options: ScoreOptions
    computed: Computation
    unreadable: tuple[UnreadableBlock, ...] = ()

    @classmethod
    def of(cls, pair: ScenePair, model: ModelFile, scorer: Scorer, options: ScoreOptions) -> Self:
        """Return the provenance of scores that are about to be computed."""
        return cls(
            geosiam_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            pair=pair.report,
            model=ModelReference(model.source, model.card.name, model.card.checksum),
            options=options,
            computed=Computation(scorer.engine.device_type, scorer.engine.precision, scorer.engine.name),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "geosiam_version": self.geosiam_version,
            "created": self.created,
            "pair": self.pair.to_dict(),
            "model": asdict(self.model),
            "options": self.options.to_dict(),
            "computed": asdict(self.computed),
            "warnings": list(self.pair.warnings),
            "unreadable": [asdict(block) for block in self.unreadable],
        }

    def tags(self, model: ModelFile, grid: Grid) -> dict[str, str]:
        """Return the tags of the score raster of a scene's grid."""
        shift = self.pair.shift_px
        tags = {
            "GEOSIAM_VERSION": self.geosiam_version,
            STRIDE_TAG: str(model.card.stride),
            SCENE_TAG: f"{grid.height} {grid.width}",
            "GEOSIAM_MODEL": model.card.name,
            THRESHOLD_TAG: str(model.card.threshold),
            "GEOSIAM_PROVENANCE": json.dumps(self.to_dict(), sort_keys=True),
        }
        return tags if shift is None else {**tags, "GEOSIAM_SHIFT_PX": str(shift)}


def recorded(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance that the tags of a score raster hold, as JSON has it; nothing where they hold none."""
    try:
        record = parse_json(tags.get("GEOSIAM_PROVENANCE", "{}"))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def inputs_read(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run has read, and the fingerprints of it, by role; nothing where the record does not say."""
    pair = record.get("pair", {})
    scenes = {role: pair[role] for role in ("before", "after") if role in pair}
    if not scenes:
        return {}
    area = record.get("options", {}).get("aoi")
    model = record.get("model", {})
    heights = record.get("heights", {})
    scenes |= {role: heights[role] for role in ("before_dsm", "after_dsm") if role in heights}
    return {
        "inputs": {role: scene["name"] for role, scene in scenes.items()} | ({"aoi": area} if area else {}),
        "fingerprints": {role: scene["fingerprint"] for role, scene in scenes.items()}
        | ({"model": model["checksum"]} if "checksum" in model else {}),
    }


def origin(tags: Mapping[str, str]) -> Origin:
    """Return the origin that each polygon records, from the tags of its score raster."""
    record = recorded(tags)
    pair = record.get("pair", {})
    before, after = (file_name(pair[scene]["name"]) if scene in pair else None for scene in ("before", "after"))
    shift = tags.get("GEOSIAM_SHIFT_PX")
    return Origin(before, after, record.get("created"), None if shift is None else float(shift))


def identity(pair: ScenePair, model: ModelFile, scorer: Scorer, options: ScoreOptions) -> dict[str, str]:
    """Return digests of everything that the scores depend on, by the names that error messages use.

    Two runs that differ in none of these have bit-identical scores, so one may resume where the other stopped. Where
    the work is done, and what the scores are used for, is not part of it.
    """
    from geosiam.inference.scorer import BLOCK_PX, FORWARD_PX  # noqa: PLC0415 - brings dask, as a scorer has done

    report = pair.report.to_dict()
    area = pair.aoi
    return {
        "before scene": _version(report["before"]),
        "after scene": _version(report["after"]),
        "model": model.card.checksum,
        "area of interest": "" if area is None else _digest([polygon.wkb_hex for polygon in area.polygons]),
        "choice of bands, nodata, registration or radiometry": _digest(
            [options.bands_of_scenes, options.nodata, options.register, options.radiometry]
        ),
        "reading of the scenes": _digest([report[decision] for decision in _DECISIONS]),
        "engine": scorer.engine.name,
        "device or precision": f"{scorer.engine.device_type} {scorer.engine.precision}",
        "version of geosiam or of its engine": f"{__version__} {scorer.engine.version} {BLOCK_PX} {FORWARD_PX}",
    }


def _version(scene: dict[str, Any]) -> str:
    """Return a digest of a scene without its name, because the same file may be called by another path."""
    if not scene["fingerprint"]:
        return UNKNOWN
    return _digest({key: value for key, value in scene.items() if key != "name"})


def _digest(value: Sequence[Any] | dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
