"""The page as a stream of HTML: nothing of it is held back, and nothing in it asks for anything outside.

What comes from files stands in the page as data, in elements that are no program (JSON, base64), and is put on the
screen as text. A Content-Security-Policy allows the page's own program and style sheet, by their checksums, and
pictures that are in the page already; no connection, no frame, no form.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import math
import re
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from geosiam.errors import GeosiamError
from geosiam.report.content import Card, Overview, PairContent
from geosiam.report.encoding import as_text, scores_png, webp
from geosiam.report.images import PairPictures
from geosiam.report.map import Place, bounds_of
from geosiam.runtime import default_workers
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    import shapely
    from numpy.typing import NDArray

    from geosiam.report.content import Content
    from geosiam.report.encoding import Budget
    from geosiam.report.inputs import ReportPair, Result
    from geosiam.report.map import Extent

    Rows: TypeAlias = NDArray[np.intp]

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


_OVERVIEW_PX, _SMALLEST_OVERVIEW_PX = 512, 96
_PX_PER_BYTE = 6  # of a photograph as WebP


@dataclass(frozen=True)
class _Seen:
    """What a pair looks like; without a result, or without pictures and with a note why."""

    pair: ReportPair
    result: Result | None
    pictures: PairPictures | None = None
    place: Place | None = None
    overview: tuple[bytes, Extent] | None = None
    note: str = ""


class Author:
    """Writes what there is to see of pairs, and notes down what there is to say of them.

    Parameters
    ----------
    page, content
        Where pictures go, and where words and polygons do.
    budget
        How much of the page is left.
    chip_px
        Largest side of a picture.
    on_progress
        Called with (cards written, cards in all).
    """

    def __init__(
        self,
        page: Page,
        content: Content,
        budget: Budget,
        *,
        chip_px: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._page, self._content, self._budget, self._chip_px = page, content, budget, chip_px
        self._on_progress = on_progress
        self._done = 0

    def add(self, pairs: Iterable[tuple[ReportPair, Result | None]]) -> None:
        """Write the pictures of all pairs; while those of one are written, the next ones are looked at."""
        seen: deque[Future[_Seen]] = deque()
        # Python has one list of filters for all threads: what one of them ignores, another may restore meanwhile.
        with warnings.catch_warnings(), ThreadPoolExecutor(default_workers(), "geosiam-page") as pool:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                for number, (pair, result) in enumerate(pairs):
                    seen.append(pool.submit(self._look, number, pair, result))
                    if len(seen) > default_workers():
                        self._add(seen.popleft().result())
                while seen:
                    self._add(seen.popleft().result())
            finally:
                for rest in seen:
                    rest.add_done_callback(_close)

    def _look(self, number: int, pair: ReportPair, result: Result | None) -> _Seen:
        if result is None:
            return _Seen(pair, None)
        try:
            pictures = PairPictures.open(pair, result)
        except GeosiamError as error:
            return _Seen(pair, result, note=_reason(error))
        try:
            place = self._place(number, pictures.grid.bounds)
            return _Seen(pair, result, pictures, place, self._overview(pictures, place))
        except BaseException:
            pictures.close()
            raise

    def _add(self, seen: _Seen) -> None:
        pair, result, note = seen.pair, seen.result, seen.note
        if result is None:
            self._content.add(PairContent(pair), np.empty(0, np.intp))
            return
        rows = self._content.next_rows()
        if (pictures := seen.pictures) is None:
            place = self._place(len(self._content.pairs), self._bounds(pair, rows))
            self._content.add(PairContent(pair, result, place, note=note), rows)
            self._cards(rows, lambda _: self._without_picture(note))
            return
        with contextlib.closing(pictures):
            told = PairContent(pair, result, seen.place)
            if seen.overview is not None:
                data, bounds = seen.overview
                told = replace(told, overview=Overview(self._page.picture(data, "image/webp"), bounds))
            self._content.add(told, rows)
            self._cards(rows, lambda outline: self._card(pictures, outline))

    def _place(self, number: int, bounds: Extent | None) -> Place | None:
        crs = self._content.ranking.systems.get(number)
        return None if bounds is None or crs is None else Place.of(crs, bounds)

    def _bounds(self, pair: ReportPair, rows: Rows) -> Extent | None:
        """Return where a pair lies whose scenes cannot be asked: as far as its scores, or else its polygons, reach."""
        if pair.scores is not None:
            with contextlib.suppress(GeosiamError):
                return ScoreRaster.open(pair.scores).grid.bounds
        if not len(rows):
            return None
        return bounds_of(np.array([self._content.ranking.outlines[row].bounds for row in rows]).reshape(-1, 2))

    def _overview(self, pictures: PairPictures, place: Place | None) -> tuple[bytes, Extent] | None:
        if place is None:
            return None
        # No larger than its bytes will do for: pressing large pictures of a thousand pairs takes minutes.
        side = min(_OVERVIEW_PX, max(_SMALLEST_OVERVIEW_PX, math.isqrt(_PX_PER_BYTE * self._budget.overview)))
        picture, grid = pictures.overview(place.plane, side)
        return webp(picture, self._budget.overview), grid.bounds

    def _cards(self, rows: Rows, make: Callable[[shapely.MultiPolygon], Card]) -> None:
        cards = self._content.cards
        for row in rows[rows < len(cards)]:
            cards[row] = make(self._content.ranking.outlines[row])
            self._done += 1
            if self._on_progress is not None:
                self._on_progress(self._done, len(cards))

    def _card(self, pictures: PairPictures, outline: shapely.MultiPolygon) -> Card:
        try:
            chip = pictures.chip(outline, self._chip_px)
        except GeosiamError as error:
            return self._without_picture(_reason(error))
        scores = b"" if chip.scores is None else scores_png(chip.scores)
        each = (self._budget.card - len(scores)) // 2
        before, after = (webp(picture, each) for picture in (chip.before, chip.after))
        self._budget.spend(len(before) + len(after) + len(scores))
        return Card(
            before=self._page.picture(before, "image/webp"),
            after=self._page.picture(after, "image/webp"),
            scores=self._page.picture(scores, "image/png") if scores else None,
            outline=chip.outline,
            metres=chip.metres,
        )

    def _without_picture(self, note: str) -> Card:
        self._budget.spend(0)
        return Card(note=note)


def _close(seen: Future[_Seen]) -> None:
    """Close what was opened for nothing."""
    if not seen.cancelled() and seen.exception() is None and (pictures := seen.result().pictures) is not None:
        pictures.close()


def _reason(error: GeosiamError) -> str:
    return f"{Path(error.subject).name or error.subject} {error.fact}"
