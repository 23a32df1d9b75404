"""Who shares blocks, in memory and on disk: hits, who waits for whom, what is evicted, saved and loaded."""

from dataclasses import replace

import pytest

from seed_oss.engine.batch import NewRow, RowKey, RowResult, StepResult
from tests.engine.fake_model import generate_alone
from tests.engine.harness import Harness, choices, counts_of, keys_of, row


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
    engine.add(NewRow(RowKey("b", 0), turn, 1))
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


def test_a_digest_of_two_first_blocks_leads_nobody_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Harness()
    cache = engine.pool.prefix_cache
    digest = cache.digest
    monkeypatch.setattr(cache, "digest", lambda it: b"1" * 32 if it.parent == cache.root else digest(it))
    for check in ("_contents", "_nothing_idle"):
        monkeypatch.setattr(engine.checker, check, lambda *_: None)
    rows = [NewRow(RowKey(name, 0), (*first, 1, 2, 3, 4, 5), 6) for name, first in (("a", (7,) * 4), ("b", (8,) * 4))]
    for new in rows:
        engine.add(new)
    engine.run()
    assert [engine.new_tokens(new.key.request_id) for new in rows] == [generate_alone(new) for new in rows]


def test_choices_share_digests_of_their_prompt_alone() -> None:
    engine = Harness(max_num_seqs=1)
    engine.add(*choices(row("a", 8, 9), 2))
    while engine.scheduler.has_work:
        batch = engine.schedule()
        engine.runner.run(batch)
        key = batch.rows[0].key
        engine.update(batch, StepResult((RowResult(key, (1000 * key.choice + engine.num_steps,)),)))
    assert engine.ended("a", 1).num_cached_tokens == 4
    assert len(engine.pool.prefix_cache) == 2 + 2 + 2, "the prompt, and what each has made of it"


def test_rows_of_one_request_may_be_of_two_namespaces() -> None:
    engine, new = Harness(), row("a", 12, 3)
    engine.add(new, replace(new, key=RowKey("a", 1), namespace=b"x"))
    engine.run()
    assert engine.ended("a", 1).num_cached_tokens == 0


def test_nobody_waits_for_a_block_that_was_taken_out_of_the_cache() -> None:
    engine = Harness()
    engine.add(row("a", 9, 20))
    engine.step()
    engine.add(row("bad", 9, 20))
    engine.runner.faults.nan[RowKey("bad", 0)] = 8
    engine.step()
    assert engine.ended("bad").num_cached_tokens == 8
    engine.add(row("b", 9, 20))
    assert keys_of(engine.step()) == ["a", "b"]


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
    assert not any(batch.saves for batch in engine.run())
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
