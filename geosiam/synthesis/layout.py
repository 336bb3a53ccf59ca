"""The plan of a synthetic scene: winding roads, blocks of land between them, parcels inside the blocks, water.

Roads are lines of a regular lattice in *plan coordinates* (p, q), which are the scene's meters (x right, y down)
rotated and gently bent. So a road is a straight line to the arithmetic and a winding one to the eye, and what is at
a position can be computed from the position alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import atan2, cos, sin
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.synthesis.materials import LANDSCAPES, Landscape, LandscapeName, LandUse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

NO_ROAD, TRACK, ROAD, STREET = range(4)
HALF_WIDTHS = (0.0, 1.5, 2.9, 3.3)  # meters from the center line to the edge of the carriageway
PAVEMENT = 1.6  # meters of paving on either side of a street
_ITERATIONS = 9  # of the inverse of the bend, for an accuracy of a millimeter


@dataclass(frozen=True)
class BlockPlan:
    """A block of land between four road lines.

    Parameters
    ----------
    i, j
        Position on the plan's lattice.
    use
        Land use.
    parcels
        Number of parcels along p and along q.
    low, high
        Inner corners in plan coordinates (meters), without roads and pavements.
    """

    i: int
    j: int
    use: LandUse
    parcels: tuple[int, int]
    low: tuple[float, float]
    high: tuple[float, float]


class Plan:
    """The plan of one scene.

    Parameters
    ----------
    seed
        Seed of the scene.
    name
        Name of the landscape.
    gsd
        Ground sample distance in meters; coarse scenes have larger blocks, so that they are more than a grid of roads.
    extent
        Width and height of the scene in meters; rivers and coasts run through it.
    """

    def __init__(self, seed: int, name: LandscapeName, gsd: float, extent: tuple[float, float]) -> None:
        rng = np.random.default_rng([seed, 1])
        self.seed = seed
        self.landscape: Landscape = LANDSCAPES[name]
        scale = max(1.0, (gsd / 0.2) ** 0.5) * (0.85 if name == "urban" else 1.0)
        self.pitch = (scale * rng.uniform(44, 62), scale * rng.uniform(38, 52))
        self.angle = float(rng.uniform(-0.6, 0.6))
        self._origin = rng.uniform(0, 1000, 2)
        bend = np.array([0.05, 0.03]) if name == "urban" else np.array([0.11, 0.07])
        length = scale * rng.uniform([130, 210, 130, 210], [190, 320, 190, 320])
        self._waves = 2 * np.pi / length
        self._sway = bend[[0, 1, 0, 1]] * length / 2 / np.pi * 2.2
        self._phase = rng.uniform(0, 2 * np.pi, 4)
        self._bends = tuple(tuple(map(float, a)) for a in (self._waves, self._sway, self._phase))
        turn = rng.uniform(0, 2 * np.pi)
        self._shore = (np.cos(turn), np.sin(turn), *(np.array(extent) * rng.uniform(0.3, 0.7, 2)))
        self._river_width = float(rng.uniform(4, 9)) * scale
        if self.landscape.water == "river" and rng.random() < 0.4:  # noqa: PLR2004 - share of places with a river
            self.water = "river"
        else:
            self.water = "sea" if self.landscape.water == "sea" else "none"
        self.block = lru_cache(maxsize=4096)(self._block)
        self.road = lru_cache(maxsize=4096)(self._road)

    def to_plan(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Convert scene coordinates in meters to plan coordinates; the arrays are broadcast against each other."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        dtype = np.result_type(x, y)
        w, a, f = (v.astype(dtype) for v in (self._waves, self._sway, self._phase))
        u, v = c * x + s * y, c * y - s * x
        p = a[0] * np.sin(w[0] * v + f[0])
        p += a[1] * np.sin(w[1] * u + f[1])
        q = a[2] * np.sin(w[2] * u + f[2])
        q += a[3] * np.sin(w[3] * v + f[3])
        p += u + dtype.type(self._origin[0])
        q += v + dtype.type(self._origin[1])
        return p, q

    def to_scene(self, p: FloatArray, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Convert plan coordinates to scene coordinates in meters (fixed point: the bend is a contraction)."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        w, a, f = self._waves, self._sway, self._phase
        u0, v0 = np.asarray(p) - self._origin[0], np.asarray(q) - self._origin[1]
        u, v = u0, v0
        for _ in range(_ITERATIONS):
            u, v = (
                u0 - a[0] * np.sin(w[0] * v + f[0]) - a[1] * np.sin(w[1] * u + f[1]),
                v0 - a[2] * np.sin(w[2] * u + f[2]) - a[3] * np.sin(w[3] * v + f[3]),
            )
        return c * u - s * v, s * u + c * v

    def heading(self, p: float, q: float, angle: float) -> tuple[float, float, float]:
        """Return the position (x, y) in the scene and the direction of a thing at a position and angle in the plan."""
        step = 0.5
        x, y = self._point(p, q)
        x1, y1 = self._point(p + step * cos(angle), q + step * sin(angle))
        return x, y, atan2(y1 - y, x1 - x)

    def _point(self, p: float, q: float) -> tuple[float, float]:
        """Convert one position as :meth:`to_scene` does; arrays of one value would take ten times as long."""
        (w0, w1, w2, w3), (a0, a1, a2, a3), (f0, f1, f2, f3) = self._bends
        u = u0 = p - float(self._origin[0])
        v = v0 = q - float(self._origin[1])
        for _ in range(_ITERATIONS):
            u, v = (
                u0 - a0 * sin(w0 * v + f0) - a1 * sin(w1 * u + f1),
                v0 - a2 * sin(w2 * u + f2) - a3 * sin(w3 * v + f3),
            )
        c, s = cos(self.angle), sin(self.angle)
        return c * u - s * v, s * u + c * v

    def shore(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the distance to open water in meters, negative inside; 1000 km if there is none."""
        if self.water == "none":
            return np.full(np.broadcast_shapes(np.shape(x), np.shape(y)), 1e6, np.float32)
        c, s, x0, y0 = self._shore
        along = c * (y - y0) - s * (x - x0)
        across = c * (x - x0) + s * (y - y0)
        f = self._phase
        across = across + 9 * np.sin(along / 31 + f[0]) + 3.5 * np.sin(along / 11.3 + f[1])
        if self.water == "river":
            across = np.abs(across) - self._river_width * (1 + 0.2 * np.sin(along / 23 + f[2]))
        else:
            across = across + 1.2 * np.sin(along / 4.1 + f[2])
        return np.asarray(across)

    def _rng(self, *key: int) -> np.random.Generator:
        """Return a generator that depends on the seed and a position on the plan's lattice only."""
        return np.random.default_rng([self.seed, *(k & 0xFFFFFFFF for k in key)])

    def _road(self, axis: int, line: int) -> int:
        """Return the kind of road along a line of the lattice (axis 0: p constant)."""
        weights = np.array(self.landscape.roads)
        kind = int(self._rng(2, axis, line).choice(4, p=weights / weights.sum()))
        # Every third line is a road, or a village could have houses without access.
        if kind == NO_ROAD and (line + axis) % 3 == 0 and weights[ROAD] > 0:
            return ROAD
        return kind

    def _clearance(self, axis: int, line: int) -> float:
        kind = self.road(axis, line)
        return HALF_WIDTHS[kind] + (PAVEMENT if kind == STREET else 0.3)

    def _block(self, i: int, j: int) -> BlockPlan:
        rng = self._rng(3, i, j)
        names = [use for use, _ in self.landscape.uses]
        weights = np.array([weight for _, weight in self.landscape.uses])
        use = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        low = (i * self.pitch[0] + self._clearance(0, i), j * self.pitch[1] + self._clearance(1, j))
        high = (
            (i + 1) * self.pitch[0] - self._clearance(0, i + 1),
            (j + 1) * self.pitch[1] - self._clearance(1, j + 1),
        )
        if use == "houses":
            parcels = (max(1, round(self.pitch[0] / 19)), max(1, round(self.pitch[1] / 26)))
        elif use in {"field", "orchard"}:
            parcels = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        else:
            parcels = (1, 1)
        return BlockPlan(i, j, use, parcels, low, high)
