"""What is made of all pairs of a survey together: layer, tables, items and the summary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from geosiam.batch.merge import merge_polygons
from geosiam.batch.stac_output import write_items
from geosiam.errors import OutputError
from geosiam.report import ReportOptions, ReportPair, page_digest, write_report
from geosiam.report.api import PAGE
from geosiam.report.inputs import MERGED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from geosiam.batch.events import PairResult
    from geosiam.batch.plan import BatchPlan
    from geosiam.report.inputs import Fact

FILES = {
    "geopackage": MERGED,
    "csv": "survey.csv",
    "parquet": "survey.parquet",
    "stac": "survey-items.json",
    "summary": "summary.json",
}
"""Names of these files in the survey's folder."""


def collect(plan: BatchPlan, pairs: Sequence[PairResult], root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
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


def state_of(plan: BatchPlan, pairs: Sequence[PairResult]) -> str:
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


def _content(plan: BatchPlan, pairs: Sequence[PairResult]) -> dict[str, Any]:
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


_TYPES = {
    "pair": "str", "site": "str", "before": "str", "after": "str", "before_date": "str", "date": "str", "status": "str",
    "count": "Int64", "area_m2": "Float64", "score_max": "Float64", "threshold": "Float64", "seconds": "Float64",
    "mpx": "Float64", "shift_px": "Float64", "overlap_fraction": "Float64", "valid_fraction": "Float64",
    "crs": "str", "model": "str", "precision": "str", "memory_mb": "Float64", "holes": "Int64", "attempts": "Int64",
    "warnings": "str", "error": "str", "anomalies": "str", "scores": "str",
}  # fmt: skip
COLUMNS = tuple(_TYPES)


def table_of(pairs: Sequence[PairResult], folder: Path) -> pd.DataFrame:
    """Return one row a pair with the columns :data:`COLUMNS`; results by their paths relative to the folder."""
    rows = [_row(pair, folder) for pair in pairs]
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in _TYPES.items()})


def write_tables(frame: pd.DataFrame, csv: Path, parquet: Path) -> None:
    """Write the table as CSV and as Parquet.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    _replacing(csv, lambda partial: frame.to_csv(partial, index=False))
    _replacing(parquet, lambda partial: frame.to_parquet(partial, index=False))


def _row(pair: PairResult, folder: Path) -> dict[str, Any]:
    facts = pair.facts
    told = {name: facts.get(name) for name in _TYPES if name in facts}
    return dict.fromkeys(_TYPES) | told | {
        "pair": pair.name,
        "site": pair.site,
        "before": pair.before,
        "after": pair.after,
        "before_date": pair.before_date,
        "date": pair.date,
        "status": pair.status,
        "mpx": facts["pixels"] / 1e6 if facts else None,
        "model": facts["model"]["name"] if facts else "",
        "precision": facts["computed"]["precision"] if facts else "",
        "crs": facts.get("crs", ""),
        "attempts": pair.attempts,
        "warnings": " | ".join(facts.get("warnings", ())),
        "error": pair.error,
        "anomalies": _relative(pair.anomalies, folder),
        "scores": _relative(pair.scores, folder),
    }  # fmt: skip


def _relative(path: Path | None, folder: Path) -> str:
    return "" if path is None else path.relative_to(folder).as_posix()


def _replacing(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file that appears under its name complete, or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        write(partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(target, f"cannot be written ({error})", "check permissions and free disk space") from error


FOLDER = "report"
"""Name of the page's folder in that of the survey."""

_log = logging.getLogger(__name__)


def renewed_page(plan: BatchPlan, pairs: Sequence[PairResult], root: Path) -> tuple[Path | None, str | None]:
    """Write the page of a survey, unless it is there already for just these results.

    Whatever goes wrong, the results of the survey stand.

    Returns
    -------
    page
        Where it is; None if it could not be made.
    remark
        Why it could not; None otherwise.
    """
    page = root / FOLDER / PAGE
    digest = state_of(plan, pairs)
    if page_digest(page) == digest:
        return page, None
    options = ReportOptions(title=root.name)
    try:
        made = write_report(report_pairs(pairs), page.parent, options=options, unmatched=plan.unpaired, digest=digest)
    except Exception as error:  # noqa: BLE001 - the night's work must not end with a page that cannot be drawn
        _log.debug("the page could not be made", exc_info=True)
        return None, f"there is no new page of the survey: {error}"
    return made.path, None


def report_pairs(pairs: Sequence[PairResult]) -> list[ReportPair]:
    """Return the pairs as the page takes them, under names of which no two are the same."""
    taken = {pair.name for pair in pairs if pair.done}
    shown = []
    for pair in pairs:
        name = pair.name if pair.done else _free_name(pair.name, taken)
        taken.add(name)
        error = None if pair.done else pair.error
        shown.append(
            ReportPair(name, pair.before, pair.after, pair.scores, pair.anomalies, pair.status, _facts(pair), error)
        )
    return shown


def _free_name(name: str, taken: set[str]) -> str:
    """Return the name, numbered if it is taken: pairs may have failed because they share one."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def _facts(pair: PairResult) -> dict[str, Fact]:
    told: dict[str, Fact] = {"Site": pair.site, "Date before": pair.before_date, "Date after": pair.date}
    if pair.done:
        overlap = pair.facts["overlap_fraction"]
        told |= {
            "Size": f"{pair.facts['pixels'] / 1e6:.3g} Mpx",
            "Overlap": None if overlap is None else f"{overlap:.0%}",
            "Took": f"{pair.facts['seconds']:.3g} s",
        }
    return {label: value for label, value in told.items() if value not in ("", None)}
