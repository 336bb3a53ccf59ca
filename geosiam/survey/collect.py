"""What is made of all pairs of a survey together: layer, tables, items and the summary."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from geosiam.errors import OutputError
from geosiam.report.pairs import MERGED
from geosiam.survey.items import write_items
from geosiam.survey.merge import merge_polygons
from geosiam.survey.table import table_of, write_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from geosiam.survey.pairs import SurveyPlan
    from geosiam.survey.results import PairResult

FILES = {
    "geopackage": MERGED,
    "csv": "survey.csv",
    "parquet": "survey.parquet",
    "stac": "survey-items.json",
    "summary": "summary.json",
}
"""Names of these files in the survey's folder."""


def collect(plan: SurveyPlan, pairs: Sequence[PairResult], root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Write what is made of all pairs together, unless it is there already for just these.

    Returns
    -------
    files
        What is there, by the names of :data:`FILES`.
    remarks
        What is missing, and why.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    paths = {kind: root / name for kind, name in FILES.items()}
    if not any(pair.done for pair in pairs):
        del paths["geopackage"]  # one that is there has the polygons of an earlier call, and maybe verdicts
    state = state_of(plan, pairs)
    said = _summary(paths["summary"])
    if said.get("state") != state or not all(path.is_file() for path in paths.values()):
        paths["summary"].unlink(missing_ok=True)  # what it says of the others is about to become untrue
        left_out = merge_polygons(pairs, paths["geopackage"]) if "geopackage" in paths else ()
        write_items(pairs, root, paths["stac"])
        write_tables(table_of(pairs, root), paths["csv"], paths["parquet"])
        said = {**_content(plan, pairs), "not_merged": list(left_out), "state": state}
        _write_summary(paths["summary"], said)
    return {kind: path for kind, path in paths.items() if path.is_file()}, _remarks(paths, said)


def _remarks(paths: dict[str, Path], said: dict[str, Any]) -> tuple[str, ...]:
    found = [
        f"{name}: is not in survey.gpkg, since nothing leads from its coordinate system to the others'"
        for name in said.get("not_merged", ())
    ]
    if "geopackage" not in paths:
        found.append("no pair is done, so there is no new survey.gpkg")
    return tuple(found)


def state_of(plan: SurveyPlan, pairs: Sequence[PairResult]) -> str:
    """Return a digest of what is made of all pairs: it changes when any of it would, verdicts included."""
    content = [
        [pair.name, pair.identity, pair.status, pair.error, pair.facts.get("created"), _changed(pair.anomalies)]
        for pair in pairs
    ]
    lonely = [asdict(scene) for scene in plan.unpaired]
    return hashlib.sha256(json.dumps([content, lonely, plan.notes], sort_keys=True).encode()).hexdigest()[:32]


def _changed(path: Path | None) -> int:
    with contextlib.suppress(OSError):
        return 0 if path is None else path.stat().st_mtime_ns
    return 0


def _summary(path: Path) -> dict[str, Any]:
    """Return what the summary says; nothing where it is not there or something else is."""
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(path.read_text(encoding="utf-8"))
        return said if isinstance(said, dict) else {}
    return {}


def _content(plan: SurveyPlan, pairs: Sequence[PairResult]) -> dict[str, Any]:
    failed = [pair for pair in pairs if not pair.done]
    return {
        "pairs": len(pairs),
        "done": len(pairs) - len(failed),
        "failed": [
            {"name": pair.name, "before": pair.before, "after": pair.after, "error": pair.error} for pair in failed
        ],
        "unpaired": [asdict(scene) for scene in plan.unpaired],
        "notes": list(plan.notes),
        "anomalies": sum(pair.facts["count"] for pair in pairs if pair.done),
        "area_m2": sum(pair.facts["area_m2"] for pair in pairs if pair.done),
        "warnings": {pair.name: pair.facts["warnings"] for pair in pairs if pair.done and pair.facts["warnings"]},
    }


def _write_summary(target: Path, content: dict[str, Any]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "check permissions and free disk space") from error
