"""All that comes of one request, put together."""

from dataclasses import dataclass, field

from seed_oss.engine.messages import Computed, Ended, Event, LogProbs, Refused, Started, Submit, Tokens
from seed_oss.errors import EngineError, InputError


@dataclass
class Gathered:
    """The events of a request so far.

    Attributes:
        submit: the request.
        prompt_ids: its prompt, with what the engine put behind it.
        token_ids: new tokens of each choice.
        logprobs: of each choice, as they came.
        ends: of the choices that have ended.
        values: of a task that gives no text.
        prompt_logprobs: of the prompt's tokens.
    """

    submit: Submit
    prompt_ids: tuple[int, ...] = ()
    token_ids: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    logprobs: dict[int, list[LogProbs]] = field(default_factory=dict[int, list[LogProbs]])
    ends: dict[int, Ended] = field(default_factory=dict[int, Ended])
    values: tuple[tuple[float, ...], ...] = ()
    prompt_logprobs: LogProbs | None = None

    @property
    def num_choices(self) -> int:
        """How many ends there will be."""
        return self.submit.params.n if self.submit.task == "generate" else 1

    @property
    def is_done(self) -> bool:
        """Whether all choices have ended."""
        return len(self.ends) == self.num_choices

    def take(self, event: Event) -> bool:
        """Take the next event of this request; whether it was the last one.

        Raises:
            InputError: the request was refused.
            EngineError: a choice failed.
        """
        if isinstance(event, Refused):
            raise InputError(event.message) if event.kind == "invalid" else EngineError(event.message)
        if isinstance(event, Started):
            self.prompt_ids = self.submit.prompt_ids + event.suffix_ids
        elif isinstance(event, Tokens):
            self.token_ids.setdefault(event.choice, []).extend(event.token_ids)
            if event.logprobs is not None:
                self.logprobs.setdefault(event.choice, []).append(event.logprobs)
        elif isinstance(event, Computed):
            self.values, self.prompt_logprobs = event.values, event.logprobs
        elif isinstance(event, Ended):
            if event.kind is not None:
                raise EngineError(event.message or f"the request ended with {event.reason!r}")
            self.ends[event.choice] = event
        return self.is_done

    def logprobs_of(self, choice: int) -> LogProbs | None:
        """Of all tokens of a choice; None where none were asked for."""
        parts = self.logprobs.get(choice)
        if not parts:
            return None
        return LogProbs(
            tuple(value for part in parts for value in part.values),
            tuple(ids for part in parts for ids in part.top_ids),
            tuple(values for part in parts for values in part.top_values),
        )
