"""MultiPolygons as flat arrays: the well-known binary is shapely's, and never overflows its 32-bit offsets."""

import numpy as np
import pyarrow as pa
import pytest
import shapely
from array_cells import Cells, polygons
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geosiam.errors import SceneRefusedError
from geosiam.polygons import multipolygons
from geosiam.polygons.components import component_batches
from geosiam.polygons.contours import trace
from geosiam.polygons.multipolygons import MultiPolygons
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_table
from geosiam.polygons.writer import write_polygons

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
DOT_BYTES = 9 + 9 + 4 + 5 * 16  # a MultiPolygon of one square


def outlines(mask):
    below = np.zeros((1, mask.shape[1]), bool)  # all components end above it, in one batch
    (batch,) = component_batches([np.vstack([mask, below]).astype(np.float32)], 0.5, connectivity=4)
    return trace(batch)


def dots(count):
    """Return a row of separate cells."""
    mask = np.zeros((1, 2 * count), bool)
    mask[:, ::2] = True
    return mask


@pytest.fixture
def limit(monkeypatch):
    def set_limit(size):
        monkeypatch.setattr(multipolygons, "MAX_WKB_BYTES", size)

    return set_limit


@given(MASKS.filter(np.any), st.sampled_from([500, 1000, 1 << 20]))
@settings(max_examples=100, deadline=None)
def test_wkb_is_that_of_shapely_in_one_chunk_or_many(mask, size):
    traced = outlines(mask)
    expected = shapely.to_wkb(traced.geometries(), byte_order=1).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipolygons, "MAX_WKB_BYTES", max(size, *map(len, expected)))
        wkb = traced.wkb()
        assert all(chunk.nbytes <= multipolygons.MAX_WKB_BYTES + 4 * (len(chunk) + 1) for chunk in wkb.chunks)
    assert wkb.type == pa.binary()
    assert wkb.to_pylist() == expected


def test_no_outlines_are_no_bytes():
    none = MultiPolygons(np.empty((0, 2)), *np.zeros((3, 1), np.int64))
    assert none.wkb().to_pylist() == []


def test_chunks_are_as_large_as_they_may_be(limit):
    traced = outlines(dots(10))
    limit(4 * DOT_BYTES)
    assert [len(chunk) for chunk in traced.wkb().chunks] == [4, 4, 2]
    limit(4 * DOT_BYTES - 1)
    assert [len(chunk) for chunk in traced.wkb().chunks] == [3, 3, 3, 1]


def test_offsets_beyond_32_bits_are_counted_exactly():
    """Three outlines of 100 million points: 4.8 GB, of which nothing but the offsets is made."""
    points = 100_000_000
    xy = np.broadcast_to(np.zeros(2), (3 * points, 2))
    large = MultiPolygons(xy, points * np.arange(4), np.arange(4), np.arange(4))
    size = 9 + 9 + 4 + 16 * points
    assert large._wkb_starts().tolist() == [0, size, 2 * size, 3 * size]
    assert len(large._slice(1, 2).xy) == points


def test_a_single_outline_that_is_too_large_is_refused(limit):
    limit(DOT_BYTES - 1)
    with pytest.raises(SceneRefusedError, match="raise `threshold` or set `simplify`"):
        outlines(dots(2)).wkb()


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_a_file_of_several_chunks_holds_all_polygons(limit, tmp_path, suffix):
    scores = dots(10).astype(np.float32)
    whole = polygons(scores, smooth=False)
    limit(4 * DOT_BYTES)
    assert polygons(scores, smooth=False).equals(whole)
    table = polygon_table(Cells(scores), PolygonOptions(threshold=0.5, smooth=False))
    assert write_polygons(table, tmp_path / f"a{suffix}") == 10
