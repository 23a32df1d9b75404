"""A scheduler with a fake model, driven by hand."""

import random
from dataclasses import replace

from seed_oss.engine.batch import NewRow, RowKey, ScheduledBatch, StepResult
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.events import Ended, Event, Tokens
from seed_oss.engine.limits import EngineLimits
from seed_oss.engine.prefix_cache import PrefixCache
from seed_oss.engine.scheduler import Scheduler
from tests.engine.checker import Checker
from tests.engine.fake_model import FakeRunner, FakeStore, LoadError, StepError

SECRET = b"a secret of the harness"


def row(name: str, num_prompt: int = 8, max_new: int = 8, *, first: int = 100, **options: object) -> NewRow:
    """A row whose prompt counts up from `first`."""
    return NewRow(RowKey(name, 0), tuple(range(first, first + num_prompt)), max_new, **options)  # type: ignore[arg-type]


def choices(new: NewRow, count: int) -> list[NewRow]:
    """`count` rows of one request."""
    return [replace(new, key=RowKey(new.key.request_id, choice)) for choice in range(count)]


class Harness:
    """Blocks of 4 tokens; every step is checked.

    Args:
        num_blocks: in the pool.
        store: whether there is a disk.
        options: of EngineLimits.
    """

    def __init__(self, num_blocks: int = 64, *, store: bool = False, **options: object) -> None:
        self.rows: dict[RowKey, NewRow] = {}
        self.runner = FakeRunner(4, self.rows, random.Random(0))
        self.runner.store = FakeStore() if store else None
        self.pool = BlockPool(num_blocks, 4, PrefixCache(SECRET))
        sizes = {"max_model_len": 1000, "max_num_seqs": 8, "max_num_batched_tokens": 64} | options
        self.scheduler = Scheduler(EngineLimits(**sizes), self.pool, self.runner.store)  # type: ignore[arg-type]
        self.checker = Checker(self.scheduler, SECRET, self.runner.memory, self.rows)
        self.now = 0.0
        self.held: frozenset[RowKey] = frozenset()
        self.num_steps = 0

    def add(self, *rows: NewRow) -> list[Event]:
        """Queue rows of one request."""
        self.rows.update((row.key, row) for row in rows)
        return self._note(self.scheduler.add(rows, self.now))

    def schedule(self) -> ScheduledBatch:
        """The next batch, checked."""
        self.num_steps += 1
        assert self.num_steps < 1000, "no end"
        preemptions = self.scheduler.counters().total_preemptions
        batch = self.scheduler.schedule(self.now, self.held)
        self.checker.state()
        is_disturbed = self.scheduler.counters().total_preemptions > preemptions
        self.checker.batch(batch, is_disturbed=is_disturbed, held=self.held)
        return batch

    def finish(self, batch: ScheduledBatch) -> list[Event]:
        """Run a batch and report what came of it."""
        try:
            result = self.runner.run(batch)
        except LoadError:
            self.scheduler.unloaded(batch, self.now)
            return []
        except StepError as error:
            return self._note(self.scheduler.failed(batch, error.culprits, self.now))
        return self.update(batch, result)

    def update(self, batch: ScheduledBatch, result: StepResult) -> list[Event]:
        """Report a result, checked."""
        return self._note(self.scheduler.update(batch, result, self.now))

    def step(self) -> ScheduledBatch:
        """One whole step."""
        batch = self.schedule()
        if batch.rows or batch.saves:
            self.finish(batch) if batch.rows else self.runner.run(batch)
        return batch

    def run(self) -> list[ScheduledBatch]:
        """Step until nothing is left."""
        batches: list[ScheduledBatch] = []
        while self.scheduler.running or self.scheduler.waiting:
            batches.append(self.step())
        return batches

    def abort(self, request_id: str) -> list[Event]:
        """End a request."""
        return self._note(self.scheduler.abort(request_id, self.now))

    def expire(self, later: float = 0.0) -> list[Event]:
        """Let time pass, and end what has waited too long."""
        self.now += later
        return self._note(self.scheduler.expire(self.now))

    def ended(self, name: str, choice: int = 0) -> Ended:
        """The end of a row."""
        return self.checker.ended[RowKey(name, choice)]

    def new_tokens(self, name: str, choice: int = 0) -> tuple[int, ...]:
        """What a row has got so far."""
        return tuple(self.checker.new_tokens[RowKey(name, choice)])

    def _note(self, events: list[Event]) -> list[Event]:
        self.checker.events(events)
        self.checker.state()
        return events


def keys_of(batch: ScheduledBatch) -> list[str]:
    """The requests in a batch."""
    return [row.key.request_id for row in batch.rows]


def counts_of(batch: ScheduledBatch) -> dict[str, int]:
    """Tokens of each request in a batch."""
    return {row.key.request_id: len(row.token_ids) for row in batch.rows}


def tokens_in(events: list[Event]) -> list[int]:
    """All tokens of some events."""
    return [token_id for event in events if isinstance(event, Tokens) for token_id in event.token_ids]
