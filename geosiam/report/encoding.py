"""Pictures as few bytes: photographs as WebP under a limit, scores as a PNG with the colors QGIS gives them."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from geosiam.qml import STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUALITIES = (84, 72, 60, 45)
_SMALLEST = 48  # pixels: no limit makes a picture smaller than this
_STEP = 0.9  # the least that a picture shrinks in one go
_UNSCORED = 255


def webp(picture: NDArray[np.uint8], limit: int) -> bytes:
    """Return a picture (rows, cols, 3 or 4) in at most ``limit`` bytes where that is possible.

    Quality gives way first, then size, down to 48 pixels.
    """
    image = Image.fromarray(picture)
    data = b""
    for quality in QUALITIES:
        data = _encoded(image, quality)
        if len(data) <= limit:
            return data
    while len(data) > limit and max(image.size) > _SMALLEST:
        factor = max(min(_STEP, math.sqrt(limit / len(data))), _SMALLEST / max(image.size))  # bytes go with the area
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        data = _encoded(image, QUALITIES[-1])
    return data


def _encoded(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def scores_png(scores: NDArray[np.float32]) -> bytes:
    """Return scores (rows, cols), NaN = not scored, in the colors of the QGIS style, transparent where it is."""
    steps = np.where(np.isnan(scores), _UNSCORED, np.rint(np.nan_to_num(scores) * (_UNSCORED - 1))).astype(np.uint8)
    image = Image.fromarray(steps).convert("P")
    colors = ramp()
    image.putpalette(colors[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", transparency=colors[:, 3].tobytes(), optimize=True)
    return file.getvalue()


def ramp() -> NDArray[np.uint8]:
    """Return red, green, blue and opacity of 255 equal steps from score 0 to 1 and of what is not scored, (256, 4)."""
    at = np.linspace(0, 1, _UNSCORED)
    places = [score for score, _, _ in STEPS]
    parts = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] + [alpha] for _, color, alpha in STEPS]
    table = np.zeros((_UNSCORED + 1, 4), np.uint8)
    for channel in range(4):
        table[:_UNSCORED, channel] = np.rint(np.interp(at, places, [part[channel] for part in parts]))
    return table


def as_text(data: bytes) -> str:
    """Return bytes as base64, in which they stand in a page."""
    return base64.b64encode(data).decode("ascii")


_FIXED = 1.5e6  # the program, words on 10,000 anomalies, and on some hundred pairs
_CHIPS, _OVERVIEWS, _POLYGONS = 0.75, 0.15, 0.1  # shares of the rest
_BASE64 = 4 / 3
_CORNER = 8  # bytes


@dataclass
class Budget:
    """What is left of a page.

    Parameters
    ----------
    chips
        Bytes for the pictures of all cards that are not yet written.
    cards
        Number of these.
    overview
        Bytes for the overview of one pair.
    corners
        Corners of all polygons on the map together.
    """

    chips: float
    cards: int
    overview: int
    corners: int

    @classmethod
    def of(cls, size: float, pairs: int, cards: int) -> Budget:
        """Share out a page of some bytes."""
        free = size - _FIXED
        overview = int(free * _OVERVIEWS / _BASE64 / max(1, pairs))
        return cls(free * _CHIPS / _BASE64, cards, overview, int(free * _POLYGONS / _CORNER))

    @property
    def card(self) -> int:
        """Bytes for the pictures of the next card: what one leaves, the others have."""
        return int(self.chips / max(1, self.cards))

    def spend(self, size: int) -> None:
        """Write a card, whose pictures take some bytes."""
        self.chips -= size
        self.cards -= 1
