"""The pairs of a survey as a table: one row each, as CSV and Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from geosiam.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from geosiam.survey.results import PairResult

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
