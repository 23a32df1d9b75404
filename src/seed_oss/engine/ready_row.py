"""A row as everybody who works on it sees it, from its start to its end."""

from dataclasses import dataclass

from seed_oss.engine.batch import NewRow, RowKey
from seed_oss.engine.generated_row import GeneratedRow
from seed_oss.engine.prompt_tasks import PromptTask
from seed_oss.models.chat_turn import ReasoningMeter


@dataclass(frozen=True, slots=True)
class RowEnd:
    """What is said at the end of a row.

    Attributes:
        reason: why it ended.
        stop: the token that ended it, where the request named it.
        num_reasoning_tokens: tokens of thinking.
    """

    reason: str
    stop: int | None = None
    num_reasoning_tokens: int = 0


@dataclass(frozen=True)
class ReadyRow:
    """A row that may be scheduled.

    Attributes:
        row: for the scheduler.
        generated: chooses its tokens; None for a task that gives no text.
        prompt_task: follows its prompt; None where nothing is asked of that.
        meter: counts its thinking; None where there is none.
        stop_token_ids: ends that the request named.
        adapter: name of the adapter that it runs through, or None.
    """

    row: NewRow
    generated: GeneratedRow | None = None
    prompt_task: PromptTask | None = None
    meter: ReasoningMeter | None = None
    stop_token_ids: frozenset[int] = frozenset()
    adapter: str | None = None

    @property
    def key(self) -> RowKey:
        """Its name."""
        return self.row.key

    @property
    def total_len(self) -> int:
        """Most tokens that it will have, prompt and new ones together."""
        return len(self.row.prompt_ids) + self.row.max_new_tokens

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end its answer."""
        return frozenset() if self.generated is None else self.generated.end_ids

    def end(self, reason: str) -> RowEnd:
        """The end of the row, seen from here.

        Args:
            reason: as `GeneratedRow` and the scheduler say it.
        """
        new_ids = [] if self.generated is None else self.generated.new_ids
        num_reasoning = 0 if self.meter is None else self.meter.count(new_ids)
        if reason == "eos" and new_ids[-1] in self.stop_token_ids:
            return RowEnd("stop_token", new_ids[-1], num_reasoning)
        return RowEnd(reason, None, num_reasoning)
