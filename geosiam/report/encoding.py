"""Encode pictures in few bytes: photographs as WebP below a limit, scores as PNG in the colors of the QGIS style."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from geosiam.qml import SCORE_COLORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
