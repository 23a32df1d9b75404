"""Engines in processes for tests: with a scripted core, or any Python program."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from seed_oss.engine.client import RequestEvent, RequestStream
from seed_oss.engine.messages import Submit
from seed_oss.engine.process_client import ProcessClient, ProcessSettings
from seed_oss.engine.process_main import engine_command
from seed_oss.engine.spec import EngineSpec
from tests.engine.manual_time import ManualTime
from tests.engine.scripted_core import FACTORY

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; one that waits for something that never comes fails."""

    async def bounded() -> None:
        await asyncio.wait_for(scenario, PATIENCE_S)

    asyncio.run(bounded())


def environment() -> dict[str, str]:
    """This process's, with the tests to import."""
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def scripted(model: str = "fine") -> list[str]:
    """The command of an engine with a scripted core."""
    return engine_command(EngineSpec(model), FACTORY)


def program(code: str) -> list[str]:
    """The command of a Python program that finds its descriptors in `commands` and `events`."""
    head = "import os, sys, threading, time; commands, events = map(int, sys.argv[1:])\n"
    return [sys.executable, "-c", head + code]


@contextlib.asynccontextmanager
async def engine(
    command: list[str], settings: ProcessSettings | None = None, time: ManualTime | None = None
) -> AsyncIterator[ProcessClient]:
    """A client of a process that is started, and ended in the end."""
    time = time or ManualTime()
    client = ProcessClient(command, settings, env=environment(), clock=time.clock, sleep=time.sleep)
    await client.start()
    try:
        yield client
    finally:
        await client.kill()


async def events_of(stream: RequestStream) -> list[RequestEvent]:
    """All that comes of a request."""
    return [event async for event in stream]


def request(num_tokens: int, how: str = "", **fields: Any) -> Submit:
    """A request for so many tokens."""
    return Submit(fields.pop("request_id", "r"), (num_tokens,), namespace=how, **fields)
