"""What is made of all pairs of a survey together: layer, tables, items and the summary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from geosiam.errors import OutputError
from geosiam.survey.items import write_items
from geosiam.survey.merge import merge_polygons
from geosiam.survey.table import table_of, write_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from geosiam.survey.pairs import SurveyPlan
    from geosiam.survey.results import PairResult

FILES = {
    "geopackage": "survey.gpkg",
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
    state = _state(plan, pairs)
    if _is_collected(paths, state):
        there = {kind: path for kind, path in paths.items() if path.is_file()}
        return there, _remarks(there)
    paths["summary"].unlink(missing_ok=True)  # what it says of the others is about to become untrue
    done = [pair for pair in pairs if pair.done]
    if done:
        merge_polygons(done, paths["geopackage"])
    write_items(pairs, root, paths["stac"])
    write_tables(table_of(pairs, root), paths["csv"], paths["parquet"])
    _write_summary(paths["summary"], plan, pairs, state)
    there = {kind: path for kind, path in paths.items() if path.is_file()}
    return there, _remarks(there)


def _remarks(there: dict[str, Path]) -> tuple[str, ...]:
    found = []
    if "geopackage" not in there:
        found.append("no pair is done, so there is no survey.gpkg")
    if "parquet" not in there:
        found.append("survey.parquet needs pyarrow, which is not installed: pip install 'geosiam[survey]'")
    return tuple(found)


def _state(plan: SurveyPlan, pairs: Sequence[PairResult]) -> str:
    content = [[pair.name, pair.identity, pair.status, pair.error, pair.facts.get("created")] for pair in pairs]
    lonely = [asdict(scene) for scene in plan.unpaired]
    return hashlib.sha256(json.dumps([content, lonely, plan.notes], sort_keys=True).encode()).hexdigest()[:32]


def _is_collected(paths: dict[str, Path], state: str) -> bool:
    try:
        said = json.loads(paths["summary"].read_text(encoding="utf-8"))["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(said == state) and paths["csv"].is_file() and paths["stac"].is_file()


def _write_summary(target: Path, plan: SurveyPlan, pairs: Sequence[PairResult], state: str) -> None:
    failed = [pair for pair in pairs if not pair.done]
    content = {
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
        "state": state,
    }
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "check permissions and free disk space") from error
