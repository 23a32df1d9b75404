"""One request whose bytes and whose end a test holds in its hands."""

import asyncio
import json
from typing import Any

from fastapi import FastAPI


class RawCall:
    """A request that is sent at once, and can be broken off.

    Args:
        app: the application.
        path: of the endpoint.
        body: JSON.
        state: what whoever wraps the application leaves there.
    """

    def __init__(self, app: FastAPI, path: str, body: Any, state: dict[str, Any] | None = None) -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        self.sent: list[bytes] = []
        self.status: int | None = None
        self._has_sent = asyncio.Condition()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            "state": state if state is not None else {},
        }
        self.state = scope["state"]
        self.task = asyncio.create_task(app(scope, self._messages.get, self._send))  # type: ignore[arg-type]

    def disconnect(self) -> None:
        """The client goes."""
        self._messages.put_nowait({"type": "http.disconnect"})

    async def until(self, text: bytes) -> None:
        """Wait until the body holds some text."""
        async with self._has_sent:
            await self._has_sent.wait_for(lambda: text in b"".join(self.sent))

    async def _send(self, message: Any) -> None:
        async with self._has_sent:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self.sent.append(message.get("body", b""))
            self._has_sent.notify_all()
