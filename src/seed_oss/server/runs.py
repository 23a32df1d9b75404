"""Requests that were handed in together, and their events as one stream."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from seed_oss.engine.client import EngineClient, RequestEvent, RequestStream
from seed_oss.engine.messages import Ended, Ready, Refused, Submit
from seed_oss.server.errors import ApiError
from seed_oss.server.places import Places, Share

_LOG = logging.getLogger(__name__)
_FAILED = ("error", "timeout", "abort")
_MAX_WAITING = 256  # events between the engine's client and whoever sends them on


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An event, and which of the requests it belongs to."""

    run: int
    event: RequestEvent


_Read = RunEvent | ApiError | None
"""What comes of a request: an event, what went wrong, or None at its end."""


class Runs:
    """Requests in the engine's hands. Leaving it aborts those that have not ended.

    Args:
        client: the engine.
        requests: what is handed in.
        places: of its queue; all that are needed are taken at the start.
        at_once: most answers of these that are in its hands at the same time, one request whatever it has.
    """

    def __init__(self, client: EngineClient, requests: Sequence[Submit], places: Places, at_once: int) -> None:
        self._client, self._num_requests = client, len(requests)
        self._waiting = deque(requests)
        self._share = Share(places, requests, at_once)
        self._readers: list[_Reader] = []
        self._pumps: list[asyncio.Task[None]] = []
        self._events: asyncio.Queue[_Read] = asyncio.Queue(_MAX_WAITING)
        self._num_open = len(requests)

    async def __aenter__(self) -> Self:
        try:
            self._share.take(_ready(self._client))
            await self._hand_in()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Nobody waits for the rest."""
        try:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            await asyncio.gather(*(reader.close() for reader in self._readers), return_exceptions=True)
        finally:
            self._share.give_back()

    async def first(self, seconds: float) -> RunEvent | None:
        """The first event.

        Args:
            seconds: how long to wait for it.

        Returns:
            None when nothing came in time.

        Raises:
            ApiError: a request was refused, or ended for a fault.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._next()
        except TimeoutError:
            return None
        except StopAsyncIteration:
            raise ApiError("internal") from None

    async def after(self, first: RunEvent | None) -> AsyncIterator[RunEvent]:
        """All events, if none was taken but this one.

        Raises:
            ApiError: see `first`.
        """
        if first is not None:
            yield first
        while True:
            try:
                got = await self._next()
            except StopAsyncIteration:
                return
            yield got

    async def _hand_in(self) -> None:
        """What there is room for. To be called again where it was cut short."""
        while self._waiting and self._share.has_room(self._waiting[0]):
            request = self._waiting[0]
            reader = _Reader(len(self._readers), request.params.n, await self._client.submit(request))
            self._waiting.popleft()
            self._share.enter(len(self._readers), request)
            self._readers.append(reader)
            if self._num_requests > 1:
                self._pumps.append(asyncio.create_task(self._pump(reader)))

    async def _next(self) -> RunEvent:
        while self._num_open:
            await self._hand_in()
            got = await (self._events.get() if self._pumps else self._readers[0].next())
            if isinstance(got, ApiError):
                raise got
            if got is not None:
                self._share.see(got.run, got.event)
                return got
            self._num_open -= 1
        raise StopAsyncIteration

    async def _pump(self, reader: "_Reader") -> None:
        while (got := await reader.next()) is not None:
            await self._events.put(got)
        await self._events.put(None)


class _Reader:
    """One request's events, and what went wrong as an error."""

    def __init__(self, index: int, num_choices: int, stream: RequestStream) -> None:
        self._index, self._num_open, self._stream = index, num_choices, stream
        self._has_ended = False

    async def next(self) -> "_Read":
        """The next event; None after the last one. To be called again where it was cut short."""
        if self._has_ended:
            return None
        try:
            event = await anext(self._stream)
        except StopAsyncIteration:
            self._has_ended = True
            return None if self._num_open <= 0 else ApiError("unavailable", "the engine has gone away; try again")
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must end
            _LOG.error("the engine's client failed: %s", type(error).__name__)
            self._has_ended = True
            return ApiError("internal")
        self._num_open -= isinstance(event, Ended)
        fault = _fault(event)
        return RunEvent(self._index, event) if fault is None else fault

    async def close(self) -> None:
        """Nobody waits for the rest."""
        await self._stream.close()


def _ready(client: EngineClient) -> Ready:
    if client.ready is None:
        raise ApiError("unavailable", "the engine is starting; try again")
    return client.ready


def _fault(event: RequestEvent) -> ApiError | None:
    if isinstance(event, Refused):
        return ApiError.of_kind(event.kind, event.message, param=event.param, retry_after=event.retry_after)
    if isinstance(event, Ended) and event.reason in _FAILED:
        kind = event.kind or ("overloaded" if event.reason == "timeout" else "unavailable")
        return ApiError.of_kind(kind, event.message or f"the request ended: {event.reason}; try again")
    return None
