"""Requests that were handed in together, and their events as one stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from seed_oss.engine.client import EngineClient, RequestEvent, RequestStream
from seed_oss.engine.messages import Ended, Refused, Submit
from seed_oss.server.errors import ApiError

_LOG = logging.getLogger(__name__)
_FAILED = ("error", "timeout", "abort")
_MAX_WAITING = 256  # events between the engine's client and whoever sends them on


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An event, and which of the requests it belongs to."""

    run: int
    event: RequestEvent


class Runs:
    """Requests in the engine's hands. Leaving it aborts those that have not ended.

    Args:
        client: the engine.
        requests: what is handed in.
    """

    def __init__(self, client: EngineClient, requests: Sequence[Submit]) -> None:
        self._client, self._requests = client, requests
        self._streams: list[RequestStream] = []
        self._pumps: list[asyncio.Task[None]] = []
        self._events: asyncio.Queue[RunEvent | ApiError | None] = asyncio.Queue(_MAX_WAITING)
        self._num_open = len(requests)

    async def __aenter__(self) -> Self:
        try:
            for request in self._requests:
                self._streams.append(await self._client.submit(request))
        except BaseException:
            await self.close()
            raise
        self._pumps = [
            asyncio.create_task(self._pump(index, request.params.n, stream))
            for index, (request, stream) in enumerate(zip(self._requests, self._streams, strict=True))
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Nobody waits for the rest."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await asyncio.gather(*(stream.close() for stream in self._streams), return_exceptions=True)

    async def next(self, seconds: float | None = None) -> RunEvent | None:
        """The next event.

        Args:
            seconds: how long to wait for one; None waits on.

        Returns:
            None when nothing came in time.

        Raises:
            ApiError: a request was refused, or ended for a fault.
            StopAsyncIteration: all have ended.
        """
        while self._num_open or not self._events.empty():
            try:
                async with asyncio.timeout(seconds):
                    got = await self._events.get()
            except TimeoutError:
                return None
            if isinstance(got, ApiError):
                raise got
            if got is not None:
                return got
            self._num_open -= 1
        raise StopAsyncIteration

    async def all(self) -> AsyncIterator[RunEvent]:
        """Every event.

        Raises:
            ApiError: see `next`.
        """
        while True:
            try:
                got = await self.next()
            except StopAsyncIteration:
                return
            if got is not None:
                yield got

    async def _pump(self, index: int, num_choices: int, stream: RequestStream) -> None:
        num_ended = 0
        try:
            async for event in stream:
                num_ended += isinstance(event, Ended)
                fault = _fault(event)
                await self._events.put(RunEvent(index, event) if fault is None else fault)
            if num_ended < num_choices:
                await self._events.put(ApiError("unavailable", "the engine has gone away; try again"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must end
            _LOG.error("the engine's client failed: %s", type(error).__name__)
            await self._events.put(ApiError("internal"))
        await self._events.put(None)


def _fault(event: RequestEvent) -> ApiError | None:
    if isinstance(event, Refused):
        return ApiError.of_kind(event.kind, event.message, param=event.param, retry_after=event.retry_after)
    if isinstance(event, Ended) and event.reason in _FAILED:
        kind = event.kind or ("overloaded" if event.reason == "timeout" else "unavailable")
        return ApiError.of_kind(kind, event.message or f"the request ended: {event.reason}; try again")
    return None
