"""The simulator itself: it replays by seed, its checker sees faults, and it reaches what it is there to reach."""

from collections import Counter

import pytest

from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.prefix_cache import BlockContent, PrefixCache
from seed_oss.engine.scheduler import Scheduler
from seed_oss.engine.sequence import Sequence
from seed_oss.engine.tables import BlockTables
from tests.engine.simulator import Simulation

SEEN = {
    "preemptions": 150,
    "failed": 30,
    "failed by a known row": 15,
    "unloaded": 5,
    "refused blocks": 30,
    "cache_hit_tokens": 1500,
    "accepted_tokens": 300,
    "ahead": 150,
    "abort running": 30,
    "abort waiting": 30,
    "held running": 30,
    "held waiting": 30,
    "jump": 30,
    "ended: length": 150,
    "ended: stop": 30,
    "ended: error": 30,
    "ended: timeout": 15,
    "ended: overloaded": 30,
    "ended: impossible": 30,
}


def test_one_seed_is_one_schedule() -> None:
    first, second, other = Simulation(5).run(), Simulation(5).run(), Simulation(6).run()
    assert first.trace == second.trace
    assert first.trace != other.trace


def test_everything_that_may_happen_happens() -> None:
    seen = sum((Simulation(seed).run().seen for seed in range(60)), Counter[str]())
    assert {name: seen[name] for name, least in SEEN.items() if seen[name] < least} == {}


def _run(num_seeds: int) -> None:
    for seed in range(num_seeds):
        Simulation(seed).run()


def test_a_block_of_another_namespace_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PrefixCache.digest
    monkeypatch.setattr(PrefixCache, "digest", lambda self, content: real(self, content._replace(namespace=b"")))
    with pytest.raises(AssertionError, match="I3"):
        _run(3)


def test_a_hit_whose_content_nobody_compared_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_ids(self: PrefixCache, digest: bytes, content: BlockContent) -> int | None:
        known = (block_id for block_id in range(200) if self.is_known(block_id))
        same = (block_id for block_id in known if self.entry(block_id)[1].token_ids == content.token_ids)
        return next(same, None)

    monkeypatch.setattr(PrefixCache, "find", by_ids)
    with pytest.raises(AssertionError):
        _run(20)


def test_a_leaked_block_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = BlockPool.release
    monkeypatch.setattr(BlockPool, "release", lambda self, block_ids: real(self, list(block_ids)[:-1]))
    with pytest.raises(AssertionError, match="I1"):
        _run(3)


def test_an_early_entry_in_the_cache_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = BlockTables.grow

    def grow(self: BlockTables, sequence: Sequence, num_tokens: int) -> bool:
        done = real(self, sequence, num_tokens)
        computed, sequence.num_computed = sequence.num_computed, min(num_tokens, len(sequence.token_ids))
        if done:
            self.register(sequence)
        sequence.num_computed = computed
        return done

    monkeypatch.setattr(BlockTables, "grow", grow)
    with pytest.raises((AssertionError, KeyError)):
        _run(3)


def test_a_row_that_goes_on_after_preemption_as_if_nothing_were_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Sequence.reset

    def reset(self: Sequence) -> None:
        computed = self.num_computed
        real(self)
        self.num_computed = computed

    monkeypatch.setattr(Sequence, "reset", reset)
    with pytest.raises(AssertionError, match="I4"):
        _run(10)


def test_blocks_of_a_failed_row_that_stay_in_the_cache_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = BlockTables.release

    def release(self: BlockTables, sequence: Sequence) -> None:
        sequence.num_computed = len(sequence.token_ids) if sequence.scheduled_in >= 0 else 0
        if sequence.num_computed <= len(sequence.block_ids) * self._pool.block_len:
            self.register(sequence)
        real(self, sequence)

    monkeypatch.setattr(BlockTables, "release", release)
    with pytest.raises((AssertionError, KeyError)):
        _run(20)


def test_a_row_that_nobody_serves_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Scheduler._admit_one

    def admit_one(self: Scheduler, sequence: Sequence, room: int) -> int | None:
        return 0 if sequence.row.key.choice == 1 else real(self, sequence, room)

    monkeypatch.setattr(Scheduler, "_admit_one", admit_one)
    with pytest.raises(AssertionError, match="I14"):
        _run(10)
