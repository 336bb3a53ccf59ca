"""Outlines with fewer points, of the same topology, always valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from geosiam.vector.rings import Outlines

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

_ROUNDING = 1e-9  # cells


def simplified(
    outlines: Outlines, tolerance: NDArray[np.float64], transform: Affine, extent: tuple[float, float]
) -> Outlines:
    """Return outlines on earth without the points that matter less than a tolerance.

    Points are left out in cell space (Douglas-Peucker, as GEOS does it without changing topology), so the tolerance
    means the same in every direction, whatever the CRS. Where the result is not valid, has lost a part or a hole, or
    lies too far off, which GEOS cannot rule out, the full outline stands.

    Parameters
    ----------
    outlines
        In cells (column, row).
    tolerance
        Shape (n,), in cells: how far a new side may lie from the points it replaces.
    transform, extent
        As in :meth:`~geosiam.vector.rings.Outlines.placed`.
    """
    full = outlines.placed(transform, extent).geometries()
    rough = outlines.geometries()
    fewer = shapely.simplify(rough, tolerance, preserve_topology=True)
    # GEOS measures a ring's first corner against sides that are simplified already: off by twice the tolerance at most.
    far = ~_near(rough, fewer, tolerance)
    fewer[far] = shapely.simplify(rough[far], tolerance[far] / 2, preserve_topology=True)
    placed = Outlines.of_geometries(fewer).placed(transform, extent).geometries()
    sound = shapely.is_valid(placed) & ~shapely.is_empty(placed) & (_shape(placed) == _shape(full)).all(axis=1)
    return Outlines.of_geometries(np.where(sound & _near(rough, fewer, tolerance), placed, full))


def _near(full: NDArray[np.object_], fewer: NDArray[np.object_], tolerance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether all points of each full outline lie within the tolerance of the simplified one, shape (n,)."""
    points, owner = shapely.get_coordinates(full, return_index=True)
    sides = shapely.boundary(fewer)
    shapely.prepare(sides)
    far = ~shapely.dwithin(sides[owner], shapely.points(points), tolerance[owner] + _ROUNDING)
    return np.asarray(np.bincount(owner[far], minlength=len(full)) == 0, np.bool_)


def _shape(multipolygons: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the number of parts and of rings of each, shape (n, 2)."""
    parts, owner = shapely.get_parts(multipolygons, return_index=True)
    rings = np.bincount(owner, weights=shapely.get_num_interior_rings(parts) + 1, minlength=len(multipolygons))
    return np.stack([np.bincount(owner, minlength=len(multipolygons)), rings.astype(np.int64)], axis=1)
