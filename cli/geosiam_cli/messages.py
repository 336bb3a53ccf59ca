"""Messages of the library in the words of the command line.

The library names an option in backquotes by its Python field, with a value where one is meant: ```min_area```,
```register=False```. The user of a command knows it as ``--min-area`` and ``--no-register``.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELD = re.compile(r"(?<![^\s('\"])`([A-Za-z_]\w*)(?:=([^`]*))?`(?![^\s)'\",;:.])(?!\.\w)")
"""A field between spaces or punctuation; within a path, backquotes belong to the name of a file."""


def with_flags(text: str, command: click.Command | None) -> str:
    """Return a message with the command's flags in place of the fields in backquotes.

    Parameters
    ----------
    text
        The message, such as ``"consider `register=True`"``.
    command
        The running command. A field that is none of its parameters only loses its backquotes.
    """
    parameters = [] if command is None else command.params

    def spelling(match: re.Match[str]) -> str:
        field, value = match.groups()
        parameter = _parameter(field, parameters)
        if isinstance(parameter, click.Option):
            return _flag(parameter, value)
        if isinstance(parameter, click.Argument) and value is None:
            return parameter.human_readable_name
        return match[0].strip("`")

    return _FIELD.sub(spelling, text)


def long_name(option: click.Option) -> str:
    """Return the name by which messages call an option: its first long one."""
    return next((name for name in option.opts if name.startswith("--")), option.opts[0])


def _parameter(field: str, parameters: Sequence[click.Parameter]) -> click.Parameter | None:
    """Return the parameter that sets a field: the one of its name, else the one whose flag spells it."""
    flag = f"--{field.replace('_', '-')}"
    named = [parameter for parameter in parameters if parameter.name == field]
    spelled = [parameter for parameter in parameters if flag in parameter.opts]
    return next(iter(named + spelled), None)


def _flag(option: click.Option, value: str | None) -> str:
    name = long_name(option)
    if value is None:
        return name
    if option.is_flag and value == "True":
        return name
    if option.is_flag and option.secondary_opts:
        return option.secondary_opts[0]
    if option.is_flag or value == "None":
        return f"no {name}"
    words = _words(value)
    if option.nargs > 1:
        return " ".join([name, *map(_quoted, words)])
    return " ".join(f"{name} {_quoted(word)}" for word in (words if option.multiple else [",".join(words)]))


def _words(value: str) -> list[str]:
    """Split a Python value into words: ``"skip"`` is one, skip; ``(4, 3, 2)`` are three, 4, 3 and 2."""
    try:
        literal = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # a bare word, a path, or placeholders such as (BEFORE, AFTER)
        sequence = re.fullmatch(r"[(\[](.*)[)\]]", value)
        return [word.strip() for word in sequence[1].split(",") if word.strip()] if sequence else [value]
    if isinstance(literal, tuple | list):
        return [str(item) for item in literal]
    return [literal if isinstance(literal, str) else value]


def _quoted(word: str) -> str:
    return f'"{word}"' if re.search(r"\s", word) else word
