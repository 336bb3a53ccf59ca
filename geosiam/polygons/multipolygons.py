"""Many MultiPolygons as flat arrays, the form in which batches of outlines are traced, measured and encoded."""

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
_POLYGON, _MULTIPOLYGON = 3, 6  # geometry types, in WKB and in shapely
_LITTLE_ENDIAN = 1


@dataclass(frozen=True)
class MultiPolygons:
    """MultiPolygons as nested arrays, with the offsets that GeoArrow uses.

    Parameters
    ----------
    xy
        Shape (points, 2): the points of all rings, ring by ring; the last point of a ring repeats its first one.
    ring_offsets
        Shape (rings + 1,): ring ``i`` has the points ``ring_offsets[i]:ring_offsets[i + 1]``.
    polygon_offsets
        Shape (polygons + 1,): polygon ``i`` has the rings ``polygon_offsets[i]:polygon_offsets[i + 1]``, the exterior
        first.
    geometry_offsets
        Shape (n + 1,): MultiPolygon ``i`` has the polygons ``geometry_offsets[i]:geometry_offsets[i + 1]``.
    """

    xy: NDArray[np.float64]
    ring_offsets: NDArray[np.int64]
    polygon_offsets: NDArray[np.int64]
    geometry_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.geometry_offsets) - 1

    @classmethod
    def of_open_rings(
        cls, xy: NDArray[np.float64], ring: NDArray[np.int64], polygon: NDArray[np.int64], geometry: NDArray[np.int64]
    ) -> Self:
        """Return the MultiPolygons of rings that do not repeat their first point.

        Parameters
        ----------
        xy
            Shape (points, 2).
        ring, polygon, geometry
            The ring of each point, the polygon of each ring and the MultiPolygon of each polygon; each ascending.
        """
        count = np.bincount(ring)
        first = np.cumsum(count) - count
        closed = np.empty((len(xy) + len(count), 2))
        closed[np.arange(len(xy)) + ring] = xy
        ring_offsets = _offsets(count + 1)
        closed[ring_offsets[1:] - 1] = xy[first]
        return cls(closed, ring_offsets, _offsets(np.bincount(polygon)), _offsets(np.bincount(geometry)))

    @classmethod
    def of_geometries(cls, geometries: NDArray[np.object_]) -> Self:
        """Return the MultiPolygons of shapely Polygons and MultiPolygons, shape (n,)."""
        _, xy, offsets = shapely.to_ragged_array(as_multipolygons(geometries), include_z=False)
        return cls(xy, *(level.astype(np.int64) for level in offsets))

    def geometries(self) -> NDArray[np.object_]:
        """Return shapely MultiPolygons, shape (n,)."""
        offsets = self.ring_offsets, self.polygon_offsets, self.geometry_offsets
        return np.asarray(shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, self.xy, offsets))

    @property
    def point_ring(self) -> NDArray[np.int64]:
        """Ring of each point, shape (points,)."""
        return _owners(self.ring_offsets)

    @property
    def ring_polygon(self) -> NDArray[np.int64]:
        """Polygon of each ring, shape (rings,)."""
        return _owners(self.polygon_offsets)

    @property
    def polygon_geometry(self) -> NDArray[np.int64]:
        """MultiPolygon of each polygon, shape (polygons,)."""
        return _owners(self.geometry_offsets)

    @property
    def point_geometry(self) -> NDArray[np.int64]:
        """MultiPolygon of each point, shape (points,)."""
        return _owners(self.ring_offsets[self.polygon_offsets[self.geometry_offsets]])

    def to_crs_coordinates(self, transform: Affine, extent: tuple[float, float] = (np.inf, np.inf)) -> Self:
        """Return the MultiPolygons in coordinates of the CRS instead of cells.

        Parameters
        ----------
        transform
            Maps (column, row) to (x, y).
        extent
            Where the scene ends, in cells (rows, cols). A last row or column of cells that reaches beyond is shrunk to
            it, which preserves the order of points, hence the topology.
        """
        x, y = (_shrink_last_cell(values, end) for values, end in zip(self.xy.T, extent[::-1], strict=True))
        return replace(self, xy=np.stack(apply_affine(transform, x, y), axis=1))

    def wkb(self) -> pa.Array:
        """Return well-known binary, an Arrow array of length n: nested headers and counts, then points.

        Its offsets are 64-bit integers (``large_binary``), since the outlines of a batch may take more than 2 GiB.
        Shapely's own encoder takes 5 to 14 times as long for many small geometries.
        """
        starts, ring_starts = self._wkb_starts(), self._ring_wkb_starts()
        point_ring = self.point_ring
        point_rank = np.arange(len(self.xy)) - self.ring_offsets[point_ring]
        point_starts = ring_starts[point_ring] + _COUNT + _POINT * point_rank

        buffer = np.zeros(int(starts[-1]), np.uint8)
        _put(buffer, starts[:-1], _header(_MULTIPOLYGON, np.diff(self.geometry_offsets)))
        _put(buffer, self._polygon_wkb_starts(), _header(_POLYGON, np.diff(self.polygon_offsets)))
        _put(buffer, ring_starts, np.diff(self.ring_offsets).astype("<u4"))
        _put(buffer, point_starts, np.ascontiguousarray(self.xy, "<f8").view("V16").ravel())
        return pa.Array.from_buffers(pa.large_binary(), len(self), [None, pa.py_buffer(starts), pa.py_buffer(buffer)])

    def _wkb_starts(self) -> NDArray[np.int64]:
        """Return where the WKB of each MultiPolygon starts, in bytes, and where the last one ends: shape (n + 1,)."""
        polygons = self.geometry_offsets
        rings = self.polygon_offsets[polygons]
        headers = polygons + np.arange(len(polygons))
        return _POINT * self.ring_offsets[rings] + _COUNT * rings + _HEADER * headers

    def _polygon_wkb_starts(self) -> NDArray[np.int64]:
        """Return where the WKB of each polygon starts, in bytes: shape (polygons,)."""
        owner = self.polygon_geometry
        rings = self.polygon_offsets[:-1]
        headers = np.arange(len(owner)) + owner + 1
        return _POINT * self.ring_offsets[rings] + _COUNT * rings + _HEADER * headers

    def _ring_wkb_starts(self) -> NDArray[np.int64]:
        """Return where each ring starts in the WKB, in bytes: shape (rings,)."""
        owner = self.ring_polygon
        headers = owner + self.polygon_geometry[owner] + 2
        return _POINT * self.ring_offsets[:-1] + _COUNT * np.arange(len(owner)) + _HEADER * headers


def as_multipolygons(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return shapely geometries, shape (n,), with each Polygon as a MultiPolygon of one part."""
    multi = geometries.copy()
    single = shapely.get_type_id(multi) == _POLYGON
    multi[single] = shapely.multipolygons(multi[single], indices=np.arange(np.count_nonzero(single)))
    return multi


def _shrink_last_cell(values: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """Return coordinates in cells with the last cell shrunk to where the scene ends."""
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
    header["order"], header["kind"], header["count"] = _LITTLE_ENDIAN, kind, count
    return header


def _put(buffer: NDArray[np.uint8], start: NDArray[np.int64], items: NDArray[np.generic]) -> None:
    """Copy items of equal size to positions of a buffer, which need not be aligned."""
    size = items.dtype.itemsize
    # Element i of this view is the `size` bytes from byte i on: overlapping elements, of which disjoint ones are set.
    every_position = np.ndarray((max(len(buffer) - size + 1, 0),), f"V{size}", buffer, strides=(1,))
    every_position[start] = items.view(f"V{size}")
