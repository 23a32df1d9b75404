"""Texts that cannot fit are refused before tokens are made of them."""

import asyncio
import threading
import time
from typing import Any

import pytest

from seed_oss.chat import SeedOssTokenizer
from seed_oss.server import api as server_api
from seed_oss.server.chat_request import ThinkingFields
from seed_oss.server.texts import Texts, num_chars, pieces_of, texts_in
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import ASK, MODEL, engine, http, post, run

USER = [{"role": "user", "content": "a b" * 200_000}]
LONG: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/completions", "prompt", {"prompt": "a b" * 200_000}),
    ("/v1/completions", "prompt", {"prompt": ["a", "a b" * 200_000]}),
    ("/v1/chat/completions", "messages", {"messages": USER}),
    ("/v1/messages", "messages", {"messages": USER, "max_tokens": 1}),
    ("/v1/responses", "input", {"input": "a b" * 200_000}),
    ("/v1/embeddings", "input", {"input": ["a b" * 200_000]}),
    ("/score", "context", {"input": "a", "context": "a b" * 200_000}),
    ("/question_answering", "context", {"question": "a", "context": "a b" * 200_000}),
    ("/tokenize", "prompt", {"prompt": "a b" * 400_000}),
    ("/tokenize", "messages", {"messages": [{"role": "user", "content": "a b" * 400_000}]}),
    ("/v1/messages/count_tokens", "messages", {"messages": [{"role": "user", "content": "a b" * 400_000}]}),
]


@pytest.mark.parametrize(("path", "param", "body"), LONG)
def test_a_text_that_cannot_fit(path: str, param: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(max_model_len=64)
    for name in ("encode", "encode_plain", "encode_with_spans"):
        monkeypatch.setattr(Texts, name, None)
    answer = post(made, path, {"model": MODEL, **body})
    assert answer.status == 400
    assert answer.body["error"]["param"] == param
    assert "characters" in answer.body["error"]["message"]
    assert not made.submits


def test_characters_of_json() -> None:
    assert num_chars([{"name": "abc", "more": ["de", 1, None, {"x": "f"}]}, ("gh",)]) == 8
    assert num_chars({"a" * 64: "b", "c" * 65: "d"}) == 67
    assert num_chars(None) == 0


@pytest.mark.parametrize(("path", "field"), [("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")])
def test_a_long_text_is_not_read_to_its_end(path: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, read = engine(max_model_len=2**17), list[int]()
    for name in ("encode", "encode_plain"):
        usual = getattr(Texts, name)
        monkeypatch.setattr(Texts, name, lambda self, text, usual=usual: (read.append(len(text)), usual(self, text))[1])
    text = "a b c " * 2**17
    body = {"messages": [{"role": "user", "content": text}]} if field == "messages" else {"prompt": text}
    answer = post(made, path, {"model": MODEL, **body})
    assert (answer.status, answer.error["param"]) == (400, field)
    assert answer.error["code"] == "context_length_exceeded"
    assert "131072 tokens" in answer.error["message"]
    assert 2**16 < sum(read) < len(text) // 2


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("text", ["", "a", "one two  three\n four", "x" * 40, " " * 40])
def test_pieces(text: str, size: int) -> None:
    found = list(pieces_of(text, size))
    assert "".join(found) == text
    assert max(map(len, found)) <= size


def test_texts_in_json() -> None:
    assert list(texts_in([{"name": "abc", "more": ["de", 1, None, {"x": "f"}]}, ("gh",)])) == ["abc", "de", "f", "gh"]


@pytest.mark.parametrize("name", ["encode", "encode_plain", "encode_with_spans"])
def test_other_threads_run_while_tokens_are_made(name: str) -> None:
    texts = Texts(seed_tokenizer())
    thread = threading.Thread(target=getattr(texts, name), args=("a b " * 2**17,))
    getattr(texts, name)("a")
    start = last = time.monotonic()
    longest = 0.0
    thread.start()
    while thread.is_alive():
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < 0.5 * (time.monotonic() - start)


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": USER}),
    ("/v1/completions", {"prompt": ["a b" * 50_000, "a b" * 50_000]}),
    ("/v1/embeddings", {"input": ["a b" * 100_000]}),
    ("/tokenize", {"prompt": "a b" * 100_000}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_short_texts_do_not_wait_for_long_ones(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(self: SeedOssTokenizer, *args: Any, **more: Any) -> Any:
        if len(str(args)) > 100_000:
            begun.set()
            assert go_on.wait(20)
        return usual(self, *args, **more)

    async def work() -> list[int]:
        client = engine(max_model_len=2**20)
        async with http(client) as caller:
            asks = [asyncio.create_task(caller.post(path, json={"model": MODEL, **body})) for _ in range(3)]
            await asyncio.to_thread(begun.wait, 20)
            short = await caller.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK})
            assert not any(one.done() for one in asks)
            go_on.set()
            return [short.status_code, *[(await one).status_code for one in asks]]

    owner, name = (Texts, "encode_plain") if "embed" in path else (SeedOssTokenizer, "__call__")
    if "chat" in path:
        name = "apply_chat_template"
    usual = getattr(owner, name)
    monkeypatch.setattr(owner, name, slow)
    assert run(work()) == [200] * 4


MANY = [{"role": "user", "content": "ab"}] * 1000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MANY}),
        ("/v1/messages", {"messages": MANY, "max_tokens": 9}),
        ("/v1/messages/count_tokens", {"messages": MANY}),
        ("/v1/responses", {"input": MANY}),
    ],
)
def test_a_large_body_is_not_looked_through_on_the_event_loop(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def watched(work: Any) -> Any:
        def seen(*args: Any) -> Any:
            threads.append(threading.current_thread())
            return work(*args)

        return seen

    monkeypatch.setattr(server_api, "checked", watched(server_api.checked))
    monkeypatch.setattr(ThinkingFields, "turns", watched(ThinkingFields.turns))
    assert post(engine(max_model_len=2**17), path, {"model": MODEL, **body}).status == 200
    assert len(threads) >= 2
    assert threading.main_thread() not in threads
