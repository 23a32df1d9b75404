"""The scheduler, rule by rule: what runs, who waits, who loses blocks. The simulator covers their combinations."""

import pytest

from seed_oss.engine.batch import RowKey, RowResult, StepResult
from seed_oss.engine.events import Ended, Tokens
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
        (row("a", priority=-101), "impossible", "priority is -101; give one from -100 to 100"),
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
    engine = Harness(max_num_waiting=3, max_queued_tokens=40)
    assert engine.add(*choices(row("a"), 3)) == []
    refusal = engine.scheduler.refusal([row("b")])
    assert refusal is not None
    assert (refusal.reason, "3 rows wait; the queue holds 3" in refusal.message) == ("overloaded", True)
    engine.step()
    tokens = engine.scheduler.refusal([row("b", 30)])
    assert tokens is not None
    assert (tokens.reason, "16 tokens wait; the queue holds 40" in tokens.message) == ("overloaded", True)
    impossible = engine.scheduler.refusal(choices(row("b"), 4))
    assert impossible is not None
    assert (impossible.reason, "4 rows at once" in impossible.message) == ("impossible", True)


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


def test_a_preempted_row_finds_its_own_blocks_again() -> None:
    engine = Harness(11)
    engine.add(row("first", 8, 22))
    engine.add(row("second", 8, 22, first=500))
    batches = engine.run()
    starts = [one.start for batch in batches for one in batch.rows if one.key.request_id == "second"]
    assert engine.ended("second").num_preemptions > 0
    assert sum(start == 0 for start in starts) < 1 + engine.ended("second").num_preemptions


def test_no_row_is_let_in_to_be_sent_back_at_once() -> None:
    engine = Harness(8)
    engine.add(row("first", 20, 8))
    engine.step()
    engine.add(row("second", 12, 8, first=500))
    assert keys_of(engine.step()) == ["first"], "3 blocks are left, and the first row may soon need one of them"


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
    engine.add(row("high", priority=3))
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
        engine.add(row(f"high{index}", max_new=2, priority=5))
        engine.now += 1.0
        engine.step()
    assert engine.ended("low").reason == "length"


def test_an_arrival_counts_from_when_it_came() -> None:
    engine = Harness(max_num_seqs=1)
    engine.now = 100.0
    engine.add(row("b", arrival=99.5))
    engine.add(row("a", arrival=99.0))
    engine.run()
    assert [key.request_id for key in engine.checker.ended] == ["a", "b"]


# The prefix cache.


def test_choices_compute_their_prompt_once() -> None:
    engine = Harness()
    new = row("a", 18, 3)
    engine.add(*choices(new, 3))
    first, second = engine.step(), engine.step()
    assert [key.choice for key in (one.key for one in first.rows)] == [0], "the others wait for its blocks"
    assert [(one.key.choice, one.start, len(one.token_ids)) for one in second.rows] == [
        (0, 18, 1),
        (1, 16, 2),
        (2, 16, 2),
    ]
    assert len({one.block_ids[:4] for one in second.rows}) == 1
    engine.run()
    assert [engine.ended("a", choice).num_cached_tokens for choice in range(3)] == [0, 16, 16]
    assert {engine.new_tokens("a", choice) for choice in range(3)} == {generate_alone(new)}


def test_choices_wait_for_a_prompt_in_chunks_however_long_it_takes() -> None:
    engine = Harness(max_num_batched_tokens=8, queue_timeout_s=60.0)
    engine.add(*choices(row("a", 40, 1), 2))
    for _ in range(4):
        assert counts_of(engine.step()) == {"a": 8}
        assert engine.expire(25.0) == []
    assert [one.key.choice for one in engine.step().rows] == [0]
    assert [(one.key.choice, one.start) for one in engine.step().rows] == [(1, 36)]


def test_those_who_wait_for_a_row_go_on_without_it() -> None:
    engine = Harness(max_num_batched_tokens=8)
    engine.add(row("a", 40, 1))
    engine.add(row("b", 40, 1))
    engine.step()
    engine.abort("a")
    batch = engine.step()
    assert [(one.key.request_id, one.start) for one in batch.rows] == [("b", 8)]


def test_others_do_not_wait_with_them() -> None:
    engine = Harness(max_num_batched_tokens=8)
    engine.add(*choices(row("a", 40, 1), 2))
    engine.add(row("other", 3, 1, first=900))
    assert set(keys_of(engine.step())) == {"a", "other"}


@pytest.mark.parametrize(("num_prompt", "num_cached"), [(4, 0), (5, 4), (8, 4), (9, 8)])
def test_a_hit_never_covers_the_last_token(num_prompt: int, num_cached: int) -> None:
    engine = Harness()
    for name in ("a", "b"):
        engine.add(row(name, num_prompt, 1))
        engine.run()
    assert engine.ended("b").num_cached_tokens == num_cached
    assert engine.new_tokens("a") == engine.new_tokens("b")


def test_the_next_turn_finds_the_answer_of_the_last_one() -> None:
    engine = Harness()
    first = row("a", 8, 9)
    engine.add(first)
    engine.run()
    turn = (*first.prompt_ids, *engine.new_tokens("a"), 1, 2, 3)
    second = row("b", 0, 1)
    second = type(second)(second.key, turn, 1)
    engine.add(second)
    engine.run()
    assert engine.ended("b").num_cached_tokens == 16, "its 17th token was never computed"


def test_a_block_that_is_there_already_is_used_in_place_of_an_equal_one() -> None:
    engine = Harness()
    engine.add(row("a", 8, 6))
    engine.step()
    engine.add(row("b", 8, 6))
    batches = [engine.step() for _ in range(2)]
    first, second = ({one.key.request_id: one.block_ids for one in batch.rows} for batch in batches)
    assert first["a"][1] != first["b"][1], "computed again for the logits of its last token"
    assert second["a"][1] == second["b"][1]


@pytest.mark.parametrize("options", [{"namespace": b"x"}, {"cache_salt": b"x"}, {"uses_prefix_cache": False}])
def test_who_shares_nothing(options: dict[str, object]) -> None:
    engine = Harness()
    engine.add(row("a", 12, 1))
    engine.run()
    engine.add(row("b", 12, 1, **options))
    engine.run()
    assert engine.ended("b").num_cached_tokens == 0


def test_a_row_outside_the_cache_leaves_nothing_in_it() -> None:
    engine = Harness()
    engine.add(row("a", 12, 4, uses_prefix_cache=False))
    engine.run()
    assert len(engine.pool.prefix_cache) == 0
    assert engine.scheduler.counters().total_cache_query_tokens == 0


def test_wanted_prompt_logits_are_computed_whatever_is_cached() -> None:
    engine = Harness()
    for name in ("a", "b"):
        engine.add(row(name, 12, 2, wants_prompt_logits=True))
        assert counts_of(engine.step()) == {name: 12}
        engine.run()
    engine.add(row("c", 12, 1))
    engine.run()
    assert engine.ended("c").num_cached_tokens == 8, "but others may use what it computed"


@pytest.mark.parametrize(("start", "num_cached"), [(100, 8), (200, 12)])
def test_cached_blocks_are_evicted_from_the_end_of_the_longest_unused_chain(start: int, num_cached: int) -> None:
    engine = Harness(8)
    for name, first in (("a", 100), ("b", 200)):
        engine.add(row(name, 16, 1, first=first))
        engine.run()
    engine.add(row("c", 8, 1, first=300))
    engine.run()
    engine.add(row("again", 16, 1, first=start))
    assert engine.step().rows[0].start == num_cached


def test_a_digest_of_two_contents_costs_hits_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Harness()
    monkeypatch.setattr(engine.pool.prefix_cache, "digest", lambda content: bytes([len(content.token_ids)]) * 32)
    for check in ("_contents", "_nothing_idle"):
        monkeypatch.setattr(engine.checker, check, lambda *_: None)
    rows = [row("a", 12, 9), row("b", 12, 9, first=300), row("c", 12, 9)]
    for new in rows:
        engine.add(new)
    engine.run()
    assert [engine.new_tokens(new.key.request_id) for new in rows] == [generate_alone(new) for new in rows]


def test_each_block_is_hashed_once_whatever_happens_to_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Harness(10)
    hashed: list[object] = []
    digest = engine.pool.prefix_cache.digest
    monkeypatch.setattr(
        engine.pool.prefix_cache, "digest", lambda content: (hashed.append(content), digest(content))[1]
    )
    engine.add(*choices(row("a", 16, 25), 2))
    engine.run()
    assert engine.ended("a", 1).num_preemptions > 0
    assert len(hashed) == 4 + 2 * 6
    assert len(set(hashed)) == 4 + 6, "equal choices, computed at the same time"


# The store.


def test_full_blocks_are_saved_once_and_loaded_when_memory_has_lost_them() -> None:
    engine = Harness(8, store=True)
    new = row("a", 16, 3)
    engine.add(new)
    batches = engine.run()
    assert [len(batch.saves) for batch in batches] == [0, 4, 0]
    engine.add(row("b", 32, 1, first=500))
    engine.run()
    engine.add(row("c", 16, 3))
    batch = engine.step()
    assert (len(batch.loads), batch.rows[0].start) == (3, 12)
    engine.run()
    assert engine.ended("c").num_cached_tokens == 12
    assert engine.new_tokens("c") == generate_alone(new)


def test_saves_of_the_last_step_come_without_rows() -> None:
    engine = Harness(store=True)
    engine.add(row("a", 8, 1))
    engine.step()
    assert engine.scheduler.has_work
    batch = engine.step()
    assert (batch.rows, len(batch.saves)) == ((), 2)
    assert not engine.scheduler.has_work


def test_a_block_that_is_used_again_is_not_saved() -> None:
    engine = Harness(3, store=True)
    engine.add(row("a", 8, 1))
    engine.step()
    engine.add(row("b", 12, 1, first=500))
    assert engine.step().saves == ()


def test_a_block_that_cannot_be_read_is_computed() -> None:
    engine = Harness(8, store=True)
    for name, first in (("a", 100), ("b", 500)):
        engine.add(row(name, 16 if name == "a" else 32, 1, first=first))
        engine.run()
        engine.step()
    engine.runner.faults.load_chance = 1.0
    engine.add(row("other", 3, 9, first=900))
    engine.add(row("c", 16, 3))
    batches = engine.run()
    assert len(batches[0].loads) == 3
    assert batches[1].loads == ()
    assert engine.new_tokens("c") == generate_alone(row("c", 16, 3))
    assert (engine.ended("c").num_preemptions, engine.ended("other").num_preemptions) == (1, 0)


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


# Ends from outside.


def test_a_waiting_a_running_and_a_preempted_row_can_be_aborted() -> None:
    engine = Harness(8, max_num_seqs=2)
    for name, first in (("running", 100), ("preempted", 300), ("waiting", 500)):
        engine.add(row(name, 8, 20, first=first))
    while not engine.scheduler.counters().total_preemptions:
        engine.step()
    events = [event for name in ("waiting", "preempted", "running") for event in engine.abort(name)]
    assert [(event.key.request_id, event.reason) for event in events if isinstance(event, Ended)] == [
        ("waiting", "abort"),
        ("preempted", "abort"),
        ("running", "abort"),
    ]
    engine.checker.end()
    assert engine.abort("running") == []


@pytest.mark.parametrize("outcome", ["update", "failed", "unloaded"])
def test_a_row_can_be_aborted_while_its_step_runs(outcome: str) -> None:
    engine = Harness()
    engine.add(row("a"))
    engine.add(row("b", first=500))
    batch = engine.schedule()
    result = engine.runner.run(batch)
    engine.abort("a")
    again = row("a", 3, 5, first=900)
    engine.rows[RowKey("c", 0)] = again
    del engine.checker.ended[again.key]
    engine.scheduler.add([again], 0.0)  # the same name at once: what the step says is of the old row
    if outcome == "update":
        events = engine.update(batch, result)
        assert {event.key.request_id for event in events} == {"b"}
    elif outcome == "failed":
        assert engine.scheduler.failed(batch, [RowKey("a", 0)], 0.0) == []
    else:
        engine.scheduler.unloaded(batch, 0.0)
    engine.rows[again.key] = again
    engine.run()
    assert engine.new_tokens("a") == generate_alone(again)
    assert engine.new_tokens("b") == generate_alone(row("b", first=500))


def test_the_queue_has_an_end() -> None:
    engine = Harness(max_num_seqs=1)
    engine.add(row("a", max_new=100))
    engine.add(row("b"))
    for _ in range(3):
        engine.step()
        assert engine.expire(20.0) == []
    (ended,) = engine.expire(1.0)
    assert isinstance(ended, Ended)
    assert (ended.key.request_id, ended.reason) == ("b", "timeout")
    assert "queue_timeout_s = 60.0" in (ended.message or "")


def test_a_row_without_progress_ends() -> None:
    engine = Harness(10)
    engine.add(row("a", 8, 24))
    engine.add(row("b", 8, 24, first=500))
    while not engine.scheduler.counters().total_preemptions:
        engine.step()
    engine.abort("a")
    for _ in range(4):
        assert engine.expire(29.0) == []
    engine.expire(29.0)
    assert "progress_timeout_s = 120.0" in (engine.ended("b").message or "")


def test_a_total_is_an_option() -> None:
    engine = Harness(total_timeout_s=50.0)
    engine.add(row("a", max_new=100))
    for _ in range(2):
        engine.step()
        assert engine.expire(25.0) == []
    engine.step()
    engine.expire(1.0)
    assert "total_timeout_s = 50.0" in (engine.ended("a").message or "")


@pytest.mark.parametrize("jump", [1e9, -1e9, float("nan"), float("inf")])
def test_a_clock_that_jumps_ends_nobody(jump: float) -> None:
    engine = Harness(max_num_seqs=1)
    engine.add(row("a", max_new=10))
    engine.add(row("b", max_new=10))
    engine.step()
    assert engine.expire(jump) == []
    engine.step()
    assert engine.expire(1.0) == []
    engine.run()
    assert {engine.ended("a").reason, engine.ended("b").reason} == {"length"}


# Failures.


def test_a_row_with_an_error_ends_alone_and_its_blocks_are_not_trusted() -> None:
    engine = Harness()
    engine.add(row("bad", 12))
    engine.add(row("good", 12, first=500))
    engine.runner.faults.nan[RowKey("bad", 0)] = 14
    engine.run()
    assert (engine.ended("bad").reason, engine.ended("bad").message) == ("error", "NaN")
    assert engine.new_tokens("good") == generate_alone(row("good", 12, first=500))
    engine.add(row("again", 12, 1))
    engine.run()
    assert engine.ended("again").num_cached_tokens == 0


@pytest.mark.parametrize("token_ids", [None, (), (1, 2)])
def test_a_result_that_cannot_be_ends_its_row(token_ids: tuple[int, ...] | None) -> None:
    engine = Harness()
    engine.add(row("a"))
    batch = engine.schedule()
    rows = () if token_ids is None else (RowResult(RowKey("a", 0), token_ids),)
    engine.update(batch, StepResult(rows))
    assert engine.ended("a").reason == "error"
    assert "the step gave" in (engine.ended("a").message or "")


def test_a_known_culprit_ends_and_the_others_are_computed_again() -> None:
    engine = Harness()
    for index in range(4):
        engine.add(row(str(index), first=200 * index))
    engine.runner.faults.blamed[RowKey("2", 0)] = 10
    engine.run()
    assert [engine.ended(str(index)).reason for index in range(4)] == ["length", "length", "error", "length"]
    assert engine.scheduler.counters().total_failed_steps == 1
    assert engine.new_tokens("3") == generate_alone(row("3", first=600))


def test_an_unknown_culprit_is_found_by_halves_and_ends_alone() -> None:
    engine = Harness()
    for index in range(8):
        engine.add(row(str(index), first=200 * index))
    engine.runner.faults.raising[RowKey("5", 0)] = 10
    engine.run()
    assert [index for index in range(8) if engine.ended(str(index)).reason == "error"] == [5]
    assert engine.scheduler.counters().total_failed_steps == 4, "8, 4, 2 rows and 1"
    assert all(engine.new_tokens(str(i)) == generate_alone(row(str(i), first=200 * i)) for i in range(8) if i != 5)


def test_suspects_run_apart_until_they_are_past_where_it_failed() -> None:
    engine = Harness(max_num_batched_tokens=8)
    for index in range(4):
        engine.add(row(str(index), 6, 20, first=200 * index, uses_prefix_cache=False))
    while not all(len(sequence.token_ids) > 8 for sequence in engine.scheduler.running) or not engine.num_steps:
        engine.step()
    batch = engine.schedule()
    engine.scheduler.failed(batch, (), 0.0)
    engine.add(row("new", first=900))
    for names in ({"0", "1"}, {"2", "3"}):
        seen: set[str] = set()
        while seen < names:
            step = engine.step()
            assert set(keys_of(step)) <= names
            seen |= {one.key.request_id for one in step.rows if one.is_sampled}
    engine.step()
    assert engine.scheduler.suspects is None
    engine.run()
    assert {ended.reason for ended in engine.checker.ended.values()} == {"length"}


def test_a_failure_that_does_not_come_again_ends_nobody() -> None:
    engine = Harness()
    for index in range(5):
        engine.add(row(str(index), first=200 * index))
    engine.scheduler.failed(engine.schedule(), (), 0.0)
    engine.run()
    assert {ended.reason for ended in engine.checker.ended.values()} == {"length"}


def test_two_culprits_are_found() -> None:
    engine = Harness()
    for index in range(8):
        engine.add(row(str(index), first=200 * index))
    engine.runner.faults.raising.update({RowKey("1", 0): 3, RowKey("6", 0): 9})
    engine.run()
    assert [index for index in range(8) if engine.ended(str(index)).reason == "error"] == [1, 6]


def test_what_a_failed_step_computed_is_found_by_nobody() -> None:
    engine = Harness()
    engine.add(row("a", 12))
    engine.runner.faults.blamed[RowKey("a", 0)] = 3
    engine.run()
    assert len(engine.pool.prefix_cache) == 0


def test_an_engine_that_always_fails_still_ends_every_row() -> None:
    engine = Harness()
    for index in range(8):
        engine.add(row(str(index), first=200 * index))
    engine.runner.faults.chance = 1.0
    engine.run()
    assert {ended.reason for ended in engine.checker.ended.values()} == {"error"}


# Figures.


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
