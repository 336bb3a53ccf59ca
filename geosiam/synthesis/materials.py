"""Appearance of surfaces: materials, the palette of a tile, and the materials and land uses of landscapes.

Colors are given as they appear in a well-exposed picture (0-255) and converted to reflectance where light is computed.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Color = tuple[float, float, float]
LandscapeName = Literal["rural", "village", "urban", "forest", "desert", "snow", "coastal"]
LandUse = Literal["houses", "field", "meadow", "forest", "orchard", "yard", "pond", "wild"]

_BARE = 0.05  # minimum relief of soil and sand; surfaces without leaves and with less are built ones
_HARVEST = 0.6  # probability that a field has another crop after years


@dataclass(frozen=True)
class Material:
    """Appearance of one surface.

    Parameters
    ----------
    color, color2
        The two colors (0-255) that noise and rows blend.
    mix
        How strongly smooth noise moves the blend; 0 = always halfway.
    grain
        Relative brightness noise from pixel to pixel.
    vegetation
        Share of green leaves, 0 to 1, which the season changes.
    relief
        Slope of small bumps, which the sun lights and shades; 0 = smooth.
    row_strength, row_spacing, row_angle
        Rows (crops, roof tiles, corrugation): strength in the blend, distance in meters, direction in radians.
    """

    color: Color
    color2: Color | None = None
    mix: float = 0.15
    grain: float = 0.04
    vegetation: float = 0.0
    relief: float = 0.0
    row_strength: float = 0.0
    row_spacing: float = 1.0
    row_angle: float = 0.0


ASPHALT = Material((112, 112, 114), (126, 124, 121), 0.16, 0.05, relief=0.03)
WORN_ASPHALT = Material((136, 134, 130), (120, 118, 115), 0.2, 0.06, relief=0.03)
PAINT = Material((222, 220, 212), (190, 188, 182), 0.2, 0.03)
PAVING = Material((164, 158, 148), (150, 144, 134), 0.15, 0.05, row_strength=0.25, row_spacing=0.5)
CONCRETE = Material((178, 174, 166), (160, 156, 147), 0.2, 0.04)
GRAVEL = Material((180, 168, 146), (156, 142, 120), 0.25, 0.09, relief=0.08)
SAND = Material((212, 192, 154), (196, 172, 132), 0.2, 0.04, relief=0.05)
SNOW = Material((222, 226, 234), (206, 212, 224), 0.2, 0.015, relief=0.05)
WATER = Material((52, 78, 82), (62, 92, 90), 0.12, 0.02, relief=0.03)
SEA = Material((42, 92, 108), (58, 116, 124), 0.15, 0.03, relief=0.06)
FOAM = Material((226, 232, 230), (150, 178, 178), 0.6, 0.06)
POOL = Material((92, 178, 200), (110, 196, 212), 0.2, 0.02, relief=0.02)
GLASS = Material((40, 46, 54), (58, 66, 76), 0.1, 0.02)
SOLAR = Material((34, 42, 66), (48, 58, 86), 0.05, 0.02, row_strength=0.5, row_spacing=1.0)
MEADOW = Material((106, 120, 74), (140, 138, 94), 0.18, 0.09, 0.8, 0.12)
LAWN = Material((98, 122, 72), (116, 132, 82), 0.2, 0.06, 0.9, 0.07)
WILD = Material((92, 104, 66), (124, 122, 82), 0.22, 0.11, 0.9, 0.2)
SCRUBLAND = Material((186, 156, 116), (168, 140, 98), 0.25, 0.07, 0.1, 0.08)
UNDERWOOD = Material((64, 72, 42), (88, 82, 54), 0.25, 0.12, 0.7, 0.25)
SOIL = Material((132, 106, 82), (114, 90, 68), 0.2, 0.06, 0.0, 0.12)

CROPS = (
    Material((150, 126, 92), (128, 104, 76), 0.16, 0.06, 0.0, 0.12, 0.25, 0.9),  # ploughed
    Material((106, 124, 70), (136, 118, 90), 0.14, 0.07, 0.9, 0.12, 0.30, 0.75),  # young maize on soil
    Material((198, 176, 116), (182, 156, 98), 0.16, 0.06, 0.3, 0.10, 0.12, 0.5),  # ripe wheat
    Material((86, 110, 62), (98, 120, 70), 0.16, 0.07, 1.0, 0.14, 0.18, 0.6),  # beet, closed
    Material((188, 172, 128), (160, 140, 102), 0.20, 0.06, 0.2, 0.08, 0.30, 1.4),  # stubble
    Material((124, 140, 86), (108, 126, 74), 0.15, 0.06, 1.0, 0.08, 0.10, 0.45),  # young grain
    Material((190, 178, 86), (168, 164, 80), 0.16, 0.06, 0.5, 0.12, 0.08, 0.6),  # rape in flower
    Material((96, 118, 64), (150, 134, 98), 0.12, 0.08, 0.8, 0.18, 0.45, 2.0),  # vines
)
ROOFS = (
    Material((168, 96, 70), (146, 80, 60), 0.2, 0.06, row_strength=0.35, row_spacing=0.34),
    Material((182, 116, 84), (158, 96, 70), 0.2, 0.06, row_strength=0.35, row_spacing=0.34),
    Material((134, 74, 60), (116, 62, 52), 0.2, 0.06, row_strength=0.35, row_spacing=0.34),
    Material((112, 84, 70), (96, 72, 60), 0.2, 0.06, row_strength=0.3, row_spacing=0.34),
    Material((92, 94, 100), (78, 80, 86), 0.2, 0.05, row_strength=0.3, row_spacing=0.28),
    Material((128, 128, 128), (112, 112, 112), 0.2, 0.05, row_strength=0.3, row_spacing=0.34),
)
FLAT_ROOFS = (
    Material((176, 174, 170), (160, 158, 152), 0.22, 0.04),
    Material((146, 144, 140), (128, 126, 122), 0.25, 0.05, relief=0.03),
    Material((212, 212, 210), (196, 196, 192), 0.2, 0.03),
    Material((108, 106, 104), (124, 122, 118), 0.25, 0.05, relief=0.03),
    Material((150, 160, 150), (134, 146, 138), 0.2, 0.03, row_strength=0.4, row_spacing=0.6),
)
PLASTER: tuple[Color, ...] = ((214, 206, 190), (226, 222, 212), (198, 176, 148), (176, 112, 88), (204, 204, 206))
LEAVES: tuple[Color, ...] = ((62, 88, 42), (74, 100, 48), (84, 104, 54), (58, 80, 46), (96, 112, 58), (70, 92, 60))
NEEDLES: tuple[Color, ...] = ((44, 64, 46), (52, 70, 48), (46, 62, 52))
CAR_PAINTS: tuple[Color, ...] = (
    (226, 226, 224), (40, 42, 46), (148, 152, 156), (96, 100, 106), (190, 192, 194), (130, 34, 34), (44, 66, 112),
    (60, 62, 66), (176, 168, 150), (52, 84, 66),
)  # fmt: skip
TARPS: tuple[Color, ...] = (
    (66, 104, 190),
    (212, 214, 212),
    (62, 128, 84),
    (206, 118, 52),
    (58, 60, 66),
    (196, 180, 60),
)
CONTAINERS: tuple[Color, ...] = ((158, 66, 48), (52, 88, 132), (74, 112, 84), (184, 184, 180), (196, 140, 52))


def leaf_material(color: Color, *, vegetation: float = 1.0) -> Material:
    """Return the material of a tree crown or hedge in a color (0-255)."""
    r, g, b = color
    return Material(color, (r * 1.28, g * 1.25, b * 1.2), 0.3, 0.12, vegetation, 0.55)


def painted(color: Color, *, grain: float = 0.02, relief: float = 0.0, row_spacing: float = 0.0) -> Material:
    """Return a plainly colored surface, corrugated every ``row_spacing`` meters unless it is 0."""
    r, g, b = color
    darker = (r * 0.9, g * 0.9, b * 0.9)
    return Material(
        color,
        darker,
        0.15,
        grain,
        relief=relief,
        row_strength=0.6 if row_spacing else 0.0,
        row_spacing=row_spacing or 1.0,
    )


def weathered(material: Material, strength: float, seed: int) -> Material:
    """Return the appearance of a surface on another date, after growth, harvest, rain and dust.

    Fields may have another crop; vegetation and bare ground change their tone, built surfaces hardly change.

    Parameters
    ----------
    material
        The surface; equal surfaces change equally.
    strength
        0 = no change, 1 = years in between.
    seed
        Seed of the changes.
    """
    rng = np.random.default_rng([seed, crc32(repr(astuple(material)).encode())])
    bare = material.relief >= _BARE and not material.vegetation
    if material.row_strength and (material.vegetation or bare) and rng.random() < _HARVEST * strength:
        crop = CROPS[int(rng.integers(len(CROPS)))]
        material = replace(crop, row_angle=material.row_angle, row_spacing=material.row_spacing)
    growth = max(material.vegetation, 0.7 * bare, 0.15) * strength
    tone = np.exp(growth * (rng.normal(0, 0.22) + rng.normal(0, 0.09, 3)))

    def toned(color: Color) -> Color:
        r, g, b = np.clip(tone * color, 4, 240)
        return float(r), float(g), float(b)

    second = None if material.color2 is None else toned(material.color2)
    return replace(material, color=toned(material.color), color2=second)


@dataclass
class Palette:
    """The materials of one tile, with their properties as columns that a map of indices looks up."""

    gsd: float
    rows: list[Material] = field(default_factory=list)
    _index: dict[Material, int] = field(default_factory=dict)

    def add(self, material: Material) -> int:
        """Return the index of a material, which is added if it is new."""
        index = self._index.get(material)
        if index is None:
            index = self._index[material] = len(self.rows)
            self.rows.append(material)
        return index

    def weathered(self, strength: float, seed: int) -> Palette:
        """Return the palette of another date: the same materials at the same places, each :func:`weathered`."""
        if strength <= 0:
            return self
        rows = [weathered(row, strength, seed) for row in self.rows]
        return Palette(self.gsd, rows, {})

    def colors(self, season: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both colors as linear reflectance, float32 (materials, 3) each.

        Parameters
        ----------
        season
            How far leaves have changed color: 0 = fresh green, 1 = straw, negative = greener.
        """
        first = np.array([row.color for row in self.rows], np.float32)
        second = np.array([row.color2 or row.color for row in self.rows], np.float32)
        leaves = self.column("vegetation")[:, None] * season
        straw = np.array([1.45, 1.1, 0.95], np.float32)  # relative to a leaf
        factor = 1 + leaves * (straw - 1)
        return ((first / 255) ** 2 * factor).astype(np.float32), ((second / 255) ** 2 * factor).astype(np.float32)

    def column(self, name: str) -> NDArray[np.float32]:
        """Return one property of all materials, float32 (materials,)."""
        return np.array([getattr(row, name) for row in self.rows], np.float32)

    def row_waves(self, x: float, y: float) -> tuple[NDArray[np.float32], ...]:
        """Return radians per pixel to the right and down, phase at (x, y) meters, and strength of the rows."""
        spacing = np.array([row.row_spacing for row in self.rows])
        angle = np.array([row.row_angle for row in self.rows])
        strength = np.array([row.row_strength for row in self.rows])
        # Rows finer than two pixels would alias into stripes that no camera records.
        strength = strength * np.clip(spacing / self.gsd / 2 - 1, 0, 1)
        across = 2 * np.pi / spacing
        right, down = -np.sin(angle) * across, np.cos(angle) * across
        phase = (right * x + down * y) % (2 * np.pi)
        return tuple(a.astype(np.float32) for a in (right * self.gsd, down * self.gsd, phase, strength))


@dataclass(frozen=True)
class Landscape:
    """Land uses, roads and ground covers of a landscape.

    Parameters
    ----------
    uses
        Land uses of the blocks between roads, with their weights.
    roads
        Weights of no road, a gravel track, a paved road and a street with pavements along a line of the layout.
    fields, wild, lawn
        Ground covers of fields, of open land and of gardens.
    needles
        Share of conifers among the trees.
    trees
        Factor on the number of trees.
    water
        Open water: a river through the scene, the sea along it, or ponds only.
    """

    uses: tuple[tuple[LandUse, float], ...]
    roads: tuple[float, float, float, float]
    fields: tuple[Material, ...] = CROPS
    wild: Material = MEADOW
    lawn: Material = LAWN
    needles: float = 0.15
    trees: float = 1.0
    water: Literal["none", "river", "sea"] = "none"


_SNOW_FIELD = Material((220, 224, 232), (200, 202, 206), 0.25, 0.015, relief=0.05, row_strength=0.3, row_spacing=0.9)

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
        wild=WILD,
        needles=0.5,
        water="river",
    ),
    "desert": Landscape(
        uses=(("wild", 6), ("houses", 1.5), ("yard", 1), ("field", 0.8)),
        roads=(0.4, 0.4, 0.2, 0.0),
        fields=(CROPS[0], CROPS[4], SCRUBLAND),
        wild=SCRUBLAND,
        lawn=SAND,
        needles=0.1,
        trees=0.45,
    ),
    "snow": Landscape(
        uses=(("field", 3), ("forest", 2), ("houses", 2), ("wild", 1.5), ("yard", 0.5)),
        roads=(0.3, 0.2, 0.5, 0.0),
        fields=(_SNOW_FIELD, SNOW),
        wild=SNOW,
        lawn=SNOW,
        needles=0.9,
    ),
    "coastal": Landscape(
        uses=(("houses", 3), ("wild", 2), ("meadow", 1.5), ("yard", 1), ("orchard", 0.8)),
        roads=(0.2, 0.3, 0.4, 0.1),
        wild=Material((138, 138, 86), (186, 168, 124), 0.3, 0.1, 0.5, 0.15),
        water="sea",
    ),
}
