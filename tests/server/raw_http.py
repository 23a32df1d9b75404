"""Connections to a tiny application over real sockets, in raw bytes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from uvicorn.server import ServerState

from seed_oss.server.limits import TransportLimits
from seed_oss.server.transport import limited_protocol, server_config

PATIENCE_S = 20.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; one that waits for something that never comes fails."""

    async def bounded() -> None:
        await asyncio.wait_for(scenario, PATIENCE_S)

    asyncio.run(bounded())


class TinyApp:
    """Says how long a body was. By path: /early does not read it; /large sends what `chunk` holds for ever; /hold
    answers once `release` is set; /watch waits for its client's end."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.gone: list[str] = []
        self.started = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()
        self.chunk = b"x" * 2**16

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        path = scope["path"]
        self.requests.append(path)
        self.started.set()
        try:
            await self._answer(path, receive, send)
        finally:
            self.left.set()

    async def _answer(self, path: str, receive: Any, send: Any) -> None:
        num_bytes = 0 if path in ("/early", "/large") else await self._body_len(path, receive)
        if num_bytes is None:
            return
        if path == "/hold":
            await self.release.wait()
        if path == "/watch":
            await receive()
            self.gone.append(path)
            return
        body = json.dumps({"path": path, "num_bytes": num_bytes}).encode()
        headers = [] if path == "/large" else [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while path == "/large" and not self.release.is_set():
            await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": body})

    async def _body_len(self, path: str, receive: Any) -> int | None:
        num_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(path)
                return None
            num_bytes += len(message["body"])
            if not message["more_body"]:
                return num_bytes


@dataclass
class Served:
    """An application on a port."""

    app: TinyApp
    port: int
    state: ServerState = field(default_factory=ServerState)
    refused: list[int] = field(default_factory=list)

    async def connect(self) -> "Raw":
        """A connection to it."""
        return Raw(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, *pieces: bytes) -> "Answer":
        """Send bytes, in pieces, and read all that comes until the server closes."""
        async with await self.connect() as raw:
            for piece in pieces:
                await raw.send(piece)
            return Answer(await raw.rest())


class Raw:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def send(self, data: bytes) -> None:
        """Write, as far as the server lets us."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the end."""
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read()
        return b""

    async def answer(self) -> "Answer":
        """The next response, by its content-length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = [line[16:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")]
        return Answer(head + await self.reader.readexactly(int(length)))


class Answer:
    """A response's bytes, read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1]) if head else 0
        self.headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error in OpenAI's shape."""
        assert set(self.json) == {"error"}
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        return self.json["error"]["code"]


@contextlib.asynccontextmanager
async def serving(limits: TransportLimits | None = None) -> AsyncIterator[Served]:
    """A tiny application on a port of the loopback, behind our protocol."""
    limits = limits or TransportLimits()
    served = Served(TinyApp(), 0)
    config = server_config(served.app, limits, drain_s=1.0)
    config.load()
    loop = asyncio.get_running_loop()
    kind = limited_protocol(limits, lambda status, _: served.refused.append(status))
    server = await loop.create_server(lambda: kind(config, served.state, {}, loop), "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        for task in list(served.state.tasks):
            task.cancel()
        for connection in list(served.state.connections):
            connection.transport.abort()
        await asyncio.gather(*served.state.tasks, return_exceptions=True)
