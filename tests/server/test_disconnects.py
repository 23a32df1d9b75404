"""Clients that go, engines that die, and streams in which nothing comes."""

from collections.abc import Callable
from typing import Any

import pytest

from seed_oss.engine.messages import Refused, Submit
from tests.server.api_calls import ASK, MODEL, app, chat, engine, events, post, run
from tests.server.fake_engine import FakeEngine, Script
from tests.server.raw_call import RawCall

CHAT = ("/v1/chat/completions", {"model": MODEL, "messages": ASK})
TEXT = ("/v1/completions", {"model": MODEL, "prompt": ["a", "b"], "n": 2})
ANSWER = "One two three.<seed:eos>"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", [CHAT, TEXT], ids=["chat", "text"])
@pytest.mark.parametrize("hold_after", [0, 1, 3])
def test_a_client_that_goes_aborts(call: tuple[str, Any], stream: bool, hold_after: int) -> None:
    async def work() -> FakeEngine:
        client = engine(ANSWER, hold_after=hold_after)
        made = RawCall(app(client, keep_alive_seconds=0.01), call[0], {**call[1], "stream": stream})
        await client.waits.wait()
        made.disconnect()
        await made.task
        return client

    client = run(work())
    assert sorted(client.closed) == sorted(submit.request_id for submit in client.submits)


def test_a_client_that_goes_while_embedding() -> None:
    async def work() -> FakeEngine:
        client = engine(hold_after=0)
        made = RawCall(app(client), "/v1/embeddings", {"input": ["a"] * 40})
        await client.waits.wait()
        made.disconnect()
        await made.task
        return client

    client = run(work())
    assert len(client.submits) == 16  # no more at once than twice what runs
    assert len(client.closed) == 16


def test_nothing_is_aborted_after_the_end() -> None:
    client = engine(ANSWER)
    chat(client)
    events(client, CHAT[0], {**CHAT[1], "stream": True})
    assert client.closed == []


def test_comments_keep_a_stream_alive() -> None:
    async def work() -> RawCall:
        client = engine(ANSWER, hold_after=2)
        made = RawCall(app(client, keep_alive_seconds=0.01), CHAT[0], {**CHAT[1], "stream": True})
        await made.until(b": keep-alive\n\n: keep-alive\n\n")
        client.gate.set()
        await made.task
        return made

    body = b"".join(run(work()).sent)
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.startswith(b"data: ")


def test_a_stream_that_waits_for_its_first_event_begins_with_a_comment() -> None:
    async def work() -> RawCall:
        client = engine(ANSWER, hold_after=-1)
        made = RawCall(app(client, keep_alive_seconds=0.01), CHAT[0], {**CHAT[1], "stream": True})
        await made.until(b": keep-alive\n\n")
        client.gate.set()
        await made.task
        return made

    body = b"".join(run(work()).sent)
    assert body.startswith(b": keep-alive\n\n")
    assert body.count(b'"role":"assistant"') == 1
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script("One", ends=False), 503, "unavailable"),
        (Script("One", "error", message="boom at 0x7f", kind="internal"), 500, "internal_error"),
        (Script("One", "error", message="the engine was restarted; try again", kind="unavailable"), 503, "unavailable"),
        (Script("One", "timeout", message="no progress for 120 s", kind="unavailable"), 503, "unavailable"),
        (Script("One", "timeout", message="waited for 60 s", kind="overloaded"), 429, "overloaded"),
        (Script("One", "error", message="NaN in a row", kind="invalid"), 400, None),
    ],
)
@pytest.mark.parametrize("call", [CHAT, TEXT], ids=["chat", "text"])
def test_an_engine_that_fails(call: tuple[str, Any], script: Script, status: int, code: str | None) -> None:
    answer = post(engine(script), call[0], call[1])
    assert answer.status == status
    assert answer.error["code"] == code
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert "0x7f" not in str(answer.body)
    got = events(engine(script), call[0], {**call[1], "stream": True})
    assert got[-1] == "[DONE]"
    assert got[-2]["error"]["code"] == code
    assert got[0]["choices"]


@pytest.mark.parametrize(
    ("kind", "status"), [("invalid", 400), ("overloaded", 429), ("unavailable", 503), ("internal", 500)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_has_its_status(kind: Any, status: int, stream: bool) -> None:
    def refused(submit: Submit) -> Refused:
        return Refused(submit.request_id, kind, "too much is waiting", param="max_tokens", retry_after=7.4)

    answer = post(engine(refusal=refused), CHAT[0], {**CHAT[1], "stream": stream})
    assert answer.status == status
    if kind != "internal":
        assert answer.error["message"] == "too much is waiting"
        assert answer.error["param"] == "max_tokens"
    if kind in ("overloaded", "unavailable"):
        assert answer.headers["retry-after"] == "7"


def test_one_refusal_of_several_aborts_the_others() -> None:
    client = engine(hold_after=0)
    usual: Callable[[Submit], Any] = client._events

    def some(submit: Submit) -> Any:
        is_first = submit is client.submits[0]
        return [Refused(submit.request_id, "overloaded", "no")] if is_first else usual(submit)

    client._events = some  # type: ignore[method-assign]
    assert post(client, *TEXT).status == 429
    assert client.closed == [client.submits[1].request_id]


def test_an_engine_that_is_starting() -> None:
    answer = chat(engine(is_ready=False))
    assert answer.status == 503
    assert answer.error["type"] == "server_error"
    assert answer.headers["retry-after"] == "1"


def test_what_the_wrapping_says_goes_to_the_engine() -> None:
    async def work() -> tuple[FakeEngine, RawCall]:
        client = engine(ANSWER)
        made = RawCall(app(client), *CHAT, {"namespace": "abc", "request_id": "r-1"})
        await made.task
        return client, made

    client, made = run(work())
    assert client.submits[0].namespace == "abc"
    assert client.submits[0].request_id.startswith("r-1-")
    assert b'"id":"chatcmpl-r-1"' in b"".join(made.sent)
    assert made.state["usage"]["completion_tokens"] == len(client.encode(ANSWER))


def test_requests_never_share_an_id() -> None:
    async def work() -> FakeEngine:
        client = engine(ANSWER)
        for _ in range(2):
            await RawCall(app(client), *TEXT, {"request_id": "same"}).task
        return client

    ids = [submit.request_id for submit in run(work()).submits]
    assert len(set(ids)) == len(ids) == 4
