"""Outlines with fewer points, of the same topology, always valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from geosiam.vector.rings import Outlines

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray


def simplified(
    outlines: Outlines, tolerance: NDArray[np.float64], transform: Affine, extent: tuple[float, float]
) -> Outlines:
    """Return outlines on earth without the points that matter less than a tolerance.

    Points are left out in cell space (Douglas-Peucker, as GEOS does it without changing topology), so the tolerance
    means the same in every direction, whatever the CRS. Where the result is not valid or has lost a part or a hole,
    which GEOS cannot rule out, the full outline stands.

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
    placed = Outlines.of_geometries(fewer).placed(transform, extent).geometries()
    sound = shapely.is_valid(placed) & ~shapely.is_empty(placed) & (_shape(placed) == _shape(full)).all(axis=1)
    return Outlines.of_geometries(np.where(sound, placed, full))


def _shape(multipolygons: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the number of parts and of rings of each, shape (n, 2)."""
    parts, owner = shapely.get_parts(multipolygons, return_index=True)
    rings = np.bincount(owner, weights=shapely.get_num_interior_rings(parts) + 1, minlength=len(multipolygons))
    return np.stack([np.bincount(owner, minlength=len(multipolygons)), rings.astype(np.int64)], axis=1)
