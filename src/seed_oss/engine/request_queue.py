"""The events of one request between who gets them and who reads them, in bounded memory. No torch.

    the engine  -> put ->  [Started] [run of tokens, choice 0] [run, choice 1] [Ended] ...  -> the reader

Tokens that nobody has read yet become runs, each of one choice and not too long to be worked on at once. A reader that
leaves too many of them unread loses the request: nobody else has to wait for it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from seed_oss.engine.client import RequestEvent, RequestStream
from seed_oss.engine.messages import Computed, Ended, Kind, LogProbs, Refused, Started, Submit, Tokens
from seed_oss.errors import InputError

MAX_RUN = 4096  # numbers of a run, after which there is another one


class _Run:
    """Tokens of one choice that are still to be read: one event as it came, or what several come to."""

    def __init__(self, tokens: Tokens) -> None:
        self.choice = tokens.choice
        self.num_numbers = num_numbers(tokens)
        self._first: Tokens | None = tokens
        self._has_logprobs = tokens.logprobs is not None

    def takes(self, tokens: Tokens) -> bool:
        return self.num_numbers < MAX_RUN and self._has_logprobs == (tokens.logprobs is not None)

    def add(self, tokens: Tokens) -> None:
        self.num_numbers += num_numbers(tokens)
        if self._first is not None:
            first, self._first = self._first, None
            self._ids: list[int] = []
            self._values: list[float | None] = []
            self._top_ids: list[tuple[int, ...]] = []
            self._top_values: list[tuple[float, ...]] = []
            self._extend(first)
        self._extend(tokens)

    def tokens(self, request_id: str) -> Tokens:
        if self._first is not None:
            return Tokens(request_id, self.choice, self._first.token_ids, self._first.logprobs)
        logprobs = LogProbs(tuple(self._values), tuple(self._top_ids), tuple(self._top_values))
        return Tokens(request_id, self.choice, tuple(self._ids), logprobs if self._has_logprobs else None)

    def _extend(self, tokens: Tokens) -> None:
        self._ids.extend(tokens.token_ids)
        if tokens.logprobs is not None:
            self._values.extend(tokens.logprobs.values)
            self._top_ids.extend(tokens.logprobs.top_ids)
            self._top_values.extend(tokens.logprobs.top_values)


def num_numbers(tokens: Tokens) -> int:
    """How many numbers an event holds: what it takes in memory is in proportion."""
    if tokens.logprobs is None:
        return len(tokens.token_ids)
    return len(tokens.token_ids) + len(tokens.logprobs.values) + 2 * sum(map(len, tokens.logprobs.top_ids))


class RequestQueue(RequestStream):
    """A request's stream that is filled by `put`.

    Args:
        request: the request.
        max_unread: most numbers (tokens and log-probabilities) that wait to be read.
        on_leave: called once, when nobody wants the rest any more although it has not ended.
    """

    def __init__(self, request: Submit, max_unread: int, on_leave: Callable[[], None]) -> None:
        self._request_id = request.request_id
        self._num_choices = request.params.n if request.task == "generate" else 1
        self._max_unread = max_unread
        self._on_leave = on_leave
        self._open = set(range(self._num_choices))
        self._queue: deque[_Run | RequestEvent] = deque()
        self._runs: dict[int, _Run] = {}
        self._num_unread = 0
        self._has_more = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether every choice has its last event, read or not."""
        return not self._open

    def put(self, event: RequestEvent) -> None:
        """Take the next event of the engine.

        Raises:
            InputError: a choice that the request does not have.
        """
        if isinstance(event, Tokens | Ended) and event.choice not in self._open:
            self._check_choice(event.choice)
            return
        if isinstance(event, Tokens):
            self._put_tokens(event)
        else:
            self._append(event)
        self._has_more.set()

    def fail(self, message: str, kind: Kind) -> None:
        """End every choice that has not ended with an error."""
        for choice in sorted(self._open):
            self._append(Ended(self._request_id, choice, "error", message, kind))
        self._has_more.set()

    async def __anext__(self) -> RequestEvent:
        while not self._queue:
            if self.has_ended:
                raise StopAsyncIteration
            self._has_more.clear()
            await self._has_more.wait()
        return self._taken(self._queue.popleft())

    async def close(self) -> None:
        """Nobody waits for the rest."""
        if self.has_ended:
            return
        self._open.clear()
        self._forget()
        self._has_more.set()
        self._on_leave()

    def _check_choice(self, choice: int) -> None:
        if not 0 <= choice < self._num_choices:
            raise InputError(f"an event for choice {choice} of a request with {self._num_choices}")

    def _put_tokens(self, tokens: Tokens) -> None:
        self._num_unread += num_numbers(tokens)
        if self._num_unread > self._max_unread:
            self._give_up()
            return
        run = self._runs.get(tokens.choice)
        if run is not None and run.takes(tokens):
            run.add(tokens)
            return
        self._runs[tokens.choice] = run = _Run(tokens)
        self._queue.append(run)

    def _append(self, event: Started | Computed | Ended | Refused) -> None:
        self._runs.clear()  # what comes after it is read after it
        self._queue.append(event)
        if isinstance(event, Ended):
            self._open.discard(event.choice)
        elif isinstance(event, Refused):
            self._open.clear()

    def _give_up(self) -> None:
        self._forget()
        message = f"the answer is not read: more than {self._max_unread} numbers of it wait; read while it comes"
        self.fail(message, "overloaded")
        self._on_leave()

    def _forget(self) -> None:
        self._queue.clear()
        self._runs.clear()
        self._num_unread = 0

    def _taken(self, entry: _Run | RequestEvent) -> RequestEvent:
        if not isinstance(entry, _Run):
            return replace(entry, request_id=self._request_id)
        if self._runs.get(entry.choice) is entry:
            del self._runs[entry.choice]
        self._num_unread -= entry.num_numbers
        return entry.tokens(self._request_id)
