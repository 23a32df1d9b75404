"""One answer: generated, shown, counted, timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seed_oss.cli.loading import Loaded

if TYPE_CHECKING:
    from seed_oss.chat.budget import ThinkingBudget
    from seed_oss.chat.events import Event
    from seed_oss.models.chat import ChatStream


@dataclass(slots=True)
class Answer:
    """How many tokens came, and when; over several rounds where tools are called.

    Attributes:
        num_tokens: tokens, those that end an answer included.
        num_thinking: of these, thinking.
        is_whole: it was not stopped.
    """

    clock: Callable[[], float] = time.perf_counter
    num_tokens: int = 0
    num_thinking: int = 0
    is_whole: bool = True
    _started: float = 0.0
    _first: float | None = None
    _waited: float | None = None
    _busy: float = 0.0
    _num_timed: int = 0

    def begin(self) -> None:
        """The model gets a prompt, now."""
        self._started, self._first = self.clock(), None

    def count(self, num_tokens: int) -> None:
        """Note that tokens came, now."""
        if num_tokens <= 0:
            return
        now = self.clock()
        self.num_tokens += num_tokens
        if self._first is None:
            self._first = now
            self._waited = now - self._started if self._waited is None else self._waited
        else:
            self._busy += now - self._first
            self._num_timed += num_tokens
            self._first = now

    def summary(self) -> str:
        """How many tokens, and how fast those after the first one came."""
        tokens = f"{self.num_tokens} token{'' if self.num_tokens == 1 else 's'}"
        if self.num_thinking:
            tokens += f" ({self.num_thinking} of them thinking)"
        if not self._num_timed:
            return tokens
        rate = self._num_timed / max(self._busy, 1e-9)
        return f"{tokens}, {rate:.1f} tokens/s, the first after {self._waited or 0.0:.2f} s"


def end_token_ids(loaded: Loaded) -> list[int]:
    """Ids that end an answer by the checkpoint's generation settings."""
    config = loaded.model.generation_config
    ends = None if config is None else config.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends or ())


def check_budget(loaded: Loaded, budget: "ThinkingBudget") -> None:
    """Refuse a budget for a model that does not think, before it is asked anything.

    Raises:
        TokenizerError: its vocabulary has no markers of thinking.
    """
    if budget.tokens:
        from seed_oss.generation.thinking import ThinkingTokens

        ThinkingTokens.of(loaded.tokenizer)


def run_stream(stream: "ChatStream", show: "Callable[[Event, int], None]", answer: Answer) -> None:
    """Show an answer while it comes, up to its end or to Ctrl-C; what has come by then is shown.

    Args:
        stream: the answer.
        show: gets every event, and the number of tokens of thinking so far.
        answer: counts.

    Raises:
        KeyboardInterrupt: after the model has stopped.
    """
    from seed_oss.models.chat import ReasoningMeter

    meter = ReasoningMeter(stream.turn)
    num_before, num_seen = answer.num_thinking, 0

    def take() -> None:
        nonlocal num_seen
        for event in stream:
            answer.count(len(stream.new_ids) - num_seen)
            num_seen = len(stream.new_ids)
            num_thinking = meter.count(stream.new_ids)
            answer.num_thinking = num_before + num_thinking
            show(event, num_thinking)

    with stream:
        try:
            take()
        except KeyboardInterrupt:
            stream.close()
            take()
            raise


def generation_arguments(settings: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """(max_new_tokens, the other keyword arguments of `generate`)."""
    rest = dict(settings)
    return rest.pop("max_new_tokens"), rest
