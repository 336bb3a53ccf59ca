"""Things that stand on the ground: their outlines, and how they are drawn into the maps of a tile.

A thing is drawn as materials and heights only. Light, shade and cast shadows follow from the heights, so that it
looks right under any sun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from geosiam.imagery.grid import Window
from geosiam.synthesis import materials as m
from geosiam.synthesis import noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    Patch = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Thing:
    """One object of the scene.

    Parameters
    ----------
    kind
        Kind of thing, a key of :data:`PAINTERS`.
    x, y
        Center in scene meters, x to the right and y down from the upper left corner.
    angle
        Direction of the length in radians.
    length, width, height
        Size in meters; the diameter of round things is their length.
    material
        Material of the main surface.
    variant
        Number that varies details.
    """

    kind: str
    x: float
    y: float
    angle: float
    length: float
    width: float
    height: float
    material: m.Material
    variant: int = 0

    @property
    def reach(self) -> float:
        """Radius in meters of a circle around the center that contains the whole thing."""
        return 0.5 * float(np.hypot(self.length, self.width)) * (1.1 if self.kind in ROUND else 1.0)


@dataclass
class Canvas:
    """The maps of one tile into which things are drawn.

    Parameters
    ----------
    window
        The pixels of the maps.
    gsd
        Meters per pixel.
    palette
        Materials, shared by all canvases of the tile.
    ids
        int16 (rows, cols): index of the material, -1 = bare ground.
    height
        float32 (rows, cols): meters above the ground.
    bumps
        float32 (rows, cols): smooth noise that makes crowns and heaps irregular.
    walls
        int16 (rows, cols): index of the material of the walls below the surface, -1 = that of bare ground.
    """

    window: Window
    gsd: float
    palette: m.Palette
    ids: NDArray[np.int16]
    height: NDArray[np.float32]
    bumps: NDArray[np.float32]
    walls: NDArray[np.int16]

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the first pixel."""
        return self.window.row_start, self.window.col_start

    def draw(self, thing: Thing) -> None:
        """Draw a thing where it overlaps the canvas."""
        patch = self._patch(thing)
        if patch is not None:
            PAINTERS[thing.kind](self, thing, *patch)

    def _patch(self, thing: Thing) -> tuple[tuple[slice, slice], Patch, Patch] | None:
        """Return the slices around a thing and meters along and across it at each pixel's center."""
        gsd, reach = self.gsd, thing.reach + self.gsd
        rows = _span(thing.y - reach, thing.y + reach, gsd, self.window.row_start, self.window.row_stop)
        cols = _span(thing.x - reach, thing.x + reach, gsd, self.window.col_start, self.window.col_stop)
        if rows[0] >= rows[1] or cols[0] >= cols[1]:
            return None
        dy = ((np.arange(*rows) + 0.5) * gsd - thing.y).astype(np.float32)[:, None]
        dx = ((np.arange(*cols) + 0.5) * gsd - thing.x).astype(np.float32)[None, :]
        c, s = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
        where = (
            slice(rows[0] - self.window.row_start, rows[1] - self.window.row_start),
            slice(cols[0] - self.window.col_start, cols[1] - self.window.col_start),
        )
        return where, dx * c + dy * s, dy * c - dx * s

    def put(
        self,
        where: tuple[slice, slice],
        mask: NDArray[np.bool_],
        material: m.Material,
        height: Patch | float,
        *,
        wall: m.Material | None = None,
    ) -> None:
        """Set material and height where the mask is true and nothing higher stands; walls are of the same material."""
        ids, heights = self.ids[where], self.height[where]
        mask = mask & (heights <= np.maximum(height, 0))
        index = self.palette.add(material)
        np.copyto(ids, index, where=mask)
        np.copyto(heights, np.asarray(height, np.float32), where=mask)
        np.copyto(self.walls[where], self.palette.add(wall) if wall else index, where=mask)


def _span(low: float, high: float, gsd: float, start: int, stop: int) -> tuple[int, int]:
    return max(start, int(np.floor(low / gsd))), min(stop, int(np.ceil(high / gsd)) + 1)


def outline(thing: Thing) -> NDArray[np.float64]:
    """Return the thing's footprint as vertices (n, 2) in scene meters (x, y), not closed."""
    if thing.kind in ROUND:
        phi = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = 0.5 * _wobble(phi, thing.variant)
        u, v = thing.length * radius * np.cos(phi), thing.width * radius * np.sin(phi)
    elif thing.kind == "car":
        u = 0.5 * thing.length * np.array([-1, -0.8, 0.8, 1, 1, 0.8, -0.8, -1])
        v = 0.5 * thing.width * np.array([-0.8, -1, -1, -0.8, 0.8, 1, 1, 0.8])
    else:
        u = 0.5 * thing.length * np.array([-1, 1, 1, -1])
        v = 0.5 * thing.width * np.array([-1, -1, 1, 1])
    c, s = np.cos(thing.angle), np.sin(thing.angle)
    return np.stack([thing.x + u * c - v * s, thing.y + u * s + v * c], axis=1)


_SIDES = {"car": 0.8, "crown": 0.7, "debris": 0.7, "pile": 0.4, "pit": 0.0, "ground": 0.0}
"""Height of the sides relative to the thing's own, where that is not 1: what narrows upward leans with its middle."""


def leaning_outline(thing: Thing, lean: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the outline of a thing with its sides as a leaning flight shows it, like :func:`outline`.

    It is the footprint and all positions that the footprint passes as it is moved by the lean of the sides; for a box
    that is exactly what is seen of it.

    Parameters
    ----------
    thing
        The thing.
    lean
        :meth:`Flight.lean` at the thing: displacement down and to the right relative to height.
    """
    base = outline(thing)
    moved = base + lean[::-1] * thing.height * _SIDES.get(thing.kind, 1.0)
    return np.array(shapely.MultiPoint(np.concatenate([base, moved])).convex_hull.exterior.coords)[:-1]


def _wobble(phi: NDArray[np.floating], variant: int) -> NDArray[np.floating]:
    """Return the relative radius of an irregular round outline in direction ``phi``, at most 1.1."""
    f = (variant * 0.7) % 6.283
    return np.asarray(0.94 + 0.1 * np.sin(2 * phi + f) + 0.06 * np.sin(3 * phi + 2.1 * f))


def _inside_round(thing: Thing, u: Patch, v: Patch) -> Patch:
    """Return the squared relative distance from the center: below 1 inside the outline."""
    u, v = 2 * u / np.float32(thing.length), 2 * v / np.float32(thing.width)
    away: Patch = (u * u + v * v) / _wobble(np.arctan2(v, u), thing.variant) ** 2
    return away.astype(np.float32)


def _inside_box(thing: Thing, u: Patch, v: Patch) -> NDArray[np.bool_]:
    return (np.abs(u) < thing.length / 2) & (np.abs(v) < thing.width / 2)


def _near(value: Patch, center: float, half: float) -> NDArray[np.bool_]:
    return np.asarray(np.abs(value - center) < half)


def _house(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a gable (or hip) roof with chimney, skylight or solar panels; ``height`` is that of the eaves."""
    eaves, half = thing.height, thing.width / 2
    rise = half * (0.62 + 0.1 * (thing.variant % 4))
    roof = eaves + rise * (1 - np.abs(v) / half)
    if thing.variant % 3 == 0:
        roof = np.minimum(roof, eaves + (thing.length / 2 - np.abs(u)) * rise / half)
    inside = _inside_box(thing, u, v)
    plaster = m.painted(m.PLASTER[thing.variant % len(m.PLASTER)])
    canvas.put(where, inside, thing.material, roof, wall=plaster)
    ridge = inside & (np.abs(v) < max(0.12, 0.6 * canvas.gsd)) & (roof > eaves + 0.9 * rise)
    canvas.put(where, ridge, m.painted(thing.material.color2 or thing.material.color), roof + 0.05, wall=plaster)
    side = 1 if thing.variant % 2 else -1
    if thing.variant % 5 in {1, 2}:
        panel = _near(u, -thing.length * 0.08, thing.length * 0.28) & _near(v, side * half * 0.5, half * 0.3)
        canvas.put(where, panel & inside, m.SOLAR, roof + 0.12)
    else:
        window = _near(np.abs(u), thing.length * 0.2, 0.4) & _near(v, side * half * 0.5, 0.55)
        canvas.put(where, window & inside, m.GLASS, roof + 0.05)
    chimney = _near(u, thing.length * 0.22 * side, 0.4) & _near(v, -side * half * 0.3, 0.4)
    canvas.put(where, chimney & inside, m.painted((120, 84, 72)), eaves + rise + 0.5)


def _hall(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a flat roof with parapet, a row of skylights and ventilation boxes."""
    inside = _inside_box(thing, u, v)
    canvas.put(where, inside, thing.material, thing.height)
    rim = inside & ((np.abs(u) > thing.length / 2 - 0.35) | (np.abs(v) > thing.width / 2 - 0.35))
    canvas.put(where, rim, m.CONCRETE, thing.height + 0.4)
    if min(thing.length, thing.width) < 8:  # noqa: PLR2004 - meters; smaller roofs have nothing on them
        return
    inner = inside & (np.abs(u) < thing.length / 2 - 2)
    pitch = 4.0 + thing.variant % 3
    lights = inner & _near(u % pitch, pitch / 2, 0.6) & _near(v, thing.width * 0.18, 1.1)
    canvas.put(where, lights, m.painted((214, 222, 226)), thing.height + 0.3)
    boxes = inner & _near(u % (2.3 * pitch), pitch, 0.9) & _near(v, -thing.width * 0.22, 0.8)
    canvas.put(where, boxes, m.painted((190, 190, 188)), thing.height + 1.1)


def _box(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    canvas.put(where, _inside_box(thing, u, v), thing.material, thing.height)


def _shed(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    canvas.put(where, _inside_box(thing, u, v), thing.material, thing.height + 0.22 * v)


def _car(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a rounded body with hood, dark windows and a roof."""
    a, b = 2 * u / np.float32(thing.length), 2 * v / np.float32(thing.width)
    body = (np.abs(a) < 1) & (np.abs(b) < 1) & (a**6 + b**6 < 1.25)  # noqa: PLR2004 - a superellipse
    hood = thing.height * (0.62 - 0.08 * np.abs(a) - 0.06 * b * b)
    canvas.put(where, body, thing.material, hood)
    cabin = (np.abs(a + 0.12) < 0.58) & (np.abs(b) < 0.86)  # noqa: PLR2004 - shares of the car's size
    canvas.put(where, cabin, m.GLASS, thing.height * 0.8)
    roof = (np.abs(a + 0.14) < 0.36) & (np.abs(b) < 0.74)  # noqa: PLR2004 - shares of the car's size
    canvas.put(where, roof, thing.material, thing.height)


def _hedge(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    ragged = 1 + 0.25 * canvas.bumps[where]
    inside = (np.abs(u) < thing.length / 2) & (np.abs(v) < thing.width / 2 * ragged)
    canvas.put(where, inside, thing.material, thing.height * (0.9 + 0.12 * canvas.bumps[where]))


def _tree(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a crown of ragged outline, domed or (odd variants) pointed."""
    bumps = canvas.bumps[where]
    away = (u * u + v * v) * np.float32(4 / thing.length**2) * (1 + 0.28 * bumps)
    dome = 1 - away if thing.variant % 2 == 0 else 1 - np.sqrt(np.maximum(away, 0))
    crown = thing.height * (0.35 + 0.65 * dome) * (1 + 0.05 * bumps)
    canvas.put(where, away < 1, thing.material, crown)


def _crown(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a tree whose outline is known exactly, for trees that are removed."""
    away = _inside_round(thing, u, v)
    crown = thing.height * (0.4 + 0.6 * (1 - away)) * (1 + 0.08 * canvas.bumps[where])
    canvas.put(where, away < 1, thing.material, crown)


def _pile(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    away = _inside_round(thing, u, v)
    heap = thing.height * (1 - np.sqrt(away)) * (1 + 0.15 * canvas.bumps[where])
    canvas.put(where, away < 1, thing.material, np.maximum(heap, 0.05))


def _pit(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    away = _inside_round(thing, u, v)
    canvas.put(where, away < 1, thing.material, -thing.height * np.clip(3 * (1 - away), 0, 1))


def _patch_of_ground(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    canvas.put(where, _inside_box(thing, u, v), thing.material, 0.0)


def _pool(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    canvas.put(where, _inside_box(thing, u, v), m.CONCRETE, 0.05)
    water = (np.abs(u) < thing.length / 2 - 0.5) & (np.abs(v) < thing.width / 2 - 0.5)
    canvas.put(where, water, m.POOL, 0.05)


def _tarp(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a sheet on the ground, nearly flat, with folds."""
    inside = _inside_box(thing, u, v)
    folds = (
        0.12 + 0.05 * np.sin(5 * u / thing.length + 4 * v / thing.width + thing.variant) + 0.03 * canvas.bumps[where]
    )
    canvas.put(where, inside, thing.material, np.maximum(folds, 0.02))


def _debris(canvas: Canvas, thing: Thing, where: tuple[slice, slice], u: Patch, v: Patch) -> None:
    """Draw a heap of broken pieces in three shades."""
    away = _inside_round(thing, u, v)
    rows, cols = (slice(s.start + o, s.stop + o) for s, o in zip(where, canvas.corner, strict=True))
    window = Window(rows.start, rows.stop, cols.start, cols.stop)
    pieces = noise.smooth(window, max(2, round(0.3 / canvas.gsd)), thing.variant)
    heap = np.maximum(thing.height * (0.55 + 0.35 * pieces) * (1.2 - away), 0.05)
    canvas.put(where, away < 1, thing.material, heap)
    light = (away < 1) & (pieces > 0.7)  # noqa: PLR2004 - standard deviations
    canvas.put(where, light, m.painted((196, 188, 176)), heap + 0.02)
    dark = (away < 1) & (pieces < -0.9)  # noqa: PLR2004 - standard deviations
    canvas.put(where, dark, m.painted((58, 52, 48)), heap + 0.02)


ROUND = frozenset({"crown", "pile", "pit", "debris"})
PAINTERS: dict[str, Callable[[Canvas, Thing, tuple[slice, slice], Patch, Patch], None]] = {
    "house": _house, "hall": _hall, "box": _box, "shed": _shed, "car": _car, "hedge": _hedge, "tree": _tree,
    "crown": _crown, "pile": _pile, "pit": _pit, "ground": _patch_of_ground, "pool": _pool, "tarp": _tarp,
    "debris": _debris,
}  # fmt: skip
