"""Texts that cannot fit are refused before tokens are made of them."""

from typing import Any

import pytest

from seed_oss.server.texts import Texts, num_chars
from tests.server.api_calls import MODEL, engine, post

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
    assert num_chars(None) == 0
