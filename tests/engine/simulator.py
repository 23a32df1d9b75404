"""Random schedules with faults around the very classes that production runs; one seed is one schedule."""

import random
from collections import Counter
from dataclasses import replace

from seed_oss.engine.batch import NewRow, RowKey, ScheduledBatch
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.events import Ended, Event
from seed_oss.engine.limits import EngineLimits
from seed_oss.engine.prefix_cache import PrefixCache
from seed_oss.engine.scheduler import Scheduler
from seed_oss.engine.stride import Stride
from tests.engine.checker import DONE, Checker
from tests.engine.fake_model import FakeRunner, FakeStore, LoadError, StepError, generate_alone

SECRET = b"the simulator's own secret"
MAX_HOLD = 8  # steps


class FlakyPool(BlockPool):
    """A pool that sometimes refuses blocks that it has."""

    rng = random.Random(0)
    chance = 0.0
    num_refused = 0

    def take(self, count: int) -> tuple[int, ...] | None:
        """As always, or None."""
        if count and self.rng.random() < self.chance:
            self.num_refused += 1
            return None
        return super().take(count)


class Simulation:
    """One schedule.

    Args:
        seed: of everything.
        num_steps: steps with arrivals and faults; what is left then ends without.
    """

    def __init__(self, seed: int, num_steps: int = 60) -> None:
        self.rng = rng = random.Random(f"schedule {seed}")
        self.num_steps = num_steps
        self.rows: dict[RowKey, NewRow] = {}
        self.runner = FakeRunner(rng.choice((1, 2, 4, 8)), self.rows, rng)
        self.runner.stops = True
        self.pool = FlakyPool(
            rng.randint(3, 12) * 8 // min(self.runner.block_len, 4), self.runner.block_len, PrefixCache(SECRET)
        )
        self.pool.rng = rng
        self.limits = self._limits()
        self.runner.store = FakeStore() if rng.random() < 0.5 else None
        self.scheduler = Scheduler(self.limits, self.pool, self.runner.store)
        self.scheduler._stride = Stride(self.limits.ahead_s, rng.choice((1, 2, 8)))
        self.checker = Checker(self.scheduler, SECRET, self.runner.memory, self.rows)
        self._choose_faults()
        self.templates = [[rng.randrange(1000) for _ in range(64)] for _ in range(3)]
        self.now = rng.uniform(-1e3, 1e3)
        self.aborted: set[str] = set()
        self.guilty: set[RowKey] = set()
        self.excused: set[RowKey] = set()  # rows that were alone in a step that failed for no row's sake
        self.last_batch: set[RowKey] = set()
        self.seen: Counter[str] = Counter()
        self.trace: list[object] = []

    def _limits(self) -> EngineLimits:
        rng = self.rng
        num_seqs = rng.randint(1, 6)
        return EngineLimits(
            max_model_len=rng.choice((40, 80)),
            max_num_seqs=num_seqs,
            max_num_batched_tokens=num_seqs + rng.choice((0, 1, 4, 32)),
            max_num_waiting=rng.choice((None, 12)),
            max_queued_tokens=rng.choice((100, 1000)),
            queue_timeout_s=rng.choice((20.0, 200.0)),
            progress_timeout_s=rng.choice((60.0, 400.0)),
            total_timeout_s=rng.choice((None, 300.0)),
            max_tick_s=10.0,
            ahead_s=rng.choice((0.0, 2.0)),
        )

    def _choose_faults(self) -> None:
        rng, faults = self.rng, self.runner.faults
        self.pool.chance = rng.choice((0.0, 0.0, 0.1))
        faults.chance = rng.choice((0.0, 0.0, 0.05))
        faults.load_chance = rng.choice((0.0, 0.2))
        self.fault_of_a_row = rng.choice((0.0, 0.2))
        self.runner.plain_chance = rng.choice((0.0, 0.9, 1.0))
        self.jump = rng.choice((0.0, 0.1))
        self.hold_chance = rng.choice((0.0, 0.0, 0.3))
        self.holds: dict[RowKey, int] = {}  # steps that they are still held for

    def run(self) -> "Simulation":
        """The whole schedule."""
        for _ in range(self.num_steps):
            self._arrive()
            self._abort(0.05)
            self._step()
        self._calm()
        num_tokens = sum(len(s.token_ids) + s.num_remaining for s in self.scheduler.running + self.scheduler.waiting)
        bound = 2 * num_tokens + 20 + MAX_HOLD
        while self.scheduler.running or self.scheduler.waiting:
            assert bound > 0, "liveness"
            bound -= 1
            self._step()
        self._results()
        return self

    def _calm(self) -> None:
        self.runner.faults.stop()
        self.pool.chance = self.jump = self.hold_chance = 0.0
        self.scheduler.drain()

    def _arrive(self) -> None:
        if self.rng.random() < 0.45:
            rows = self._request(f"r{len(self.rows)}")
            self.rows.update((row.key, row) for row in rows)
            self._faults_of(rows)
            self._emit(self.scheduler.add(rows, self._tick()))

    def _request(self, request_id: str) -> list[NewRow]:
        rng = self.rng
        shared = rng.choice(self.templates)[: rng.choice((0, 3, 8, 16, 30))]
        prompt = (*shared, *(rng.randrange(1000) for _ in range(rng.choice((0, 1, 5)))))
        row = NewRow(
            RowKey(request_id, 0),
            prompt if rng.random() < 0.02 else prompt or (7,),
            max_new_tokens=rng.choice((0, 1, 5, 20, 40)),
            priority=rng.choice((0, 0, 0, 1, 2)),
            namespace=rng.choice((b"", b"a")),
            cache_salt=rng.choice((b"", b"", b"a")),
            uses_prefix_cache=rng.random() < 0.9,
            num_draft_tokens=rng.choice((0, 0, 1, 4)),
            wants_prompt_logits=rng.random() < 0.1,
            arrival=rng.choice((None, self.now, self.now - 1.0)),
        )
        return [replace(row, key=RowKey(request_id, choice)) for choice in range(rng.choice((1, 1, 2, 4)))]

    def _faults_of(self, rows: list[NewRow]) -> None:
        faults = self.runner.faults
        for row in rows:
            if self.rng.random() < self.fault_of_a_row:
                kind = self.rng.choice((faults.raising, faults.blamed, faults.nan))
                self.guilty.add(row.key)
                kind[row.key] = self.rng.randrange(len(row.prompt_ids) + row.max_new_tokens + 1)

    def _abort(self, chance: float) -> None:
        alive = self.scheduler.running + self.scheduler.waiting
        if alive and self.rng.random() < chance:
            sequence = self.rng.choice(alive)
            self.seen["abort running" if sequence.is_running else "abort waiting"] += 1
            self.aborted.add(sequence.row.key.request_id)
            self._emit(self.scheduler.abort(sequence.row.key.request_id, self._tick(), "abort"))

    def _tick(self) -> float:
        self.now += self.rng.uniform(0.0, 0.5)
        if self.rng.random() < self.jump:
            self.now += self.rng.choice((-1e6, -3.0, 40.0, 1e6))
            self.seen["jump"] += 1
        return self.now

    def _step(self) -> None:
        num_before, self.last_batch = self._num_disturbed, set()
        held = self._held()
        batch = self.scheduler.schedule(self._tick(), held)
        self.checker.state()
        self.checker.batch(batch, is_disturbed=self._num_disturbed > num_before, held=held)
        self.trace.append(batch)
        self.seen["ahead"] += batch.num_ahead
        if batch.rows:
            self._compute(batch)
        elif batch.saves:
            self.runner.run(batch)
        self.checker.state()
        if self.rng.random() < 0.5:
            self._expire()

    def _held(self) -> frozenset[RowKey]:
        """Some rows are not ready for a few steps."""
        self.holds = {key: left - 1 for key, left in self.holds.items() if left > 1}
        alive = self.scheduler.running + self.scheduler.waiting
        if alive and self.rng.random() < self.hold_chance:
            sequence = self.rng.choice(alive)
            self.seen["held running" if sequence.is_running else "held waiting"] += 1
            self.holds[sequence.row.key] = self.rng.randint(1, MAX_HOLD)
        return frozenset(self.holds)

    @property
    def _num_disturbed(self) -> int:
        return self.pool.num_refused + self.scheduler.counters().total_preemptions

    def _compute(self, batch: ScheduledBatch) -> None:
        group = self.scheduler.suspects
        assert group is None or {row.key for row in batch.rows} <= group
        try:
            result = self.runner.run(batch)
        except LoadError:
            self.seen["unloaded"] += 1
            self.scheduler.unloaded(batch, self._tick())
        except StepError as error:
            self._fail(batch, error)
        else:
            self._abort(0.05)  # while the step runs
            self.last_batch = {row.key for row in batch.rows}
            self._emit(self.scheduler.update(batch, result, self._tick()))

    def _fail(self, batch: ScheduledBatch, error: StepError) -> None:
        self.seen["failed by a known row" if error.culprits else "failed"] += 1
        if len(batch.rows) == 1 and not error.culprits:
            self.excused.add(batch.rows[0].key)
        self._abort(0.05)
        self._emit(self.scheduler.failed(batch, error.culprits, self._tick()))

    def _expire(self) -> None:
        events = self.scheduler.expire(self._tick())
        for event in events:
            is_total = isinstance(event, Ended) and "total_timeout_s" in (event.message or "")
            assert event.key not in self.last_batch or is_total, f"{event} made progress"
        self._emit(events)

    def _emit(self, events: list[Event]) -> None:
        self.trace.append(tuple(events))
        self.checker.events(events)
        for event in events:
            if isinstance(event, Ended):
                self.seen[f"ended: {event.reason}"] += 1

    def _results(self) -> None:
        """Each row has the tokens that it has alone, all of them where it ended by itself."""
        self.checker.end()
        for key, ended in self.checker.ended.items():
            new, alone = tuple(self.checker.new_tokens[key]), generate_alone(self.rows[key], stops=True)
            assert new == alone[: len(new)], key
            assert ended.reason not in DONE or new == alone, key
            assert ended.reason != "abort" or key.request_id in self.aborted, key
            assert ended.reason != "error" or key in self.guilty | self.excused, ended
        self.seen["refused blocks"] += self.pool.num_refused
        figures = self.scheduler.counters()
        for name in ("preemptions", "failed_steps", "cache_hit_tokens", "draft_tokens", "accepted_tokens"):
            self.seen[name] += getattr(figures, f"total_{name}")
