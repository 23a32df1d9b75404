"""A client that sends a burst of streamed requests over plain sockets and notes when each piece of text arrives.

What comes is only put aside with the time, and read once all answers are there: client and server share the machine,
and what is measured is the server. All requests of a burst are sent at once, whatever becomes of those before: nothing
waits for an answer.
"""

import json
import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TIMEOUT_S = 300.0
_READ_BYTES = 2**16


@dataclass
class Answer:
    """When an answer came.

    Attributes:
        sent: when the request was.
        times: when each piece with text came.
        num_tokens: as the server counts them, or the number of pieces.
        text: all of it.
    """

    sent: float
    times: list[float] = field(default_factory=list[float])
    num_tokens: int = 0
    text: str = ""


@dataclass
class _Call:
    """A request on its way: what came, and when."""

    connection: socket.socket
    sent: float
    got: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])


def burst(port: int, bodies: Sequence[Mapping[str, Any]], path: str = "/v1/completions") -> list[Answer]:
    """Send requests at once and wait for all answers.

    Args:
        port: of the server, on the loopback address.
        bodies: of the requests.
        path: of the endpoint.

    Raises:
        RuntimeError: an answer is none.
        TimeoutError: answers are not there in time.
    """
    calls = [_begin(port, request) for request in [_request(body, path) for body in bodies]]
    _wait(calls)
    return [_answer(call) for call in calls]


def _request(body: Mapping[str, Any], path: str) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def _begin(port: int, request: bytes) -> _Call:
    sent = time.perf_counter()
    connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    connection.sendall(request)
    return _Call(connection, sent)


def _wait(calls: Sequence[_Call]) -> None:
    """Read until every server's side is closed."""
    end = time.perf_counter() + _TIMEOUT_S
    with selectors.DefaultSelector() as selector:
        for call in calls:
            selector.register(call.connection, selectors.EVENT_READ, call)
        while selector.get_map():
            ready = selector.select(end - time.perf_counter())
            if not ready:
                raise TimeoutError(f"{len(selector.get_map())} answers are not whole after {_TIMEOUT_S:.0f} s")
            now = time.perf_counter()
            for key, _ in ready:
                data = key.data.connection.recv(_READ_BYTES)
                key.data.got.append((now, data))
                if not data:
                    selector.unregister(key.fileobj)
                    key.data.connection.close()


def _answer(call: _Call) -> Answer:
    answer = Answer(call.sent)
    lines = _lines(call.got)
    _, status = next(lines, (0.0, b""))
    if b" 200 " not in status:
        rest = b" ".join(line for _, line in lines)
        raise RuntimeError(f"the server answered {status.decode().strip()}: {rest.decode()[-300:]}")
    for at, line in lines:
        if line.startswith(b"data: {"):
            _take(answer, at, json.loads(line[6:]))
    if not answer.times:
        raise RuntimeError("an answer ended before its first token: has the server died?")
    answer.num_tokens = answer.num_tokens or len(answer.times)
    return answer


def _lines(got: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Lines, and when each was whole."""
    rest = b""
    for at, data in got:
        *lines, rest = (rest + data).split(b"\n")
        yield from ((at, line) for line in lines)
    if rest:
        yield got[-1][0], rest


def _take(answer: Answer, at: float, event: Mapping[str, Any]) -> None:
    if "error" in event:
        raise RuntimeError(f"the server says {str(event['error'])[:300]}")
    text = "".join(choice.get("text") or "" for choice in event.get("choices", ()))
    if text:
        answer.times.append(at)
        answer.text += text
    usage: Any = event.get("usage")
    if usage:
        answer.num_tokens = usage["completion_tokens"]
