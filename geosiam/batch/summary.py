"""Write the results of all pairs together: merged polygons, tables, STAC items, the summary, and the page."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from geosiam.batch.merge import merge_polygons
from geosiam.batch.pool import POLYGONS, SCORES
from geosiam.batch.stac_output import item_collection
from geosiam.errors import OutputError, redacted
from geosiam.files import atomic_write, check_writable, parse_json
from geosiam.report import ReportOptions, ReportPair, page_digest, write_report
from geosiam.report.api import PAGE
from geosiam.report.inputs import MERGED
from geosiam.targets import refuse_overwriting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from geosiam.batch.events import PairResult
    from geosiam.batch.plan import BatchPlan
    from geosiam.batch.state import PairRecord
    from geosiam.options import DetectOptions
    from geosiam.report.inputs import Fact

FILES = {
    "geopackage": MERGED,
    "csv": "survey.csv",
    "parquet": "survey.parquet",
    "stac": "survey-items.json",
    "summary": "summary.json",
}
"""File names of these results in the folder of the batch."""

REPORT_FOLDER = "report"
"""Name of the folder of the page in the folder of the batch."""

_TYPES = {
    "pair": "str", "site": "str", "before": "str", "after": "str", "before_date": "str", "date": "str", "status": "str",
    "count": "Int64", "area_m2": "Float64", "score_max": "Float64", "threshold": "Float64", "seconds": "Float64",
    "mpx": "Float64", "shift_px": "Float64", "bend_px": "Float64", "overlap_fraction": "Float64",
    "valid_fraction": "Float64", "crs": "str", "model": "str", "precision": "str", "memory_mb": "Float64",
    "holes": "Int64", "attempts": "Int64", "warnings": "str", "error": "str", "anomalies": "str", "scores": "str",
}  # fmt: skip
COLUMNS = tuple(_TYPES)
"""Columns of the table of pairs."""

_log = logging.getLogger(__name__)


def check_outputs(plan: BatchPlan, detect: DetectOptions, root: Path) -> None:
    """Refuse a folder in which a file of the batch as a whole cannot be written, or is one that the batch reads.

    Raises
    ------
    OutputError
        Names the file.
    """
    targets = [*(root / name for name in FILES.values()), root / REPORT_FOLDER / PAGE]
    for target in targets[:-1]:  # the folder of the page is yet to be made
        check_writable(target)
    targets += [root / pair.name / name for pair in plan.pairs for name in (SCORES, POLYGONS)]
    files = {plan.source, *(file for pair in plan.pairs for file in pair.options(detect).files)}
    scenes = dict.fromkeys(scene for pair in plan.pairs for scene in (pair.before, pair.after))
    refuse_overwriting(targets, scenes, files)


def write_summaries(
    plan: BatchPlan, pairs: Sequence[PairResult], root: Path
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Write the files of a batch as a whole, unless they exist for exactly these results.

    Returns
    -------
    files
        Paths of the files that exist, by the names in :data:`FILES`.
    remarks
        What is missing, and why.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    paths = {kind: root / name for kind, name in FILES.items()}
    if not any(pair.done for pair in pairs):
        del paths["geopackage"]  # an existing one has the polygons of an earlier call, and perhaps verdicts
    digest = results_digest(plan, pairs)
    summary = _read_summary(paths["summary"])
    if summary.get("state") != digest or not all(path.is_file() for path in paths.values()):
        paths["summary"].unlink(missing_ok=True)  # it describes files that are about to change
        left_out = merge_polygons(pairs, paths["geopackage"]) if "geopackage" in paths else ()
        _write_json(paths["stac"], item_collection(pairs, root))
        write_tables(table_of(pairs, root), paths["csv"], paths["parquet"])
        summary = {**_summary(plan, pairs), "not_merged": list(left_out), "state": digest}
        _write_json(paths["summary"], summary)
    return {kind: path for kind, path in paths.items() if path.is_file()}, _remarks(paths, summary)


def results_digest(plan: BatchPlan, pairs: Sequence[PairResult]) -> str:
    """Return a digest of everything in the files of a batch as a whole, verdicts included."""
    content = [
        [
            pair.name,
            pair.identity,
            pair.status,
            pair.error,
            None if pair.record is None else pair.record.created,
            _modification_time(pair.anomalies),
        ]
        for pair in pairs
    ]
    unmatched = [asdict(scene) for scene in plan.unmatched]
    text = json.dumps([content, unmatched, plan.notes], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def table_of(pairs: Sequence[PairResult], folder: Path) -> pd.DataFrame:
    """Return a table with one row per pair and :data:`COLUMNS`; paths of results are relative to the folder."""
    rows = [redacted(_row(pair, folder)) for pair in pairs]
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in _TYPES.items()})


def write_tables(table: pd.DataFrame, csv: Path, parquet: Path) -> None:
    """Write the table of pairs as CSV and as Parquet.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    with _open_replacement(csv) as partial:
        table.to_csv(partial, index=False)
    with _open_replacement(parquet) as partial:
        table.to_parquet(partial, index=False)


def write_page(plan: BatchPlan, pairs: Sequence[PairResult], root: Path) -> tuple[Path | None, str | None]:
    """Write the page of a batch, unless it exists for exactly these results; errors do not fail the batch.

    Returns
    -------
    page
        Path of the page; None if it could not be written.
    remark
        Why it could not be written; None otherwise.
    """
    page = root / REPORT_FOLDER / PAGE
    digest = results_digest(plan, pairs)
    if page_digest(page) == digest:
        return page, None
    options = ReportOptions(title=root.name)
    try:
        report = write_report(
            report_pairs(pairs), page.parent, options=options, unmatched=plan.unmatched, digest=digest
        )
    except Exception as error:  # noqa: BLE001 - hours of work must not end in an error because of the page
        _log.debug("the page could not be written", exc_info=True)
        return None, redacted(f"the page of the batch could not be written: {error}")
    return report.path, None


def report_pairs(pairs: Sequence[PairResult]) -> list[ReportPair]:
    """Return the pairs for the page, under unique names; failed pairs may have failed because they share one."""
    names = {pair.name for pair in pairs if pair.done}
    listed = []
    for pair in pairs:
        name = pair.name if pair.done else _unique_name(pair.name, names)
        names.add(name)
        listed.append(
            ReportPair(
                name,
                pair.before,
                pair.after,
                pair.scores,
                pair.anomalies,
                pair.status,
                _page_facts(pair),
                None if pair.done else pair.error,
            )
        )
    return listed


def _remarks(paths: dict[str, Path], summary: dict[str, Any]) -> tuple[str, ...]:
    remarks = [
        f"{name}: is not in survey.gpkg, because its coordinate system cannot be transformed to WGS 84"
        for name in summary.get("not_merged", ())
    ]
    if "geopackage" not in paths:
        remarks.append("no pair has results, so there is no new survey.gpkg")
    return tuple(remarks)


def _modification_time(path: Path | None) -> int:
    """Return the time of the last change in nanoseconds; 0 without a file."""
    with contextlib.suppress(OSError):
        return 0 if path is None else path.stat().st_mtime_ns
    return 0


def _read_summary(path: Path) -> dict[str, Any]:
    """Return the content of a summary; empty if there is none."""
    with contextlib.suppress(OSError, ValueError):
        content = parse_json(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _summary(plan: BatchPlan, pairs: Sequence[PairResult]) -> dict[str, Any]:
    failed = [pair for pair in pairs if not pair.done]
    records = {pair.name: pair.record for pair in pairs if pair.record is not None}
    return {
        "pairs": len(pairs),
        "done": len(pairs) - len(failed),
        "failed": [
            {"name": pair.name, "before": pair.before, "after": pair.after, "error": pair.error} for pair in failed
        ],
        "unpaired": [asdict(scene) for scene in plan.unmatched],
        "notes": list(plan.notes),
        "anomalies": sum(record.count for record in records.values()),
        "area_m2": sum(record.area_m2 for record in records.values()),
        "misfits": {name: record.misfit for name, record in records.items() if record.misfit},
        "warnings": {name: list(record.warnings) for name, record in records.items() if record.warnings},
    }


def _row(pair: PairResult, folder: Path) -> dict[str, Any]:
    row = dict.fromkeys(_TYPES) | {
        "pair": pair.name,
        "site": pair.site,
        "before": pair.before,
        "after": pair.after,
        "before_date": pair.before_date,
        "date": pair.date,
        "status": pair.status,
        "model": "",
        "precision": "",
        "crs": "",
        "attempts": pair.attempts,
        "warnings": "",
        "error": pair.error,
        "anomalies": _relative(pair.anomalies, folder),
        "scores": _relative(pair.scores, folder),
    }
    record = pair.record
    if record is None:
        return row
    return row | {
        "count": record.count,
        "area_m2": record.area_m2,
        "score_max": record.score_max,
        "threshold": record.threshold,
        "seconds": record.seconds,
        "mpx": record.pixels / 1e6,
        "shift_px": record.shift_px,
        "bend_px": record.bend_px,
        "overlap_fraction": record.overlap_fraction,
        "valid_fraction": record.valid_fraction,
        "crs": record.crs,
        "model": record.model.name,
        "precision": record.precision,
        "memory_mb": record.memory_mb,
        "holes": record.unreadable,
        "warnings": " | ".join(record.warnings),
    }


def _relative(path: Path | None, folder: Path) -> str:
    return "" if path is None else path.relative_to(folder).as_posix()


def _unique_name(name: str, used_names: set[str]) -> str:
    """Return the name, with a number if it is taken."""
    unique, number = name, 1
    while unique in used_names:
        number += 1
        unique = f"{name} ({number})"
    return unique


def _page_facts(pair: PairResult) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"Site": pair.site, "Date before": pair.before_date, "Date after": pair.date}
    if pair.record is not None:
        overlap = pair.record.overlap_fraction
        facts |= {
            "Size": f"{pair.record.pixels / 1e6:.3g} Mpx",
            "Overlap": None if overlap is None else f"{overlap:.0%}",
            "Bend": _bend(pair.record),
            "Fit": pair.record.misfit,
            "Took": f"{pair.record.seconds:.3g} s",
        }
    return {label: value for label, value in facts.items() if value not in ("", None)}


def _bend(record: PairRecord) -> str | None:
    if record.bend_px is None:
        return None
    return f"{record.bend_px:.1f} px (95th percentile), {'corrected' if record.field_applied else 'not corrected'}"


def _write_json(target: Path, content: dict[str, Any]) -> None:
    with _open_replacement(target) as partial:
        partial.write_text(json.dumps(redacted(content), indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _open_replacement(target: Path) -> Iterator[Path]:
    """Yield a path to write to; the file there then replaces the target.

    Raises
    ------
    OutputError
        The target cannot be written.
    """
    try:
        with atomic_write(target) as partial:
            yield partial
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "check permissions and free disk space") from error
