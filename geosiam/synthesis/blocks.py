"""Content of a block of land: houses with gardens, halls with yards, woods, orchards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from geosiam.synthesis import materials as m
from geosiam.synthesis.layout import ROAD, STREET, BlockPlan, Plan
from geosiam.synthesis.things import Thing

if TYPE_CHECKING:
    from collections.abc import Callable

# Pixels of the narrowest crown worth drawing; coarse scenes get clumps instead of trees.
_FINEST_CROWN = 9
_SHORE_CLEARANCE = 2.0  # meters between things and open water


@dataclass
class BlockContent:
    """Parcels and things of a block.

    Parameters
    ----------
    parcels
        Ground cover of each parcel, p running fastest.
    things
        Things that stand there, in drawing order.
    """

    parcels: list[m.Material] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)


class Builder:
    """Fill one block; everything is drawn from a generator that depends on seed and block only."""

    def __init__(self, plan: Plan, block: BlockPlan, gsd: float) -> None:
        self.plan, self.block, self.gsd = plan, block, gsd
        self.land = plan.landscape
        self.rng = np.random.default_rng([plan.seed, 5, block.i & 0xFFFFFFFF, block.j & 0xFFFFFFFF])
        self.content = BlockContent()

    def build(self) -> BlockContent:
        """Return the content of the block."""
        _BUILDERS[self.block.use](self)
        self.parked_cars()
        things = self.content.things
        x, y, reach = (np.array([getattr(t, name) for t in things]) for name in ("x", "y", "reach"))
        is_dry = self.plan.shore(x, y) > 0.8 * reach + _SHORE_CLEARANCE
        self.content.things = [thing for thing, dry in zip(things, is_dry, strict=True) if dry]
        return self.content

    # -- pieces ---------------------------------------------------------------------------------------------------

    def place(
        self,
        kind: str,
        pose: tuple[float, float, float],
        size: tuple[float, float, float],
        material: m.Material,
    ) -> None:
        """Add a thing; ``pose`` is p, q and direction in the plan, ``size`` is length, width and height in meters."""
        x, y, heading = self.plan.heading(*map(float, pose))
        if kind in {"house", "hall"} or material.row_strength:
            material = replace(material, row_angle=heading)
        length, width, height = map(float, size)
        self.content.things.append(
            Thing(kind, x, y, heading, length, width, height, material, int(self.rng.integers(1 << 16)))
        )

    def trees(self, ps: np.ndarray, qs: np.ndarray, crown: tuple[float, float], density: float = 1.0) -> None:
        """Add trees at plan coordinates with crowns of a range of diameters in meters."""
        rng = self.rng
        x, y = self.plan.to_scene(ps, qs)
        grows = rng.random(len(x)) < density * self.land.trees
        sizes = np.maximum(rng.uniform(*crown, len(x)), _FINEST_CROWN * self.gsd)
        needle = rng.random(len(x)) < self.land.needles
        shades = rng.integers(0, 6, len(x))
        tint = rng.uniform(0.86, 1.14, len(x))
        turn = rng.uniform(0, 6.28, len(x))
        for k in np.flatnonzero(grows):
            base = m.NEEDLES[shades[k] % 3] if needle[k] else m.LEAVES[shades[k]]
            # Few distinct shades keep the palette small.
            shade = round(float(tint[k]) * 12) / 12
            material = m.leaf_material(
                (base[0] * shade, base[1] * shade, base[2] * shade), vegetation=0.2 if needle[k] else 1
            )
            size = float(sizes[k])
            height = min(size * (1.5 if needle[k] else 0.85), 11.0)
            variant = 2 * int(shades[k]) + int(needle[k])
            self.content.things.append(
                Thing("tree", float(x[k]), float(y[k]), float(turn[k]), size, size, height, material, variant)
            )

    def scatter(self, spacing: float, inset: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
        """Return jittered lattice positions inside the block, ``spacing`` meters apart."""
        spacing = max(spacing, 1.1 * _FINEST_CROWN * self.gsd)
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        ps, qs = np.meshgrid(
            np.arange(p0 + inset, p1 - inset, spacing), np.arange(q0 + inset, q1 - inset, spacing), indexing="ij"
        )
        jitter = self.rng.uniform(-0.35, 0.35, (2, ps.size)) * spacing
        return ps.ravel() + jitter[0], qs.ravel() + jitter[1]

    def hedge(self, start: tuple[float, float], stop: tuple[float, float], width: float = 0.9) -> None:
        """Add a hedge along a line of the plan, in pieces short enough to follow its bends."""
        length = float(np.hypot(stop[0] - start[0], stop[1] - start[1]))
        pieces = max(1, round(length / 6))
        angle = float(np.arctan2(stop[1] - start[1], stop[0] - start[0]))
        material = m.leaf_material(m.LEAVES[int(self.rng.integers(6))])
        for k in range(pieces):
            t = (k + 0.5) / pieces
            p, q = start[0] + t * (stop[0] - start[0]), start[1] + t * (stop[1] - start[1])
            self.place("hedge", (p, q, angle), (length / pieces + 0.4, width, 1.4), material)

    def car(self, p: float, q: float, angle: float) -> None:
        """Add a parked car, sometimes a van."""
        rng = self.rng
        van = rng.random() < 0.15  # noqa: PLR2004 - share of vans
        size = (5.4, 2.0, 2.3) if van else (float(rng.uniform(3.9, 4.7)), 1.8, 1.5)
        paint = m.CAR_PAINTS[int(rng.integers(len(m.CAR_PAINTS)))]
        self.place("car", (p, q, angle + np.pi * int(rng.integers(2))), size, m.painted(paint))

    def parked_cars(self) -> None:
        """Park cars along the street on the block's low sides."""
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        busy = {STREET: 0.35, ROAD: 0.05}
        for axis, line in ((1, self.block.j), (0, self.block.i)):
            share = busy.get(self.plan.road(axis, line), 0.0)
            for along in np.arange(8.0, (p1 - p0, q1 - q0)[axis == 0] - 8, 6.0):
                if self.rng.random() >= share:
                    continue
                edge = line * self.plan.pitch[axis] + 2.1
                if axis == 1:
                    self.car(p0 + along, edge, 0.0)
                else:
                    self.car(edge, q0 + along, np.pi / 2)

    # -- land uses ------------------------------------------------------------------------------------------------

    def houses(self) -> None:
        """Add lots, each with lawn, house, driveway, terrace and trees, and hedges between them."""
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        columns, rows = self.block.parcels
        width, depth = (p1 - p0) / columns, (q1 - q0) / rows
        for row in range(rows):
            for column in range(columns):
                self.content.parcels.append(self._tinted(self.land.lawn))
                self._lot(p0 + (column + 0.5) * width, q0 + (row + 0.5) * depth, width, depth, up=row < rows / 2)
        for column in range(1, columns):
            if self.rng.random() < 0.6:  # noqa: PLR2004 - share of lots with a hedge
                p = p0 + column * width
                self.hedge((p, q0 + 2), (p, q1 - 2))

    def _lot(self, p: float, q: float, width: float, depth: float, *, up: bool) -> None:
        rng = self.rng
        toward = -1.0 if up else 1.0  # direction of the road
        length = rng.uniform(min(9, width - 4), min(13, width - 4))  # narrow lots get narrow houses
        broad = rng.uniform(min(7.5, depth - 5), min(10, depth - 5))
        house_q = q + toward * (depth / 2 - broad / 2 - rng.uniform(3.5, 6))
        house_p = p + rng.uniform(-1, 1) * max(0.2, (width - length) / 2 - 2.5)
        faces_road = rng.random() < 0.3  # noqa: PLR2004 - share of gables that face the road
        angle = (np.pi / 2 if faces_road else 0.0) + rng.normal(0, 0.03)
        side = 1 if rng.random() < 0.5 else -1  # noqa: PLR2004 - left or right
        drive_p, drive_length = p + side * (width / 2 - 1.9), depth * 0.42
        drive_q = q + toward * (depth / 2 - drive_length / 2)
        pavement = (m.PAVING, m.CONCRETE, m.GRAVEL, m.WORN_ASPHALT)[int(rng.integers(4))]
        self.place("ground", (drive_p, drive_q, np.pi / 2), (drive_length, 3.0, 0), pavement)
        self.place("ground", (house_p, house_q - toward * (broad / 2 + 1.6), angle), (length * 0.6, 3.4, 0), m.PAVING)
        roof = m.ROOFS[int(rng.integers(len(m.ROOFS)))]
        if rng.random() < 0.15:  # noqa: PLR2004 - share of flat roofs
            flat = m.FLAT_ROOFS[int(rng.integers(len(m.FLAT_ROOFS)))]
            self.place("hall", (house_p, house_q, angle), (length, broad, float(rng.uniform(4, 6))), flat)
        else:
            self.place("house", (house_p, house_q, angle), (length, broad, float(rng.uniform(3, 5))), roof)
        if rng.random() < 0.55:  # noqa: PLR2004 - share of cars at home
            self.car(drive_p, drive_q + toward * rng.uniform(-2, 2), np.pi / 2)
        back_q = q - toward * depth * 0.3
        if rng.random() < 0.5:  # noqa: PLR2004 - share of sheds
            wood = m.painted((float(rng.integers(108, 158)), 110, 92), row_spacing=0.25)
            self.place("shed", (p - side * (width / 2 - 2.6), back_q, 0.0), (3.2, 2.4, 2.1), wood)
        if rng.random() < 0.15:  # noqa: PLR2004 - share of pools
            self.place("pool", (p, back_q, rng.normal(0, 0.1)), (7.0, 4.0, 0), m.POOL)
        count = int(rng.integers(1, 5))
        tree_p = p + rng.uniform(-0.42, 0.42, count) * width
        tree_q = q - toward * rng.uniform(0.1, 0.44, count) * depth
        self.trees(tree_p, tree_q, (2.2, 6.0))

    def field(self) -> None:
        """Add parcels of crops, with hedges and trees along some edges."""
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        along = 0.0 if self.rng.random() < 0.5 else np.pi / 2  # noqa: PLR2004 - either way
        _, _, heading = self.plan.heading((p0 + p1) / 2, (q0 + q1) / 2, along)
        for _ in range(self.block.parcels[0] * self.block.parcels[1]):
            crop = self.land.fields[int(self.rng.integers(len(self.land.fields)))]
            spacing = max(crop.row_spacing, 5 * self.gsd)
            self.content.parcels.append(replace(self._tinted(crop), row_angle=heading, row_spacing=spacing))
        if self.rng.random() < 0.35 * self.land.trees:
            self.hedge((p0 + 3, q0 + 1), (p1 - 3, q0 + 1), 1.8)
            ps = np.arange(p0 + 4, p1 - 3, 7.0)
            self.trees(ps + self.rng.uniform(-2, 2, ps.size), np.full(ps.size, q0 + 1.2), (3.5, 7), 0.5)

    def meadow(self) -> None:
        """Add grass with single trees and bushes."""
        self.content.parcels.append(self._tinted(self.land.wild))
        self.trees(*self.scatter(9), (3, 8), 0.22)
        self.trees(*self.scatter(5), (1, 2.2), 0.12)

    def wild(self) -> None:
        """Add open land with bushes and stones."""
        self.content.parcels.append(self._tinted(self.land.wild))
        self.trees(*self.scatter(4.5), (1, 3), 0.3)
        self.trees(*self.scatter(12), (4, 8), 0.3)
        for p, q in zip(*self.scatter(16), strict=True):
            size = float(self.rng.uniform(0.6, 1.6))
            self.place("pile", (p, q, 0.0), (size, size * 0.8, 0.4 * size), m.painted((150, 144, 134), relief=0.3))

    def forest(self) -> None:
        """Add a closed wood."""
        self.content.parcels.append(m.UNDERWOOD if self.land.lawn != m.SNOW else m.SNOW)
        self.trees(*self.scatter(4.6), (4.4, 7.8), 0.95 / self.land.trees)

    def orchard(self) -> None:
        """Add trees in rows."""
        for _ in range(self.block.parcels[0] * self.block.parcels[1]):
            self.content.parcels.append(self._tinted(self.land.lawn))
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        step = max(5.0, 1.6 * _FINEST_CROWN * self.gsd)
        ps, qs = np.meshgrid(np.arange(p0 + 3, p1 - 3, step), np.arange(q0 + 3, q1 - 3, step), indexing="ij")
        jitter = self.rng.normal(0, 0.15, (2, ps.size))
        self.trees(ps.ravel() + jitter[0], qs.ravel() + jitter[1], (2.6, 3.8), 0.92 / self.land.trees)

    def yard(self) -> None:
        """Add a hall on a paved yard with a parking lot and containers."""
        rng = self.rng
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        ground = (m.WORN_ASPHALT, m.CONCRETE, m.GRAVEL)[int(rng.integers(3))]
        self.content.parcels.append(self._tinted(ground))
        length, width = (p1 - p0) * rng.uniform(0.5, 0.7), (q1 - q0) * rng.uniform(0.35, 0.5)
        hall_p, hall_q = p0 + length / 2 + 3, q0 + width / 2 + 3
        roof = m.FLAT_ROOFS[int(rng.integers(len(m.FLAT_ROOFS)))]
        self.place("hall", (hall_p, hall_q, 0.0), (length, width, float(rng.uniform(4.5, 8))), roof)
        for p in np.arange(p0 + 4, p1 - 4, 2.7):
            self.place("ground", (p - 1.35, q1 - 4, np.pi / 2), (5.0, max(0.12, 0.8 * self.gsd), 0), m.PAINT)
            if rng.random() < 0.45:  # noqa: PLR2004 - share of occupied bays
                self.car(p, q1 - 4 + rng.normal(0, 0.2), np.pi / 2)
        for k in range(int(rng.integers(0, 5))):
            color = m.CONTAINERS[int(rng.integers(len(m.CONTAINERS)))]
            p = p1 - 3.5 + rng.normal(0, 0.2)
            self.place(
                "box", (p, q0 + 5 + 3.1 * k, rng.normal(0, 0.03)), (6.0, 2.45, 2.6), m.painted(color, row_spacing=0.3)
            )
        self.trees(*self.scatter(12, 0.5), (3, 6), 0.1)

    def pond(self) -> None:
        """Add meadow and bushes around a pond; the water itself is part of the ground."""
        self.content.parcels.append(self._tinted(self.land.wild))
        (p0, q0), (p1, q1) = self.block.low, self.block.high
        ps, qs = self.scatter(4)
        away = np.hypot((2 * ps - p0 - p1) / (p1 - p0), (2 * qs - q0 - q1) / (q1 - q0))
        outside = away > 0.86  # noqa: PLR2004 - share of the block; the water reaches to 0.7
        self.trees(ps[outside], qs[outside], (2, 6), 0.5)

    def _tinted(self, material: m.Material) -> m.Material:
        """Return a material a little lighter or darker, redder or greener, so that no two fields are equal."""
        tint = self.rng.normal(1, 0.05) * self.rng.normal(1, 0.016, 3)
        first, second = (tuple(np.array(c) * tint) for c in (material.color, material.color2 or material.color))
        return replace(material, color=first, color2=second)


_BUILDERS: dict[str, Callable[[Builder], None]] = {
    "houses": Builder.houses, "field": Builder.field, "meadow": Builder.meadow, "wild": Builder.wild,
    "forest": Builder.forest, "orchard": Builder.orchard, "yard": Builder.yard, "pond": Builder.pond,
}  # fmt: skip
