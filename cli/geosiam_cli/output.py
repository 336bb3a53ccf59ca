"""Results on stdout; notes and warnings about them on stderr."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from geosiam.errors import IncompleteRunError, redacted
from geosiam_cli import state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)

_MESSAGE_KEYS = frozenset({"warnings", "notes", "note", "remarks", "error", "reason", "why"})
"""Names under which results hold messages of the library, which name its fields; all else is printed as it is."""


def result(value: object, *, as_json: object = None) -> None:
    """Print a result on stdout: as JSON with ``--json``, else as text.

    Parameters
    ----------
    value
        A path or number is printed on one line; a list, one line per item, or one paragraph per item that has names; a
        mapping or dataclass, as ``name  value`` lines, indented where nested.
    as_json
        What ``--json`` prints, if that is more than ``value``.
    """
    current = state.current()
    if current.json:
        content = _with_flags(plain(value if as_json is None else as_json), current)
        current.result_printed = True
        click.echo(json.dumps(content, indent=2, allow_nan=False))
    else:
        for line in _lines(_with_flags(plain(value), current)):
            click.echo(line)


def note(text: str) -> None:
    """Print a note about the result on stderr, unless only errors are wanted there."""
    if not state.current().quiet:
        state.print_error(text)


def warn(messages: Iterable[str]) -> None:
    """Log messages of the library as warnings."""
    for message in messages:
        _log.warning("%s", message)


def require_complete(path: Path, unreadable: Sequence[Any]) -> None:
    """End with exit code 4 if a result, already printed, has blocks without scores; list them on stderr.

    Parameters
    ----------
    path
        The score raster.
    unreadable
        Its unreadable blocks, with ``rows``, ``cols`` and ``reason``.

    Raises
    ------
    IncompleteRunError
        There are such blocks.
    """
    if not unreadable:
        return
    for block in unreadable:
        _log.warning("no scores for rows %d-%d, columns %d-%d: %s", *block.rows, *block.cols, block.reason)
    fact = f"has {len(unreadable)} block(s) without scores where a scene cannot be read"
    raise IncompleteRunError(path, fact, "repair the scene and run again")


def plain(value: object) -> object:
    """Return a value as JSON can hold it: dataclasses as objects, paths as text, NaN and infinity as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else redacted(str(value))


def _with_flags(value: object, current: state.State, *, is_message: bool = False) -> object:
    """Return plain values whose messages name the flags of the running command."""
    if isinstance(value, dict):
        return {
            key: _with_flags(item, current, is_message=is_message or key in _MESSAGE_KEYS)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_flags(item, current, is_message=is_message) for item in value]
    return current.with_flags(value) if is_message and isinstance(value, str) else value


def _lines(value: object, indent: str = "") -> list[str]:
    if isinstance(value, dict):
        width = max((len(key) for key in value), default=0)
        lines = []
        for key, item in value.items():
            if _is_nested(item):
                lines += [f"{indent}{key}", *_lines(item, indent + "  ")]
            else:
                lines.append(f"{indent}{key:<{width}}  {_text(item)}".rstrip())
        return lines
    if isinstance(value, list):
        paragraphs = [_lines(item, indent) for item in value]
        separator = [""] if any(isinstance(item, dict) for item in value) else []
        return [line for i, lines in enumerate(paragraphs) for line in (separator if i else []) + lines]
    return [indent + _text(value)]


def _is_nested(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(i, dict | list) for i in value))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
