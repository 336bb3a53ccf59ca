"""How many pairs run side by side: arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosiam.batch import resources as budget
from geosiam.batch.resources import Budget, Cost, Need, memory_available, parse_memory
from geosiam.errors import OptionError

COST = Cost(seconds_per_pixel=1e-7, process_bytes=4e8, thread_bytes=2e8, block_px=1024)
shapes = st.tuples(st.integers(1, 200_000), st.integers(1, 200_000))


def test_small_pairs_run_side_by_side_and_large_ones_split() -> None:
    assert COST.blocks((1024, 1025)) == 2
    assert COST.need((2048, 2048), 16) == Need(1, 6e8)
    assert COST.need((8192, 8192), 16).threads == 4
    assert COST.need((100_000, 100_000), 16).threads == 16
    assert COST.need(None, 16).threads == 1


def test_the_last_pairs_share_what_is_free() -> None:
    assert COST.need((4096, 4096), 8, waiting=2).threads == 4
    assert COST.need((1000, 1000), 8, waiting=1).threads == 1  # one block is one thread's


def test_a_gpu_gets_threads_that_read_for_it() -> None:
    assert Cost(1e-7, 4e8, 2e8, 1024, least_threads=4).need((4096, 4096), 16).threads == 4


@given(shapes, st.integers(1, 256), st.integers(1, 10**6))
def test_what_a_pair_gets_is_within_its_blocks_and_the_budget(
    shape: tuple[int, int], threads: int, waiting: int
) -> None:
    need = COST.need(shape, threads, waiting=waiting)
    assert 1 <= need.threads <= min(threads, COST.blocks(shape))


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(1, 1e10)), max_size=12), st.integers(1, 8), st.floats(1, 4e10))
def test_what_runs_is_within_the_budget_unless_it_runs_alone(
    wanted: list[tuple[int, float]], threads: int, memory: float
) -> None:
    whole = Budget(threads, memory)
    running: list[Need] = []
    for need in (Need(*each) for each in wanted):
        if whole.has_room(running, need):
            running.append(need)
    assert len(running) >= min(1, len(wanted))
    if len(running) > 1:
        assert sum(need.threads for need in running) <= threads
        assert sum(need.memory for need in running) <= memory


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8e9), ("8 GiB", 8 * 2**30), ("500M", 5e8), ("1.5g", 1.5e9), ("123", 123)]
)
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "8XB", "-1GB", "0GB", "1I"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(OptionError, match="is no amount of memory"):
        parse_memory(text)


def test_a_control_group_sets_the_limit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory_available()
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    monkeypatch.setattr(budget, "_group_folders", lambda: [tmp_path])
    assert memory_available() == pytest.approx(0.8 * 2e9)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_available() == pytest.approx(free, rel=0.5)
