"""Requests that are handed in together, to an engine with little room."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from seed_oss.engine.client import RequestEvent, RequestStream
from seed_oss.engine.messages import Computed, Ended, Ready, Refused, Submit
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import MODEL, events, post
from tests.server.fake_engine import FakeEngine


@dataclass
class NarrowEngine(FakeEngine):
    """Runs two answers at a time, and refuses more than the queue's eight besides."""

    num_open: int = 0
    most: int = 0

    @property
    def ready(self) -> Ready | None:
        """See EngineClient."""
        ready = super().ready
        return None if ready is None else replace(ready, max_num_seqs=2)

    async def submit(self, request: Submit) -> RequestStream:
        """See EngineClient."""
        self.num_open += request.params.n
        self.most = max(self.most, self.num_open)
        is_full = self.num_open > 10
        self.refusal = (lambda one: Refused(one.request_id, "overloaded", "8 rows wait")) if is_full else None
        return _Counted(self, await super().submit(request))


class _Counted(RequestStream):
    def __init__(self, engine: NarrowEngine, stream: RequestStream) -> None:
        self._engine, self._stream = engine, stream

    async def __anext__(self) -> RequestEvent:
        event = await anext(self._stream)
        self._engine.num_open -= isinstance(event, Ended)
        return event

    async def close(self) -> None:
        await self._stream.close()


def narrow(**more: Any) -> NarrowEngine:
    return NarrowEngine(seed_tokenizer(), **more)


def test_many_inputs_are_no_overload() -> None:
    client = narrow(computed=lambda submit: Computed(submit.request_id, values=((3.0, 4.0),)))
    answer = post(client, "/v1/embeddings", {"input": ["a"] * 40})
    assert (answer.status, len(answer.body["data"])) == (200, 40)
    assert client.most == 4


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_many_prompts_are_no_overload(n: int) -> None:
    body = {"model": MODEL, "prompt": ["a", "b", "c", "d", "e", "f", "g", "h", "i"], "n": n}
    client = narrow()
    answer = post(client, "/v1/completions", body)
    assert (answer.status, len(answer.body["choices"])) == (200, 9 * n)
    assert {one["text"] for one in answer.body["choices"]} == {"Four."}
    assert client.most <= max(n, 4)
    assert answer.body["usage"]["prompt_tokens"] == 9


def test_many_prompts_are_no_overload_in_a_stream() -> None:
    chunks = events(narrow(), "/v1/completions", {"model": MODEL, "prompt": ["a"] * 12, "stream": True})
    ended = [one["choices"][0]["index"] for one in chunks[:-1] if one["choices"][0]["finish_reason"]]
    assert sorted(ended) == list(range(12))
