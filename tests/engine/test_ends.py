"""How rows end otherwise than by themselves: aborts, timeouts, errors, steps that fail."""

import pytest

from seed_oss.engine.batch import RowKey, RowResult, StepResult
from seed_oss.engine.events import Ended
from tests.engine.fake_model import generate_alone
from tests.engine.harness import Harness, keys_of, row


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


def test_a_row_of_the_last_step_goes_on_whatever_the_clock_says() -> None:
    engine = Harness(progress_timeout_s=5.0)
    engine.add(row("a"))
    engine.step()
    assert engine.expire(1000.0) == []
    engine.run()
    assert engine.ended("a").reason == "length"


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


def test_a_token_from_within_a_prompt_ends_its_row() -> None:
    engine = Harness(max_num_batched_tokens=8)
    engine.add(row("a", 20))
    engine.update(engine.schedule(), StepResult((RowResult(RowKey("a", 0), (1,)),)))
    assert "1 tokens for this row and at most 0" in (engine.ended("a").message or "")


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
