"""Landscapes: which land uses, ground covers and roads a kind of country has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geosiam.synthesis import materials as m

LandscapeName = Literal["rural", "village", "urban", "forest", "desert", "snow", "coastal"]
LandUse = Literal["houses", "field", "meadow", "forest", "orchard", "yard", "pond", "wild"]


@dataclass(frozen=True)
class Landscape:
    """A kind of country.

    Parameters
    ----------
    uses
        Land uses of the blocks between roads, with weights.
    roads
        Weights of no road, a gravel track, a paved road and a street with pavements along a line of the layout.
    fields, wild, lawn
        Ground covers of fields, of open land and of gardens.
    needles
        Share of conifers among the trees.
    trees
        Factor on the number of trees.
    water
        What water the scene has: a river through it, the sea along it, or none but ponds.
    """

    uses: tuple[tuple[LandUse, float], ...]
    roads: tuple[float, float, float, float]
    fields: tuple[m.Material, ...] = m.CROPS
    wild: m.Material = m.MEADOW
    lawn: m.Material = m.LAWN
    needles: float = 0.15
    trees: float = 1.0
    water: Literal["none", "river", "sea"] = "none"


_SNOW_FIELD = m.Material((220, 224, 232), (200, 202, 206), 0.25, 0.015, relief=0.05, row_strength=0.3, row_spacing=0.9)

LANDSCAPES: dict[LandscapeName, Landscape] = {
    "rural": Landscape(
        uses=(("field", 5), ("houses", 2.5), ("meadow", 1.2), ("orchard", 0.8), ("forest", 0.8), ("pond", 0.5)),
        roads=(0.25, 0.35, 0.4, 0.0),
    ),
    "village": Landscape(
        uses=(("houses", 5), ("field", 2), ("meadow", 1), ("yard", 1), ("orchard", 0.6), ("pond", 0.4)),
        roads=(0.15, 0.2, 0.45, 0.2),
        water="river",
    ),
    "urban": Landscape(
        uses=(("houses", 5), ("yard", 4), ("meadow", 0.6), ("wild", 0.4)),
        roads=(0.0, 0.0, 0.2, 0.8),
        trees=0.8,
    ),
    "forest": Landscape(
        uses=(("forest", 6), ("meadow", 1.5), ("wild", 1.5), ("pond", 0.4)),
        roads=(0.5, 0.4, 0.1, 0.0),
        wild=m.WILD,
        needles=0.5,
        water="river",
    ),
    "desert": Landscape(
        uses=(("wild", 6), ("houses", 1.5), ("yard", 1), ("field", 0.8)),
        roads=(0.4, 0.4, 0.2, 0.0),
        fields=(m.CROPS[0], m.CROPS[4], m.SCRUBLAND),
        wild=m.SCRUBLAND,
        lawn=m.SAND,
        needles=0.1,
        trees=0.45,
    ),
    "snow": Landscape(
        uses=(("field", 3), ("forest", 2), ("houses", 2), ("wild", 1.5), ("yard", 0.5)),
        roads=(0.3, 0.2, 0.5, 0.0),
        fields=(_SNOW_FIELD, m.SNOW),
        wild=m.SNOW,
        lawn=m.SNOW,
        needles=0.9,
    ),
    "coastal": Landscape(
        uses=(("houses", 3), ("wild", 2), ("meadow", 1.5), ("yard", 1), ("orchard", 0.8)),
        roads=(0.2, 0.3, 0.4, 0.1),
        wild=m.Material((138, 138, 86), (186, 168, 124), 0.3, 0.1, 0.5, 0.15),
        water="sea",
    ),
}
