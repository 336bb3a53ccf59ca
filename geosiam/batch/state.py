"""The state of each pair between calls, in a small file in its folder, and whether the pair is up to date."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import shapely

from geosiam import __version__
from geosiam.batch.inventory import footprint_of
from geosiam.batch.pool import POLYGONS, SCORES
from geosiam.errors import InputError, redacted
from geosiam.files import atomic_write, file_and_layer, parse_json
from geosiam.imagery.scene_info import fingerprint
from geosiam.inference.scorer import engine_version, model_file
from geosiam.provenance import ModelReference
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from geosiam.batch.plan import BatchPair
    from geosiam.options import DetectOptions
    from geosiam.results import DetectResult

STATE, LOG = "result.json", "log.jsonl"
"""File names of the state and the log in a pair's folder."""

_FORMAT_KEY, _FORMAT = "geosiam_survey", 1
_OPTIONS_WITHOUT_EFFECT = ("workers", "scheduler", "restart", "engine")  # on the results, but for its version
_FINGERPRINT_THREADS = 8


@dataclass(frozen=True)
class PairRecord:
    """Metadata of a pair's results, for the tables, items and pages of its batch.

    Parameters
    ----------
    count
        Number of polygons.
    area_m2
        Total area of the polygons in square meters.
    score_max
        Highest score of any polygon; None without polygons.
    threshold
        Anomaly probability at which the polygons were cut.
    seconds
        Run time in seconds.
    pixels
        Pixels of the before scene.
    overlap_fraction, valid_fraction
        Fraction of the before scene that both scenes cover, and estimated fraction of valid pixels of that.
    shift_px
        Misregistration that remains, in pixels; None if unknown.
    corrected
        Whether a shift between the scenes was corrected.
    pixel_size, crs
        Pixel size and coordinate reference system of the before scene.
    footprint
        Outline of the scores in WGS 84, as a GeoJSON geometry; None where that is undefined.
    model
        The model that was used.
    score_type
        How scores are stored: ``uint8`` or ``float32``.
    device, precision, engine
        Where, with which arithmetic and in which library the network ran.
    geosiam_version, created
        Version of geosiam, and time of the run in ISO 8601.
    unreadable
        Number of blocks without scores because a scene cannot be decoded there.
    warnings
        Remarkable facts about the pair, unreadable blocks included.
    memory_mb
        Peak memory of the worker process in MB; None if not measured.
    bend_px
        How far the scenes bend apart before any correction: 95th percentile of the distance from one shift, in pixels;
        None if unknown.
    field_applied
        Whether that was corrected: the after scene was read through a displacement field.
    misfit
        Why the scenes do not fit as they were read, or why that is not known; None if they fit.
    """

    count: int
    area_m2: float
    score_max: float | None
    threshold: float
    seconds: float
    pixels: int
    overlap_fraction: float | None
    valid_fraction: float | None
    shift_px: float | None
    corrected: bool
    pixel_size: tuple[float, float]
    crs: str
    footprint: Mapping[str, Any] | None
    model: ModelReference
    score_type: str
    device: str
    precision: str
    geosiam_version: str
    created: str
    unreadable: int
    warnings: tuple[str, ...]
    memory_mb: float | None = None
    bend_px: float | None = None
    field_applied: bool = False
    engine: str = "torch"
    misfit: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as it stands in files: plain values that JSON can hold."""
        values = asdict(self)
        values["computed"] = {key: values.pop(key) for key in ("device", "precision", "engine")}
        values["holes"] = values.pop("unreadable")
        return values | {"pixel_size": list(self.pixel_size), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that :meth:`to_dict` wrote.

        Raises
        ------
        KeyError, TypeError
            The values are something else.
        """
        fields = dict(values)
        fields |= fields.pop("computed")
        fields["unreadable"] = fields.pop("holes")
        fields["model"] = ModelReference(**fields["model"])
        fields["pixel_size"] = tuple(fields["pixel_size"])
        fields["warnings"] = tuple(fields["warnings"])
        if not all(isinstance(fields[name], int) for name in ("count", "pixels", "unreadable")):
            raise TypeError("a number of the record is none")
        return cls(**fields)


def pair_metadata(result: DetectResult, seconds: float) -> PairRecord:
    """Collect the metadata of a pair's results.

    Parameters
    ----------
    result
        Result of `detect`.
    seconds
        Its run time in seconds.
    """
    provenance, report = result.provenance, result.report
    local = report.displacement or {}
    area, score_max = _polygon_statistics(result.polygons_path)
    footprint = footprint_of(ScoreRaster.open(result.scores_path).grid)
    return PairRecord(
        count=result.count,
        area_m2=area,
        score_max=score_max,
        threshold=result.threshold,
        seconds=round(seconds, 3),
        pixels=report.before.height * report.before.width,
        overlap_fraction=report.overlap_fraction,
        valid_fraction=report.valid_fraction,
        shift_px=report.shift_px,
        corrected=any(report.moved_px) or local.get("applied", False),
        pixel_size=report.before.pixel_size,
        crs=report.before.crs,
        footprint=None if footprint is None else shapely.geometry.mapping(footprint),
        model=provenance.model,
        score_type=provenance.options.score_type,
        device=provenance.computed.device,
        precision=provenance.computed.precision,
        engine=provenance.computed.engine,
        geosiam_version=provenance.geosiam_version,
        created=provenance.created,
        unreadable=len(result.unreadable),
        warnings=(
            *_with_misfit(result.warnings, report.misfit),
            *(f"no scores: {block.reason}" for block in result.unreadable),
        ),
        bend_px=local.get("p95_px"),
        field_applied=local.get("applied", False),
        misfit=report.misfit,
    )


def _with_misfit(warnings: Sequence[str], misfit: str | None) -> tuple[str, ...]:
    """Return the warnings about a pair, of which one says why its scenes do not fit."""
    is_listed = misfit is None or any(warning.startswith(misfit) for warning in warnings)
    return (*warnings, *([] if is_listed else [str(misfit)]))


def _polygon_statistics(path: Path) -> tuple[float, float | None]:
    """Return the total area of the polygons in square meters, and the highest score of any."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        area, score_max = db.execute("SELECT total(area_m2), max(score_max) FROM anomalies").fetchone()
    return float(area), score_max


@dataclass(frozen=True)
class PairState:
    """The state of a pair.

    Parameters
    ----------
    status
        ``started``, ``done`` or ``failed``.
    identity
        Digest of everything the results depend on; see :func:`identities`.
    attempts
        Number of attempts in the last call that ran it.
    record
        Metadata of its results; None unless it is done.
    error
        Why it failed; empty otherwise.
    """

    status: str
    identity: str
    attempts: int = 0
    record: PairRecord | None = None
    error: str = ""


def load_state(folder: Path) -> PairState | None:
    """Return the state in a pair's folder; None if there is none, or none that this version can read."""
    try:
        values = parse_json((folder / STATE).read_text(encoding="utf-8"))
        if values.pop(_FORMAT_KEY) != _FORMAT:
            return None
        facts = values.pop("facts")
        state = PairState(**values, record=PairRecord.from_dict(facts) if facts else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    texts = all(isinstance(text, str) for text in (state.status, state.identity, state.error))
    return state if texts and isinstance(state.attempts, int) else None


def save_state(folder: Path, state: PairState) -> None:
    """Replace the state in a pair's folder."""
    content = {
        _FORMAT_KEY: _FORMAT,
        "status": state.status,
        "identity": state.identity,
        "attempts": state.attempts,
        "facts": {} if state.record is None else state.record.to_dict(),
        "error": redacted(state.error),
    }
    with atomic_write(folder / STATE) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def is_up_to_date(folder: Path, state: PairState, identity: str) -> bool:
    """Return whether a pair need not run: it is done, nothing it depends on has changed, and its results exist."""
    return (
        state.status == "done"
        and state.record is not None
        and identity != ""
        and state.identity == identity
        and (folder / SCORES).is_file()
        and (folder / POLYGONS).is_file()
    )


def identities(pairs: Sequence[BatchPair], shared: DetectOptions) -> list[str]:
    """Return a digest of each pair's scenes, model and options, and of the versions of geosiam and PyTorch.

    Scenes are compared by :func:`geosiam.imagery.scene_info.fingerprint`. An empty digest means that nothing tells
    whether a scene has changed, for example because a server names neither a date nor an ETag; such a pair must run
    again.

    Parameters
    ----------
    pairs
        Pairs of a plan.
    shared
        Options of the batch.
    """
    fingerprints = functools.cache(_fingerprint)  # one template may be in every pair
    checksums = functools.cache(_checksum)
    engines = functools.cache(_engine_version)
    with ThreadPoolExecutor(_FINGERPRINT_THREADS, "geosiam-fingerprints") as pool:
        return list(pool.map(lambda pair: _identity(pair, shared, fingerprints, checksums, engines), pairs))


def _identity(
    pair: BatchPair,
    shared: DetectOptions,
    fingerprints: Callable[[str], str],
    checksums: Callable[[str], str],
    engines: Callable[[str, str], str],
) -> str:
    options = pair.options(shared)
    inputs = [pair.before, pair.after, *([] if options.aoi is None else [file_and_layer(options.aoi)[0]])]
    inputs += options.dsm or ()
    versions = [fingerprints(path) for path in inputs]
    if not all(versions):
        return ""
    values = {key: value for key, value in options.to_dict().items() if key not in _OPTIONS_WITHOUT_EFFECT}
    content = {
        "inputs": versions,
        "options": values | {"model": checksums(options.model)},
        "versions": [__version__, engines(options.engine, options.model)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _fingerprint(path: str) -> str:
    try:
        return fingerprint(path)
    except InputError as error:
        return str(error)  # the run reports it


def _checksum(model: str) -> str:
    try:
        return model_file(model).card.checksum
    except InputError as error:
        return str(error)  # likewise


def _engine_version(engine: str, model: str) -> str:
    try:
        return engine_version(engine, model)
    except InputError as error:
        return str(error)  # likewise
