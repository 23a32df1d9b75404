"""Small parts of the core: limits, clock, shares of the budget, suspects."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_oss.engine.batch import RowKey, ScheduledRow
from seed_oss.engine.budget import Share, split_budget
from seed_oss.engine.clock import SteadyClock
from seed_oss.engine.limits import EngineLimits
from seed_oss.engine.rows import RowTable
from seed_oss.engine.sequence import Sequence
from seed_oss.engine.stride import Stride
from seed_oss.engine.suspects import Suspects
from seed_oss.errors import ConfigError
from tests.engine.harness import row


@pytest.mark.parametrize(
    "options",
    [
        {"max_model_len": 0},
        {"max_num_seqs": True},
        {"max_num_seqs": 1.5},
        {"max_num_waiting": 0},
        {"max_queued_tokens": -1},
        {"queue_timeout_s": 0},
        {"progress_timeout_s": math.inf},
        {"total_timeout_s": math.nan},
        {"ageing_s": "10"},
        {"ahead_s": -1},
        {"ahead_s": "0.02"},
        {"ahead_s": None},
        {"ahead_s": False},
        {"ahead_s": math.inf},
        {"max_num_seqs": 9, "max_num_batched_tokens": 8},
    ],
)
def test_limits_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}.* is "):
        EngineLimits(**({"max_model_len": 100} | options))  # type: ignore[arg-type]


def test_the_queue_is_four_times_the_running_rows() -> None:
    usual, given = EngineLimits(100, max_num_seqs=3), EngineLimits(100, max_num_seqs=3, max_num_waiting=5)
    assert (usual.queue_len, usual.max_num_rows) == (12, 15)
    assert (given.queue_len, given.max_num_rows) == (5, 8)


def test_the_clock_never_goes_back_nor_far() -> None:
    clock = SteadyClock(10.0)
    read = [clock.read(now) for now in (1e9, 1e9 + 1, 5.0, 6.0, math.nan, 7.0, 1e6, math.inf, 1e6 + 1)]
    assert read == [0, 1, 1, 2, 2, 3, 13, 13, 14]


def test_an_arrival_lies_a_little_before_now() -> None:
    clock = SteadyClock(10.0)
    clock.read(100.0)
    clock.read(109.0)
    assert [clock.time_of(moment) for moment in (108.0, 200.0, -1e9, math.nan)] == [8, 9, -1, 9]


@given(st.lists(st.integers(1, 1000), max_size=20), st.integers(0, 500))
def test_shares_use_up_the_budget(wanted: list[int], spare: int) -> None:
    budget = len(wanted) + spare
    shares = split_budget(wanted, budget)
    assert sum(shares) == min(budget, sum(wanted))
    assert all(1 <= share <= want for share, want in zip(shares, wanted, strict=True))


def test_a_long_prompt_leaves_room_for_short_ones() -> None:
    assert split_budget([10_000], 512) == [512]
    assert split_budget([10_000, 100, 100], 512) == [333, 100, 79]
    assert split_budget([10_000, 10_000, 10_000], 512) == [319, 128, 65]


def due(name: str = "a", *, is_plain: bool = True, max_new: int = 100, **options: Any) -> Share:
    """A row with one known token that is not computed."""
    new = row(name, 8, max_new, **options)
    return Share(Sequence(new, (0.0, 0), 0.0, list(new.prompt_ids), num_computed=7, is_plain=is_plain), 1, 0)


def test_a_step_goes_as_far_as_its_time_allows() -> None:
    stride = Stride(0.02)
    assert stride.num_ahead([due()]) == 0  # nobody knows how long it would take
    for token_s, num_ahead in ((0.0, 7), (0.001, 7), (0.0045, 3), (0.009, 1), (0.011, 0), (5.0, 0)):
        stride.saw(2 * token_s, 1, 1)
        assert stride.num_ahead([due()]) == num_ahead
    stride.saw(0.002, 1, 0)
    assert [stride.num_ahead([due()] * num_rows) for num_rows in (1, 2, 4, 6)] == [7, 4, 1, 0]  # at worst each its own
    stride.saw(0.002, 4, 0)
    assert stride.num_ahead([due()] * 4) == stride.num_ahead([due()]) == 7
    assert Stride(0.0).num_ahead([due()]) == 0


def test_a_step_goes_on_where_nothing_but_the_model_is_asked() -> None:
    stride = Stride(1.0)
    stride.saw(0.001, 2, 0)
    assert stride.num_ahead([]) == 0
    assert stride.num_ahead([due(), due("b", is_plain=False)]) == 0
    assert stride.num_ahead([due(), due("b", num_draft_tokens=1)]) == 0
    assert stride.num_ahead([due(), due("b", cache_salt=b"an adapter")]) == 0
    assert stride.num_ahead([due("a", cache_salt=b"one"), due("b", cache_salt=b"one")]) == 7
    assert stride.num_ahead([due()._replace(num_drafts=1)]) == 0
    assert stride.num_ahead([due(), due("b")._replace(num_tokens=0)]) == 0
    assert [stride.num_ahead([due(), due("b", max_new=left)]) for left in (1, 2, 5, 9)] == [0, 1, 4, 7]


@pytest.mark.parametrize("why", ["it raised", "it gave one token"])
def test_after_a_step_that_could_not_go_on_the_next_ones_give_one_token(why: str) -> None:
    stride, asked = Stride(1.0, num_resting=3), list[int]()
    stride.saw(0.001, 1, 0)
    for number in range(8):
        asked.append(stride.num_ahead([due()]))
        if asked[-1] and number < 5:
            stride.failed() if why == "it raised" else stride.saw(0.001, 1, 0, could_not=True)
        else:
            stride.saw(0.001, 1, asked[-1])
    assert asked == [7, 0, 0, 0, 7, 0, 0, 0]


def test_a_chunk_is_no_step_to_go_on_from() -> None:
    stride, share = Stride(1.0), due()
    stride.saw(0.001, 1, 0)
    share.sequence.num_computed = 0
    assert stride.num_ahead([share]) == stride.num_ahead([share._replace(num_tokens=8)]) == 0


def test_suspects_that_were_not_in_the_failed_batch_remain_to_be_tried() -> None:
    keys = [RowKey(str(index), 0) for index in range(6)]
    scheduled = tuple(ScheduledRow(key, 0, (1,), 0, (0,), True) for key in keys)
    table, suspects, seen = RowTable(), Suspects(), []
    for index, key in enumerate(keys):
        table.add(Sequence(row(key.request_id), (0.0, index), 0.0, [1]))
    assert suspects.blame(scheduled, keys) == frozenset()
    assert suspects.blame(scheduled[:2], keys[:2]) == frozenset()
    while suspects.group is not None:
        seen.append("".join(sorted(key.request_id for key in suspects.group)))
        for key in suspects.group:
            sequence = table.get(key)
            assert sequence is not None
            table.remove(sequence)
        assert suspects.review(table) == (suspects.group is not None)
    assert seen == ["0", "1", "2", "345"]
