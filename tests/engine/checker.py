"""Recounts the invariants I1 to I14 from outside, after every step."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from seed_oss.engine.batch import NewRow, RowKey, ScheduledBatch, ScheduledRow
from seed_oss.engine.events import Ended, Event, Tokens
from seed_oss.engine.prefix_cache import BlockContent
from seed_oss.engine.scheduler import Scheduler
from seed_oss.engine.sequence import Sequence
from tests.engine.fake_model import space_value, value_of

DONE = ("length", "stop")


def sha(secret: bytes, content: BlockContent) -> bytes:
    """The key of a block, written down a second time."""
    parts = [secret, content.parent, content.namespace, content.cache_salt]
    sized = [len(part).to_bytes(8, "little") + part for part in parts]
    ids = b"".join(token_id.to_bytes(8, "little") for token_id in content.token_ids)
    count = len(content.token_ids).to_bytes(8, "little")
    return hashlib.sha256(sized[0] + content.parent + sized[2] + sized[3] + count + ids).digest()


class Checker:
    """Follows a scheduler.

    Args:
        scheduler: looked at, never touched.
        secret: of its prefix cache.
        memory: values of the slots, as the runner has them.
        rows: everything that was ever added.
    """

    def __init__(
        self, scheduler: Scheduler, secret: bytes, memory: Mapping[int, int], rows: Mapping[RowKey, NewRow]
    ) -> None:
        self.scheduler = scheduler
        self.secret = secret
        self.memory = memory
        self.rows = rows
        self.new_tokens: dict[RowKey, list[int]] = {}
        self.ended: dict[RowKey, Ended] = {}
        self._chains: dict[bytes, tuple[int, int]] = {}  # per digest the value of the last slot, and its position

    def events(self, events: Iterable[Event]) -> None:
        """I10 and I11: tokens 0, 1, 2, ... once each, then one end."""
        for event in events:
            assert event.key not in self.ended, f"I11 {event}"
            tokens = self.new_tokens.setdefault(event.key, [])
            if isinstance(event, Tokens):
                assert event.token_ids, f"I10 {event}"
                assert event.first == len(tokens), f"I10 {event}"
                tokens.extend(event.token_ids)
            else:
                self.ended[event.key] = event
                assert event.num_new_tokens == len(tokens), f"I11 {event}"

    def state(self) -> None:
        """What holds at any time."""
        pool, running = self.scheduler.pool, self.scheduler.running
        owners = Counter(block_id for sequence in running for block_id in sequence.block_ids)
        free, cached = pool.free_ids, pool.cached_ids
        parts = [*free, *owners, *cached]
        assert sorted(parts) == list(range(pool.num_blocks)), "I1"
        assert all(pool.num_owners(block_id) == owners[block_id] for block_id in range(pool.num_blocks)), "I2"
        assert all(pool.prefix_cache.is_known(block_id) for block_id in cached), "I1 cached without content"
        assert not any(pool.prefix_cache.is_known(block_id) for block_id in free), "I1 free with content"
        self._contents()
        assert len(running) <= self.scheduler.limits.max_num_seqs, "I8"
        for sequence in running + self.scheduler.waiting:
            self._row(sequence)

    def _contents(self) -> None:
        """I3, and that memory holds what the key says."""
        pool, block_len = self.scheduler.pool, self.scheduler.pool.block_len
        known = [block_id for block_id in range(pool.num_blocks) if pool.prefix_cache.is_known(block_id)]
        assert len(known) == len(pool.prefix_cache), "I3"
        entries = [(block_id, *pool.prefix_cache.entry(block_id)) for block_id in known]
        for _ in entries:
            for _, digest, content in entries:
                self._learn(digest, content)
        for block_id, digest, content in entries:
            assert pool.prefix_cache.find(digest, content) == block_id, "I3"
            assert digest in self._chains, f"I3 block {block_id} without parent"
            assert self.memory[(block_id + 1) * block_len - 1] == self._chains[digest][0], f"I3 block {block_id}"

    def _learn(self, digest: bytes, content: BlockContent) -> None:
        """What the last slot of a block has to hold."""
        if digest in self._chains or (content.parent != bytes(32) and content.parent not in self._chains):
            return
        assert digest == sha(self.secret, content), "I3"
        value, position = self._chains.get(content.parent, (space_value(content.namespace, content.cache_salt), 0))
        for token_id in content.token_ids:
            value, position = value_of(value, position, token_id), position + 1
        self._chains[digest] = value, position

    def _row(self, sequence: Sequence) -> None:
        row, pool = sequence.row, self.scheduler.pool
        assert row.key not in self.ended, f"I12 {row.key}"
        known = [*row.prompt_ids, *self.new_tokens.get(row.key, [])]
        assert sequence.token_ids == known, f"I13 {row.key}"
        assert 0 <= sequence.num_computed <= len(known), f"I4 {row.key}"
        assert sequence.num_computed <= len(sequence.block_ids) * pool.block_len, f"I4 {row.key}"
        if sequence.is_running:
            most = len(row.prompt_ids) + max(row.max_new_tokens, 1) - 1
            assert -(-most // pool.block_len) <= pool.num_blocks, f"I9 {row.key}"
        else:
            assert (sequence.num_computed, sequence.block_ids, sequence.loads) == (0, (), ()), f"I13 {row.key}"

    def batch(self, batch: ScheduledBatch, *, is_disturbed: bool, held: Collection[RowKey] = ()) -> None:
        """What holds between `schedule` and the step.

        Args:
            batch: what was scheduled.
            held: what was to be left out.
            is_disturbed: whether rows lost their blocks in this call, which may leave room for others.
        """
        limits, pool = self.scheduler.limits, self.scheduler.pool
        assert batch.num_tokens <= limits.max_num_batched_tokens, "I7"
        assert len(batch.rows) <= limits.max_num_seqs, "I8"
        slots = [slot for row in batch.rows for slot in self._slots(row, batch.num_ahead)]
        assert len(slots) == len(set(slots)), "I5"
        written = {slot // pool.block_len for slot in slots} | {load.block_id for load in batch.loads}
        for block_id in written:
            assert pool.num_owners(block_id) == 1, f"I6 block {block_id}"
            assert not pool.prefix_cache.is_known(block_id), f"I6 block {block_id}"
        assert not written & {save.block_id for save in batch.saves}, "I6 saved"
        for row in batch.rows:
            self._scheduled(row, batch.num_ahead)
            assert row.key not in held, f"{row.key} is held"
        if not is_disturbed:
            self._nothing_idle(batch, held)

    def _slots(self, row: ScheduledRow, num_ahead: int) -> list[int]:
        block_len = self.scheduler.pool.block_len
        positions = range(row.start, row.start + len(row.token_ids) + num_ahead)
        return [row.block_ids[position // block_len] * block_len + position % block_len for position in positions]

    def _scheduled(self, row: ScheduledRow, num_ahead: int) -> None:
        new = self.rows[row.key]
        known = (*new.prompt_ids, *self.new_tokens.get(row.key, ()))
        num_known = len(row.token_ids) - row.num_drafts
        assert num_known >= 1, row
        assert row.token_ids[:num_known] == known[row.start : row.start + num_known], row
        assert row.is_sampled == (row.start + num_known == len(known)), row
        assert row.num_drafts <= new.num_draft_tokens * row.is_sampled, row
        if row.is_sampled and new.max_new_tokens:
            num_left = new.max_new_tokens - len(self.new_tokens.get(row.key, ()))
            assert row.num_drafts + num_ahead < num_left, row
        if num_ahead:
            assert (row.is_sampled, len(row.token_ids), new.num_draft_tokens) == (True, 1, 0), row
            assert new.max_new_tokens, row

    def _nothing_idle(self, batch: ScheduledBatch, held: Collection[RowKey]) -> None:
        """I14: every running row that is not held goes on, and the first row that may run and finds room does."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        running = {sequence.row.key for sequence in scheduler.running}
        assert {row.key for row in batch.rows} == running - set(held), "I14"
        group = scheduler.suspects
        waiting = [one for one in scheduler.waiting if group is None or one.row.key in group]
        waiting = [one for one in waiting if one.row.key not in held]
        assert running or not waiting, "I14 nothing runs"
        first = self._first_to_run(waiting)
        if first is None or len(scheduler.running) >= scheduler.limits.max_num_seqs:
            return
        ahead = sum(
            max(pool.num_blocks_for(len(sequence.token_ids)) - len(sequence.block_ids), 0)
            for sequence in scheduler.running
        )
        needed = pool.num_blocks_for(len(first.token_ids)) + len(scheduler.running)
        assert needed > pool.num_available - ahead, f"I14 {first.row.key} could run"

    def _first_to_run(self, waiting: list[Sequence]) -> Sequence | None:
        promised = self._promised()
        for sequence in waiting:
            if not self._awaits(sequence, promised):
                return sequence
            if sequence.awaited is None or sequence.num_blocks_wanted:
                return None  # when it was looked at it found no room; since then a block it had found was taken
        return None

    def _promised(self) -> set[tuple[object, ...]]:
        block_len = self.scheduler.pool.block_len
        return {
            (s.row.namespace, s.row.cache_salt, *s.token_ids[: index * block_len])
            for s in self.scheduler.running
            if s.row.uses_prefix_cache
            for index in range(1, len(s.token_ids) // block_len + 1)
        }

    def _awaits(self, sequence: Sequence, promised: set[tuple[object, ...]]) -> bool:
        """Whether the first block that is not in the cache is about to be computed."""
        row, ids, block_len = sequence.row, sequence.token_ids, self.scheduler.pool.block_len
        is_new = sequence.max_computed < len(row.prompt_ids)
        is_looked_up = row.uses_prefix_cache and not (row.wants_prompt_logits and is_new)
        parent = bytes(32)
        for end in range(block_len, len(ids) if is_looked_up else 0, block_len):
            content = BlockContent(parent, row.namespace, row.cache_salt, tuple(ids[end - block_len : end]))
            parent = sha(self.secret, content)
            if not self.scheduler.pool.prefix_cache.has(parent):
                return (row.namespace, row.cache_salt, *ids[:end]) in promised
        return False

    def end(self) -> None:
        """I12: nothing is held once every row has ended."""
        assert not self.scheduler.running, "I12"
        assert not self.scheduler.waiting, "I12"
        pool = self.scheduler.pool
        assert pool.num_available == pool.num_blocks, "I12"
        assert set(self.ended) == set(self.rows), "I11"
