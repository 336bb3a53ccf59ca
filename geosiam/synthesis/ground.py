"""The bare ground: the material at each position, computed from the plan alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.synthesis import materials as m
from geosiam.synthesis.layout import HALF_WIDTHS, PAVEMENT, ROAD, STREET, TRACK, Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geosiam.imagery.grid import Window
    from geosiam.synthesis.blocks import BlockContent

    FloatArray = NDArray[np.floating[Any]]

_MARGIN = 0.7  # meters of grass along the edges of a field
_DASH, _DASH_PERIOD = 3.0, 7.5  # meters


@dataclass
class _Axis:
    """One plan coordinate of every position: its block, its place in the block, its distance from the nearest road."""

    coordinate: FloatArray
    first: int
    last: int
    index: NDArray[np.int32]
    share: FloatArray
    away: FloatArray
    line: NDArray[np.int32]

    @classmethod
    def of(cls, coordinate: FloatArray, pitch: float) -> _Axis:
        scaled = coordinate * coordinate.dtype.type(1 / pitch)
        floor = np.floor(scaled)
        share = scaled - floor
        nearer = share > 0.5  # noqa: PLR2004 - half way to the next line
        index = floor.astype(np.int32)
        return cls(
            coordinate,
            int(index.min()), int(index.max()), index, share,
            np.minimum(share, 1 - share) * coordinate.dtype.type(pitch), index + nearer,
        )  # fmt: skip

    def kinds(self, plan: Plan, axis: int) -> NDArray[np.uint8]:
        """Return the kind of road along the nearest line."""
        table = np.array([plan.road(axis, k) for k in range(self.first, self.last + 2)], np.uint8)
        return table[self.line - self.first]


@dataclass(frozen=True)
class Positions:
    """Positions on the ground.

    Parameters
    ----------
    p, q
        Plan coordinates in meters.
    shore
        Distance to open water in meters, of the same shape.
    """

    p: FloatArray
    q: FloatArray
    shore: FloatArray

    @classmethod
    def at(cls, plan: Plan, x: FloatArray, y: FloatArray) -> Positions:
        """Return the positions of scene coordinates in meters, which are broadcast against each other."""
        return cls(*plan.to_plan(x, y), plan.shore(x, y))

    @classmethod
    def of_window(cls, plan: Plan, window: Window, gsd: float) -> Positions:
        """Return the positions of all pixel centers of a window, float32 (rows, cols) each.

        The plan is so smooth that it is computed every 0.8 m and interpolated in between.
        """
        step = node_spacing(gsd)
        rows, cols = (-(-n // step) + 1 for n in window.shape)
        x = (window.col_start + 0.5 + step * np.arange(cols)) * gsd
        y = (window.row_start + 0.5 + step * np.arange(rows)) * gsd
        coarse = cls.at(plan, x[None, :], y[:, None])
        return cls(*(_interpolated(a, step, window.shape) for a in (coarse.p, coarse.q, coarse.shore)))


def node_spacing(gsd: float) -> int:
    """Return the distance in pixels of the positions that are computed; those between them are interpolated."""
    return int(np.clip(0.8 / gsd, 1, 16))


def _interpolated(nodes: FloatArray, step: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Fill in ``step - 1`` values between neighboring nodes of both axes and cut to a shape."""
    nodes = nodes.astype(np.float32)
    share = (np.arange(step, dtype=np.float32) / np.float32(step)).astype(np.float32)
    tall = nodes[:-1, None, :] + (nodes[1:] - nodes[:-1])[:, None, :] * share[None, :, None]
    tall = tall.reshape(-1, nodes.shape[1])[: shape[0]]
    wide = tall[:, :-1, None] + (tall[:, 1:] - tall[:, :-1])[:, :, None] * share
    return np.ascontiguousarray(wide.reshape(shape[0], -1)[:, : shape[1]])


def ground_ids(
    plan: Plan, content: Callable[[int, int], BlockContent], palette: m.Palette, where: Positions, gsd: float
) -> NDArray[np.int16]:
    """Return the index of the ground's material at each position.

    Parameters
    ----------
    plan
        Plan of the scene.
    content
        Function that returns the content of block (i, j).
    palette
        Palette to which the materials are added.
    where
        Positions whose material is wanted.
    gsd
        Meters per pixel; no painted line is thinner than a pixel.

    Returns
    -------
    int16 of the positions' shape
    """
    across, down = _Axis.of(where.p, plan.pitch[0]), _Axis.of(where.q, plan.pitch[1])
    ids = _parcels(plan, content, palette, across, down)
    if plan.water == "river":  # roads cross it; they end at the sea
        _open_water(plan, palette, ids, where.shore)
    _roads(plan, palette, ids, (across, down), gsd)
    if plan.water == "sea":
        _open_water(plan, palette, ids, where.shore)
    return ids


def _parcels(
    plan: Plan, content: Callable[[int, int], BlockContent], palette: m.Palette, across: _Axis, down: _Axis
) -> NDArray[np.int16]:
    """Return the materials of the parcels; fields have a margin of grass, ponds their water."""
    spans = range(across.first, across.last + 1), range(down.first, down.last + 1)
    blocks = [plan.block(i, j) for i in spans[0] for j in spans[1]]
    size = max(b.parcels[0] * b.parcels[1] for b in blocks)
    table = np.zeros((len(blocks), size), np.int16)
    for k, b in enumerate(blocks):
        parcels = [palette.add(material) for material in content(b.i, b.j).parcels]
        table[k, : len(parcels)] = parcels
    columns = np.array([b.parcels[0] for b in blocks], np.float32)
    rows = np.array([b.parcels[1] for b in blocks], np.float32)
    which = (across.index - across.first) * len(spans[1]) + (down.index - down.first)
    in_p, in_q = across.share * columns[which], down.share * rows[which]
    column, row = in_p.astype(np.int32), in_q.astype(np.int32)
    parcel = column + row * columns.astype(np.int32)[which]
    ids: NDArray[np.int16] = table.ravel()[which * np.int32(size) + np.minimum(parcel, size - 1)]
    if any(b.use == "field" for b in blocks):
        is_field = np.array([b.use == "field" for b in blocks])[which]
        in_p -= column
        in_q -= row
        edge_p = np.minimum(in_p, 1 - in_p) * np.float32(plan.pitch[0]) < _MARGIN * columns[which]
        edge_q = np.minimum(in_q, 1 - in_q) * np.float32(plan.pitch[1]) < _MARGIN * rows[which]
        ids[is_field & (edge_p | edge_q)] = palette.add(plan.landscape.wild)
    if any(b.use == "pond" for b in blocks):
        is_pond = np.array([b.use == "pond" for b in blocks])[which]
        away = (2 * across.share - 1) ** 2 + (2 * down.share - 1) ** 2
        away += 0.12 * np.sin(9 * across.share + 5 * down.share) + 0.06 * np.sin(21 * down.share)
        ids[is_pond & (away < 0.56)] = palette.add(m.SOIL)  # noqa: PLR2004 - the muddy bank
        ids[is_pond & (away < 0.5)] = palette.add(m.WATER)  # noqa: PLR2004 - share of the block
    return ids


def _roads(
    plan: Plan, palette: m.Palette, ids: NDArray[np.int16], axes: tuple[_Axis, _Axis],
    gsd: float,
) -> None:  # fmt: skip
    """Draw tracks, then pavements, then asphalt, then paint, so that crossings are correct."""
    kinds = [axis.kinds(plan, k) for k, axis in enumerate(axes)]
    shoulder = palette.add(plan.landscape.wild)
    for kind, axis in zip(kinds, axes, strict=True):
        ids[(kind == TRACK) & (axis.away < HALF_WIDTHS[TRACK] + 0.4)] = shoulder
        ids[(kind == ROAD) & (axis.away < HALF_WIDTHS[ROAD] + 0.9)] = shoulder
    for kind, axis in zip(kinds, axes, strict=True):
        wheels = np.abs(axis.away - np.float32(0.8)) < 0.55  # noqa: PLR2004 - meters, the ruts of a track
        ids[(kind == TRACK) & wheels] = palette.add(m.GRAVEL)
    for kind, axis in zip(kinds, axes, strict=True):
        ids[(kind == STREET) & (axis.away < HALF_WIDTHS[STREET] + PAVEMENT)] = palette.add(m.PAVING)
    for kind, axis in zip(kinds, axes, strict=True):
        ids[(kind == ROAD) & (axis.away < HALF_WIDTHS[ROAD])] = palette.add(m.WORN_ASPHALT)
        ids[(kind == STREET) & (axis.away < HALF_WIDTHS[STREET])] = palette.add(m.ASPHALT)
    _paint(palette, ids, axes, kinds, gsd)


def _paint(
    palette: m.Palette, ids: NDArray[np.int16], axes: tuple[_Axis, _Axis],
    kinds: list[NDArray[np.uint8]], gsd: float,
) -> None:  # fmt: skip
    """Paint dashed center lines and edge lines, except on crossings."""
    paint = palette.add(m.PAINT)
    half = np.float32(max(0.08, 0.5 * gsd))
    for k, other in ((0, 1), (1, 0)):
        paved = kinds[k] >= ROAD
        if not paved.any():
            continue
        clear = axes[other].away > np.float32(HALF_WIDTHS[STREET] + 1)
        clear |= kinds[other] < ROAD
        dash = (axes[k].away < half) & (axes[other].coordinate % np.float32(_DASH_PERIOD) < _DASH)
        edge = (np.abs(axes[k].away - np.float32(HALF_WIDTHS[ROAD] - 0.25)) < half) & (kinds[k] == ROAD)
        ids[paved & clear & (dash | edge)] = paint


def _open_water(plan: Plan, palette: m.Palette, ids: NDArray[np.int16], shore: FloatArray) -> None:
    """Draw rivers and the sea over everything, each with its bank."""
    beach, bank = (m.SAND, 8.0) if plan.water == "sea" else (m.WILD, 3.0)
    if plan.landscape.lawn == m.SNOW:
        beach = m.SNOW
    ids[shore < bank] = palette.add(beach)
    ids[shore < 0] = palette.add(m.SEA if plan.water == "sea" else m.WATER)
    if plan.water == "sea":
        ids[np.abs(shore + 1.0) < 0.6] = palette.add(m.FOAM)  # noqa: PLR2004 - meters
