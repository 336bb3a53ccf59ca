"""Read the rows of a manifest: a table with one row per pair, as CSV, TSV, JSON or Parquet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.errors import OptionError, SceneNotFoundError
from geosiam.files import exists, parse_json

if TYPE_CHECKING:
    import os

SUFFIXES = (".csv", ".tsv", ".json", ".parquet")
"""File name suffixes of manifests."""


def read_rows(path: str | os.PathLike[str], *, remedy: str = "see docs/batch.md for its form") -> list[dict[str, Any]]:
    """Return the rows of a manifest by column, also blank ones; column names are stripped and in lower case.

    Values of CSV files are text. Values of JSON and Parquet files keep their types; a missing value is None.

    Parameters
    ----------
    path
        A CSV file with commas, semicolons or tabs; a JSON list of objects, or an object with such a list in ``pairs``;
        or a Parquet file.
    remedy
        What the user can do about a file that cannot be read, for the error message.

    Raises
    ------
    SceneNotFoundError
        The file does not exist.
    OptionError
        The file is not a manifest, cannot be read, or has no rows but blank ones.
    """
    manifest = Path(path)
    if not exists(manifest):
        raise SceneNotFoundError(manifest, "does not exist", "check the path")
    suffix = manifest.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(manifest, "is not a manifest", f"give a file that ends with {', '.join(SUFFIXES)}")
    parse = {".json": _json_rows, ".parquet": _parquet_rows}.get(suffix, _csv_rows)
    try:
        rows = [{str(key).strip().lower(): value for key, value in row.items()} for row in parse(manifest)]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, csv.Error) as error:
        raise OptionError(manifest, f"cannot be read ({error})", remedy) from error
    if all(map(is_blank, rows)):
        raise OptionError(manifest, "has no rows", "write one row per pair")
    return rows


def is_blank(row: dict[str, Any]) -> bool:
    """Return whether a row holds nothing, as below the last one of a spreadsheet: it is no pair."""
    return all(map(is_empty, row.values()))


def is_empty(value: object) -> bool:
    """Return whether a cell holds nothing: no value, a missing number, or only spaces."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())  # noqa: PLR0124 - NaN


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    header = text.partition("\n")[0]
    delimiter = max("\t;,", key=header.count)  # spreadsheets write semicolons where the decimal sign is a comma
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True)
    rows = []
    for row in reader:
        if None in row:
            raise ValueError(f"line {reader.line_num} has more values than columns")
        rows.append(dict(row))
    return rows


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = parse_json(path.read_text(encoding="utf-8"))
    rows = content["pairs"] if isinstance(content, dict) else content
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("not a list of objects")
    return list(rows)


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet  # noqa: PLC0415 - slow to import, and other manifests do not need it

    return list(parquet.read_table(path).to_pylist())
