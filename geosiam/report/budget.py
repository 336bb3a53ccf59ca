"""How the bytes of a page are shared out: what is fixed, what each picture may take, how fine polygons are drawn."""

from __future__ import annotations

from dataclasses import dataclass

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
