"""The pictures of one pair after the other, with an eye on how much of the page is left."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from geosiam.detection.raster import ScoreRaster
from geosiam.errors import GeosiamError
from geosiam.processors import default_workers
from geosiam.report.content import Card, Overview, PairContent
from geosiam.report.encoding import scores_png, webp
from geosiam.report.pictures import PairPictures
from geosiam.report.places import Place, bounds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    import shapely
    from numpy.typing import NDArray

    from geosiam.report.budget import Budget
    from geosiam.report.content import Content
    from geosiam.report.page import Page
    from geosiam.report.pairs import ReportPair
    from geosiam.report.places import Extent
    from geosiam.report.results import Result

    Rows: TypeAlias = NDArray[np.intp]

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
