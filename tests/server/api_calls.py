"""Calls of the API in one process: the application over a scripted engine."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import httpx2
import openai
from fastapi import FastAPI

from seed_oss.server.app import ApiSettings, ServedModel, create_app
from tests.seed_tokenizer import seed_tokenizer
from tests.server.fake_engine import FakeEngine, Script

_T = TypeVar("_T")
MODEL = "seed"
ASK: list[dict[str, Any]] = [{"role": "user", "content": "What is 2 + 2?"}]


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine; one that hangs fails."""

    async def bounded() -> _T:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(bounded())


def engine(*scripts: Script | str, **more: Any) -> FakeEngine:
    """An engine that says these."""
    said = [Script(one) if isinstance(one, str) else one for one in scripts]
    return FakeEngine(seed_tokenizer(), said or [Script()], **more)


def app(client: FakeEngine, **settings: Any) -> FastAPI:
    """The application over it."""
    served = ServedModel((MODEL, "other-name"), client.tokenizer, 2**20, labels=("bad", "good"))
    return create_app(client, served, ApiSettings(**settings))


def http(client: FakeEngine, **settings: Any) -> httpx.AsyncClient:
    """A client of the application."""
    transport = httpx.ASGITransport(app(client, **settings), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def openai_client(client: FakeEngine, **settings: Any) -> openai.AsyncOpenAI:
    """OpenAI's own client of the application."""
    caller = httpx2.AsyncClient(transport=httpx2.ASGITransport(app(client, **settings)))
    return openai.AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=caller, max_retries=0)


@dataclass
class Answer:
    """A response."""

    status: int
    body: Any
    headers: httpx.Headers

    @property
    def error(self) -> dict[str, Any]:
        """Of the body."""
        assert set(self.body) == {"error"}
        assert set(self.body["error"]) == {"message", "type", "param", "code"}
        return self.body["error"]


def post(client: FakeEngine, path: str, body: Any = None, *, content: bytes | None = None, **settings: Any) -> Answer:
    """One request with a JSON body."""

    async def work() -> Answer:
        async with http(client, **settings) as caller:
            raw = json.dumps(body).encode() if content is None else content
            got = await caller.post(path, content=raw, headers={"Content-Type": "application/json"})
            return Answer(got.status_code, got.json(), got.headers)

    return run(work())


def chat(client: FakeEngine, **fields: Any) -> Answer:
    """One conversation, answered in one."""
    return post(client, "/v1/chat/completions", {"model": MODEL, "messages": ASK, **fields})


def events(client: FakeEngine, path: str, body: dict[str, Any], **settings: Any) -> list[Any]:
    """A stream's events as JSON, "[DONE]" as it is."""

    async def work() -> list[Any]:
        async with http(client, **settings) as caller:
            got = await caller.post(path, json=body)
            assert got.headers["content-type"].startswith("text/event-stream"), got.text
            return [read(line) for line in got.text.split("\n") if line.startswith("data: ")]

    def read(line: str) -> Any:
        text = line.removeprefix("data: ")
        return text if text == "[DONE]" else json.loads(text)

    return run(work())


def streamed(client: FakeEngine, **fields: Any) -> list[Any]:
    """One conversation, answered as a stream; the chunks without the last event."""
    got = events(client, "/v1/chat/completions", {"model": MODEL, "messages": ASK, "stream": True, **fields})
    assert got[-1] == "[DONE]"
    return got[:-1]


def joined(chunks: list[Any], index: int = 0) -> dict[str, Any]:
    """What the deltas of a choice amount to."""
    said: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}, "finish": None}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            said["content"] += delta.get("content") or ""
            said["reasoning"] += delta.get("reasoning") or ""
            assert delta.get("reasoning") == delta.get("reasoning_content")
            for call in delta.get("tool_calls", ()):
                own = said["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                own["name"] += call["function"].get("name", "")
                own["arguments"] += call["function"].get("arguments", "")
            said["finish"] = choice["finish_reason"] or said["finish"]
    return said
