"""Clients that go in every state: their rows are free within two steps of the engine, and nothing of them is left.

`SEED_OSS_TRUST_DISCONNECTS` is how many, 200 unless set; `make trust` sets 10,000. A failure names its case:
`SEED_OSS_TRUST_FIRST=<case> SEED_OSS_TRUST_DISCONNECTS=1` runs it alone.
"""

import asyncio
import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from seed_oss import SamplingParams
from seed_oss.engine.client import RequestStream
from seed_oss.engine.messages import Submit
from tests.cli.conftest import make_checkpoint
from tests.trust.stepped_engine import SteppedServer, stepped_server

CASES = int(os.environ.get("SEED_OSS_TRUST_DISCONNECTS", "200"))
FIRST = int(os.environ.get("SEED_OSS_TRUST_FIRST", "0"))
STATES = ("body", "prepare", "form", "queue", "prefill", "decode", "last", "restart")
PATIENCE_S = 30.0
MAX_STEPS = 2
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}}

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in Linux's /proc")


def files() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def until(is_so: Callable[[], bool]) -> None:
    """Let everybody else run until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0)


async def leave(writer: asyncio.StreamWriter, *, politely: bool) -> None:
    """Close a connection, or cut it."""
    writer.close() if politely else writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def stepping(server: SteppedServer, reading: Coroutine[Any, Any, bytes]) -> bytes:
    """What is read while the engine steps."""
    task = asyncio.create_task(reading)
    async with asyncio.timeout(PATIENCE_S):
        while not task.done():
            if server.engine.core.has_work:
                server.engine.step()
            await asyncio.sleep(0)
    return task.result()


class Client:
    """A client that asks for one thing and goes."""

    def __init__(self, server: SteppedServer, rng: random.Random, state: str) -> None:
        self.server, self.engine, self.rng, self.state = server, server.engine, rng, state
        self.is_streaming = rng.random() < 0.5
        self.num_submitted = server.engine.num_submitted
        self._held: list[RequestStream] = []

    def request(self) -> bytes:
        """Its bytes."""
        rng, num_ids = self.rng, 120 if self.state == "prefill" else self.rng.randint(1, 30)
        body: dict[str, Any] = {"model": "tiny", "stream": self.is_streaming, "temperature": 0, "n": rng.choice((1, 2))}
        body["max_tokens"] = 4 if self.state == "last" else 40
        if self.state == "form" or rng.random() < 0.2:
            path = "/v1/chat/completions"
            body["messages"] = [{"role": "user", "content": "x" * num_ids}]
            body |= {"response_format": FORM} if self.state == "form" else {}
        else:
            path, body["prompt"] = "/v1/completions", [rng.randint(10, 250) for _ in range(num_ids)]
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content

    async def run(self) -> None:
        """Ask, and go."""
        if self.state == "queue":
            await self._fill()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            data = self.request()
            writer.write(data[: -self.rng.randint(1, 20)] if self.state == "body" else data)
            await self._arrive(reader)
        finally:
            await leave(writer, politely=self.rng.random() < 0.5)
        await until(lambda: self.server.is_quiet)
        for one in self._held:
            await one.close()
        self.engine.come_back()

    async def _arrive(self, reader: asyncio.StreamReader) -> None:
        """Bring the request into its state."""
        if self.state in ("body", "prepare"):
            for _ in range(self.rng.randint(0, 12)):
                await asyncio.sleep(0)
            return
        await until(lambda: self.engine.num_submitted > self.num_submitted)
        if self.state in ("form", "queue"):
            return
        if self.state == "last":
            while self.engine.streams:
                self.engine.step()
            return
        for _ in range(self.rng.randint(1, 6)):
            self.engine.step()
        if self.state == "decode" and self.is_streaming:
            await stepping(self.server, reader.readuntil(b"data: "))
        if self.state == "restart":
            self.engine.die()

    async def _fill(self) -> None:
        """Let others run in all places that there are."""
        params = SamplingParams(max_tokens=50, temperature=0, n=2)
        self._held = [await self.engine.submit(Submit("held", (7, 8, 9), params)) for _ in range(2)]
        self.engine.step()
        self.engine.step()
        self.num_submitted = self.engine.num_submitted


def steps_until_free(server: SteppedServer) -> int:
    """Steps of the engine until nothing is held any more."""
    for number in range(MAX_STEPS + 1):
        if not any(server.engine.held().values()):
            return number
        server.engine.step()
    raise AssertionError(f"after {MAX_STEPS} steps there are {server.engine.held()}")


async def good(server: SteppedServer) -> bytes:
    """What a request is answered with that waits for its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps({"model": "tiny", "prompt": [5, 60, 7, 80], "max_tokens": 8, "temperature": 0, "logprobs": 1})
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    answer = await stepping(server, reader.read())
    await leave(writer, politely=True)
    await until(lambda: server.is_quiet)
    return json.dumps(json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]).encode()


async def scenario(folder: Path) -> Counter[str]:
    seen: Counter[str] = Counter()
    spec = {"max_num_seqs": 4, "max_model_len": 256, "max_num_batched_tokens": 16, "threads": 1}
    async with stepped_server(folder, **spec) as server:
        usual = await good(server)
        for warm in range(2 * len(STATES)):  # what is made once, such as threads and compiled grammars
            await Client(server, random.Random(warm), STATES[warm % len(STATES)]).run()
            steps_until_free(server)
        tasks, open_files = asyncio.all_tasks(), files()
        for case in range(FIRST, FIRST + CASES):
            state = STATES[case % len(STATES)]
            try:
                await Client(server, random.Random(case), state).run()
                steps = steps_until_free(server)
                assert case % 10 or await good(server) == usual
            except BaseException as error:
                error.add_note(f"disconnect {case}, {state}")
                raise
            seen[state] += 1
            seen["most steps"] = max(seen["most steps"], steps)
        assert await good(server) == usual
        await until(lambda: asyncio.all_tasks() <= tasks)
        await until(lambda: files() <= open_files)
    return seen


def test_clients_that_go(tmp_path: Path, counted: Callable[..., None]) -> None:
    seen = asyncio.run(scenario(make_checkpoint(tmp_path / "model")))
    steps = seen.pop("most steps")
    counted(disconnects=seen.total(), **dict(seen), leaked=0, **{"steps at most until all is free": steps})
    assert seen.total() == CASES
