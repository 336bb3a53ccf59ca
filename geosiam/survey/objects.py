"""Which polygons of different dates are the same object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST_OVERLAP = 0.25
"""Intersection over union from which on polygons of two dates are one object; outlines follow coarse cells."""


def object_ids(outlines: Sequence[shapely.Geometry], pairs: Sequence[int], least: float = LEAST_OVERLAP) -> list[int]:
    """Return which object each polygon is a sighting of: numbers from 1, in the order of their first polygons.

    Polygons of two pairs are linked from the largest overlap down, such that an object never has two polygons of one
    pair. So a large polygon of one date does not tie together the small ones of another.

    Parameters
    ----------
    outlines
        The polygons, in one coordinate system.
    pairs
        Which pair each is of.
    least
        Least intersection over union of two sightings.

    Returns
    -------
    The number of its object for each polygon
    """
    shapes = np.asarray(outlines, dtype=object)
    members = {index: {pair} for index, pair in enumerate(pairs)}  # the pairs that see an object, by its first polygon
    parents = list(range(len(pairs)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for one, other in _overlapping(shapes, np.asarray(pairs, np.int64), least):
        first, second = sorted((root(int(one)), root(int(other))))
        if first != second and not members[first] & members[second]:
            parents[second] = first
            members[first] |= members.pop(second)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers) + 1) for index in range(len(pairs))]


def _overlapping(shapes: NDArray[np.object_], pairs: NDArray[np.int64], least: float) -> NDArray[np.intp]:
    """Return indices (n, 2) of polygons of different pairs that overlap enough, the largest overlap first."""
    if len(shapes) < 2 or len(np.unique(pairs)) < 2:  # noqa: PLR2004 - it takes two
        return np.empty((0, 2), np.intp)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = (one < other) & (pairs[one] != pairs[other])
    one, other = one[apart], other[apart]
    common = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    share = common / (shapely.area(shapes[one]) + shapely.area(shapes[other]) - common)
    enough = share >= least
    order = np.lexsort((other[enough], one[enough], -share[enough]))
    return np.column_stack([one[enough][order], other[enough][order]])
