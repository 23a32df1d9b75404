"""How whoever serves people talks to an engine, wherever that runs. No torch."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from seed_oss.engine.messages import Computed, Ended, Pulse, Ready, Refused, Started, Submit, Tokens

RequestEvent = Refused | Started | Tokens | Computed | Ended


class RequestStream(ABC):
    """The events of one request: Refused alone, or Started, what it comes to, and Ended for each choice, the last last.

    Leaving it before that, by `close` or an `async with`, aborts the request.
    """

    def __aiter__(self) -> AsyncIterator[RequestEvent]:
        return self  # type: ignore[return-value]

    @abstractmethod
    async def __anext__(self) -> RequestEvent:
        """The next event; StopAsyncIteration after the last one."""

    @abstractmethod
    async def close(self) -> None:
        """Nobody waits for the rest. Does nothing once the request has ended."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class EngineClient(ABC):
    """An engine, from outside."""

    @property
    @abstractmethod
    def ready(self) -> Ready | None:
        """What the engine said of itself when it was ready; None before, and while it is being started again."""

    @property
    @abstractmethod
    def pulse(self) -> Pulse | None:
        """The newest sign of life, or None."""

    @abstractmethod
    async def submit(self, request: Submit) -> RequestStream:
        """Hand in a request. What is wrong with it comes as the event Refused; a dead engine's requests end with
        Ended, reason "error", kind "unavailable"."""

    @abstractmethod
    async def close(self, *, drain: bool) -> None:
        """Take no more requests and end; `drain` finishes those that run first."""
