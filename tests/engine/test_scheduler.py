"""The scheduler, rule by rule: what runs, who waits, who loses blocks. The simulator covers their combinations."""

from dataclasses import replace

import pytest

from seed_oss.engine.batch import RowKey, RowResult, ScheduledBatch, StepResult
from seed_oss.engine.events import Ended, Tokens
from seed_oss.engine.limits import EngineLimits
from seed_oss.errors import InputError, StateError
from tests.engine.fake_model import generate_alone
from tests.engine.harness import Harness, choices, counts_of, keys_of, row, tokens_in


def test_a_row_gets_its_tokens_and_one_end() -> None:
    engine, new = Harness(), row("a", 9, 6)
    engine.add(new)
    batches = engine.run()
    assert engine.new_tokens("a") == generate_alone(new)
    assert engine.ended("a") == Ended(new.key, "length", None, 9, 6, 0, 0)
    assert [len(batch.rows[0].token_ids) for batch in batches] == [9, 1, 1, 1, 1, 1]
    assert [batch.rows[0].is_sampled for batch in batches] == [True] * 6


def test_the_runner_says_that_a_row_stops() -> None:
    engine, new = Harness(), row("a")
    engine.add(new)
    batch = engine.schedule()
    engine.runner.run(batch)
    events = engine.update(batch, StepResult((RowResult(new.key, (5,), finish="stop_string"),)))
    assert events == [Tokens(new.key, (5,), 0), Ended(new.key, "stop_string", None, 8, 1, 0, 0)]
    assert not engine.scheduler.has_work


def test_a_row_without_new_tokens_ends_once_its_prompt_is_computed() -> None:
    engine = Harness(max_num_batched_tokens=8)
    engine.add(row("a", 20, 0))
    assert [len(batch.rows[0].token_ids) for batch in engine.run()] == [8, 8, 4]
    assert (engine.ended("a").reason, engine.ended("a").num_new_tokens) == ("length", 0)


def test_a_prompt_comes_in_chunks_and_those_who_decode_come_first() -> None:
    engine = Harness(max_num_batched_tokens=8)
    engine.add(row("old", 4, 20))
    engine.step()
    engine.add(row("long", 30, 1, first=500))
    shares = [counts_of(engine.step()) for _ in range(5)]
    assert shares == [{"old": 1, "long": 7}] * 4 + [{"old": 1, "long": 2}]


def test_a_short_prompt_need_not_wait_for_a_long_one() -> None:
    engine = Harness(max_num_batched_tokens=16)
    engine.add(row("long", 100, 1))
    engine.step()
    engine.add(row("short", 5, 1, first=500))
    assert counts_of(engine.step()) == {"long": 11, "short": 5}


def test_a_table_comes_again_as_it_is_until_it_grows() -> None:
    engine = Harness()
    engine.add(row("a", 9, 9))
    tables = [engine.step().rows[0].block_ids for _ in range(9)]
    assert [len(table) for table in tables] == [3, 3, 3, 3, 4, 4, 4, 4, 5]
    assert tables[0] is tables[3]


@pytest.mark.parametrize(
    ("new", "reason", "message"),
    [
        (row("a", 0, 5), "impossible", "the prompt has no tokens"),
        (row("a", 5, -1), "impossible", "max_new_tokens is -1"),
        (row("a", priority=-3), "impossible", "priority is -3; give one from -2 to 2"),
        (row("a", 90, 11), "impossible", "90 tokens and 11 new ones are more than the context of 100"),
        (row("a", 60, 22), "impossible", "60 tokens and 22 new ones do not fit into the cache of 80 tokens"),
        (row("a", 71, 1), "impossible", "prompts of 71 tokens at once; the queue holds 70"),
    ],
)
def test_what_can_never_end_is_refused(new: object, reason: str, message: str) -> None:
    engine = Harness(20, max_model_len=100, max_queued_tokens=70)
    (ended,) = engine.add(new)  # type: ignore[arg-type]
    assert isinstance(ended, Ended)
    assert (ended.reason, message in (ended.message or "")) == (reason, True)
    assert engine.scheduler.counters().total_ended == {reason: 1}


def test_what_just_fits_is_taken_and_ends() -> None:
    engine = Harness(20, max_model_len=100)
    engine.add(row("a", 60, 21))
    engine.run()
    assert engine.ended("a").reason == "length"


def test_a_full_queue_refuses_for_now() -> None:
    engine = Harness(max_num_seqs=2, max_num_waiting=3, max_queued_tokens=40)
    assert engine.add(*choices(row("a"), 4)) == []
    assert engine.scheduler.refusal([row("b")]) is None
    refusal = engine.scheduler.refusal(choices(row("b", 1), 2))
    assert refusal is not None
    assert (refusal.reason, "4 rows run or wait; there is room for 5" in refusal.message) == ("overloaded", True)
    engine.step()
    tokens = engine.scheduler.refusal([row("b", 30)])
    assert tokens is not None
    assert (tokens.reason, "24 tokens wait; the queue holds 40" in tokens.message) == ("overloaded", True)
    impossible = engine.scheduler.refusal(choices(row("b", 1), 6))
    assert impossible is not None
    assert (impossible.reason, "6 rows at once" in impossible.message) == ("impossible", True)


def test_a_row_that_lost_its_blocks_does_not_fill_the_queue() -> None:
    engine = Harness(4, max_num_seqs=4, max_queued_tokens=24)
    engine.add(row("a", 4, 12))
    engine.add(row("b", 4, 12, first=200))
    while not engine.scheduler.counters().total_preemptions:
        engine.step()
    (waiting,) = engine.scheduler.waiting
    assert len(waiting.token_ids) > 4
    assert engine.scheduler.refusal([row("c", 12, 1)]) is None
    engine.add(row("c", 12, 1))
    assert engine.scheduler.refusal([row("d", 13, 1)]) is not None
    engine.run()


def test_all_rows_of_a_request_are_taken_or_none() -> None:
    engine = Harness(max_model_len=20)
    events = engine.add(row("a"), *choices(row("a", 18, 8), 2)[1:])
    assert [type(event) for event in events] == [Ended, Ended]
    assert not engine.scheduler.waiting


def test_a_key_that_is_alive_is_a_mistake() -> None:
    engine = Harness()
    engine.add(row("a"))
    with pytest.raises(InputError, match="row 0 of request a exists"):
        engine.add(row("a"))
    with pytest.raises(InputError, match="row 0 of request b exists"):
        engine.add(row("b"), row("b"))
    engine.abort("a")
    assert engine.scheduler.add([row("a")], 0.0) == [], "its name is free again"


def test_nobody_is_taken_while_draining_and_all_go_on() -> None:
    engine = Harness()
    engine.add(row("a"))
    engine.scheduler.drain()
    (ended,) = engine.add(row("b"))
    assert isinstance(ended, Ended)
    assert ended.reason == "draining"
    engine.run()
    assert engine.ended("a").reason == "length"


def test_each_batch_is_reported_once() -> None:
    engine = Harness()
    engine.add(row("a"))
    batch = engine.schedule()
    with pytest.raises(StateError, match="still out"):
        engine.scheduler.schedule(0.0)
    engine.finish(batch)
    for report in (lambda: engine.finish(batch), lambda: engine.scheduler.failed(batch, (), 0.0)):
        with pytest.raises(StateError, match="not the one that schedule gave last"):
            report()


# Preemption.


def test_the_last_to_come_loses_its_blocks_and_no_token() -> None:
    engine = Harness(10)
    first, second = row("first", 8, 20), row("second", 8, 20, first=500)
    engine.add(first)
    engine.add(second)
    engine.run()
    assert engine.ended("first").num_preemptions == 0
    assert engine.ended("second").num_preemptions > 0
    assert engine.new_tokens("second") == generate_alone(second)


def test_a_higher_priority_keeps_its_blocks() -> None:
    engine = Harness(10)
    engine.add(row("first", 8, 20))
    engine.add(row("second", 8, 20, first=500, priority=1))
    engine.run()
    assert engine.ended("first").num_preemptions > 0
    assert engine.ended("second").num_preemptions == 0


@pytest.mark.parametrize("wants_prompt_logits", [False, True])
def test_a_preempted_row_finds_its_own_blocks_again(wants_prompt_logits: bool) -> None:
    engine = Harness(11)
    engine.add(row("first", 8, 22))
    engine.add(row("second", 8, 22, first=500, wants_prompt_logits=wants_prompt_logits))
    batches = engine.run()
    starts = [one.start for batch in batches for one in batch.rows if one.key.request_id == "second"]
    assert engine.ended("second").num_preemptions > 0
    assert starts.count(0) < 1 + engine.ended("second").num_preemptions
    assert engine.ended("second").num_cached_tokens == 0, "nobody's but its own"


def test_no_row_is_let_in_to_be_sent_back_at_once() -> None:
    engine = Harness(9)
    engine.add(row("first", 20, 8))
    engine.step()
    engine.add(row("second", 12, 8, first=500))
    assert keys_of(engine.step()) == ["first"], "after its 6th block 3 are left, and it may soon need a 7th"


def test_one_that_finds_no_room_keeps_its_place() -> None:
    engine = Harness(8)
    engine.add(row("first", 20, 4))
    engine.step()
    engine.add(row("large", 24, 1, first=500))
    engine.add(row("small", 2, 1, first=900))
    assert keys_of(engine.step()) == ["first"]
    engine.run()
    assert list(engine.checker.ended)[:2] == [RowKey("first", 0), RowKey("large", 0)]


# Priority and its ageing.


def test_the_larger_priority_is_served_first() -> None:
    engine = Harness(max_num_seqs=1)
    engine.add(row("low"))
    engine.add(row("high", priority=2))
    engine.run()
    assert list(engine.checker.ended) == [RowKey("high", 0), RowKey("low", 0)]


def test_waiting_makes_up_for_priority() -> None:
    engine = Harness(max_num_seqs=1, ageing_s=10.0)
    engine.add(row("low"))
    engine.now += 19.0
    engine.add(row("soon", priority=2))
    engine.now += 2.0
    engine.add(row("late", priority=2))
    engine.run()
    assert [key.request_id for key in engine.checker.ended] == ["soon", "low", "late"]


def test_nobody_starves_under_a_stream_of_higher_priorities() -> None:
    engine = Harness(max_num_seqs=1, ageing_s=1.0)
    engine.add(row("low"))
    for index in range(40):
        engine.add(row(f"high{index}", max_new=2, priority=2))
        engine.now += 1.0
        engine.step()
    assert engine.ended("low").reason == "length"


def test_the_defaults_age_the_lowest_past_the_highest_before_they_time_out() -> None:
    limits = EngineLimits(max_model_len=8)
    assert 2 * limits.max_priority * limits.ageing_s < limits.queue_timeout_s


def test_an_arrival_counts_from_when_it_came() -> None:
    engine = Harness(max_num_seqs=1)
    engine.now = 100.0
    engine.add(row("b", arrival=99.5))
    engine.add(row("a", arrival=99.0))
    engine.run()
    assert [key.request_id for key in engine.checker.ended] == ["a", "b"]


# Drafts.


@pytest.mark.parametrize(("right", "num_steps"), [(1.0, 5), (0.0, 12)])
def test_drafts_save_steps_and_change_nothing(right: float, num_steps: int) -> None:
    engine, new = Harness(), row("a", 6, 12, num_draft_tokens=3)
    engine.runner.right_drafts = right
    engine.add(new)
    batches = engine.run()
    assert engine.new_tokens("a") == generate_alone(new)
    assert len(batches) == num_steps if right == 0 else len(batches) <= num_steps
    figures = engine.scheduler.counters()
    assert figures.total_draft_tokens > 0
    assert figures.total_accepted_tokens == (figures.total_draft_tokens if right else 0)


def test_drafts_are_no_more_than_asked_for_and_end_before_the_last_token() -> None:
    engine, new = Harness(), row("a", 6, 4, num_draft_tokens=5)
    engine.runner.right_drafts = 0.0
    engine.add(new)
    assert [batch.rows[0].num_drafts for batch in engine.run()] == [0, 2, 1, 0]


def test_drafts_leave_half_of_the_step_to_prompts() -> None:
    engine = Harness(max_num_batched_tokens=10)
    engine.add(row("a", 6, 20, num_draft_tokens=8))
    engine.step()
    engine.add(row("b", 40, 1, first=500))
    batch = engine.schedule()
    assert counts_of(batch) == {"a": 5, "b": 5}
    assert batch.rows[0].num_drafts == 4


def test_nobody_loses_blocks_for_a_guess() -> None:
    engine = Harness(5, max_num_seqs=2)
    engine.add(row("a", 6, 7, num_draft_tokens=3))
    engine.add(row("b", 7, 3, first=500))
    engine.runner.right_drafts = 0.0
    assert [sum(one.num_drafts for one in batch.rows) for batch in engine.run()[1:3]] == [3, 0]
    assert engine.ended("b").num_preemptions == 0


def ahead_of(batches: list[ScheduledBatch]) -> list[int]:
    return [batch.num_ahead for batch in batches]


def test_plain_rows_get_several_tokens_in_a_step() -> None:
    engine, new = Harness(), row("a", 6, 30)
    engine.runner.plain_chance = 1.0
    engine.add(new)
    batches = engine.run()
    # the prompt, one token to see how long it takes, and then as many as there may be, as the clock stands still
    assert [len(batch.rows[0].token_ids) for batch in batches[1:]] == [1] * (len(batches) - 1)
    assert ahead_of(batches)[:3] == [0, 0, 7]
    assert set(ahead_of(batches)[3:]) <= {7, *range(7)}
    assert len(batches) < 12
    assert engine.new_tokens("a") == generate_alone(new)
    figures = engine.scheduler.counters()
    assert (figures.total_new_tokens, figures.total_computed_tokens) == (30, 6 + 29)
    assert (figures.total_draft_tokens, figures.total_accepted_tokens) == (0, 0)


def test_a_prompt_that_arrives_takes_part_in_the_next_step() -> None:
    engine, first, second = Harness(), row("a", 6, 40), row("b", 9, 12, first=500)
    engine.runner.plain_chance = 1.0
    engine.add(first)
    for _ in range(3):
        engine.step()
    engine.add(second)
    batch = engine.step()
    assert (counts_of(batch), batch.num_ahead) == ({"a": 1, "b": 9}, 0)
    assert max(ahead_of(engine.run())) > 0
    assert (engine.new_tokens("a"), engine.new_tokens("b")) == (generate_alone(first), generate_alone(second))


def test_a_row_ahead_takes_blocks_from_nobody() -> None:
    preemptions: list[int] = []
    for plain_chance in (0.0, 1.0):
        engine, rows = Harness(5, max_num_seqs=2), [row("a", 7, 8), row("b", 7, 8, first=500)]
        engine.runner.plain_chance = plain_chance
        for one in rows:
            engine.add(one)
        assert (max(ahead_of(engine.run())) > 0) == (plain_chance > 0)
        assert [engine.new_tokens(name) for name in "ab"] == [generate_alone(one) for one in rows]
        preemptions.append(engine.scheduler.counters().total_preemptions)
    assert preemptions[0] == preemptions[1] > 0


def test_after_a_step_that_failed_rows_get_one_token_at_a_time() -> None:
    engine, rows = Harness(128), [row("a", 6, 120), row("b", 6, 120, first=500)]
    engine.runner.plain_chance = 1.0
    for one in rows:
        engine.add(one)
    assert ahead_of([engine.step() for _ in range(3)]) == [0, 0, 7]
    engine.runner.faults.chance = 1.0
    engine.step()
    engine.runner.faults.stop()
    batches = engine.run()
    assert set(ahead_of(batches[:60])) == {0}
    assert max(ahead_of(batches)) == 7
    assert [engine.new_tokens(name) for name in "ab"] == [generate_alone(one) for one in rows]


@pytest.mark.parametrize("kind", ["raising", "blamed"])
def test_the_row_at_fault_for_a_token_ahead_is_found(kind: str) -> None:
    engine, rows = Harness(128), [row(name, 6, 60, first=100 * index) for index, name in enumerate("abc")]
    engine.runner.plain_chance = 1.0
    getattr(engine.runner.faults, kind)[rows[1].key] = 18  # not the first one of its step
    for one in rows:
        engine.add(one)
    batches = engine.run()
    assert max(ahead_of(batches)) > 1
    assert [engine.ended(name).reason for name in "abc"] == ["length", "error", "length"]
    assert engine.new_tokens("b") == generate_alone(rows[1])[: len(engine.new_tokens("b"))]
    assert engine.scheduler.counters().total_failed_steps <= 5


def test_how_far_a_step_goes_depends_on_how_long_the_last_one_took() -> None:
    engine = Harness(ahead_s=0.02)
    engine.runner.plain_chance = 1.0
    engine.add(row("a", 6, 60))
    asked: list[int] = []
    for token_s in (1.0, 0.011, 0.009, 0.0039, 0.002, 0.5, 0.002):
        batch = engine.schedule()
        asked.append(batch.num_ahead)
        engine.now += token_s * (1 + batch.num_ahead)
        engine.update(batch, StepResult((engine.runner._row(batch.rows[0], batch.num_ahead),), batch.num_ahead))
    assert asked == [0, 0, 0, 1, 4, 7, 0]


def test_rows_that_go_on_do_not_keep_a_held_one_waiting() -> None:
    engine = Harness()
    engine.runner.plain_chance = 1.0
    engine.add(row("a", 6, 60))
    engine.add(row("b", 6, 60, first=500))
    for _ in range(3):
        engine.step()
    for name in ("b", "one that waits"):
        engine.held = frozenset({RowKey(name, 0)})
        assert engine.step().num_ahead == 0
    engine.held = frozenset()
    assert engine.step().num_ahead == 7


def test_rows_go_as_far_as_there_are_blocks_for_all() -> None:
    engine, rows = Harness(5), [row("a", 5, 7), row("b", 5, 7, first=500)]
    engine.runner.plain_chance = 1.0
    for one in rows:
        engine.add(one)
    batches = [engine.step() for _ in range(3)]
    # six tokens each in two blocks: four more would take a block each, and there is one
    assert ahead_of(batches) == [0, 0, 1]
    engine.run()
    assert [engine.new_tokens(name) for name in "ab"] == [generate_alone(one) for one in rows]


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_that_ends_at_once_is_no_reason_to_go_slowly(ends: bool) -> None:
    engine, rows = Harness(128), [row("a", 6, 90), row("b", 6, 90, first=500)]
    engine.runner.plain_chance = 1.0
    for one in rows:
        engine.add(one)
    for _ in range(2):
        engine.step()
    batch = engine.schedule()
    assert batch.num_ahead == 7
    results = [engine.runner._row(one, 0) for one in batch.rows]
    engine.update(batch, StepResult((replace(results[0], finish="stop" if ends else None), results[1])))
    assert engine.step().num_ahead == (7 if ends else 0)


def test_more_tokens_than_a_step_may_choose_are_the_fault_of_the_step() -> None:
    engine, new = Harness(), row("a", 6, 40)
    engine.runner.plain_chance = 1.0
    engine.add(new)
    for _ in range(2):
        engine.step()
    batch = engine.schedule()
    assert batch.num_ahead == 7
    engine.update(batch, StepResult((RowResult(new.key, tuple(range(9))),)))
    assert "at most 8" in (engine.ended("a").message or "")


def test_the_counters_are_a_snapshot() -> None:
    engine = Harness(max_num_seqs=1)
    engine.add(row("a", 8, 3))
    engine.add(row("b", 9, 3))
    before = engine.scheduler.counters()
    engine.step()
    after = engine.scheduler.counters()
    assert (before.num_waiting, before.num_running, before.num_queued_tokens) == (2, 0, 17)
    assert (after.num_waiting, after.num_running, after.num_queued_tokens) == (1, 1, 9)
    assert (after.num_blocks, after.num_free_blocks, after.num_cached_blocks) == (64, 62, 0)
    engine.run()
    end = engine.scheduler.counters()
    assert (end.total_computed_tokens, end.total_new_tokens, end.total_steps) == (8 + 2 + 1 + 2, 6, 6)
    assert (end.total_cache_query_tokens, end.total_cache_hit_tokens) == (4 + 8, 8)
    assert end.total_ended == {"length": 2}
    assert tokens_in([]) == []


def test_a_held_row_is_left_out_and_keeps_what_it_has() -> None:
    engine = Harness(num_blocks=8, progress_timeout_s=5.0)
    engine.add(row("a"))
    engine.add(row("b", first=300))
    engine.step()
    engine.held = frozenset({RowKey("a", 0)})
    blocks = engine.scheduler.running[0].block_ids
    for _ in range(3):
        assert keys_of(engine.step()) == ["b"]
        assert engine.expire(4.0) == []  # it waits for something of its own
    assert engine.scheduler.running[0].block_ids == blocks
    engine.held = frozenset()
    assert keys_of(engine.step()) == ["a", "b"]
    engine.run()
    assert engine.new_tokens("a") == generate_alone(engine.rows[RowKey("a", 0)])


def test_a_held_row_is_not_started_and_holds_up_nobody() -> None:
    engine = Harness(max_num_seqs=1)
    engine.add(row("a"))
    engine.add(row("b", first=300))
    engine.held = frozenset({RowKey("a", 0)})
    assert keys_of(engine.step()) == ["b"]
    engine.abort("b")
    assert engine.step().rows == ()
    engine.held = frozenset()
    assert keys_of(engine.step()) == ["a"]
