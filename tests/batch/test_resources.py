"""How many pairs run at once: arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosiam.batch import resources
from geosiam.batch.resources import CostModel, Resources, available_memory, parse_memory
from geosiam.errors import OptionError

COST = CostModel(seconds_per_pixel=1e-7, process_bytes=4e8, thread_bytes=2e8, block_px=1024)
shapes = st.tuples(st.integers(1, 200_000), st.integers(1, 200_000))


def test_small_pairs_run_side_by_side_and_large_ones_split() -> None:
    assert COST.blocks((1024, 1025)) == 2
    assert COST.demand((2048, 2048), 16) == Resources(1, 6e8)
    assert COST.demand((8192, 8192), 16).threads == 4
    assert COST.demand((100_000, 100_000), 16).threads == 16
    assert COST.demand(None, 16).threads == 1


def test_the_last_pairs_share_what_is_free() -> None:
    assert COST.demand((4096, 4096), 8, waiting=2).threads == 4
    assert COST.demand((1000, 1000), 8, waiting=1).threads == 1  # one block is one thread's


def test_a_gpu_gets_threads_that_read_for_it() -> None:
    assert CostModel(1e-7, 4e8, 2e8, 1024, min_threads=4).demand((4096, 4096), 16).threads == 4


@given(shapes, st.integers(1, 256), st.integers(1, 10**6))
def test_the_resources_of_a_pair_are_within_its_blocks_and_the_budget(
    shape: tuple[int, int], threads: int, waiting: int
) -> None:
    demand = COST.demand(shape, threads, waiting=waiting)
    assert 1 <= demand.threads <= min(threads, COST.blocks(shape))


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(1, 1e10)), max_size=12), st.integers(1, 8), st.floats(1, 4e10))
def test_what_runs_is_within_the_budget_unless_it_runs_alone(
    demands: list[tuple[int, float]], threads: int, memory: float
) -> None:
    budget = Resources(threads, memory)
    running: list[Resources] = []
    for demand in (Resources(*each) for each in demands):
        if budget.has_room(running, demand):
            running.append(demand)
    assert len(running) >= min(1, len(demands))
    if len(running) > 1:
        assert sum(demand.threads for demand in running) <= threads
        assert sum(demand.memory for demand in running) <= memory


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8e9), ("8 GiB", 8 * 2**30), ("500M", 5e8), ("1.5g", 1.5e9), ("123", 123)]
)
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "8XB", "-1GB", "0GB", "1I"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(OptionError, match="is not an amount of memory"):
        parse_memory(text)


def test_a_control_group_sets_the_limit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = available_memory()
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    monkeypatch.setattr(resources, "_control_group_folders", lambda: [tmp_path])
    assert available_memory() == pytest.approx(0.8 * 2e9)
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == pytest.approx(free, rel=0.5)
