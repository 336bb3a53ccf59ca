"""Write the page as a stream of HTML that holds all it needs: no request leaves it, and only its own program runs.

What comes from files is embedded as data, in elements that are no program (JSON, base64), and is put on the screen as
text. A Content-Security-Policy allows the page's own program and style sheet, by their checksums, and pictures that are
in the page already; no connection, no frame, no form.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import io
import json
import math
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from geosiam.errors import GeosiamError
from geosiam.qml import SCORE_COLORS
from geosiam.report.content import Card, Overview, PairContent
from geosiam.report.images import PairPictures
from geosiam.report.map import MapFrame, bounds_of
from geosiam.runtime import default_workers
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    import shapely
    from numpy.typing import NDArray

    from geosiam.polygons.results import ResultSummary
    from geosiam.report.content import Content, Rows
    from geosiam.report.inputs import ReportPair
    from geosiam.report.map import Extent

_OVERVIEW_PX, _MIN_OVERVIEW_PX = 512, 96  # longer side of an overview
_PX_PER_BYTE = 6  # of a photograph as WebP

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="geosiam-digest" content="{digest}">
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
_HEAD_BYTES = 2000  # that hold the digest
_TAIL = """<script type="text/plain" id="notices">{notices}</script>
<script>{program}</script>
</body>
</html>
"""


class Page:
    """The HTML of a page, written from its head to its end.

    Parameters
    ----------
    file
        The file that the page is written to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.written = 0
        self._pictures = 0

    def begin(self, title: str, digest: str = "") -> None:
        """Write the head, with a digest that :func:`page_digest` reads again."""
        style = bundled("page.css")
        self._write(
            _HEAD.format(
                policy=html.escape(policy()), title=html.escape(title), digest=html.escape(digest), style=style
            )
        )

    def picture(self, data: bytes, kind: str) -> str:
        """Embed a picture of a media type such as ``image/png``; return its name in the page."""
        name = f"p{self._pictures}"
        self._pictures += 1
        self._write(f'<script type="text/plain" id="{name}" data-kind="{kind}">{to_base64(data)}</script>\n')
        return name

    def end(self, content: Mapping[str, object]) -> None:
        """Write the content and the program that shows it."""
        self._write(f'<script type="application/json" id="content">{embedded_json(content)}</script>\n')
        self._write(_TAIL.format(program=bundled("page.js"), notices=html.escape(bundled("THIRD_PARTY.txt"))))

    def _write(self, text: str) -> None:
        self.written += self._file.write(text.encode())


def page_digest(path: Path) -> str | None:
    """Return the digest in the head of a page; None if there is no page."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode(errors="replace")
    except OSError:
        return None
    match = re.search(r'<meta name="geosiam-digest" content="([^"]*)">', head)
    return None if match is None else html.unescape(match[1])


def embedded_json(content: Mapping[str, object]) -> str:
    """Return JSON that no HTML parser can misread: it contains neither ``<`` nor ``>`` nor ``&``."""
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
    """Return a file of the bundle that is built from ``web/``."""
    return (files("geosiam.report") / "bundle" / name).read_text(encoding="utf-8")


def _checksum(name: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(bundled(name).encode()).digest()).decode()


@dataclass(frozen=True)
class _OpenedPair:
    """A pair with its scenes opened; without a result, or with a note why it has no pictures."""

    pair: ReportPair
    result: ResultSummary | None
    pictures: PairPictures | None = None
    frame: MapFrame | None = None
    overview: tuple[bytes, Extent] | None = None
    note: str = ""


class PageWriter:
    """Writes the pictures of pairs to the page and adds the pairs to its content.

    Parameters
    ----------
    page, content
        The page that gets the pictures, and the content that gets text and polygons.
    budget
        Remaining bytes of the page.
    chip_px
        Largest side of a card's pictures.
    on_progress
        Called with (cards written, total number of cards).
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
        self._written_cards = 0

    def write(self, pairs: Iterable[tuple[ReportPair, ResultSummary | None]]) -> None:
        """Write the pictures of all pairs; while those of one are written, the next ones are opened in threads."""
        workers = default_workers()
        opening: deque[Future[_OpenedPair]] = deque()
        with ThreadPoolExecutor(workers, "geosiam-page") as pool:
            try:
                for number, (pair, result) in enumerate(pairs):
                    opening.append(pool.submit(self._open, number, pair, result))
                    if len(opening) > workers:
                        self._write_pair(opening.popleft().result())
                while opening:
                    self._write_pair(opening.popleft().result())
            finally:
                for future in opening:
                    future.add_done_callback(_close)

    def _open(self, number: int, pair: ReportPair, result: ResultSummary | None) -> _OpenedPair:
        if result is None:
            return _OpenedPair(pair, None)
        try:
            pictures = PairPictures.open(pair, result.record)
        except GeosiamError as error:
            return _OpenedPair(pair, result, note=_note(error))
        try:
            frame = self._frame(number, pictures.grid.bounds)
            return _OpenedPair(pair, result, pictures, frame, self._overview(pictures, frame))
        except BaseException:
            pictures.close()
            raise

    def _write_pair(self, opened: _OpenedPair) -> None:
        pair, result, note = opened.pair, opened.result, opened.note
        if result is None:
            self._content.add(PairContent(pair), np.empty(0, np.intp))
            return
        rows = self._content.next_rows()
        if (pictures := opened.pictures) is None:
            frame = self._frame(len(self._content.pairs), self._bounds(pair, rows))
            self._content.add(PairContent(pair, result, frame, note=note), rows)
            self._write_cards(rows, lambda _: self._card_without_pictures(note))
            return
        with contextlib.closing(pictures):
            content = PairContent(pair, result, opened.frame)
            if opened.overview is not None:
                data, extent = opened.overview
                content = replace(content, overview=Overview(self._page.picture(data, "image/webp"), extent))
            self._content.add(content, rows)
            self._write_cards(rows, lambda outline: self._card(pictures, outline))

    def _frame(self, number: int, bounds: Extent | None) -> MapFrame | None:
        crs = self._content.ranking.systems.get(number)
        return None if bounds is None or crs is None else MapFrame.of(crs, bounds)

    def _bounds(self, pair: ReportPair, rows: Rows) -> Extent | None:
        """Return the extent of a pair whose scenes cannot be opened: that of its scores, or else of its polygons."""
        if pair.scores is not None:
            with contextlib.suppress(GeosiamError):
                return ScoreRaster.open(pair.scores).grid.bounds
        if not len(rows):
            return None
        return bounds_of(np.array([self._content.ranking.outlines[row].bounds for row in rows]).reshape(-1, 2))

    def _overview(self, pictures: PairPictures, frame: MapFrame | None) -> tuple[bytes, Extent] | None:
        if frame is None:
            return None
        # No larger than its bytes allow: compressing large pictures of a thousand pairs takes minutes.
        side = min(_OVERVIEW_PX, max(_MIN_OVERVIEW_PX, math.isqrt(_PX_PER_BYTE * self._budget.overview)))
        picture, grid = pictures.overview(frame.plane, side)
        return webp(picture, self._budget.overview), grid.bounds

    def _write_cards(self, rows: Rows, make_card: Callable[[shapely.MultiPolygon], Card]) -> None:
        cards = self._content.cards
        for row in rows[rows < len(cards)]:
            cards[row] = make_card(self._content.ranking.outlines[row])
            self._written_cards += 1
            if self._on_progress is not None:
                self._on_progress(self._written_cards, len(cards))

    def _card(self, pictures: PairPictures, outline: shapely.MultiPolygon) -> Card:
        try:
            chip = pictures.chip(outline, self._chip_px)
        except GeosiamError as error:
            return self._card_without_pictures(_note(error))
        scores = b"" if chip.scores is None else scores_png(chip.scores)
        limit = (self._budget.card - len(scores)) // 2
        before, after = (webp(picture, limit) for picture in (chip.before, chip.after))
        self._budget.spend(len(before) + len(after) + len(scores))
        return Card(
            before=self._page.picture(before, "image/webp"),
            after=self._page.picture(after, "image/webp"),
            scores=self._page.picture(scores, "image/png") if scores else None,
            outline=chip.outline,
            meters=chip.meters,
        )

    def _card_without_pictures(self, note: str) -> Card:
        self._budget.spend(0)
        return Card(note=note)


def _close(future: Future[_OpenedPair]) -> None:
    """Close the scenes of a pair that was opened but not written."""
    if not future.cancelled() and future.exception() is None and (pictures := future.result().pictures) is not None:
        pictures.close()


def _note(error: GeosiamError) -> str:
    return f"{Path(error.subject).name or error.subject} {error.fact}"


_QUALITIES = (84, 72, 60, 45)  # of WebP, the best first
_MIN_SIDE_PX = 48  # no limit makes a picture smaller
_MAX_SHRINK = 0.9  # smallest change of scale in one step
_UNSCORED = 255

_FIXED_BYTES = 1.5e6  # the program, and the text on 10,000 anomalies and some hundred pairs
_CHIPS, _OVERVIEWS, _POLYGONS = 0.75, 0.15, 0.1  # shares of the rest
_BASE64 = 4 / 3  # characters per byte
_CORNER_BYTES = 8


@dataclass
class Budget:
    """Remaining bytes of the page, shared among pairs and cards.

    Parameters
    ----------
    chips
        Bytes for the pictures of all cards that are not written yet.
    cards
        Number of these cards.
    overview
        Bytes for the overview of one pair.
    corners
        Number of corners of all polygons on the map together.
    """

    chips: float
    cards: int
    overview: int
    corners: int

    @classmethod
    def of(cls, size: float, pairs: int, cards: int) -> Budget:
        """Divide a page of ``size`` bytes among pairs and cards."""
        free = size - _FIXED_BYTES
        overview = int(free * _OVERVIEWS / _BASE64 / max(1, pairs))
        return cls(free * _CHIPS / _BASE64, cards, overview, int(free * _POLYGONS / _CORNER_BYTES))

    @property
    def card(self) -> int:
        """Bytes for the pictures of the next card: an equal share of the bytes that remain for all cards."""
        return int(self.chips / max(1, self.cards))

    def spend(self, size: int) -> None:
        """Count a card whose pictures take ``size`` bytes."""
        self.chips -= size
        self.cards -= 1


def webp(picture: NDArray[np.uint8], limit: int) -> bytes:
    """Return a picture (rows, cols, 3 or 4) as WebP, in at most ``limit`` bytes if possible.

    Quality is reduced first, then the size, down to 48 pixels.
    """
    image = Image.fromarray(picture)
    data = b""
    for quality in _QUALITIES:
        data = _encode(image, quality)
        if len(data) <= limit:
            return data
    while len(data) > limit and max(image.size) > _MIN_SIDE_PX:
        # The number of bytes is proportional to the area.
        factor = max(min(_MAX_SHRINK, math.sqrt(limit / len(data))), _MIN_SIDE_PX / max(image.size))
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        data = _encode(image, _QUALITIES[-1])
    return data


def _encode(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def scores_png(scores: NDArray[np.float32]) -> bytes:
    """Return scores (rows, cols), NaN = not scored, as PNG in the colors and opacities of the QGIS style."""
    steps = np.where(np.isnan(scores), _UNSCORED, np.rint(np.nan_to_num(scores) * (_UNSCORED - 1))).astype(np.uint8)
    image = Image.fromarray(steps).convert("P")
    colors = color_table()
    image.putpalette(colors[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", transparency=colors[:, 3].tobytes(), optimize=True)
    return file.getvalue()


def color_table() -> NDArray[np.uint8]:
    """Return red, green, blue and opacity of 255 equal steps from score 0 to 1, and of unscored cells: (256, 4)."""
    positions = np.linspace(0, 1, _UNSCORED)
    scores = [score for score, _, _ in SCORE_COLORS]
    channels = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] + [alpha] for _, color, alpha in SCORE_COLORS]
    table = np.zeros((_UNSCORED + 1, 4), np.uint8)
    for channel in range(4):
        table[:_UNSCORED, channel] = np.rint(np.interp(positions, scores, [values[channel] for values in channels]))
    return table


def to_base64(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")
