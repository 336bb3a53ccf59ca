"""Components as a stream equal those of the whole array, wherever the strips are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from single_components import connected_components, single

from geosiam.errors import OptionError
from geosiam.polygons.components import component_batches

FULL = np.ones((3, 3))
VALUES = st.sampled_from([np.nan, 0.0, 0.25, 0.5, 0.75, 1.0])
RASTERS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=VALUES)


def strips(scores, height):
    return [scores[i : i + height] for i in range(0, len(scores), height)]


def expected(scores, threshold, connectivity):
    """Return all that is known of each component, from the whole array, in the order of the last cells."""
    label, count = ndimage.label(scores >= threshold, FULL if connectivity == 8 else None)
    found = []
    for i in range(1, count + 1):
        mask = label == i
        grown = ndimage.binary_dilation(mask, FULL)
        rows, cols = np.nonzero(mask)
        found.append(
            {
                "last": np.flatnonzero(mask)[-1],
                "cells": mask.sum(),
                "mean": scores[mask].mean(dtype=float),
                "max": scores[mask].max(),
                "rows": (rows.min(), rows.max() + 1),
                "cols": (cols.min(), cols.max() + 1),
                "neighbors": (grown & ~mask).sum(),
                "nodata": (grown & np.isnan(scores)).sum(),
                "edge": rows.min() == 0
                or cols.min() == 0
                or rows.max() == scores.shape[0] - 1
                or cols.max() == scores.shape[1] - 1,
                "mask": mask,
            }
        )
    return sorted(found, key=lambda c: c["last"])


def mask_of(component, shape):
    mask = np.zeros(shape, bool)
    for row, start, stop in component.runs:
        assert not mask[row, start:stop].any()
        mask[row, start:stop] = True
    return mask


def summary(component):
    return (
        component.cells,
        component.score_mean,
        component.score_max,
        component.rows,
        component.cols,
        component.neighbors,
        component.nodata_neighbors,
        component.touches_edge,
        component.runs.tolist(),
    )


@given(RASTERS, st.sampled_from([4, 8]), st.integers(1, 13))
@settings(max_examples=300, deadline=None)
def test_a_stream_finds_what_the_whole_array_holds(scores, connectivity, height):
    found = list(connected_components(strips(scores, height), 0.5, connectivity=connectivity))
    truth = expected(scores, 0.5, connectivity)
    assert len(found) == len(truth)
    for c, t in zip(found, truth, strict=True):
        assert (c.cells, c.rows, c.cols) == (t["cells"], t["rows"], t["cols"])
        assert (c.neighbors, c.nodata_neighbors, c.touches_edge) == (t["neighbors"], t["nodata"], t["edge"])
        assert c.score_mean == pytest.approx(t["mean"], abs=1e-9)
        assert c.score_max == t["max"]
        assert c.valid_fraction == pytest.approx(1 - t["nodata"] / (t["cells"] + t["neighbors"]))
        assert np.array_equal(mask_of(c, scores.shape), t["mask"])
        assert c.runs.tolist() == sorted(c.runs.tolist())


@given(
    hnp.arrays(np.float32, (9, 11), elements=st.one_of(st.just(np.nan), st.floats(0, 1, width=32))),
    st.lists(st.integers(0, 4), max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_the_cuts_change_nothing_not_even_a_bit(scores, heights):
    cuts = np.minimum(np.cumsum(heights), len(scores)).astype(int)
    uneven = np.split(scores, cuts)  # some of them empty
    whole = [summary(c) for c in connected_components([scores], 0.3)]
    assert [summary(c) for c in connected_components(uneven, 0.3)] == whole


def spiral(size):
    """Return a one-cell-wide spiral: one component that is open until the last row but two."""
    mask = np.zeros((size, size), bool)
    row, col, d_row, d_col = 0, 0, 0, 1
    mask[0, 0] = True
    turns = 0
    while turns < 2:
        r, c = row + d_row, col + d_col
        ahead = (row + 2 * d_row, col + 2 * d_col)
        blocked = not (0 <= r < size and 0 <= c < size) or mask[r, c]
        blocked = blocked or (0 <= ahead[0] < size and 0 <= ahead[1] < size and mask[ahead])
        if blocked:
            d_row, d_col, turns = d_col, -d_row, turns + 1
        else:
            row, col, turns = r, c, 0
            mask[row, col] = True
    return mask


def comb(size):
    mask = np.zeros((size, size), bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


PATTERNS = {
    "spiral": spiral(31),
    "spiral upside down": spiral(31)[::-1],
    "comb": comb(30),
    "comb upside down": comb(30)[::-1],
    "checkerboard": np.indices((30, 31)).sum(0) % 2 == 0,
    "all": np.ones((20, 300), bool),
    "none": np.zeros((20, 30), bool),
    "one column": np.ones((40, 1), bool),
    "frames": np.indices((33, 33)).min(0) % 2 == 0,
}


@pytest.mark.parametrize("height", [1, 7, 1000])
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_that_join_late(name, connectivity, height):
    scores = PATTERNS[name].astype(np.float32)
    found = list(connected_components(strips(scores, height), 0.5, connectivity=connectivity))
    truth = expected(scores, 0.5, connectivity)
    assert [c.cells for c in found] == [t["cells"] for t in truth]
    for c, t in zip(found, truth, strict=True):
        assert np.array_equal(mask_of(c, scores.shape), t["mask"])


def test_many_branches_may_meet_in_one_run():
    """300 teeth, open side by side, meet in a single run."""
    scores = np.zeros((3, 600), np.float32)
    scores[:, ::2] = 1
    scores[2] = 1
    assert [c.cells for c in connected_components(strips(scores, 1), 0.5, connectivity=4)] == [2 * 300 + 600]
    # ... and again when the same branches are already one component in the strips before.
    closed = np.vstack([np.ones((1, 600), np.float32), scores])
    assert [c.cells for c in connected_components(strips(closed, 2), 0.5, connectivity=4)] == [600 + 2 * 300 + 600]


def test_small_and_weak_components_are_dropped():
    scores = np.zeros((5, 20), np.float32)
    scores[0, :2] = 0.6
    scores[2, 5:9] = 0.6
    scores[4, 12:17] = [0.6, 0.6, 0.95, 0.6, 0.6]
    count = {
        key: sum(1 for _ in connected_components([scores], 0.5, **options))
        for key, options in {"all": {}, "large": {"min_cells": 3}, "strong": {"seed_threshold": 0.9}}.items()
    }
    assert count == {"all": 3, "large": 2, "strong": 1}


def test_components_are_handed_on_as_soon_as_they_end():
    """An endless raster gives its first component after the strip below it."""

    def endless():
        yield np.ones((1, 4), np.float32)
        while True:
            yield np.zeros((1, 4), np.float32)

    assert next(connected_components(endless(), 0.5)).cells == 4


def test_a_batch_keeps_what_a_mask_selects():
    scores = (np.random.default_rng(0).random((40, 40)) > 0.7).astype(np.float32)
    batch = next(component_batches([scores], 0.5))
    large = batch.cells > 2
    assert [summary(c) for c in single(batch.where(large))] == [summary(c) for c in single(batch) if c.cells > 2]


def test_no_strips_no_components():
    assert not list(connected_components([], 0.5))
    assert not list(connected_components([np.empty((0, 5), np.float32)], 0.5))


def test_other_connectivities_are_refused():
    with pytest.raises(OptionError, match="use 4 or 8"):
        list(connected_components([], 0.5, connectivity=6))
