"""Server-sent events: keep-alive comments, a last event whatever happens, and an end when nobody listens any more."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seed_oss.server.errors import ApiError, ClientGoneError

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
SLOT = "\x00text\x00"  # no name of a model or request has such characters
_LINE_ENDS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in ("\u0085", "\u2028", "\u2029"))
_to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """A value as JSON in UTF-8."""
    return _to_text(value).encode()


def data(value: Any, event: str | None = None) -> bytes:
    """A server-sent event.

    Args:
        value: its data.
        event: its name, for protocols that name events.
    """
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + _one_line(to_json(value)) + b"\n\n"


class DataTemplate:
    """Server-sent events that differ in one text.

    Args:
        value: their data, with SLOT in the place of the text, once or more often.
        event: see `data`.
    """

    def __init__(self, value: Any, event: str | None = None) -> None:
        self._parts = data(value, event).split(to_json(SLOT))

    def __call__(self, text: str) -> bytes:
        """The event with this text."""
        return _one_line(to_json(text)).join(self._parts)


def _one_line(text: bytes) -> bytes:
    """JSON without what some clients take for line ends."""
    if text.isascii():
        return text
    for char, escaped in _LINE_ENDS:
        text = text.replace(char, escaped)
    return text


class JSONAnswer(Response):
    """A JSON body that holds only finite numbers."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


class EventStream(Response):
    """A stream of server-sent events that ends when the client goes.

    Args:
        body: the events.
        last: the events that end a stream in which something went wrong.
        close: what to do at the end, whatever it was.
        keep_alive_s: seconds without an event after which `keep_alive` is sent.
        keep_alive: what says that more may come.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        last: Callable[[ApiError], bytes],
        close: Callable[[], Awaitable[None]],
        *,
        keep_alive_s: float,
        keep_alive: bytes = KEEP_ALIVE,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._body, self._last, self._close = body, last, close
        self._keep_alive_s, self._keep_alive = keep_alive_s, keep_alive
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        work = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            await self._body.aclose()
            await self._close()
        if not work.cancelled() and isinstance(error := work.exception(), Exception) and not isinstance(error, OSError):
            raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        waiting = asyncio.create_task(self._show_life(send))
        try:
            await self._send_events(send)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async for part in self._body:
                self._sent_at = clock()
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except ApiError as error:
            await send({"type": "http.response.body", "body": self._last(error), "more_body": True})
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a stream has a last event, whatever happens
            _LOG.error("a stream failed: %s", type(error).__name__)
            await send({"type": "http.response.body", "body": self._last(ApiError("internal")), "more_body": True})

    async def _show_life(self, send: Send) -> None:
        """Say now and then that more may come, where no event does."""
        clock = asyncio.get_running_loop().time
        self._sent_at = clock()
        while True:
            rest_s = self._sent_at + self._keep_alive_s - clock()
            if rest_s > 0:
                await asyncio.sleep(rest_s)
                continue
            await send({"type": "http.response.body", "body": self._keep_alive, "more_body": True})
            self._sent_at = clock()


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work, which ends early when the client goes. The body must have been read.

    Raises:
        ClientGoneError: the client went.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
    raise ClientGoneError("the client has gone")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
