"""The objects that appear or disappear between the two dates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from geosiam.synthesis import materials as m
from geosiam.synthesis.ground import Positions, ground_ids
from geosiam.synthesis.things import Thing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geosiam.synthesis.blocks import BlockContent
    from geosiam.synthesis.layout import Plan
    from geosiam.synthesis.light import Flight

_SMALLEST_PX, _LARGEST_PX = 6.0, 60.0
_GAP_PX = 12.0  # between changed objects, so that each can be detected separately
_RIDGE = 1.5  # height that hides what is behind relative to a thing's own, which is that of its eaves for a house
_MAX_REJECTED = 120  # positions rejected in a row before the scene counts as full


@dataclass(frozen=True)
class Change:
    """An object that only one of the dates shows.

    Parameters
    ----------
    kind
        ``"added"`` if only the second date shows it, ``"removed"`` if only the first date does.
    what
        Kind of object in a word, such as ``"car"``.
    thing
        The thing to draw.
    """

    kind: Literal["added", "removed"]
    what: str
    thing: Thing


def _draw_car(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    paint = m.CAR_PAINTS[int(rng.integers(len(m.CAR_PAINTS)))]
    return "car", (float(rng.uniform(3.9, 4.8)), 1.8, 1.5), m.painted(paint)


def _draw_container(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    color = m.CONTAINERS[int(rng.integers(len(m.CONTAINERS)))]
    return "box", (float(rng.choice([3.0, 6.0])), 2.45, 2.6), m.painted(color, row_spacing=0.3)


def _draw_tarp(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    color = m.TARPS[int(rng.integers(len(m.TARPS)))]
    length = float(rng.uniform(0.8, 5))
    return "tarp", (length, length * float(rng.uniform(0.5, 1)), 0.15), m.painted(color, relief=0.12)


def _draw_pile(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    size = float(rng.uniform(1.2, 5.5))
    base = (m.SOIL, m.GRAVEL, m.SAND, m.painted((92, 74, 56), relief=0.3))[int(rng.integers(4))]
    return "pile", (size, size * float(rng.uniform(0.7, 1)), 0.38 * size), base


def _draw_debris(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    size = float(rng.uniform(0.8, 3.5))
    gray = float(rng.uniform(70, 150))
    return "debris", (size, size * 0.8, 0.5), m.painted((gray * 1.05, gray * 0.95, gray * 0.85), grain=0.1, relief=0.3)


def _draw_shed(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    size = float(rng.uniform(2, 4))
    return "shed", (size, size * 0.75, 2.2), m.painted((126, 108, 92), row_spacing=0.25)


def _draw_pit(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    size = float(rng.uniform(1, 4))
    return "pit", (size, size * 0.85, 0.3 * size), m.SOIL


def _draw_tree(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    size = float(rng.uniform(1.6, 5.5))
    return "crown", (size, size, 0.9 * size), m.leaf_material(m.LEAVES[int(rng.integers(len(m.LEAVES)))])


def _draw_crate(rng: np.random.Generator) -> tuple[str, tuple[float, float, float], m.Material]:
    size = float(rng.uniform(0.6, 1.6))
    color = tuple(rng.uniform(50, 220, 3))
    return "box", (size, size * float(rng.uniform(0.6, 1)), size * 0.7), m.painted(color)


_KINDS = {
    "car": _draw_car, "container": _draw_container, "tarp": _draw_tarp, "pile": _draw_pile, "debris": _draw_debris,
    "shed": _draw_shed, "pit": _draw_pit, "tree": _draw_tree, "crate": _draw_crate,
}  # fmt: skip
_ON_PAVED = {"car": 5.0, "container": 1.0, "tarp": 1.5, "pile": 1.0, "debris": 1.5, "crate": 1.5, "pit": 0.4}
_ON_GREEN = {
    "car": 0.5, "container": 0.7, "tarp": 2.0, "pile": 1.5, "debris": 1.5, "crate": 1.0, "pit": 1.0,
    "shed": 1.0, "tree": 2.5,
}  # fmt: skip


def choose_changes(
    plan: Plan,
    content: Callable[[int, int], BlockContent],
    *,
    count: int,
    gsd: float,
    shape: tuple[int, int],
    seed: int,
    flights: tuple[Flight, Flight],
) -> list[Change]:
    """Return up to ``count`` changes that are clear of everything else, on land, entirely inside the scene.

    Parameters
    ----------
    plan, content
        Plan of the scene; function that returns the content of block (i, j).
    count
        Number of changes; a scene without room gets fewer.
    gsd
        Meters per pixel. Changes are scaled to between 6 and 60 pixels.
    shape
        Rows and columns of the scene.
    seed
        Seed of the changes.
    flights
        Conditions of both dates: nothing leans over a change at the date that shows it.
    """
    rng = np.random.default_rng([seed, 7])
    changes: list[Change] = []
    occupied = np.zeros((0, 3))  # x, y and reach of these changes
    rejected = 0
    while len(changes) < count and rejected < _MAX_REJECTED:
        rejected += 1
        xy = rng.uniform(0, 1, 2) * (shape[1] * gsd, shape[0] * gsd)
        change = _propose(plan, rng, (float(xy[0]), float(xy[1])), gsd, content)
        lean = flights[change.kind == "added"].lean(xy[0], xy[1])
        reach = change.thing.reach + float(np.hypot(*lean)) * change.thing.height
        edge = reach + 2 * gsd
        if not (edge < xy[0] < shape[1] * gsd - edge and edge < xy[1] < shape[0] * gsd - edge):
            continue
        if (np.hypot(*(occupied[:, :2] - xy).T) < occupied[:, 2] + reach + _GAP_PX * gsd).any():
            continue
        if not _is_clear(plan, content, change.thing, gsd, lean):
            continue
        rejected = 0
        changes.append(change)
        occupied = np.vstack([occupied, [*xy, reach]])
    return changes


def _propose(
    plan: Plan,
    rng: np.random.Generator,
    xy: tuple[float, float],
    gsd: float,
    content: Callable[[int, int], BlockContent],
) -> Change:
    """Return a random change that suits the ground at a position."""
    palette = m.Palette(gsd)
    position = Positions.at(plan, np.array([[xy[0]]]), np.array([[xy[1]]]))
    ground = palette.rows[int(ground_ids(plan, content, palette, position, gsd)[0, 0])]
    green = ground.vegetation > 0 or ground.relief > 0.1  # noqa: PLR2004
    weights = _ON_GREEN if green else _ON_PAVED
    odds = np.array(list(weights.values()))
    what = list(weights)[int(rng.choice(len(odds), p=odds / odds.sum()))]
    painter, (length, width, height), material = _KINDS[what](rng)
    scale = min(max(_SMALLEST_PX * gsd / width, 1.0), _LARGEST_PX * gsd / length)
    kind: Literal["added", "removed"] = "removed" if what == "tree" or rng.random() < 0.35 else "added"  # noqa: PLR2004
    angle = plan.angle + (np.pi / 2) * int(rng.integers(2)) + rng.normal(0, 0.15 if what == "car" else 0.8)
    thing = Thing(
        painter, *xy, float(angle), length * scale, width * scale, height * scale, material, int(rng.integers(1 << 16))
    )
    return Change(kind, what, thing)


def _is_clear(
    plan: Plan, content: Callable[[int, int], BlockContent], thing: Thing, gsd: float, lean: NDArray[np.floating]
) -> bool:
    """Return whether a thing is neither in water nor touches or is hidden by another one."""
    center = np.array([thing.x]), np.array([thing.y])
    if float(plan.shore(*center)[0]) < thing.reach + 1:
        return False
    p, q = plan.to_plan(*center)
    i, j = int(p[0] // plan.pitch[0]), int(q[0] // plan.pitch[1])
    if plan.block(i, j).use == "pond":
        share = p[0] / plan.pitch[0] - i - 0.5, q[0] / plan.pitch[1] - j - 0.5
        if np.hypot(*share) * min(plan.pitch) < 0.45 * min(plan.pitch) + thing.reach:
            return False
    for block in ((i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
        for other in content(*block).things:
            if other.kind != "ground" and any(_near(thing, seen, 3 * gsd) for seen in _leaning(other, lean)):
                return False
    return True


def _leaning(thing: Thing, lean: NDArray[np.floating]) -> list[Thing]:
    """Return a thing at its place, and also where its middle and its top are seen if it leans."""
    if not lean.any():
        return [thing]
    down, right = (_RIDGE * thing.height * step for step in lean)
    return [replace(thing, x=thing.x + share * right, y=thing.y + share * down) for share in (0.0, 0.5, 1.0)]


def _near(thing: Thing, other: Thing, gap: float) -> bool:
    """Return whether two things are closer than ``gap``, the first of them taken as a circle."""
    dx, dy = thing.x - other.x, thing.y - other.y
    reach = thing.reach + gap
    if dx * dx + dy * dy > (reach + other.reach * 1.2) ** 2:
        return False
    c, s = np.cos(other.angle), np.sin(other.angle)
    u, v = abs(dx * c + dy * s), abs(dy * c - dx * s)
    slack = 1.2 if other.kind in {"tree", "hedge"} else 1.0
    return bool(np.hypot(max(0.0, u - slack * other.length / 2), max(0.0, v - slack * other.width / 2)) < reach)
