"""What is known of each pair from one call to the next: one small file in its folder."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import torch

from geosiam import __version__
from geosiam.errors import InputError
from geosiam.imagery.scene import fingerprint
from geosiam.network.weights import load_model
from geosiam.survey.jobs import POLYGONS, SCORES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from geosiam.options import DetectOptions
    from geosiam.survey.pairs import SurveyPair

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
        See :func:`geosiam.survey.facts.facts_of`; empty unless it is done.
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


def identities(pairs: Sequence[SurveyPair], shared: DetectOptions) -> list[str]:
    """Return the digest of each pair's scenes, model and options, and of the versions that compute.

    Files count by :func:`geosiam.imagery.scene.fingerprint`, URLs by what their server says of them.
    """
    marks: Callable[[str], str] = _Remembered(_mark)
    checksums: Callable[[str], str] = _Remembered(_checksum)
    with ThreadPoolExecutor(_AT_ONCE, "geosiam-marks") as pool:
        return list(pool.map(lambda pair: _identity(pair, shared, marks, checksums), pairs))


def _identity(
    pair: SurveyPair, shared: DetectOptions, marks: Callable[[str], str], checksums: Callable[[str], str]
) -> str:
    options = pair.options(shared)
    named = {key: value for key, value in options.to_dict().items() if key not in _NOT_RESULTS}
    content = {
        "scenes": [marks(scene) or scene for scene in (pair.before, pair.after)],
        "options": named | {"model": checksums(options.model)},
        "valid area": marks(options.valid_area) if options.valid_area else "",
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
