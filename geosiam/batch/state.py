"""What is known of each pair from one call to the next: one small file in its folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import shapely
import torch

from geosiam import __version__
from geosiam.batch.inventory import footprint_of
from geosiam.batch.pool import POLYGONS, SCORES
from geosiam.errors import InputError
from geosiam.imagery.scene_info import fingerprint
from geosiam.network.weights import load_model
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from geosiam.batch.plan import BatchPair
    from geosiam.options import DetectOptions
    from geosiam.results import DetectResult

RECORD, LOG = "result.json", "log.jsonl"
"""Names of the record and the log in a pair's folder."""

_FORMAT = 1
_NOT_RESULTS = ("workers", "scheduler", "restart")
_AT_ONCE = 8
_SECONDS = 10.0


@dataclass(frozen=True)
class Record:
    """What became of a pair.

    Parameters
    ----------
    status
        ``started``, ``done`` or ``failed``.
    identity
        Digest of what the results depend on.
    attempts
        How often it was begun in the last call that ran it.
    facts
        See :func:`geosiam.batch.state.facts_of`; empty unless it is done.
    error
        Why it failed; empty otherwise.
    """

    status: str
    identity: str
    attempts: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def load_record(folder: Path) -> Record | None:
    """Return the record in a pair's folder; None if there is none, or none that can be read."""
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if values.pop("geosiam_survey") != _FORMAT:
            return None
        return Record(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_record(folder: Path, record: Record) -> None:
    """Replace the record in a pair's folder."""
    partial = folder / f".{RECORD}.new"
    text = json.dumps({"geosiam_survey": _FORMAT, **vars(record)}, indent=1, default=str)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)


def is_finished(folder: Path, record: Record, identity: str) -> bool:
    """Return whether a pair needs no work: its record says so, of the same identity, and its results are there."""
    return (
        record.status == "done"
        and record.identity == identity
        and (folder / SCORES).is_file()
        and (folder / POLYGONS).is_file()
    )


def identities(pairs: Sequence[BatchPair], shared: DetectOptions) -> list[str]:
    """Return the digest of each pair's scenes, model and options, and of the versions that compute.

    Files count by :func:`geosiam.imagery.scene_info.fingerprint`, URLs by what their server says of them.
    """
    marks: Callable[[str], str] = _Remembered(_mark)
    checksums: Callable[[str], str] = _Remembered(_checksum)
    with ThreadPoolExecutor(_AT_ONCE, "geosiam-marks") as pool:
        return list(pool.map(lambda pair: _identity(pair, shared, marks, checksums), pairs))


def _identity(
    pair: BatchPair, shared: DetectOptions, marks: Callable[[str], str], checksums: Callable[[str], str]
) -> str:
    options = pair.options(shared)
    named = {key: value for key, value in options.to_dict().items() if key not in _NOT_RESULTS}
    content = {
        "scenes": [marks(scene) or scene for scene in (pair.before, pair.after)],
        "options": named | {"model": checksums(options.model)},
        "valid area": marks(os.fspath(options.aoi)) if options.aoi else "",
        "versions": [__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


class _Remembered:
    """A function of one text that is computed once for each; one template may be in every pair."""

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        if text not in self._known:
            self._known[text] = self._function(text)
        return self._known[text]


def _mark(scene: str) -> str:
    if scene.startswith(("http://", "https://")):
        return _mark_of_url(scene)
    try:
        return fingerprint(scene)
    except InputError as error:
        return str(error)


def _mark_of_url(url: str) -> str:
    """Return what tells a changed file on a server; empty where the server does not say."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_SECONDS) as answer:  # noqa: S310 - http and https only
            return " ".join(str(answer.headers.get(name)) for name in ("ETag", "Last-Modified", "Content-Length"))
    except (OSError, ValueError):
        return ""


def _checksum(model: str) -> str:
    try:
        return load_model(model).card.checksum
    except InputError as error:
        return str(error)


def facts_of(found: DetectResult, seconds: float) -> dict[str, Any]:
    """Return the numbers of a pair that its survey lists.

    Parameters
    ----------
    found
        What `detect` left.
    seconds
        How long it took.
    """
    record = found.provenance.to_dict()
    pair = record["pair"]
    height, width = pair["before"]["height"], pair["before"]["width"]
    area, highest = _of_polygons(found.polygons_path)
    footprint = footprint_of(ScoreRaster.open(found.scores_path).grid)
    return {
        "count": found.count,
        "area_m2": area,
        "score_max": highest,
        "threshold": found.threshold,
        "seconds": round(seconds, 3),
        "pixels": height * width,
        "overlap_fraction": pair["overlap_fraction"],
        "valid_fraction": pair["valid_fraction"],
        "shift_px": pair["shift_px"],
        "corrected": any(pair["moved_px"]),
        "pixel_size": list(pair["before"]["pixel_size"]),
        "crs": pair["before"]["crs"],
        "footprint": None if footprint is None else shapely.geometry.mapping(footprint),
        "model": record["model"],
        "score_type": record["options"]["score_type"],
        "computed": record["computed"],
        "geosiam_version": record["geosiam_version"],
        "created": record["created"],
        "holes": len(found.unreadable),
        "warnings": [*found.warnings, *(f"no scores: {hole.reason}" for hole in found.unreadable)],
    }


def memory_now() -> dict[str, float]:
    """Return the memory of this process in MB: what it holds, and the most it ever held."""
    peak = held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with contextlib.suppress(OSError):
        # On Linux that counts what the process which started this one held, too.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        told = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB", status, re.MULTILINE))
        held, peak = (float(told.get(name, peak * 1024)) / 1024 for name in ("VmRSS", "VmHWM"))
    return {"held_mb": round(held, 1), "peak_mb": round(peak, 1)}


def _of_polygons(path: Path) -> tuple[float, float | None]:
    """Return the area of all polygons in square metres, and the highest score of any."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        area, highest = db.execute("SELECT total(area_m2), max(score_max) FROM anomalies").fetchone()
    return float(area), highest
