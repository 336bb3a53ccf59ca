"""A survey as a table: one row a pair, as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import parquet

from geosiam.batch.dates import date_in, iso_date
from geosiam.batch.inventory import SceneEntry, place_and_date
from geosiam.batch.pairing import named
from geosiam.batch.plan import PER_PAIR, BatchPair, BatchPlan, Fault, checked_plan
from geosiam.errors import InputError, OptionError, SceneNotFoundError
from geosiam.files import exists
from geosiam.options import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ("before", "after", "name", "site", "before_date", "date", "aoi")
"""Columns of a manifest besides the options in :data:`~geosiam.batch.plan.PER_PAIR`; the first two are needed."""

SUFFIXES = (".csv", ".tsv", ".json", ".parquet")
_SAID_YES, _SAID_NO = ("true", "yes", "1"), ("false", "no", "0")


def read_manifest(path: str | os.PathLike[str]) -> BatchPlan:
    """Return the pairs of a manifest; paths in it are relative to its folder.

    A row that makes no sense becomes a fault of the plan, and the others are run.

    Raises
    ------
    SceneNotFoundError
        There is no such file.
    OptionError
        It cannot be read, has no columns ``before`` and ``after``, or has one whose name is nearly that of an option.
    """
    manifest = Path(path)
    rows = _rows(manifest)
    notes = _check_columns(manifest, rows)
    pairs: list[BatchPair] = []
    faults: list[Fault] = []
    for number, row in enumerate(rows, 1):
        try:
            pairs.append(_pair(row, manifest.absolute().parent))
        except InputError as error:
            name = str(row.get("name") or f"row {number}")
            faults.append(
                Fault(name, str(row.get("before") or ""), str(row.get("after") or ""), f"row {number}: {error}")
            )
    return checked_plan(_all_named(pairs), faults=faults, notes=notes)


def _rows(manifest: Path) -> list[dict[str, Any]]:
    if not exists(manifest):
        raise SceneNotFoundError(manifest, "does not exist", "name a manifest, a STAC document or a folder of scenes")
    suffix = manifest.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(manifest, "is no manifest", f"name a folder, or a file that ends with {', '.join(SUFFIXES)}")
    try:
        rows = {".json": _of_json, ".parquet": _of_parquet}.get(suffix, _of_csv)(manifest)
    except (ValueError, KeyError, TypeError, OSError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise OptionError(manifest, f"cannot be read ({error})", "see docs/batch.md for its form") from error
    if not rows:
        raise OptionError(manifest, "has no rows", "write a pair in each: before,after")
    return rows


def _of_csv(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)  # spreadsheets of some countries write semicolons
    lines = csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True)
    rows = []
    for line in lines:
        if None in line:
            raise ValueError(f"line {lines.line_num} has more values than columns")
        rows.append({str(key).strip().lower(): value for key, value in line.items()})
    return rows


def _of_json(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    listed = content["pairs"] if isinstance(content, dict) else content
    if not all(isinstance(row, dict) for row in listed):
        raise TypeError("not a list of objects")
    return [{str(key).strip().lower(): value for key, value in row.items()} for row in listed]


def _of_parquet(path: Path) -> list[dict[str, Any]]:
    return [{key.strip().lower(): value for key, value in row.items()} for row in parquet.read_table(path).to_pylist()]


def _check_columns(manifest: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Refuse columns that miss or may be misspelt; return remarks on those that mean nothing here."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    known = [*COLUMNS, *PER_PAIR]
    for needed in ("before", "after"):
        if needed not in columns:
            raise OptionError(manifest, f"has no column {needed!r}", "name its columns in the first row: before,after")
    strangers = [column for column in columns if column not in known]
    for stranger in strangers:
        if close := difflib.get_close_matches(stranger, known, n=1, cutoff=0.8):
            raise OptionError(manifest, f"has a column {stranger!r}", f"did you mean {close[0]!r}?")
    return [f"{manifest}: the column {stranger!r} means nothing here and is ignored" for stranger in strangers]


def _pair(row: dict[str, Any], folder: Path) -> BatchPair:
    values = {key: value for key, value in row.items() if not _empty(value)}
    for needed in ("before", "after"):
        if needed not in values:
            raise OptionError("the pair", f"has no {needed}-scene", f"name one in the column {needed!r}")
    overrides = {name: _CONVERTERS[name](values[name]) for name in PER_PAIR if name in values}
    if "aoi" in values:
        overrides["aoi"] = str(values["aoi"])
    if "aoi" in overrides:
        overrides["aoi"] = _placed(overrides["aoi"], folder)
    if "model" in overrides and exists(folder / overrides["model"]):
        overrides["model"] = _placed(overrides["model"], folder)
    pair = BatchPair(
        str(values.get("name", "")),
        _placed(str(values["before"]), folder),
        _placed(str(values["after"]), folder),
        site=str(values.get("site", "")),
        before_date=_date(values.get("before_date")),
        date=_date(values.get("date")),
        overrides=overrides,
    )
    pair.options(DetectOptions())  # refuses now what makes no sense
    return pair


def _placed(scene: str, folder: Path) -> str:
    remote = "://" in scene or scene.startswith(("/vsi", "<"))
    return scene if remote else os.path.abspath(folder / scene)  # noqa: PTH100 - resolves .. and follows no links


def _date(value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    try:
        return iso_date(text, "manifest").text
    except ValueError:
        found = date_in(text)
    if found is None:
        raise OptionError(f"date {text!r}", "is none", "write 2017-08-27")
    return found.text


def _empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _all_named(pairs: list[BatchPair]) -> list[BatchPair]:
    """Give names and dates to the rows that have none: those of their files, as for scenes found in folders."""
    couples = [(_scene(p.before, p.site, p.before_date), _scene(p.after, p.site, p.date)) for p in pairs]
    return [
        replace(
            pair,
            name=pair.name or default.name,
            site=pair.site or default.site,
            before_date=pair.before_date or default.before_date,
            date=pair.date or default.date,
        )
        for pair, default in zip(pairs, named(couples), strict=True)
    ]


def _scene(scene: str, site: str, date: str) -> SceneEntry:
    place, told = place_and_date(scene)
    return SceneEntry(scene, site or place, iso_date(date, "manifest") if date else told)


def _as_number(name: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise OptionError(f"{name} {value!r}", "is no number", "write 0.9") from error


def _as_whole(name: str, value: object) -> int:
    number = _as_number(name, value)  # a column with gaps has 8.0 for 8
    if not number.is_integer():
        raise OptionError(f"{name} {value!r}", "is no whole number", "write 8")
    return int(number)


def _as_threshold(value: object) -> float | str:
    if value == "auto":
        return "auto"
    try:
        return float(str(value))
    except ValueError as error:
        raise OptionError(f"threshold {value!r}", "is no probability", "use auto or a number in (0, 1]") from error


def _as_bands(value: object) -> tuple[int, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    try:
        return tuple(int(part) for part in parts)
    except ValueError as error:
        raise OptionError(f"bands {value!r}", "are no numbers", "write 4 1 2, counted from 1") from error


def _as_switch(name: str, value: object) -> bool:
    said = str(value).strip().lower()
    if said not in (*_SAID_YES, *_SAID_NO):
        raise OptionError(f"{name} {value!r}", "is neither yes nor no", "write true or false")
    return said in _SAID_YES


_CONVERTERS: dict[str, Callable[[object], Any]] = dict.fromkeys(PER_PAIR, str) | {
    "threshold": _as_threshold,
    "bands": _as_bands,
    "register": partial(_as_switch, "register"),
    "seed_threshold": partial(_as_number, "seed_threshold"),
    "connectivity": partial(_as_whole, "connectivity"),
    "smooth": partial(_as_switch, "smooth"),
}
