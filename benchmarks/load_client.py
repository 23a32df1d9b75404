"""A client that sends a burst of streamed requests over plain sockets and notes when each piece of text arrives.

It keeps little of a core busy, so that what is measured is the server. All requests of a burst are sent at once,
whatever becomes of those before: nothing waits for an answer.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TIMEOUT_S = 300.0


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


def burst(port: int, bodies: Sequence[Mapping[str, Any]], path: str = "/v1/completions") -> list[Answer]:
    """Send requests at once and wait for all answers.

    Args:
        port: of the server, on the loopback address.
        bodies: of the requests.
        path: of the endpoint.

    Raises:
        RuntimeError: an answer is none.
    """
    return asyncio.run(_burst(port, bodies, path))


async def _burst(port: int, bodies: Sequence[Mapping[str, Any]], path: str) -> list[Answer]:
    async with asyncio.timeout(_TIMEOUT_S):
        return await asyncio.gather(*(_ask(port, body, path) for body in bodies))


async def _ask(port: int, body: Mapping[str, Any], path: str) -> Answer:
    data = json.dumps(body).encode()
    answer = Answer(time.perf_counter())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + data)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"the server answered {status.decode().strip()}: {(await reader.read(500)).decode()[-300:]}")
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            _take(answer, json.loads(line[6:]))
    writer.close()
    if not answer.times:
        raise RuntimeError("an answer ended before its first token: has the server died?")
    answer.num_tokens = answer.num_tokens or len(answer.times)
    return answer


def _take(answer: Answer, event: Mapping[str, Any]) -> None:
    if "error" in event:
        raise RuntimeError(f"the server says {str(event['error'])[:300]}")
    text = "".join(choice.get("text") or "" for choice in event.get("choices", ()))
    if text:
        answer.times.append(time.perf_counter())
        answer.text += text
    usage: Any = event.get("usage")
    if usage:
        answer.num_tokens = usage["completion_tokens"]
