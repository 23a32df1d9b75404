"""An engine's client that answers what it was told to, token by token."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from seed_oss.chat import SeedOssTokenizer
from seed_oss.engine.client import EngineClient, RequestEvent, RequestStream
from seed_oss.engine.messages import (
    TASKS,
    Computed,
    Ended,
    LogProbs,
    Pulse,
    Ready,
    Refused,
    Started,
    Submit,
    Tokens,
)

VOCAB_SIZE = 448


@dataclass
class Script:
    """What the engine says to one choice.

    Attributes:
        text: the answer, markers included; a list is encoded piece by piece, so that tokens end where pieces do.
        reason: why it ends.
        stop: what ended it.
        suffix: what the engine puts behind the prompt.
        ids: tokens instead of a text.
        num_together: tokens in one event.
        ends: whether there is a last event.
    """

    text: str | list[str] = "Four.<seed:eos>"
    reason: str = "eos"
    stop: str | int | None = None
    suffix: str = ""
    ids: list[int] | None = None
    num_together: int = 1
    ends: bool = True
    message: str | None = None
    kind: str | None = None
    num_cached: int = 0
    num_reasoning: int = 0


@dataclass
class FakeEngine(EngineClient):
    """Answers each request by the next script, or by the last one again; each choice too.

    Attributes:
        tokenizer: makes tokens of the scripts.
        scripts: what is said.
        refusal: makes what every request is refused with, or None.
        computed: what tasks that give no text get, instead of `numbers`.
        prompt_logprobs: comes before the answer, if set.
        hold_after: tokens after which a stream waits for `gate`; None never waits, -1 waits
            before anything.
        submits, closed: what was handed in, and the ids of what was left before its end.
    """

    tokenizer: SeedOssTokenizer
    scripts: list[Script] = field(default_factory=lambda: [Script()])
    refusal: Callable[[Submit], Refused] | None = None
    computed: Callable[[Submit], Computed] | None = None
    hold_after: int | None = None
    is_ready: bool = True
    tasks: tuple[str, ...] = TASKS
    adapters: tuple[str, ...] = ()
    max_model_len: int = 4096
    submits: list[Submit] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    was_closed: asyncio.Event = field(default_factory=asyncio.Event)
    _num_used: int = 0

    @property
    def ready(self) -> Ready | None:
        """See EngineClient."""
        return Ready(self.max_model_len, 8, VOCAB_SIZE, self.tasks, self.adapters) if self.is_ready else None

    @property
    def pulse(self) -> Pulse | None:
        """See EngineClient."""
        return Pulse(1)

    async def submit(self, request: Submit) -> RequestStream:
        """See EngineClient."""
        self.submits.append(request)
        return _Stream(self, request, self._events(request))

    async def close(self, *, drain: bool) -> None:
        """See EngineClient."""

    def next_script(self) -> Script:
        """What is said to the next choice."""
        script = self.scripts[min(self._num_used, len(self.scripts) - 1)]
        self._num_used += 1
        return script

    def encode(self, text: str) -> list[int]:
        """Ids of a text, its markers as control tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _events(self, request: Submit) -> list[RequestEvent]:
        if self.refusal is not None:
            return [self.refusal(request)]
        if self.computed is not None or request.task != "generate":
            computed = self.computed or numbers
            ended = Ended(request.request_id, 0, "length", num_prompt_tokens=len(request.prompt_ids))
            return [Started(request.request_id), computed(request), ended]
        scripts = [self.next_script() for _ in range(request.params.n)]
        suffix = tuple(self.encode(scripts[0].suffix))
        events: list[RequestEvent] = [Started(request.request_id, suffix, 100)]
        if request.params.prompt_logprobs is not None:
            events.append(
                Computed(request.request_id, logprobs=probs(request.prompt_ids, request.params.prompt_logprobs))
            )
        for choice, script in enumerate(scripts):
            events += self._said(request, choice, script, len(suffix))
        return events

    def _said(self, request: Submit, choice: int, script: Script, num_suffix: int) -> list[RequestEvent]:
        pieces = [script.text] if isinstance(script.text, str) else script.text
        ids = [token for piece in pieces for token in self.encode(piece)] if script.ids is None else script.ids
        num_top, size = request.params.logprobs, script.num_together
        said: list[RequestEvent] = [
            Tokens(
                request.request_id,
                choice,
                tuple(ids[at : at + size]),
                None if num_top is None else probs(ids[at : at + size], num_top, first=False),
            )
            for at in range(0, len(ids), size)
        ]
        end = Ended(
            request.request_id,
            choice,
            script.reason,
            script.message,
            script.kind,  # type: ignore[arg-type]
            len(request.prompt_ids) + num_suffix,
            script.num_cached,
            script.num_reasoning,
            script.stop,
        )
        return [*said, end] if script.ends else said


def numbers(request: Submit) -> Computed:
    """Two numbers for each token of a prompt, and their log-probabilities."""
    rows = tuple((float(token), 1.0) for token in request.prompt_ids)
    return Computed(request.request_id, rows, probs(request.prompt_ids, request.params.prompt_logprobs or 0))


def probs(ids: Sequence[int], num_top: int, *, first: bool = True) -> LogProbs:
    """Log-probabilities: -0.5 for each token, None for the first of a prompt, and neighbours as the most probable."""
    values = tuple(None if first and at == 0 else -0.5 for at in range(len(ids)))
    top_ids = tuple(tuple((token + step) % VOCAB_SIZE for step in range(num_top)) for token in ids)
    return LogProbs(values, top_ids, tuple(tuple(-0.5 - step for step in range(num_top)) for _ in ids))


class _Stream(RequestStream):
    def __init__(self, engine: FakeEngine, request: Submit, events: list[RequestEvent]) -> None:
        self._engine, self._request, self._events = engine, request, events
        self._num_given = self._num_tokens = 0

    async def __anext__(self) -> RequestEvent:
        await asyncio.sleep(0)
        if self._num_given >= len(self._events):
            raise StopAsyncIteration
        event = self._events[self._num_given]
        hold = self._engine.hold_after
        begins = isinstance(event, Started | Refused)
        if hold is not None and self._num_tokens >= hold and (hold < 0 or not begins):
            self._engine.waits.set()
            await self._engine.gate.wait()
        self._num_given += 1
        self._num_tokens += isinstance(event, Tokens)
        return event

    async def close(self) -> None:
        if self._num_given < len(self._events):
            self._engine.closed.append(self._request.request_id)
            self._engine.was_closed.set()
