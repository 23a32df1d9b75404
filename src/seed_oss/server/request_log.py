"""A line of JSON per request, its id, and what becomes of errors that nobody else caught. Never prompts, never keys."""

import asyncio
import json
import logging
import os
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from seed_oss.server.asgi import App, Message, Receive, Scope, Send, header, respond_error, state_of

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_MESSAGE_CHARS = 500
_UNMATCHED = "unmatched"

Observer = Callable[[str, int, float, bool], None]
"""Called with the route, the status and the seconds of every request, and whether that status is a rejection which
nobody has counted, if it is one."""


class JsonLog:
    """Lines of JSON.

    Args:
        stream: where they go.
        clock: seconds since 1970.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock

    def write(self, event: str, **fields: Any) -> None:
        """Write a line: when, what, and the fields that are not None."""
        known = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": round(self._clock(), 3), "event": event, **known}, default=str)
        self._stream.write(line + "\n")
        self._stream.flush()


class JsonHandler(logging.Handler):
    """What libraries log, as such lines. Of exceptions the kind and the place: their texts may hold what was sent."""

    def __init__(self, log: JsonLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        error = record.exc_info[1] if record.exc_info else None
        self._log.write(
            "log",
            level=record.levelname.lower(),
            logger=record.name,
            message=record.getMessage().strip()[:_MAX_MESSAGE_CHARS],
            **({} if error is None else described(error)),
        )


def described(error: BaseException) -> dict[str, Any]:
    """An exception without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return {"error": type(error).__name__, "at": [f"{_file_of(one)}:{one.lineno} {one.name}" for one in frames]}


def _file_of(frame: traceback.FrameSummary) -> str:
    """Below the folder that it was imported from: where things are installed is left out."""
    folders = [folder for folder in sys.path if folder and frame.filename.startswith(f"{folder}{os.sep}")]
    longest = max(folders, key=len, default="")
    return frame.filename[len(longest) + 1 :] if longest else Path(frame.filename).name


def route_of(scope: Scope) -> str:
    """The path as the application spells it; what a client sent does not get into logs and metrics."""
    found = state_of(scope).get("route") or getattr(scope.get("route"), "path", None)
    return found if isinstance(found, str) else _UNMATCHED


class RequestLog:
    """The outermost ASGI middleware.

    It takes a request's X-Request-Id, if that is well-formed, or makes one; gives it as `request.state.request_id` to
    what is behind, and back to the client. What an endpoint leaves in `request.state.usage` gets into the line.

    Args:
        app: what is behind it.
        log: for the lines.
        observe: see `Observer`.
        clock: seconds that only grow.
    """

    def __init__(
        self, app: App, log: JsonLog, observe: Observer, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app = app
        self._log = log
        self._observe = observe
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, _request_id(scope), self._clock)
        state_of(scope)["request_id"] = answer.request_id
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:  # noqa: BLE001 - one bad request costs only that request
            await self._fail(answer, error, scope["path"])
        except asyncio.CancelledError:  # the server ends at once
            if answer.status is None:
                message, again = "the server is ending; ask another one", [("retry-after", "1")]
                await respond_error(answer.send, 503, message, again, path=scope["path"])
            raise
        finally:
            self._tell(scope, answer)

    async def _fail(self, answer: "_Answer", error: Exception, path: str) -> None:
        self._log.write("failure", id=answer.request_id, **described(error))
        if answer.status is not None:
            raise error  # the connection is closed: half an answer must not look like a whole one
        await respond_error(answer.send, 500, "the server failed; the request may be sent again", path=path)

    def _tell(self, scope: Scope, answer: "_Answer") -> None:
        seconds = self._clock() - answer.started
        status = answer.status or 499  # nobody waited for one
        route = route_of(scope)
        is_probe = bool(state_of(scope).get("is_probe"))
        self._observe(route, status, seconds, not (is_probe or state_of(scope).get("is_counted")))
        if is_probe:
            return
        usage: dict[str, Any] = state_of(scope).get("usage") or {}
        self._log.write(
            "request",
            id=answer.request_id,
            method=str(scope["method"])[:16],
            route=route,
            status=status,
            seconds=round(seconds, 4),
            first_byte_s=None if answer.first_byte_s is None else round(answer.first_byte_s, 4),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
        )


class _Answer:
    """What is sent to one request."""

    def __init__(self, send: Send, request_id: str, clock: Callable[[], float]) -> None:
        self._send = send
        self._clock = clock
        self.request_id = request_id
        self.started = clock()
        self.status: int | None = None
        self.first_byte_s: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kept = [one for one in message.get("headers", ()) if one[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*kept, (b"x-request-id", self.request_id.encode())]}
        elif self.first_byte_s is None and message.get("body"):
            self.first_byte_s = self._clock() - self.started
        await self._send(message)


def _request_id(scope: Scope) -> str:
    given = header(scope, b"x-request-id") or ""
    return given if _ID.fullmatch(given) else secrets.token_hex(12)
