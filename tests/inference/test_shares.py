"""Sharing out places of an order among workers: each place once, neighbors together, nobody idle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geosiam.inference.cluster import Shares

workers = st.sampled_from("abcde")


@given(st.integers(0, 60), st.integers(0, 4), st.lists(st.tuples(workers, st.integers(1, 5))))
def test_each_place_is_taken_once_whoever_comes(count, expected, calls):
    shares = Shares(count, expected)
    taken = []
    for worker, most in calls:
        places = shares.take(worker, most)
        assert len(places) <= most
        assert places or len(taken) == count
        taken += places
    while places := shares.take("z", 3):
        taken += places
    assert sorted(taken) == list(range(count))


def test_a_worker_gets_neighbors_until_its_share_is_done():
    shares = Shares(40, 2)
    assert [list(shares.take("a", 5)) for _ in range(4)] == [list(range(n, n + 5)) for n in (0, 5, 10, 15)]
    assert list(shares.take("b", 5)) == [20, 21, 22, 23, 24]


def test_who_has_done_with_its_own_takes_half_of_the_longest():
    shares = Shares(40, 2)
    shares.take("a", 20)
    shares.take("b", 4)
    assert list(shares.take("a", 4)) == [32, 33, 34, 35]
    assert list(shares.take("b", 20)) == list(range(24, 32))


def test_a_share_that_nobody_has_begun_comes_first():
    shares = Shares(30, 3)
    shares.take("a", 1)
    assert list(shares.take("b", 2)) == [10, 11]
    assert list(shares.take("c", 2)) == [20, 21]
    assert list(shares.take("d", 9)) == [5, 6, 7, 8, 9]
