"""An application asked within this process, as httpx does it."""

import io
import json
from typing import Any

import httpx

from seed_oss.server.request_log import JsonLog


class Lines(io.StringIO):
    """A log that a test reads."""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of this kind."""
        lines = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


def log_to(lines: Lines) -> JsonLog:
    """A log whose clock stands still."""
    return JsonLog(lines, clock=lambda: 5.0)


async def ask(app: Any, path: str = "/v1/models", method: str = "GET", **more: Any) -> httpx.Response:
    """One request."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        return await client.request(method, path, **more)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, whose shape is OpenAI's."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


class Echo:
    """An application that says what `request.state` holds; /fail and /half raise."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        self.paths.append(scope["path"])
        if scope["path"] == "/fail":
            raise ValueError("a prompt that nobody may read")
        body = json.dumps({name: value for name, value in scope["state"].items() if isinstance(value, str)}).encode()
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"of-the-app")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": scope["path"] == "/half"})
        if scope["path"] == "/half":
            raise ValueError("a prompt that nobody may read")
        scope["state"]["usage"] = {"prompt_tokens": 3, "completion_tokens": 4, "text": "a prompt that nobody may read"}
