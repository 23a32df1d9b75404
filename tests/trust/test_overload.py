"""Ten times as many requests as a real server can answer, whether it answers or not (open loop).

`SEED_OSS_TRUST_OVERLOAD_S` is for how many seconds, 5 unless set; `make trust` sets 300.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import make_checkpoint
from tests.trust.real_server import RealServer, completion, real_server, resident_bytes

SECONDS = float(os.environ.get("SEED_OSS_TRUST_OVERLOAD_S", "5"))
FACTOR = 10
PATIENCE_S = 60.0
MOST_GROWTH_BYTES = 192 * 2**20
BODY = completion([5, 60, 7, 80], 6, logprobs=1)

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")


@dataclass
class Load:
    """What became of requests.

    Attributes:
        statuses: how many of each.
        bare: refusals that do not say when to try again.
        answers: different texts of those that were answered.
        most_bytes: most memory that each process had.
    """

    statuses: Counter[int] = field(default_factory=Counter[int])
    bare: int = 0
    answers: set[str] = field(default_factory=set[str])
    most_bytes: dict[int, int] = field(default_factory=dict[int, int])

    def look(self, pids: list[int]) -> None:
        """Measure memory."""
        for pid in pids:
            self.most_bytes[pid] = max(self.most_bytes.get(pid, 0), resident_bytes(pid))


async def ask(port: int, load: Load) -> None:
    """One request on a connection of its own, read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(BODY).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    try:
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        head_of_answer, _, content = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    status = int(head_of_answer.split(b" ", 2)[1])
    load.statuses[status] += 1
    load.bare += status in (429, 503) and b"retry-after: " not in head_of_answer.lower()
    if status == 200:
        load.answers.add(json.dumps(json.loads(content)["choices"]))


async def closed_loop(port: int, num_clients: int, num_requests: int) -> tuple[float, Load]:
    """Requests that wait for each other; how many a second."""
    load, start = Load(), time.monotonic()

    async def client() -> None:
        for _ in range(num_requests // num_clients):
            await ask(port, load)

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return num_requests / (time.monotonic() - start), load


async def open_loop(port: int, rate: float, pids: list[int]) -> Load:
    """Requests that wait for nobody, at a steady rate."""
    load, loop = Load(), asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []
    start, done = loop.time(), asyncio.Event()
    num_sent = 0

    def finished(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if (error := task.exception()) is not None:
            failures.append(error)

    def tick() -> None:
        nonlocal num_sent
        while num_sent < min(loop.time() - start, SECONDS) * rate:
            task = asyncio.create_task(ask(port, load))
            tasks.add(task)
            task.add_done_callback(finished)
            num_sent += 1
        load.look(pids)
        if loop.time() - start < SECONDS:
            loop.call_later(0.02, tick)
        else:
            done.set()

    tick()
    await done.wait()
    async with asyncio.timeout(PATIENCE_S):
        while tasks:
            await asyncio.wait(set(tasks))
    assert not failures, f"{len(failures)} of {num_sent} got no answer: {failures[0]!r}"
    assert sum(load.statuses.values()) == num_sent
    return load


def measured(server: RealServer) -> tuple[float, Any]:
    """Seconds that the quickest of five requests takes alone, and what it is answered with."""
    times: list[float] = []
    for _ in range(5):
        start = time.monotonic()
        status, _, body = server.ask("/v1/completions", BODY)
        times.append(time.monotonic() - start)
        assert status == 200
    return min(times), body["choices"]


def test_everybody_gets_an_answer_and_afterwards_all_is_as_before(tmp_path: Path, counted: Callable[..., None]) -> None:
    with real_server(make_checkpoint(tmp_path / "model"), spec={"max_num_seqs": 4, "max_model_len": 256}) as server:
        server.event("ready")
        alone_s, usual = measured(server)
        capacity, warm = asyncio.run(closed_loop(server.port, 8, 80))
        engine = server.engine_pid()
        assert engine is not None
        pids = [server.process.pid, engine]
        before = {pid: resident_bytes(pid) for pid in pids}
        load = asyncio.run(open_loop(server.port, FACTOR * capacity, pids))
        again_s, answer = measured(server)
        growth = {pid: load.most_bytes[pid] - before[pid] for pid in pids}
        statuses = {f"times status {status}": number for status, number in sorted(load.statuses.items())}
        mib = {"MiB more in the server": growth[pids[0]] >> 20, "MiB more in the engine": growth[engine] >> 20}
        rate = f"seconds at {FACTOR} x {capacity:.0f} requests a second"
        counted(
            **{rate: SECONDS}, **statuses, **mib, **{"ms alone": round(alone_s * 1e3), "ms then": round(again_s * 1e3)}
        )
        assert set(load.statuses) <= {200, 429, 503}
        assert load.bare == 0
        assert load.statuses[200]
        assert load.statuses[429] + load.statuses[503]
        assert load.answers | warm.answers == {json.dumps(usual)}
        assert answer == usual
        assert max(growth.values()) < MOST_GROWTH_BYTES
        assert again_s < 4 * alone_s + 0.1
        assert server.engine_pid() == engine, "the engine has died"
        metrics = server.connection()
        metrics.request("GET", "/metrics")
        assert b"seed_oss_engine_up 1.0" in metrics.getresponse().read()
        metrics.close()
