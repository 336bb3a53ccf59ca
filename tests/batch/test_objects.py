"""The same object at several dates has one number."""

from __future__ import annotations

import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import box

from geosiam.batch.merge import MIN_OBJECT_IOU, object_ids


def test_an_object_keeps_its_number_over_dates() -> None:
    outlines = [box(0, 0, 10, 10), box(50, 50, 60, 60), box(1, 0, 11, 10), box(2, 1, 12, 11), box(90, 0, 99, 9)]
    assert object_ids(outlines, [0, 0, 1, 2, 2]) == [1, 2, 1, 1, 3]


def test_polygons_of_one_pair_are_different_objects() -> None:
    assert object_ids([box(0, 0, 10, 10), box(0, 0, 10, 10)], [0, 0]) == [1, 2]


def test_a_large_polygon_does_not_tie_small_ones_together() -> None:
    small = [box(0, 0, 4, 10), box(6, 0, 10, 10)]
    assert object_ids([*small, box(0, 0, 10, 10)], [0, 0, 1]) in ([1, 2, 1], [1, 2, 2])
    assert object_ids([box(0, 0, 1, 1), box(0, 0, 10, 10)], [0, 1]) == [1, 2]  # 1 % of it


def test_nothing_and_one() -> None:
    assert object_ids([], []) == []
    assert object_ids([box(0, 0, 1, 1)], [0]) == [1]


squares = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 6), st.integers(0, 3)), min_size=0, max_size=25
)


@given(squares)
def test_what_is_linked_overlaps_and_no_object_is_twice_in_a_pair(made: list[tuple[int, int, int, int]]) -> None:
    outlines = [box(x, y, x + side, y + side) for x, y, side, _ in made]
    pairs = [pair for *_, pair in made]
    numbers = object_ids(outlines, pairs)
    assert sorted(set(numbers)) == list(range(1, len(set(numbers)) + 1))
    for number in set(numbers):
        members = [index for index, own in enumerate(numbers) if own == number]
        assert len({pairs[index] for index in members}) == len(members)
        for index in members:
            assert len(members) == 1 or any(share(outlines, index, other) for other in members if other != index)


def share(outlines: list[shapely.Polygon], one: int, other: int) -> bool:
    common = outlines[one].intersection(outlines[other]).area
    return common / outlines[one].union(outlines[other]).area >= MIN_OBJECT_IOU - 1e-9
