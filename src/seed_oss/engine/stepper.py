"""One step: the model over a batch, then the next token of each row that is due. A row's fault costs that row alone."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from seed_oss.engine.batch import RowKey, RowResult, ScheduledBatch, ScheduledRow, StepResult
from seed_oss.engine.forward import Forward, PackedModel, RowTraits
from seed_oss.engine.generated_row import Growth
from seed_oss.engine.look_ahead import LookAhead
from seed_oss.engine.messages import Computed
from seed_oss.engine.ready_row import ReadyRow, RowEnd
from seed_oss.errors import SeedOssError
from seed_oss.ops.native import alone


@dataclass(frozen=True)
class StepOutcome:
    """What a step came to.

    Attributes:
        result: for the scheduler.
        growths: of the rows that got tokens.
    """

    result: StepResult
    growths: dict[RowKey, Growth]


class _Here(threading.local):
    """What is so in this thread."""

    is_alone = False


class Stepper:
    """Runs batches; keeps what each row needs from step to step.

    Args:
        model: runs packed rows.
        look_ahead: computes masks beside the steps; None computes them within.
    """

    def __init__(self, model: PackedModel, look_ahead: LookAhead | None = None) -> None:
        self._model, self._ahead = model, look_ahead
        self._rows: dict[RowKey, ReadyRow] = {}
        self._here = _Here()

    def add(self, row: ReadyRow) -> None:
        """A row that will be scheduled."""
        self._rows[row.key] = row
        self._look_ahead(row)

    def end(self, key: RowKey, reason: str) -> RowEnd:
        """A row that has ended."""
        if self._ahead is not None:
            self._ahead.drop(key)
        return self._rows.pop(key).end(reason)

    def held(self) -> frozenset[RowKey]:
        """Rows that cannot be run now, since what may come next is still being found out."""
        if self._ahead is None or not self._ahead.has_work:
            return frozenset()
        with self.alone():  # the masks are computed meanwhile
            return self._ahead.held()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Until the end of the block steps are run in this thread; blocks may be nested.

        Torch keeps no record for gradients meanwhile, and its threads sleep where the kernels run the model. To begin
        and end both with each step takes a hundredth of a small model's.
        """
        with alone(self._model.is_native), torch.inference_mode():
            outer, self._here.is_alone = self._here.is_alone, True
            try:
                yield
            finally:
                self._here.is_alone = outer

    def wait(self, seconds: float) -> None:
        """Wait until one of the held rows may be run."""
        if self._ahead is not None:
            self._ahead.wait(seconds)

    def _look_ahead(self, row: ReadyRow) -> None:
        if self._ahead is not None and row.generated is not None:
            self._ahead.start(row.key, row.generated)

    def computed(self, key: RowKey) -> Computed:
        """What the prompt of a row came to.

        Raises:
            NumericalError: it is not a number.
        """
        task = self._rows[key].prompt_task
        assert task is not None
        return task.result(key.request_id)

    def transfer(self, batch: ScheduledBatch) -> bool:
        """See PackedModel; to be called before `run`, and for a batch without rows, too."""
        return self._model.transfer(batch)

    def close(self) -> None:
        """See PackedModel."""
        if self._ahead is not None:
            self._ahead.close()
        self._model.close()

    def failure(self, block_id: int) -> Exception | None:
        """What goes wrong with one token that nobody sent, or None.

        Args:
            block_id: a block that may be written to.
        """
        probe = ScheduledRow(RowKey("probe", 0), 0, (0,), 0, (block_id,), True)
        try:
            with self.alone():
                self._model.run(ScheduledBatch((probe,)), [RowTraits(1)])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said
            return error
        return None

    def run(self, batch: ScheduledBatch) -> StepOutcome:
        """Run a step.

        Raises:
            Exception: the forward failed; no row has changed.
        """
        if self._here.is_alone:
            return self._run(batch)
        with self.alone():
            return self._run(batch)

    def _run(self, batch: ScheduledBatch) -> StepOutcome:
        forward = self._model.run(batch, [self._traits(row.key) for row in batch.rows])
        spans = _spans(batch.rows)
        errors = self._errors_of_numbers(batch.rows, spans, forward)
        self._feed_prompts(batch.rows, spans, forward, errors)
        growths = self._grow([row for row in batch.rows if row.key not in errors], spans, forward, errors)
        rows = tuple(self._result(row, growths.get(row.key), errors.get(row.key)) for row in batch.rows)
        for key, growth in growths.items():
            if growth.reason is None:
                self._look_ahead(self._rows[key])
        return StepOutcome(StepResult(rows, len(forward.before)), growths)

    def _traits(self, key: RowKey) -> RowTraits:
        row = self._rows[key]
        return RowTraits(row.total_len, row.adapter, row.end_ids)

    @staticmethod
    def _errors_of_numbers(
        rows: Sequence[ScheduledRow], spans: dict[RowKey, slice], forward: Forward
    ) -> dict[RowKey, str]:
        """The rows in which something is no number, and what to say of it."""
        lost = forward.lost()
        if lost is None:
            return {}
        said = "the model's result is not a number; check the weights, or load the model in bfloat16 or float32"
        return {row.key: said for row in rows if any(lost[spans[row.key]])}

    def _feed_prompts(
        self,
        rows: Sequence[ScheduledRow],
        spans: dict[RowKey, slice],
        forward: Forward,
        errors: dict[RowKey, str],
    ) -> None:
        for row in rows:
            task = self._rows[row.key].prompt_task
            if task is None or row.start >= len(self._rows[row.key].row.prompt_ids) or row.key in errors:
                continue
            try:
                task.see(forward.hidden[spans[row.key]], row.token_ids, row.start)
            except SeedOssError as error:
                errors[row.key] = str(error)

    def _grow(
        self,
        rows: Sequence[ScheduledRow],
        spans: dict[RowKey, slice],
        forward: Forward,
        errors: dict[RowKey, str],
    ) -> dict[RowKey, Growth]:
        due = [(row, one) for row in rows if row.is_sampled and (one := self._rows[row.key].generated) is not None]
        if not due:
            return {}
        counts = [1 + row.num_drafts for row, _ in due]
        wanted = [spans[row.key].stop - n + i for (row, _), n in zip(due, counts, strict=True) for i in range(n)]
        are_plain = [generated.is_plain and count == 1 for (_, generated), count in zip(due, counts, strict=True)]
        assert all(are_plain) or not forward.before
        best = forward.best(wanted) if any(are_plain) else []
        logits = None if all(are_plain) else forward.logits(wanted)
        growths: dict[RowKey, Growth] = {}
        first = 0
        for (row, generated), count, is_plain in zip(due, counts, are_plain, strict=True):
            try:
                if is_plain or logits is None:
                    growths[row.key] = generated.take((*(one[wanted[first]] for one in forward.before), best[first]))
                else:
                    drafts = row.token_ids[len(row.token_ids) - row.num_drafts :]
                    growths[row.key] = generated.grow(logits[first : first + count], drafts)
            except Exception as error:  # noqa: BLE001 - whatever a processor or a grammar does, it is this row's
                errors[row.key] = _said_of(error)
            first += count
        return growths

    def _result(self, row: ScheduledRow, growth: Growth | None, error: str | None) -> RowResult:
        if error is not None or growth is None:
            return RowResult(row.key, (), None, error, ())
        generated = self._rows[row.key].generated
        assert generated is not None
        drafts = () if growth.reason else generated.drafts()
        is_plain = generated.is_plain and self._model.goes_ahead(self._rows[row.key].adapter)
        return RowResult(row.key, growth.token_ids, growth.reason, None, drafts, is_plain)


def _spans(rows: Sequence[ScheduledRow]) -> dict[RowKey, slice]:
    """Which rows of the packed tensors are whose."""
    spans: dict[RowKey, slice] = {}
    first = 0
    for row in rows:
        spans[row.key] = slice(first, first + len(row.token_ids))
        first += len(row.token_ids)
    return spans


def _said_of(error: Exception) -> str:
    """What a client may read of an error: our own messages, and no other's."""
    return str(error) if isinstance(error, SeedOssError) else "choosing the next token failed; see the engine's log"
