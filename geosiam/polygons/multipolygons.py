"""Many MultiPolygons as flat arrays, as the batches of polygons are traced, measured, moved and written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import shapely

from geosiam.imagery.grid import apply_affine

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

_POINT, _COUNT, _HEADER = 16, 4, 9  # bytes: two doubles; a number of points; byte order, type and a number of parts
_POLYGON, _MULTIPOLYGON = 3, 6


@dataclass(frozen=True)
class MultiPolygons:
    """MultiPolygons as columns.

    Parameters
    ----------
    xy
        Shape (points, 2): the points of all rings, ring by ring; the last point of a ring is its first one.
    rings
        Shape (rings + 1,): ring ``i`` has the points ``rings[i]:rings[i + 1]``.
    parts
        Shape (parts + 1,): polygon ``i`` has the rings ``parts[i]:parts[i + 1]``, the exterior first.
    members
        Shape (n + 1,): MultiPolygon ``i`` has the polygons ``members[i]:members[i + 1]``.
    """

    xy: NDArray[np.float64]
    rings: NDArray[np.int64]
    parts: NDArray[np.int64]
    members: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.members) - 1

    @classmethod
    def of_open_rings(
        cls, xy: NDArray[np.float64], ring: NDArray[np.int64], part: NDArray[np.int64], member: NDArray[np.int64]
    ) -> Self:
        """Return the outlines of rings whose first point does not come again.

        Parameters
        ----------
        xy
            Shape (points, 2).
        ring, part, member
            The ring of each point, the polygon of each ring and the MultiPolygon of each polygon; each ascending.
        """
        count = np.bincount(ring)
        first = np.cumsum(count) - count
        closed = np.empty((len(xy) + len(count), 2))
        closed[np.arange(len(xy)) + ring] = xy
        rings = _offsets(count + 1)
        closed[rings[1:] - 1] = xy[first]
        return cls(closed, rings, _offsets(np.bincount(part)), _offsets(np.bincount(member)))

    @classmethod
    def of_geometries(cls, geometries: NDArray[np.object_]) -> Self:
        """Return shapely Polygons and MultiPolygons, shape (n,), as columns."""
        multi = geometries.copy()
        single = shapely.get_type_id(multi) == _POLYGON
        multi[single] = shapely.multipolygons(multi[single], indices=np.arange(np.count_nonzero(single)))
        _, xy, (rings, parts, members) = shapely.to_ragged_array(multi, include_z=False)
        return cls(xy, rings.astype(np.int64), parts.astype(np.int64), members.astype(np.int64))

    def geometries(self) -> NDArray[np.object_]:
        """Return shapely MultiPolygons, shape (n,)."""
        offsets = self.rings, self.parts, self.members
        return np.asarray(shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, self.xy, offsets))

    def placed(self, transform: Affine, extent: tuple[float, float] = (np.inf, np.inf)) -> Self:
        """Return the outlines on earth.

        Parameters
        ----------
        transform
            Maps (column, row) to (x, y).
        extent
            Where the scene ends, in cells (rows, cols): the last row and column of cells are made that much smaller,
            which keeps the order of points, hence the topology.
        """
        x, y = (_pressed(values, end) for values, end in zip(self.xy.T, extent[::-1], strict=True))
        return replace(self, xy=np.stack(apply_affine(transform, x, y), axis=1))

    def points_of(self) -> NDArray[np.int64]:
        """Return the MultiPolygon of each point, shape (points,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.rings[self.parts[self.members]]))

    def wkb(self) -> pa.Array:
        """Return well-known binary, an Arrow array of length n; shapely takes 100 times as long for small ones."""
        ring_part, part_member = _owners(self.parts), _owners(self.members)
        ring_member = part_member[ring_part]
        points, rings, parts = self.xy, self.rings, self.parts
        before_ring = _HEADER * (ring_part + ring_member + 2)
        at_ring = _POINT * rings[:-1] + _COUNT * np.arange(len(ring_part)) + before_ring
        before_part = _HEADER * (np.arange(len(part_member)) + part_member + 1)
        at_part = _POINT * rings[parts[:-1]] + _COUNT * parts[:-1] + before_part
        first_part = self.members
        at_member = _POINT * rings[parts[first_part]] + _COUNT * parts[first_part]
        at_member = at_member + _HEADER * (first_part + np.arange(len(first_part)))
        ring_of_point = _owners(rings)
        at_point = at_ring[ring_of_point] + _COUNT + _POINT * (np.arange(len(points)) - rings[ring_of_point])

        buffer = np.zeros(int(at_member[-1]), np.uint8)
        _put(buffer, at_member[:-1], _header(_MULTIPOLYGON, np.diff(self.members)))
        _put(buffer, at_part, _header(_POLYGON, np.diff(parts)))
        _put(buffer, at_ring, np.diff(rings).astype("<u4"))
        _put(buffer, at_point, np.ascontiguousarray(points, "<f8").view("V16").ravel())
        offsets = pa.py_buffer(at_member.astype(np.int32))
        return pa.Array.from_buffers(pa.binary(), len(self), [None, offsets, pa.py_buffer(buffer)])


def _pressed(values: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """Return coordinates with the last cell, which ends before a whole number, as large as it is."""
    last = np.ceil(end) - 1
    if not np.isfinite(end) or last + 1 == end:
        return values
    return np.where(values > last, last + (values - last) * (end - last), values)


def _offsets(count: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(count)])


def _owners(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _header(kind: int, count: NDArray[np.int64]) -> NDArray[np.void]:
    header = np.empty(len(count), [("order", "u1"), ("kind", "<u4"), ("count", "<u4")])
    header["order"], header["kind"], header["count"] = 1, kind, count
    return header


def _put(buffer: NDArray[np.uint8], at: NDArray[np.int64], items: NDArray[np.generic]) -> None:
    """Copy items to places of a buffer, aligned or not."""
    size = items.dtype.itemsize
    everywhere = np.ndarray((len(buffer) - size + 1,), f"V{size}", buffer, strides=(1,))
    everywhere[at] = items.view(f"V{size}")
