"""Limits of a request that are set lower than they ship, and the options that set them."""

import sys
from typing import Any

import pytest

from seed_oss.cli import main
from seed_oss.errors import ConfigError
from seed_oss.server import serve as serving
from seed_oss.server.request_limits import RequestLimits
from seed_oss.server.settings import ServeSettings
from tests.server.api_calls import ASK, MODEL, engine, post
from tests.server.test_limits import schema, tools

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "a"}
CASES: list[tuple[dict[str, int], str, dict[str, Any], dict[str, Any]]] = [
    ({"n": 2}, CHAT, {"n": 2}, {"n": 3}),
    ({"answers": 4}, TEXT, {"prompt": ["a", "b"], "n": 2}, {"prompt": ["a", "b"], "n": 3}),
    ({"prompts": 2}, TEXT, {"prompt": ["a", "b"]}, {"prompt": ["a", "b", "c"]}),
    ({"prompts": 1}, TEXT, {"prompt": [20, 21]}, {"prompt": [[20], [21]]}),
    ({"inputs": 2}, "/v1/embeddings", {"input": ["a", "b"]}, {"input": ["a", "b", "c"]}),
    ({"messages": 1}, CHAT, {"messages": [USER]}, {"messages": [USER, USER]}),
    ({"messages": 1}, "/v1/responses", {"input": [USER]}, {"input": [USER, USER]}),
    ({"stop": 2}, CHAT, {"stop": ["a", "b"]}, {"stop": ["a", "b", "c"]}),
    ({"stop": 0}, CHAT, {}, {"stop": "a"}),
    ({"stop_chars": 3}, CHAT, {"stop": "abc"}, {"stop": "abcd"}),
    ({"stop": 1}, "/v1/messages", {"stop_sequences": ["a"]}, {"stop_sequences": ["a", "b"]}),
    ({"logit_bias": 1}, CHAT, {"logit_bias": {"1": 1}}, {"logit_bias": {"1": 1, "2": 1}}),
    ({"logprobs": 2}, TEXT, {"logprobs": 2}, {"logprobs": 3}),
    ({"logprobs": 2}, CHAT, {"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 3}),
    ({"tools": 2}, CHAT, {"tools": tools(2)}, {"tools": tools(3)}),
    ({"schema_bytes": 17}, CHAT, {"response_format": schema(1)}, {"response_format": schema(2)}),
]


@pytest.mark.parametrize(("limits", "path", "within", "beyond"), CASES)
def test_a_limit_that_is_lower(
    limits: dict[str, int], path: str, within: dict[str, Any], beyond: dict[str, Any]
) -> None:
    usual: dict[str, Any] = {"model": MODEL}
    usual |= {"messages": ASK} if path in (CHAT, "/v1/messages") else {"prompt": "a"} if path == TEXT else {}
    usual |= {"max_tokens": 9} if path == "/v1/messages" else {}
    assert post(engine(), path, {**usual, **within}, limits=RequestLimits(**limits)).status == 200
    answer = post(engine(), path, {**usual, **beyond}, limits=RequestLimits(**limits))
    assert answer.status == 400
    assert answer.body["error"]["param"] in beyond
    assert "this server allows" in answer.body["error"]["message"]
    assert post(engine(), path, {**usual, **beyond}).status == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
def test_schemas_may_be_less_deep_than_they_ship(path: str) -> None:
    body: dict[str, Any] = (
        {"model": MODEL, "input": "a"} if path == "/v1/responses" else {"model": MODEL, "messages": ASK}
    )
    body |= {"max_tokens": 9} if path == "/v1/messages" else {}
    for depth, status in ((3, 200), (4, 400)):
        answer = post(engine(), path, {**body, **_with_tool(path, depth)}, limits=RequestLimits(schema_depth=3))
        assert answer.status == status
    assert "nested deeper than 3 levels, the limit" in answer.body["error"]["message"]


def _with_tool(path: str, depth: int) -> dict[str, Any]:
    inner = schema(depth - 1)["json_schema"]["schema"]
    parameters = {"type": "object", "properties": {"a": inner}}
    if path == "/v1/messages":
        return {"tools": [{"name": "f", "input_schema": parameters}]}
    function = {"name": "f", "parameters": parameters}
    is_flat = path == "/v1/responses"
    return {"tools": [{"type": "function", **(function if is_flat else {"function": function})}]}


def test_forms_of_answers_may_be_less_deep_than_they_ship() -> None:
    for depth, status in ((3, 200), (4, 400)):
        body = {"model": MODEL, "messages": ASK, "response_format": schema(depth)}
        answer = post(engine(), CHAT, body, limits=RequestLimits(schema_depth=3))
        assert answer.status == status
    assert answer.error["param"].startswith("response_format")


def test_json_may_be_less_deep_than_it_ships() -> None:
    for parameters, status in (({}, 200), ({"properties": {}}, 400)):
        (tool,) = tools(1)
        tool["function"]["parameters"] = parameters  # the fifth level of the body
        body = {"model": MODEL, "messages": ASK, "tools": [tool]}
        answer = post(engine(), CHAT, body, limits=RequestLimits(json_depth=5))
        assert answer.status == status
    assert "nested deeper than 5 levels" in answer.error["message"]


def test_limits_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="the limit n is 17; it must be from 0 to 16"):
        RequestLimits.of({"n": 17})
    with pytest.raises(ConfigError, match="'m' is no limit of a request; there are n, prompts"):
        RequestLimits.of({"m": 17})


def _run(monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, list[ServeSettings]]:
    found: list[ServeSettings] = []
    monkeypatch.setattr(serving, "serve", lambda settings: found.append(settings) or 0)
    monkeypatch.setattr(sys, "argv", ["seed-oss", "serve", "demo", *options])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0), found


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "--limit n=4 --limit stop-chars=8 --limit headers=50 --limit request-line-bytes=99 --limit header-bytes=98"
    code, found = _run(monkeypatch, *given.split(), "--limit=chunks=9", "--max-bodies-size=32MiB", "--send-timeout=7")
    assert code == 0
    (settings,) = found
    limits = settings.limits
    assert settings.requests == RequestLimits(n=4, stop_chars=8)
    assert (limits.max_headers, limits.max_request_line_bytes, limits.max_header_bytes) == (50, 99, 98)
    assert (limits.max_chunks, limits.max_bodies_bytes, limits.send_s) == (9, 32 * 2**20, 7.0)


@pytest.mark.parametrize(
    "limit", ["n", "n=", "n=-1", "n=x", "n=17", "headers=0", "header-bytes=0", "foo=1", "n=9999999999"]
)
def test_options_that_cannot_be(
    limit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = _run(monkeypatch, f"--limit={limit}")
    assert (code in (1, 2), found) == (True, [])
    assert "limit" in capsys.readouterr().err
