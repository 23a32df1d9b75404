"""What the middlewares share: ASGI's types, and short answers of their own."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from seed_oss.server.framing import error_body

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header, the first of that name, or None.

    Args:
        scope: of the request.
        name: in lower case.
    """
    found: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode("latin-1") for key, value in found if key == name), None)


def state_of(scope: Scope) -> dict[str, Any]:
    """What endpoints find as `request.state`."""
    return scope.setdefault("state", {})


async def respond(send: Send, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
    """A whole answer; JSON unless a header says otherwise."""
    fields = {"content-type": "application/json", "content-length": str(len(body)), **dict(headers)}
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def respond_error(
    send: Send, status: int, message: str, headers: Iterable[tuple[str, str]] = (), *, path: str = ""
) -> None:
    """A whole answer with an error, in the shape that clients of the path read."""
    await respond(send, status, error_body(status, message, path), headers)
