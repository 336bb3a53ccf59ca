"""Results on stdout, and remarks about them on stderr."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from geosiam.errors import IncompleteRunError
from geosiam_cli import state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)


def result(value: object, *, as_json: object = None) -> None:
    """Print a result on stdout: as JSON where ``--json`` asks for it, readable otherwise.

    Parameters
    ----------
    value
        A path or number gives one line; a list gives a line for each item, or paragraphs where the items have names;
        a mapping or dataclass gives ``name  value`` lines, indented where it is nested.
    as_json
        What ``--json`` prints, where that is more than ``value``.
    """
    if state.current().json:
        state.current().answered = True
        click.echo(json.dumps(plain(value if as_json is None else as_json), indent=2, allow_nan=False))
    else:
        for line in _lines(plain(value)):
            click.echo(line)


def remark(text: str) -> None:
    """Say something about the result on stderr, where it cannot be mistaken for the result."""
    if not state.current().quiet:
        click.echo(text, err=True)


def lines(texts: Iterable[str]) -> None:
    """Log remarks one by one, as :func:`warnings` does."""
    for text in texts:
        _log.warning("%s", text)


def warnings(summary: Mapping[str, Any]) -> None:
    """Log what the library found remarkable about a pair; nothing it did with the input stays silent."""
    for warning in summary.get("warnings", ()):
        _log.warning("%s", warning)


def end_incomplete(path: Path, holes: Sequence[Any]) -> None:
    """End with exit code 4 if a result, which was printed, has holes; they are listed on stderr."""
    if not holes:
        return
    for hole in holes:
        _log.warning("no scores for rows %d-%d, columns %d-%d: %s", *hole.rows, *hole.cols, hole.reason)
    fact = f"has {len(holes)} block(s) of nodata where a scene cannot be read"
    raise IncompleteRunError(path, fact, "repair the scene and run again")


def plain(value: object) -> object:
    """Return the value in terms of JSON: dataclasses as objects, paths as text, NaN and infinity as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy for it
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _lines(value: object, indent: str = "") -> list[str]:
    if isinstance(value, dict):
        width = max((len(key) for key in value), default=0)
        lines = []
        for key, item in value.items():
            if isinstance(item, dict) or (isinstance(item, list) and any(isinstance(i, dict | list) for i in item)):
                lines += [f"{indent}{key}", *_lines(item, indent + "  ")]
            else:
                lines.append(f"{indent}{key:<{width}}  {_text(item)}".rstrip())
        return lines
    if isinstance(value, list):
        items = [_lines(item, indent) for item in value]
        between = [""] if any(isinstance(item, dict) for item in value) else []
        return [line for i, lines in enumerate(items) for line in (between if i else []) + lines]
    return [indent + _text(value)]


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
