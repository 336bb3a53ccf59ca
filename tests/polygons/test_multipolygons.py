"""MultiPolygons as flat arrays: the well-known binary is shapely's, and its offsets do not overflow."""

import numpy as np
import pyarrow as pa
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import trace
from geosiam.polygons.multipolygons import MultiPolygons
from geosiam.polygons.schema import FOOTPRINT_SCHEMA, GEOMETRY, SCHEMA

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def outlines(mask, connectivity=4):
    below = np.zeros((1, mask.shape[1]), bool)  # all components end above it, in one batch
    strip = np.vstack([mask, below]).astype(np.float32)
    (batch,) = component_batches([strip], 0.5, connectivity=connectivity)
    return trace(batch)


@given(MASKS.filter(np.any), st.sampled_from([4, 8]))
@settings(max_examples=100, deadline=None)
def test_wkb_is_that_of_shapely(mask, connectivity):
    traced = outlines(mask, connectivity)
    wkb = traced.wkb()
    wkb.validate(full=True)
    assert wkb.to_pylist() == shapely.to_wkb(traced.geometries(), byte_order=1).tolist()


def test_no_outlines_are_no_bytes():
    none = MultiPolygons(np.empty((0, 2)), *np.zeros((3, 1), np.int64))
    assert none.wkb().to_pylist() == []


def test_offsets_beyond_2_gib_are_exact():
    """Three outlines of 100 million points each: 4.8 GB, of which nothing but the offsets is computed."""
    points = 100_000_000
    xy = np.broadcast_to(np.zeros(2), (3 * points, 2))
    large = MultiPolygons(xy, points * np.arange(4), np.arange(4), np.arange(4))
    size = 9 + 9 + 4 + 16 * points
    assert large._wkb_starts().tolist() == [0, size, 2 * size, 3 * size]


def test_offsets_are_stored_in_64_bits():
    traced = outlines(np.eye(5, dtype=bool))
    wkb = traced.wkb()
    assert wkb.type == SCHEMA.field(GEOMETRY).type == FOOTPRINT_SCHEMA.field(GEOMETRY).type == pa.large_binary()
    assert np.frombuffer(wkb.buffers()[1], np.int64).tolist() == traced._wkb_starts().tolist()
