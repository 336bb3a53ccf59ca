"""The page as a stream of HTML: nothing of it is held back, and nothing in it asks for anything outside.

What comes from files stands in the page as data, in elements that are no program (JSON, base64), and is put on the
screen as text. A Content-Security-Policy allows the page's own program and style sheet, by their checksums, and
pictures that are in the page already; no connection, no frame, no form.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, BinaryIO

from geosiam.report.encoding import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="geosiam-mark" content="{mark}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="geosiam">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div id="app"><p class="loading">Reading the page …</p></div>
<noscript><p class="loading">This page is a program that runs in your browser and nowhere else: it needs JavaScript.\
</p></noscript>
"""
_HEAD_BYTES = 2000
_TAIL = """<script type="text/plain" id="notices">{notices}</script>
<script>{program}</script>
</body>
</html>
"""


class Page:
    """A page that is being written, from its head to its end.

    Parameters
    ----------
    file
        Where it goes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.written = 0
        self._pictures = 0

    def begin(self, title: str, mark: str = "") -> None:
        """Write the head, with a mark that :func:`mark_of` finds again."""
        style = bundled("page.css")
        self._write(
            _HEAD.format(policy=html.escape(policy()), title=html.escape(title), mark=html.escape(mark), style=style)
        )

    def picture(self, data: bytes, kind: str) -> str:
        """Put a picture into the page; return the name under which the page finds it."""
        name = f"p{self._pictures}"
        self._pictures += 1
        self._write(f'<script type="text/plain" id="{name}" data-kind="{kind}">{as_text(data)}</script>\n')
        return name

    def end(self, content: Mapping[str, object]) -> None:
        """Write all that the page says, and the program that shows it."""
        self._write(f'<script type="application/json" id="content">{embedded_json(content)}</script>\n')
        self._write(_TAIL.format(program=bundled("page.js"), notices=html.escape(bundled("THIRD_PARTY.txt"))))

    def _write(self, text: str) -> None:
        self.written += self._file.write(text.encode())


def mark_of(path: Path) -> str | None:
    """Return the mark in the head of a page; None where there is no page."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode(errors="replace")
    except OSError:
        return None
    match = re.search(r'<meta name="geosiam-mark" content="([^"]*)">', head)
    return None if match is None else html.unescape(match[1])


def embedded_json(content: Mapping[str, object]) -> str:
    """Return JSON that no HTML parser can take for anything else: it holds neither ``<`` nor ``>`` nor ``&``."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def policy() -> str:
    """Return the Content-Security-Policy of the page."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_checksum('page.js')}'",
            f"style-src '{_checksum('page.css')}'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


@cache
def bundled(name: str) -> str:
    """Return a file of the built bundle."""
    return (files("geosiam.report") / "bundle" / name).read_text(encoding="utf-8")


def _checksum(name: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(bundled(name).encode()).digest()).decode()
