"""A model whose next token depends on every token before it, and a runner that computes it through block memory."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from seed_oss.engine.batch import (
    BlockStore,
    BlockTransfer,
    NewRow,
    RowKey,
    RowResult,
    ScheduledBatch,
    ScheduledRow,
    StepResult,
)

VOCABULARY = 50_000
STOP_EVERY = 29


def space_value(namespace: bytes, cache_salt: bytes) -> int:
    """What stands before the first token: keys and values of namespaces and salts differ."""
    return hash((int.from_bytes(namespace, "little"), int.from_bytes(cache_salt, "little")))


def value_of(before: int, position: int, token_id: int) -> int:
    """What a token writes into its slot."""
    return hash((before, position, token_id))


def token_of(values: Sequence[int]) -> int:
    """The token that follows, from all slots before it."""
    return hash(tuple(values)) % VOCABULARY


def is_stop(token_id: int) -> bool:
    """Whether a row ends with this token."""
    return token_id % STOP_EVERY == 0


def generate_alone(row: NewRow, *, stops: bool = False) -> tuple[int, ...]:
    """The new tokens of a row without blocks, batch or scheduler; `stops` is whether some tokens end it."""
    values: list[int] = []
    new: list[int] = []
    value = space_value(row.namespace, row.cache_salt)
    for token_id in row.prompt_ids:
        value = value_of(value, len(values), token_id)
        values.append(value)
    while len(new) < row.max_new_tokens and not (stops and new and is_stop(new[-1])):
        new.append(token_of(values))
        value = value_of(value, len(values), new[-1])
        values.append(value)
    return tuple(new)


class StepError(Exception):
    """A step that fails; whose fault it is, where that is known."""

    def __init__(self, culprits: frozenset[RowKey] = frozenset()) -> None:
        super().__init__("the step failed")
        self.culprits = culprits


class LoadError(Exception):
    """A block that the store had and could not give."""


class FakeStore(BlockStore):
    """Blocks on a disk that is a dictionary."""

    def __init__(self) -> None:
        self.blocks: dict[object, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self.blocks


@dataclass
class Faults:
    """What goes wrong.

    Args:
        chance: of a step that raises for no row's sake.
        load_chance: of a load that fails.
        raising: per row the position whose computation raises, without saying so.
        blamed: the same, and the runner knows who it was.
        nan: per row the position from which on its logits are NaN.
    """

    chance: float = 0.0
    load_chance: float = 0.0
    raising: dict[RowKey, int] = field(default_factory=dict)
    blamed: dict[RowKey, int] = field(default_factory=dict)
    nan: dict[RowKey, int] = field(default_factory=dict)

    def stop(self) -> None:
        """Nothing goes wrong any more."""
        self.chance = self.load_chance = 0.0
        for kind in (self.raising, self.blamed, self.nan):
            kind.clear()


class FakeRunner:
    """Computes batches through a memory of slots; what it does not find there comes out as other tokens."""

    def __init__(self, block_len: int, rows: Mapping[RowKey, NewRow], rng: random.Random) -> None:
        self.block_len = block_len
        self.rows = rows
        self.rng = rng
        self.faults = Faults()
        self.memory: dict[int, int] = {}
        self.store: FakeStore | None = None
        self.right_drafts = 0.7
        self.stops = False
        self.plain_chance = 0.0

    def run(self, batch: ScheduledBatch) -> StepResult:
        """One step, as a runner has to do it."""
        self._transfer(batch)
        culprit = self._fails(batch)
        if culprit is not None:
            self._scribble(batch)
            raise StepError(culprit)
        num_ahead = self._num_ahead(batch)
        return StepResult(tuple(self._row(row, num_ahead) for row in batch.rows), num_ahead)

    def _num_ahead(self, batch: ScheduledBatch) -> int:
        """How often the rows go on, all alike: not to the first NaN."""
        ends = [self.faults.nan[row.key] - row.start - 1 for row in batch.rows if row.key in self.faults.nan]
        return max(min([self.rng.randint(batch.num_ahead // 2, batch.num_ahead), *ends]), 0)

    def _transfer(self, batch: ScheduledBatch) -> None:
        for save in batch.saves:
            assert self.store is not None
            self.store.blocks[save.digest] = save.token_ids, tuple(self.memory[slot] for slot in self._slots(save))
        for load in batch.loads:
            assert self.store is not None
            if self.rng.random() < self.faults.load_chance:
                del self.store.blocks[load.digest]
                raise LoadError
            token_ids, values = self.store.blocks[load.digest]
            assert token_ids == load.token_ids
            self.memory.update(zip(self._slots(load), values, strict=True))

    def _slots(self, transfer: BlockTransfer) -> range:
        return range(transfer.block_id * self.block_len, (transfer.block_id + 1) * self.block_len)

    def _fails(self, batch: ScheduledBatch) -> frozenset[RowKey] | None:
        num_ahead = batch.num_ahead
        blamed = frozenset(row.key for row in batch.rows if _reaches(row, num_ahead, self.faults.blamed))
        if blamed:
            return blamed
        raises = any(_reaches(row, num_ahead, self.faults.raising) for row in batch.rows)
        raises = raises or (bool(batch.rows) and self.rng.random() < self.faults.chance)
        return frozenset() if raises else None

    def _scribble(self, batch: ScheduledBatch) -> None:
        for row in batch.rows:
            for position in range(row.start, row.start + len(row.token_ids) + batch.num_ahead):
                self.memory[self._slot(row, position)] = -1

    def _slot(self, row: ScheduledRow, position: int) -> int:
        return row.block_ids[position // self.block_len] * self.block_len + position % self.block_len

    def _row(self, row: ScheduledRow, num_ahead: int) -> RowResult:
        values = self._compute(row)
        chosen = tuple(self._go_on(row, values) for _ in range(num_ahead))
        if row.is_sampled and row.key in self.faults.nan and len(values) > self.faults.nan[row.key]:
            return RowResult(row.key, error="NaN")
        new = self.rows[row.key]
        if not row.is_sampled or not new.max_new_tokens:
            return RowResult(row.key)
        token_ids = chosen + tuple(self._verified(row, values))
        if self.stops:
            token_ids = token_ids[: next((n for n, one in enumerate(token_ids, 1) if is_stop(one)), len(token_ids))]
        return RowResult(
            row.key,
            token_ids,
            finish="stop" if self.stops and is_stop(token_ids[-1]) else None,
            drafts=tuple(self._drafts(new, row, token_ids)),
            is_plain=self.rng.random() < self.plain_chance,
        )

    def _go_on(self, row: ScheduledRow, values: list[int]) -> int:
        """The token that follows, which is computed at once; what is read is what was written."""
        token_id, position = token_of(values), len(values)
        self.memory[self._slot(row, position)] = value_of(values[-1], position, token_id)
        values.append(self.memory[self._slot(row, position)])
        return token_id

    def _compute(self, row: ScheduledRow) -> list[int]:
        """The values of all slots up to the end of the row's tokens, each read from memory."""
        values = [self.memory.get(self._slot(row, position), 0) for position in range(row.start)]
        for token_id in row.token_ids:
            position = len(values)
            before = values[-1] if values else self._start(row)
            self.memory[self._slot(row, position)] = value_of(before, position, token_id)
            values.append(self.memory[self._slot(row, position)])
        return values

    def _start(self, row: ScheduledRow) -> int:
        new = self.rows[row.key]
        return space_value(new.namespace, new.cache_salt)

    def _verified(self, row: ScheduledRow, values: list[int]) -> Iterator[int]:
        """The sampled token, after the drafts that equal what would have been sampled."""
        drafts = row.token_ids[len(row.token_ids) - row.num_drafts :]
        for index in range(row.num_drafts + 1):
            token_id = token_of(values[: len(values) - row.num_drafts + index])
            yield token_id
            if (self.stops and is_stop(token_id)) or index == row.num_drafts or drafts[index] != token_id:
                return

    def _drafts(self, new: NewRow, row: ScheduledRow, token_ids: tuple[int, ...]) -> Iterator[int]:
        num_known = row.start + len(row.token_ids) - row.num_drafts - len(new.prompt_ids) + len(token_ids)
        following = generate_alone(new, stops=self.stops)[num_known:] if new.num_draft_tokens else ()
        for token_id in following[: new.num_draft_tokens + 1]:  # one more than allowed
            yield token_id if self.rng.random() < self.right_drafts else token_id + 1


def _reaches(row: ScheduledRow, num_ahead: int, positions: Mapping[RowKey, int]) -> bool:
    return row.start <= positions.get(row.key, -1) < row.start + len(row.token_ids) + num_ahead
