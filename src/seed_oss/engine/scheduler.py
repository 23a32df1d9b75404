"""The scheduler: each step takes up to a budget of tokens from rows that run and rows that wait.

    add -> waiting --admit--> running --end--> gone, with exactly one Ended
              ^------preempt-----'

Computed tokens must catch up with known tokens: prompts, decoding, drafts and recomputation after a preemption are the
same thing. One owner calls it: `schedule`, the runner's step, `update` or `failed`, and so on; whatever else may happen
at any time between. Times come in as arguments.
"""

from collections.abc import Collection
from collections.abc import Sequence as Rows

from seed_oss.engine.admission import refusal_of
from seed_oss.engine.batch import BlockStore, NewRow, RowKey, RowResult, ScheduledBatch, ScheduledRow, StepResult
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.budget import Share, share_budget
from seed_oss.engine.clock import SteadyClock
from seed_oss.engine.events import Counters, Ended, Event, Refusal, Tokens
from seed_oss.engine.limits import EngineLimits
from seed_oss.engine.results import problem_with
from seed_oss.engine.rows import RowTable
from seed_oss.engine.sequence import Sequence
from seed_oss.engine.stride import Stride
from seed_oss.engine.suspects import Suspects
from seed_oss.engine.tables import BlockTables, Match
from seed_oss.engine.tally import Tally, counters_of
from seed_oss.errors import InputError, StateError


class Scheduler:
    """Decides what each step computes, and follows what becomes of every row.

    Args:
        limits: what it takes on.
        pool: blocks for keys and values, all of them free.
        store: blocks on disk, or None.
    """

    def __init__(self, limits: EngineLimits, pool: BlockPool, store: BlockStore | None = None) -> None:
        self.limits = limits
        self.pool = pool
        self._tables = BlockTables(pool, store)
        self._rows = RowTable()
        self._suspects = Suspects()
        self._clock = SteadyClock(limits.max_tick_s)
        self._stride = Stride(limits.ahead_s)
        self._began = 0.0
        self._tally = Tally()
        self._num_added = 0
        self._step = 0
        self._in_flight: ScheduledBatch | None = None
        self._is_draining = False

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Rows that hold blocks, the first to serve first. To be read only."""
        return tuple(self._rows.running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Rows that wait, the first to serve first. To be read only."""
        return tuple(self._rows.waiting)

    @property
    def suspects(self) -> frozenset[RowKey] | None:
        """The only rows that may run, while the one that made a step fail is looked for; None is all."""
        return self._suspects.group

    @property
    def has_work(self) -> bool:
        """Whether `schedule` has something to give."""
        return len(self._rows) > 0 or self._tables.has_saves

    def refusal(self, rows: Rows[NewRow]) -> Refusal | None:
        """Why the rows of a request would not be taken now, or None.

        Args:
            rows: taken all or none.
        """
        if self._is_draining:
            return Refusal("draining", "the engine is shutting down and takes no requests; ask another one")
        return refusal_of(rows, self._rows, self.limits, self.pool)

    def add(self, rows: Rows[NewRow], now: float) -> list[Event]:
        """Take the rows of a request into the queue.

        Args:
            rows: taken all or none.
            now: seconds.

        Returns:
            Nothing, or the end of each row where they are refused.

        Raises:
            InputError: a row of this key is alive, or the same key comes twice.
        """
        self._check_new([row.key for row in rows])
        self._clock.read(now)
        refusal = self.refusal(rows)
        if refusal is not None:
            return [self._refused(row, refusal) for row in rows]
        elder: Sequence | None = None
        for row in rows:
            elder = self._add(row, elder)
        return []

    def _add(self, row: NewRow, elder: Sequence | None) -> Sequence:
        """Take in a row; gives the one that the next row of the request may be like."""
        sequence = self._sequence(row)
        self._rows.add(sequence)
        if elder is None or not elder.may_be_elder_of(row):
            return sequence
        sequence.elder = elder
        return elder

    def _check_new(self, keys: list[RowKey]) -> None:
        for key in keys:
            if self._rows.get(key) is not None or keys.count(key) > 1:
                raise InputError(f"row {key.choice} of request {key.request_id} exists; give each request an own id")

    def _refused(self, row: NewRow, refusal: Refusal) -> Ended:
        self._tally.ended[refusal.reason] += 1
        return Ended(row.key, refusal.reason, refusal.message, len(row.prompt_ids), 0, 0, 0)

    def _sequence(self, row: NewRow) -> Sequence:
        arrived = self._clock.now if row.arrival is None else self._clock.time_of(row.arrival)
        # Both sides of every comparison age alike, so the order of two rows never changes.
        order = (arrived / self.limits.ageing_s - row.priority, self._num_added)
        self._num_added += 1
        return Sequence(row, order, arrived, list(row.prompt_ids), progressed_at=arrived)

    def abort(self, request_id: str, now: float, reason: str = "abort", message: str | None = None) -> list[Event]:
        """End all rows of a request, in whatever state they are; nothing, where there are none.

        Args:
            request_id: the request.
            now: seconds.
            reason: for the events.
            message: for the events.
        """
        self._clock.read(now)
        return [self._end(sequence, reason, message) for sequence in self._rows.of_request(request_id)]

    def drain(self) -> None:
        """Take no new rows; those that are there go on to their end."""
        self._is_draining = True

    def schedule(self, now: float, held: Collection[RowKey] = ()) -> ScheduledBatch:
        """What to compute next. Without rows there is nothing to report back.

        Args:
            now: seconds.
            held: rows to leave out for now, for reasons of their own; they keep their blocks, and this is no delay.

        Raises:
            StateError: the last batch has neither been updated nor failed.
        """
        if self._in_flight is not None:
            raise StateError("the last batch is still out; call update, failed or unloaded before schedule")
        self._clock.read(now)
        self._step += 1
        if self._suspects.review(self._rows):
            self._preempt_all()
        self._rows.excuse(held, self._clock.now)
        self._admit(held)
        free = [sequence for sequence in self._rows.running if sequence.row.key not in held]
        shares = self._place(share_budget(free, self.limits.max_num_batched_tokens))
        num_ahead = 0 if held else self._make_room_ahead(shares)  # who is held comes back at any time
        rows = tuple(self._scheduled(*share) for share in shares)
        loads = tuple(load for sequence in free if sequence.is_running for load in sequence.loads)
        batch = ScheduledBatch(rows, loads, self._tables.take_saves(), num_ahead)
        if rows:
            self._in_flight, self._began = batch, self._clock.now
            self._tally.steps += 1
        return batch

    def _admit(self, held: Collection[RowKey]) -> None:
        """Let rows run for which there is room, in order; the first that finds none keeps its place."""
        if not self._rows.waiting or len(self._rows.running) >= self.limits.max_num_seqs:
            return
        room = self._room()
        group = self._suspects.group
        for sequence in tuple(self._rows.waiting):
            if len(self._rows.running) >= self.limits.max_num_seqs or room < 0:
                return
            if sequence.row.key not in held and (group is None or sequence.row.key in group):
                num_used = self._admit_one(sequence, room)
                if num_used is None:
                    return
                room -= num_used

    def _room(self) -> int:
        """Blocks beyond what the running rows still need for the tokens they know."""
        tables = self._tables
        missing = (tables.num_blocks_missing(sequence, len(sequence.token_ids)) for sequence in self._rows.running)
        return self.pool.num_available - sum(missing)

    def _admit_one(self, sequence: Sequence, room: int) -> int | None:
        """Blocks that a row uses up by running; 0 where it waits for a block of another one, None without room."""
        # Each running row may soon need a block; a newcomer that takes the last ones would be sent back at once.
        room -= len(self._rows.running)
        if sequence.num_blocks_wanted > room:
            return None
        match = self._find(sequence)
        if match is None:
            return 0
        num_used = self.pool.num_blocks_for(len(sequence.token_ids)) - match.num_owned
        sequence.num_blocks_wanted = num_used
        if num_used > room or not self._tables.adopt(sequence, match):
            return None
        self._start(sequence)
        return num_used

    def _find(self, sequence: Sequence) -> Match | None:
        """What the prefix cache has of a row; None while it waits for another row, whose progress is its own."""
        if not self._tables.is_awaited(sequence.awaited):
            match = self._tables.find(sequence)
            sequence.awaited = match.awaited
            if match.awaited is None:
                return match
        sequence.progressed_at, sequence.num_blocks_wanted = self._clock.now, 0
        return None

    def _start(self, sequence: Sequence) -> None:
        self._rows.run(sequence)
        if not sequence.max_computed:
            sequence.num_cached_tokens = sequence.num_computed

    def _place(self, shares: list[Share]) -> list[Share]:
        """Give each row blocks for its share, the first to serve first, at the cost of the last ones; what is left."""
        for sequence, num_tokens, _ in shares:
            if sequence.is_running:
                self._make_room(sequence, sequence.num_computed + num_tokens)
        return [share for share in shares if share.sequence.is_running]

    def _make_room_ahead(self, shares: list[Share]) -> int:
        """Tokens that each row may go on by in this step. It has blocks for them then, and no other row lost any."""
        for num_ahead in range(self._stride.num_ahead(shares), 0, -1):
            wanted = [(sequence, sequence.num_computed + 1 + num_ahead) for sequence, _, _ in shares]
            if sum(self._tables.num_blocks_missing(*one) for one in wanted) > self.pool.num_available:
                continue
            if all(self._tables.grow(*one) for one in wanted):
                return num_ahead
            for sequence, _ in wanted:
                self._tables.trim(sequence)
            break
        return 0

    def _make_room(self, sequence: Sequence, num_tokens: int) -> None:
        while sequence.is_running and not self._tables.grow(sequence, num_tokens):
            self._preempt(self._rows.running[-1])  # at worst the row itself

    def _scheduled(self, sequence: Sequence, num_tokens: int, num_drafts: int) -> ScheduledRow:
        start, end = sequence.num_computed, sequence.num_computed + num_tokens
        if num_drafts and not self._tables.grow(sequence, end + num_drafts):
            num_drafts = 0  # nobody loses blocks for a guess
        token_ids = tuple(sequence.token_ids[start:end])
        if num_drafts:
            token_ids += sequence.drafts[:num_drafts]
        sequence.scheduled_in = self._step
        is_sampled = end == len(sequence.token_ids)
        return ScheduledRow(sequence.row.key, start, token_ids, num_drafts, sequence.block_ids, is_sampled)

    def _preempt(self, sequence: Sequence) -> None:
        self._tables.release(sequence)
        self._rows.wait(sequence)
        sequence.num_preemptions += 1
        self._tally.preemptions += 1

    def _preempt_all(self) -> None:
        for sequence in self.running:
            self._preempt(sequence)

    def update(self, batch: ScheduledBatch, result: StepResult, now: float) -> list[Event]:
        """Take the result of a step.

        Args:
            batch: the one that `schedule` gave last.
            result: a row without result ends with an error; results of rows that ended meanwhile are left out.
            now: seconds.

        Raises:
            StateError: another batch is out, or none.
        """
        self._land(batch, now)
        results = {row.key: row for row in result.rows}
        events: list[Event] = []
        for row in batch.rows:
            sequence = self._rows.get(row.key)
            if sequence is not None and sequence.scheduled_in == self._step:
                self._take(sequence, row, batch.num_ahead, results.get(row.key), events)
        if batch.num_tokens == len(batch.rows):
            self._note_stride(batch, result)
        return events

    def _note_stride(self, batch: ScheduledBatch, result: StepResult) -> None:
        has_end = any(row.finish is not None or row.error is not None for row in result.rows)
        could_not = batch.num_ahead > 0 and not result.num_ahead and not has_end
        seconds = self._clock.now - self._began
        self._stride.saw(seconds, len(batch.rows), result.num_ahead, could_not=could_not)
        self._tally.computed_tokens += len(batch.rows) * result.num_ahead

    def _land(self, batch: ScheduledBatch, now: float) -> None:
        if self._in_flight is not batch:
            raise StateError("this batch is not the one that schedule gave last; report each batch once, in order")
        self._in_flight = None
        self._clock.read(now)

    def _take(
        self, sequence: Sequence, row: ScheduledRow, num_ahead: int, result: RowResult | None, events: list[Event]
    ) -> None:
        problem = problem_with(sequence, row, num_ahead, result)
        if result is None or problem is not None:
            events.append(self._end_with_error(sequence, problem))
            return
        self._advance(sequence, row, num_ahead, result)
        if result.token_ids:
            first = sequence.num_new - len(result.token_ids)
            events.append(Tokens(row.key, result.token_ids, first))
        is_full = row.is_sampled and sequence.num_remaining == 0
        reason = result.finish or ("length" if is_full else None)
        if reason is not None:
            events.append(self._end(sequence, reason))

    def _advance(self, sequence: Sequence, row: ScheduledRow, num_ahead: int, result: RowResult) -> None:
        num_more = max(len(result.token_ids) - 1, 0)  # accepted drafts, or tokens ahead
        num_computed = row.start + len(row.token_ids) - row.num_drafts + num_more
        sequence.advance(result.token_ids, num_computed, result.drafts)
        sequence.is_plain = result.is_plain
        sequence.progressed_at = self._clock.now
        if row.num_drafts + num_ahead > num_more:
            self._tables.trim(sequence)
        if num_computed // self.pool.block_len > sequence.num_registered:
            self._tables.register(sequence)
        tally = self._tally
        tally.computed_tokens += len(row.token_ids)
        tally.new_tokens += len(result.token_ids)
        tally.draft_tokens += row.num_drafts
        tally.accepted_tokens += num_more if row.num_drafts else 0

    def failed(
        self, batch: ScheduledBatch, culprits: Collection[RowKey], now: float, message: str = "the step failed"
    ) -> list[Event]:
        """The step raised: the guilty row ends with an error, all others lose their blocks and are computed again.

        Args:
            batch: the one that `schedule` gave last.
            culprits: rows known to be guilty; where nobody knows, the batch runs again in halves, apart from all other
                rows, until one is found or none fails.
            now: seconds.
            message: for the guilty row's event.

        Raises:
            StateError: another batch is out, or none.
        """
        self._land(batch, now)
        self._tally.failed_steps += 1
        self._stride.failed()
        sequences = self._alive(batch)
        keys = [sequence.row.key for sequence in sequences]
        guilty = culprits or self._suspects.blame(batch.rows, keys)
        events: list[Event] = []
        for sequence in sequences:
            if sequence.row.key in guilty:
                events.append(self._end_with_error(sequence, message))
            else:
                self._preempt(sequence)
        if self._suspects.group is not None:
            self._preempt_all()  # held rows: nobody runs beside suspects
        return events

    def unloaded(self, batch: ScheduledBatch, now: float) -> None:
        """Some of the batch's loads could not be read, so nothing was computed: rows with loads start again.

        Args:
            batch: the one that `schedule` gave last. Its store no longer contains what could not be read.
            now: seconds.

        Raises:
            StateError: another batch is out, or none.
        """
        self._land(batch, now)
        for sequence in self._alive(batch):
            if sequence.loads:
                self._preempt(sequence)
            else:
                self._tables.trim(sequence)

    def _alive(self, batch: ScheduledBatch) -> list[Sequence]:
        """The rows of a batch that have not ended since it went out."""
        found = [self._rows.get(row.key) for row in batch.rows]
        return [sequence for sequence in found if sequence is not None and sequence.scheduled_in == self._step]

    def expire(self, now: float) -> list[Event]:
        """End what has waited too long. Rows of the last batch are going on, whatever the clock says.

        Args:
            now: seconds.
        """
        moment = self._clock.read(now)
        late = [(sequence, self._lateness(sequence, moment)) for sequence in self._rows]
        return [self._end(sequence, "timeout", message) for sequence, message in late if message is not None]

    def _lateness(self, sequence: Sequence, moment: float) -> str | None:
        limits = self.limits
        if limits.total_timeout_s is not None and moment - sequence.arrived > limits.total_timeout_s:
            return f"not done within total_timeout_s = {limits.total_timeout_s} s; ask for less or raise it"
        if sequence.scheduled_in == self._step:
            return None
        is_new = sequence.num_cached_tokens is None
        limit = limits.queue_timeout_s if is_new else limits.progress_timeout_s
        if moment - sequence.progressed_at <= limit:
            return None
        name = "queue_timeout_s" if is_new else "progress_timeout_s"
        return f"waited longer than {name} = {limit} s; try again when there is less to do"

    def _end_with_error(self, sequence: Sequence, message: str | None) -> Ended:
        self._tables.distrust(sequence)
        return self._end(sequence, "error", message)

    def _end(self, sequence: Sequence, reason: str, message: str | None = None) -> Ended:
        self._tables.release(sequence)
        self._rows.remove(sequence)
        self._tally.ended[reason] += 1
        num_cached = sequence.num_cached_tokens or 0
        counts = (sequence.num_prompt, sequence.num_new, num_cached, sequence.num_preemptions)
        return Ended(sequence.row.key, reason, message, *counts)

    def counters(self) -> Counters:
        """All figures at this moment."""
        return counters_of(self._tally, self._rows, self._tables, self.pool)
