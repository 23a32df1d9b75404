"""Connections with deadlines: uvicorn's protocol over h11, and what it lacks.

uvicorn alone takes headers of any size that come in one piece, waits for ever for the rest of a request, has no bound
on bodies, counts connections only when they ask for something, and answers errors in plain text.

    new -> head (headers_s) -> body (body_s) -> answer (send_s without progress) -> idle (keep_alive_s) -> head ...

Past a limit the error is written, our side is closed, and what still comes is read for a moment and thrown away:
closing at once would make the system discard the answer, too.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from seed_oss.server.framing import LimitedConnection, error_response, message_of
from seed_oss.server.gathered_writes import GatheredTransport
from seed_oss.server.limits import TransportLimits

LINGER_S = 2.0
MAX_PIPELINED_BYTES = 2**16  # read while an answer is on its way, so that the other side's end is noticed
_Part = Literal["head", "body"]


Observer = Callable[[int, str | None], None]
"""Called with the status of an error that no application has made, and why it was, where the status does not say."""


def _ignore(status: int, reason: str | None) -> None:
    pass


@dataclass
class HeldBodies:
    """How many bytes of bodies all connections of a server hold together."""

    num_bytes: int = 0


class LimitedProtocol(H11Protocol):
    """One connection. `limited_protocol` makes the class with limits of its own."""

    limits = TransportLimits()
    bodies = HeldBodies()
    observe: Observer = staticmethod(_ignore)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limited = LimitedConnection(self.limits)
        self.conn = self.limited
        self._awaited: _Part | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._send_deadline: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._num_held = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        self.gathered = GatheredTransport(transport, self.loop)
        super().connection_made(self.gathered)
        if len(self.connections) > self.limits.max_connections:
            self.connections.discard(self)
            self._refuse(
                503, f"{self.limits.max_connections} connections are open; try again later", "too_many_connections"
            )
            return
        self._await("head")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whomever."""
        self._await(None)
        self._stop_send_deadline()
        self._is_ending = True
        self._count_body()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._is_ending:
            return
        super().data_received(data)
        self._look()
        self._bound_bodies()

    def eof_received(self) -> None:
        """The client sends no more, after which its connection is closed: what is written goes first."""
        self.gathered.flush()
        super().eof_received()

    def on_response_complete(self) -> None:
        """An answer is written."""
        super().on_response_complete()
        self._count_body()
        if self.transport.is_closing():
            self._abort_later(self.limits.send_s)
        else:
            self._look()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP, or past a limit."""
        error = self.limited.error or h11.RemoteProtocolError(msg)
        self._refuse(*message_of(error, self.limits))

    def shutdown(self) -> None:
        """The server ends."""
        if self._is_ending:
            self.transport.abort()
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for."""
        super().timeout_keep_alive_handler()
        self._abort_later(self.limits.send_s)

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._stop_send_deadline()
        self._send_deadline = self._abort_later(self.limits.send_s)

    def resume_writing(self) -> None:
        """The client has taken some of it."""
        super().resume_writing()
        self._stop_send_deadline()

    def _look(self) -> None:
        """Set the deadline for what must come next."""
        if self._is_ending or self.transport.is_closing():
            return
        state, num_buffered = self.conn.their_state, self.limited.num_buffered
        if state is h11.SEND_BODY:
            self._await("body")
        elif state is h11.IDLE and num_buffered:
            self._await("head")
        else:
            self._await(None)
            self._keep_alive(state)
        if state is h11.DONE and num_buffered <= MAX_PIPELINED_BYTES:
            self.flow.resume_reading()

    def _count_body(self) -> None:
        """Keep the sum over all connections right."""
        is_held = not self._is_ending and bool(self.cycle) and not self.cycle.response_complete
        held = self.limited.num_body_bytes if is_held else 0
        self.bodies.num_bytes += held - self._num_held
        self._num_held = held

    def _bound_bodies(self) -> None:
        """Refuse the body with which all together are too large: a client that sends many holds memory in each."""
        self._count_body()
        most = max(self.limits.max_bodies_bytes, self.limits.max_body_bytes)
        if self._num_held and self.bodies.num_bytes > most:
            message = f"the bodies of all requests are more than {most} bytes together; try again later"
            self._refuse(503, message, "too_many_bodies")

    def _keep_alive(self, state: Any) -> None:
        if state is h11.IDLE and self.timeout_keep_alive_task is None:
            later = self.loop.call_later(self.limits.keep_alive_s, self.timeout_keep_alive_handler)
            self.timeout_keep_alive_task = later

    def _await(self, part: _Part | None) -> None:
        """The deadline counts from when a part begins; more bytes of it give no more time."""
        if part == self._awaited:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited, self._deadline = part, None
        if part is not None:
            seconds = self.limits.headers_s if part == "head" else self.limits.body_s
            self._deadline = self.loop.call_later(seconds, self._too_late, part, seconds)

    def _too_late(self, part: _Part, seconds: float) -> None:
        if part == "head" and not self.limited.num_buffered:
            self._abort_later(0.0)  # it never asked for anything
            return
        what = "headers" if part == "head" else "body"
        self._refuse(408, f"the {what} took more than {seconds:g} s; send faster")

    def _refuse(self, status: int, message: str, reason: str | None = None) -> None:
        """Answer with an error, if no other answer has begun, and end the connection."""
        self._await(None)
        self._unset_keepalive_if_required()
        has_begun = self._leave_request()
        self._is_ending = True
        self._count_body()
        if has_begun or self.transport.is_closing():
            self.transport.close()
        else:
            self.observe(status, reason)
            headers = [("retry-after", "1")] if status == 503 else ()
            self.transport.write(error_response(status, message, headers, self.limited.target))
            self.transport.write_eof()
            self.flow.resume_reading()
        self._abort_later(LINGER_S)

    def _leave_request(self) -> bool:
        """Tell whoever handles a request that its client is gone; whether an answer to it has begun."""
        cycle = self.cycle
        if not cycle or cycle.response_complete:
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        return cycle.response_started

    def _abort_later(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)

    def _stop_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None


def limited_protocol(limits: TransportLimits, observe: Observer = _ignore) -> type[LimitedProtocol]:
    """The protocol with these limits, for uvicorn's `http=`; `observe` gets the status of each of its own errors."""
    own = {"limits": limits, "bodies": HeldBodies(), "observe": staticmethod(observe)}
    return type("LimitedProtocol", (LimitedProtocol,), own)


def server_config(
    app: Callable[..., Any], limits: TransportLimits, *, drain_s: float, observe: Observer = _ignore
) -> Config:
    """uvicorn's settings: h11 with our limits, no log of its own, nothing that names the software.

    Args:
        app: the ASGI application.
        limits: bounds of connections.
        drain_s: seconds that open requests are given when the server ends.
        observe: gets the status of each error that no application has made.
    """
    return Config(
        app,
        http=limited_protocol(limits, observe),
        ws="none",
        loop="asyncio",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=limits.max_connections,
        timeout_keep_alive=limits.keep_alive_s,  # type: ignore[arg-type] - a float does as well
        timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]
    )
