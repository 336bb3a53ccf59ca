"""Plan a batch from a manifest: one row per pair, as CSV, TSV, JSON or Parquet."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.batch.dates import date_in, iso_date
from geosiam.batch.inventory import SceneEntry, place_and_date
from geosiam.batch.pairing import name_pairs
from geosiam.batch.plan import PAIR_OPTIONS, BatchPair, BatchPlan, Fault, checked_plan
from geosiam.errors import InputError, OptionError
from geosiam.files import exists
from geosiam.manifest import is_blank, is_empty, read_rows
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COLUMNS = ("before", "after", "name", "site", "before_date", "date")
"""Columns of a manifest besides :data:`~geosiam.batch.plan.PAIR_OPTIONS`; the first two are required."""

OLD_COLUMNS = {"valid_area": "aoi"}
"""Earlier names of columns, which are still accepted."""

_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_MIN_SIMILARITY = 0.8  # from which an unknown column is taken for a misspelled one


def read_manifest(path: str | os.PathLike[str]) -> BatchPlan:
    """Return the pairs of a manifest; relative paths in it start at its folder.

    Invalid rows become faults of the plan; the other rows still run.

    Raises
    ------
    SceneNotFoundError
        The file does not exist.
    OptionError
        The file cannot be read, lacks the column ``before`` or ``after``, or has one whose name is almost that of an
        option.
    """
    manifest = Path(path)
    rows = [_with_present_names(row) for row in read_rows(manifest)]
    notes = _check_columns(manifest, rows)
    pairs: list[BatchPair] = []
    faults: list[Fault] = []
    for number, row in enumerate(rows, 1):
        if is_blank(row):
            continue
        try:
            pairs.append(_pair(row, manifest.absolute().parent))
        except InputError as error:
            name, before, after = (str(row.get(column) or "") for column in ("name", "before", "after"))
            faults.append(Fault(name or f"row {number}", before, after, f"row {number}: {error}"))
    return checked_plan(_with_default_names(pairs), faults=faults, notes=notes)


def _with_present_names(row: dict[str, Any]) -> dict[str, Any]:
    """Rename old columns; if a row has both spellings, a value under the present one counts."""
    renamed = {column: value for column, value in row.items() if column not in OLD_COLUMNS}
    for old, present in OLD_COLUMNS.items():
        if old in row and is_empty(renamed.get(present)):
            renamed[present] = row[old]
    return renamed


def _check_columns(manifest: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Refuse missing and apparently misspelled columns; return notes on unknown ones."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for required in ("before", "after"):
        if required not in columns:
            raise OptionError(
                manifest, f"has no column {required!r}", "name its columns in the first row: before,after"
            )
    expected = [*COLUMNS, *PAIR_OPTIONS]
    unknown = [column for column in columns if column not in expected]
    for column in unknown:
        if similar := difflib.get_close_matches(column, expected, n=1, cutoff=_MIN_SIMILARITY):
            raise OptionError(manifest, f"has a column {column!r}", f"did you mean {similar[0]!r}?")
    return [f"{manifest}: the column {column!r} is unknown and is ignored" for column in unknown]


def _pair(row: dict[str, Any], folder: Path) -> BatchPair:
    values = {column: value for column, value in row.items() if not is_empty(value)}
    for required in ("before", "after"):
        if required not in values:
            raise OptionError("the pair", f"has no {required} scene", f"name one in the column {required!r}")
    overrides = {name: _PARSERS[name](values[name]) for name in PAIR_OPTIONS if name in values}
    if "aoi" in overrides:
        overrides["aoi"] = _absolute(overrides["aoi"], folder)
    if "model" in overrides and exists(folder / overrides["model"]):
        overrides["model"] = _absolute(overrides["model"], folder)
    pair = BatchPair(
        str(values.get("name", "")),
        _absolute(str(values["before"]), folder),
        _absolute(str(values["after"]), folder),
        site=str(values.get("site", "")),
        before_date=_parse_date(values.get("before_date")),
        date=_parse_date(values.get("date")),
        overrides=overrides,
    )
    pair.options(DetectOptions())  # refuses invalid options now, not when the pair runs
    return pair


def _absolute(path: str, folder: Path) -> str:
    is_remote = "://" in path or path.startswith(("/vsi", "<"))
    return path if is_remote else os.path.abspath(folder / path)  # noqa: PTH100 - resolves .. but follows no links


def _with_default_names(pairs: Sequence[BatchPair]) -> list[BatchPair]:
    """Fill in missing names, sites and dates from the file names, as for scenes that were found in folders."""
    scenes = [(_entry(p.before, p.site, p.before_date), _entry(p.after, p.site, p.date)) for p in pairs]
    return [
        replace(
            pair,
            name=pair.name or default.name,
            site=pair.site or default.site,
            before_date=pair.before_date or default.before_date,
            date=pair.date or default.date,
        )
        for pair, default in zip(pairs, name_pairs(scenes), strict=True)
    ]


def _entry(scene: str, site: str, date: str) -> SceneEntry:
    place, date_in_name = place_and_date(scene)
    return SceneEntry(scene, site or place, iso_date(date, "manifest") if date else date_in_name)


def _parse_date(value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    try:
        return iso_date(text, "manifest").text
    except ValueError:
        date = date_in(text)
    if date is None:
        raise OptionError(f"date {text!r}", "is not a date", "write it like 2017-08-27")
    return date.text


def _parse_number(column: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise OptionError(f"{column} {value!r}", "is not a number", "write it like 0.9") from error


def _parse_integer(column: str, value: object) -> int:
    number = _parse_number(column, value)  # a Parquet column with missing values has 8.0 for 8
    if not number.is_integer():
        raise OptionError(f"{column} {value!r}", "is not a whole number", "write it like 8")
    return int(number)


def _parse_threshold(value: object) -> float | str:
    if value == "auto":
        return "auto"
    try:
        return float(str(value))
    except ValueError as error:
        raise OptionError(f"threshold {value!r}", "is not a probability", "use auto or a number in (0, 1]") from error


def _parse_bands(value: object) -> tuple[int, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    try:
        return tuple(int(part) for part in parts)
    except ValueError as error:
        raise OptionError(f"bands {value!r}", "are not numbers", "write them like 4 1 2, counted from 1") from error


def _parse_nodata(value: object) -> float | str | tuple[float | str, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    try:
        values = tuple("none" if part == "none" else float(part) for part in parts)
    except ValueError as error:
        remedy = "write a number, none, or one of them for each scene, such as 0,none"
        raise OptionError(f"nodata {value!r}", "is not known", remedy) from error
    return values[0] if len(values) == 1 else values


def _parse_switch(column: str, value: object) -> bool:
    text = str(value).strip().lower()
    if text not in (*_YES, *_NO):
        raise OptionError(f"{column} {value!r}", "is neither yes nor no", "write true or false")
    return text in _YES


def _parse_register(value: object) -> str:
    text = str(value).strip().lower()
    return "shift" if text in _YES else "none" if text in _NO else text


_PARSERS: dict[str, Callable[[object], Any]] = dict.fromkeys(PAIR_OPTIONS, str) | {
    "threshold": _parse_threshold,
    "bands": _parse_bands,
    "after_bands": _parse_bands,
    "nodata": _parse_nodata,
    "register": _parse_register,
    "seed_threshold": partial(_parse_number, "seed_threshold"),
    "connectivity": partial(_parse_integer, "connectivity"),
    "smooth": partial(_parse_switch, "smooth"),
}
