"""Partitioning places of an order among workers: each place once, neighbors together, nobody idle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geosiam.inference.cluster import WorkPartition

workers = st.sampled_from("abcde")


@given(st.integers(0, 60), st.integers(0, 4), st.lists(st.tuples(workers, st.integers(1, 5))))
def test_each_place_is_taken_once_whoever_comes(count, expected, calls):
    partition = WorkPartition(count, expected)
    taken = []
    for worker, most in calls:
        places = partition.take(worker, most)
        assert len(places) <= most
        assert places or len(taken) == count
        taken += places
    while places := partition.take("z", 3):
        taken += places
    assert sorted(taken) == list(range(count))


def test_a_worker_gets_neighbors_until_its_share_is_done():
    partition = WorkPartition(40, 2)
    assert [list(partition.take("a", 5)) for _ in range(4)] == [list(range(n, n + 5)) for n in (0, 5, 10, 15)]
    assert list(partition.take("b", 5)) == [20, 21, 22, 23, 24]


def test_who_finishes_its_range_steals_half_of_the_longest():
    partition = WorkPartition(40, 2)
    partition.take("a", 20)
    partition.take("b", 4)
    assert list(partition.take("a", 4)) == [32, 33, 34, 35]
    assert list(partition.take("b", 20)) == list(range(24, 32))


def test_a_share_that_nobody_has_begun_comes_first():
    partition = WorkPartition(30, 3)
    partition.take("a", 1)
    assert list(partition.take("b", 2)) == [10, 11]
    assert list(partition.take("c", 2)) == [20, 21]
    assert list(partition.take("d", 9)) == [5, 6, 7, 8, 9]
