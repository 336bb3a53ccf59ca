"""Transforms: the table of an integer type says of each value what the function does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosiam.imagery.normalization import (
    FULL_BYTE,
    PixelTransform,
    RadiometricNormalization,
    Stretch,
    unchanged_transform,
)

ENDS = st.tuples(st.floats(-3e4, 3e4), st.floats(1, 6e4))
RADIOMETRY = st.sampled_from(
    [
        RadiometricNormalization(),
        RadiometricNormalization("linear", ((0.0, 1.0),) * 3, ((0.1, 0.9), (-0.2, 1.1), (0.0, 1.0))),
        RadiometricNormalization("histogram", ((0.1, 0.5, 0.8),) * 3, ((0.0, 0.7, 1.0),) * 3),
    ]
)


@given(ENDS, RADIOMETRY, st.sampled_from(["uint8", "int8", "uint16", "int16"]), st.integers(0, 2**32 - 1))
def test_the_table_is_the_function(ends, radiometry, dtype, seed):
    low, width = ends
    transform = PixelTransform(Stretch((low,) * 3, (low + width,) * 3), radiometry)
    info = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(info.min, info.max, (3, 4, 5), dtype, endpoint=True)
    table = transform.table(dtype)
    looked_up = np.stack([table[i][values[i].view(f"u{values.itemsize}")] for i in range(3)])
    np.testing.assert_array_equal(looked_up, transform.apply(values))


def test_bytes_of_the_full_range_become_0_to_1():
    np.testing.assert_allclose(PixelTransform(FULL_BYTE).table("uint8")[1], np.arange(256) / 255, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32"])
def test_types_of_many_values_have_no_table(dtype):
    assert unchanged_transform(3).table(dtype) is None


def test_the_identity_leaves_what_is_in_range_as_it_is():
    image = np.random.default_rng(0).random((3, 4, 5), np.float32)
    np.testing.assert_array_equal(unchanged_transform(3).apply(image), image)
