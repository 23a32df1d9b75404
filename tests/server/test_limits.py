"""Every field of a request is typed, bounded and checked, at its limit and one beyond; and what errors look like."""

import json
from typing import Any

import pytest

from tests.server.api_calls import ASK, MODEL, Answer, chat, engine, http, post, run
from tests.server.test_chat import TOOLS

CHAT = "/v1/chat/completions"


def tools(num: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"tool_{index}"}} for index in range(num)]


def named(name: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}}]


def schema(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        inner = {"type": "array", "items": inner}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}


def wide_schema(num_bytes: int) -> dict[str, Any]:
    bare = len(json.dumps({"type": "string", "description": ""}, separators=(",", ":")))
    described = {"type": "string", "description": "x" * (num_bytes - bare)}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": described}}


WITHIN_AND_BEYOND: list[tuple[str, Any, Any]] = [
    ("n", 16, 17),
    ("n", 1, 0),
    ("temperature", 2, 2.01),
    ("temperature", 0, -0.01),
    ("top_p", 1, 1.01),
    ("top_p", 0.0, -0.01),
    ("min_p", 1, 1.01),
    ("typical_p", 1, 0),
    ("xtc_probability", 1, 1.1),
    ("frequency_penalty", 2, 2.01),
    ("presence_penalty", -2, -2.01),
    ("repetition_penalty", 0.1, 0),
    ("top_k", -1, -2),
    ("seed", 2**64 - 1, 2**64),
    ("seed", 0, -1),
    ("max_tokens", 1, 0),
    ("max_completion_tokens", 1, 0),
    ("stop", ["x"] * 16, ["x"] * 17),
    ("stop", "x" * 256, "x" * 257),
    ("stop", ["x" * 256], ["x" * 257]),
    ("stop", "x", ""),
    ("logit_bias", {str(one): 1 for one in range(300)}, {str(one): 1 for one in range(301)}),
    ("logit_bias", {"447": 100}, {"448": 100}),
    ("logit_bias", {"1": -100}, {"1": -100.5}),
    ("logit_bias", {"1": 1}, {"a": 1}),
    ("stop_token_ids", [447], [448]),
    ("bad_words_ids", [[447]], [[448]]),
    ("bad_words_ids", [[0]], [[-1]]),
    ("bad_words_ids", [[1]] * 300, [[1]] * 301),
    ("bad_words_ids", [[1] * 64], [[1] * 65]),
    ("bad_words_ids", [[1]], [[]]),
    ("bad_words_ids", [[1]], []),
    ("prompt_lookup_num_tokens", 1024, 1025),
    ("prompt_lookup_num_tokens", 1, 0),
    ("priority", 2, 3),
    ("priority", -2, -3),
    ("tools", tools(128), tools(129)),
    ("tools", named("a" * 64), named("a" * 65)),
    ("tools", named("a-Z_9"), named("a b")),
    ("response_format", schema(32), schema(33)),
    ("response_format", wide_schema(64 * 1024), wide_schema(64 * 1024 + 1)),
]


@pytest.mark.parametrize(("name", "within", "beyond"), WITHIN_AND_BEYOND)
def test_a_limit(name: str, within: Any, beyond: Any) -> None:
    client = engine(max_model_len=2**17)
    assert chat(client, **{name: within}).status == 200
    answer = chat(client, **{name: beyond})
    assert answer.status == 400
    assert str(answer.error["param"]).startswith(name)
    assert len(client.submits) == 1


@pytest.mark.parametrize(("within", "beyond"), [(20, 21), (0, -1)])
def test_log_probabilities(within: int, beyond: int) -> None:
    assert chat(engine(), logprobs=True, top_logprobs=within).status == 200
    assert chat(engine(), logprobs=True, top_logprobs=beyond).error["param"] == "top_logprobs"
    assert post(engine(), "/v1/completions", {"model": MODEL, "prompt": "a", "logprobs": within}).status == 200
    answer = post(engine(), "/v1/completions", {"model": MODEL, "prompt": "a", "logprobs": beyond})
    assert answer.error["param"] == "logprobs"


def test_the_context() -> None:
    client = engine()
    chat(client)
    num = len(client.submits[0].prompt_ids)
    assert chat(client, max_tokens=4096 - num).status == 200
    answer = chat(client, max_tokens=4096 - num + 1)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert "4096" in answer.error["message"]


def test_a_prompt_that_fills_the_context() -> None:
    body: dict[str, Any] = {"model": MODEL, "max_tokens": None}
    assert post(engine(), "/v1/completions", {**body, "prompt": [20] * 4080}).status == 200
    assert post(engine(), "/v1/completions", {**body, "prompt": [20] * 4081}).error["code"] == "context_length_exceeded"


def test_the_engines_own_limit_counts() -> None:
    answer = chat(engine(max_model_len=10))
    assert answer.error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("prompt", "n", "status"),
    [(["a"] * 32, 2, 200), (["a"] * 32, 3, 400), (["a"] * 33, 1, 400), (["a"] * 4, 16, 200), (["a"] * 5, 16, 400)],
)
def test_prompts_times_choices(prompt: list[str], n: int, status: int) -> None:
    assert post(engine(), "/v1/completions", {"model": MODEL, "prompt": prompt, "n": n}).status == status


@pytest.mark.parametrize("prompt", [None, "", [], [[]], 3, [1.5], ["a", 3], [1, "a"], [[1], 2], [-1], [True], {"a": 1}])
def test_prompts_that_are_none(prompt: Any) -> None:
    answer = post(engine(), "/v1/completions", {"model": MODEL, "prompt": prompt})
    assert answer.status == 400
    assert str(answer.error["param"]).startswith("prompt")


WRONG_TYPES: list[tuple[str, Any]] = [
    ("temperature", "1"),
    ("temperature", True),
    ("n", 1.0),
    ("n", "2"),
    ("stream", "true"),
    ("stream", 1),
    ("logprobs", 1),
    ("stop", 3),
    ("stop", [3]),
    ("stop", {"a": 1}),
    ("seed", 1.5),
    ("logit_bias", [1]),
    ("logit_bias", {"1": "2"}),
    ("tools", {}),
    ("tools", [3]),
    ("tools", [{"type": "retrieval"}]),
    ("tool_choice", 3),
    ("response_format", "json"),
    ("response_format", {"type": "xml"}),
    ("response_format", {"type": "json_schema"}),
    ("messages", "hi"),
    ("messages", []),
    ("messages", [3]),
    ("messages", [{"role": "alien", "content": "x"}]),
    ("messages", [{"content": "x"}]),
    ("messages", [{"role": "user", "content": "x", "weird": 1}]),
    ("messages", [{"role": "user", "content": 3}]),
    ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("messages", [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
    ("messages", [{"role": "tool", "content": "x"}]),
    ("metadata", {"a": 1}),
    ("user", 3),
    ("modalities", ["audio"]),
    ("stream_options", 3),
    ("priority", "high"),
    ("budget_mode", "loud"),
    ("chat_template_kwargs", {"messages": []}),
    ("chat_template_kwargs", 3),
    ("extra_body", 3),
    ("parallel_tool_calls", "no"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type(name: str, value: Any) -> None:
    client = engine()
    answer = chat(client, **{"tools": TOOLS, name: value} if name == "tool_choice" else {name: value})
    assert answer.status == 400
    assert str(answer.error["param"]).startswith(name)
    assert answer.error["type"] == "invalid_request_error"
    assert client.submits == []


def test_fields_that_do_not_go_together() -> None:
    for fields, param in (
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "swim"}}}, "tool_choice"),
        ({"temperature": 0.5, "extra_body": {"temperature": 0.6}}, "extra_body"),
    ):
        assert chat(engine(), **fields).error["param"] == param, fields


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"service_tier": "auto"},
        {"safety_identifier": "x"},
        {"prompt_cache_key": "x"},
        {"prediction": {"type": "content", "content": "x"}},
        {"verbosity": "low"},
        {"modalities": ["text"]},
    ],
)
def test_fields_without_meaning_are_passed_over(fields: dict[str, Any]) -> None:
    assert chat(engine(), **fields).status == 200


@pytest.mark.parametrize(
    ("path", "fields", "remedy"),
    [
        (CHAT, {"functions": []}, "tools"),
        (CHAT, {"function_call": "auto"}, "tool_choice"),
        (CHAT, {"best_of": 2}, "give n"),
        ("/v1/completions", {"best_of": 2}, "give n"),
        ("/v1/completions", {"suffix": "x"}, "prompt"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_remedy(path: str, fields: dict[str, Any], remedy: str) -> None:
    answer = post(engine(), path, {"model": MODEL, "messages": ASK, "prompt": "x", **fields})
    assert answer.status == 400
    assert answer.error["param"] == next(iter(fields))
    assert remedy in answer.error["message"]


def test_an_unknown_field_is_named() -> None:
    answer = chat(engine(), frequence_penalty=1)
    assert answer.error["param"] == "frequence_penalty"
    assert chat(engine(), **{"<script>": 1}).error["param"] == "a field with an odd name"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"model": "seed", "model": "seed"}',
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b'{"temperature": Infinity}',
        b'{"seed": ' + b"1" * 65 + b"}",
        b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"model": "\\ud800"}',
        b'{"model": "\xff"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_strict_json(content: bytes) -> None:
    answer = post(engine(), CHAT, content=content)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


def test_depth_at_its_limit() -> None:
    within, beyond = (b"[" * depth + b"]" * depth for depth in (64, 65))
    assert "nested" not in post(engine(), CHAT, content=within).error["message"]
    answer = post(engine(), CHAT, content=beyond)
    assert "nested deeper than 64" in answer.error["message"]


def test_the_size_of_a_body() -> None:
    start, end = b'{"model": "nobody", "messages": [{"role": "user", "content": "', b'"}]}'
    room = 8 * 2**20 - len(start) - len(end)
    within = post(engine(), CHAT, content=start + b" " * room + end)
    assert within.error["code"] == "model_not_found"
    answer = post(engine(), CHAT, content=start + b" " * (room + 1) + end)
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_other_types_of_content() -> None:
    kind = "application/json"
    for refused in ({}, {"Content-Type": "text/plain"}, {"Content-Type": f"{kind}; charset=latin-1"}):
        assert _status_with(refused) == 415
    for encoding, status in (("gzip", 415), ("deflate, identity", 415), ("identity", 200)):
        assert _status_with({"Content-Type": kind, "Content-Encoding": encoding}) == status
    for charset in ("utf-8", '"UTF-8"', "utf8"):
        assert _status_with({"Content-Type": f"{kind}; charset={charset}; profile=x"}) == 200


def _status_with(headers: dict[str, str]) -> int:
    async def work() -> int:
        async with http(engine()) as caller:
            body = json.dumps({"model": MODEL, "messages": ASK}).encode()
            return (await caller.post(CHAT, content=body, headers=headers)).status_code

    return run(work())


def test_models_by_name() -> None:
    client = engine(adapters=("tuned",))
    assert chat(client, model="other-name").status == 200
    assert chat(client, model="tuned").status == 200
    assert [submit.adapter for submit in client.submits] == [None, "tuned"]
    answer = chat(client, model="gpt-4")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")


def _get(path: str) -> Answer:
    async def work() -> Answer:
        async with http(engine(adapters=("tuned",))) as caller:
            got = await caller.get(path)
            return Answer(got.status_code, got.json(), got.headers)

    return run(work())


def test_the_list_of_models() -> None:
    assert [one["id"] for one in _get("/v1/models").body["data"]] == [MODEL, "other-name", "tuned"]
    assert _get("/v1/models/seed").body["object"] == "model"
    assert _get("/v1/models/tuned").body["parent"] == MODEL
    assert _get("/v1/models/a/b").error["code"] == "model_not_found"


def test_routes_that_are_not_there() -> None:
    assert _get("/nowhere").error["code"] == "not_found"
    assert post(engine(), f"{CHAT}/", {"model": MODEL, "messages": ASK}).error["code"] == "not_found"
    assert post(engine(), f"/{CHAT}", {"model": MODEL, "messages": ASK}).error["code"] == "not_found"
    answer = _get(CHAT)
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_what_breaks_inside_is_not_told() -> None:
    client = engine()

    async def broken(request: Any) -> Any:
        raise ValueError("secret at 0x7f")

    client.submit = broken  # type: ignore[method-assign]
    answer = chat(client)
    assert answer.status == 500
    assert answer.error == {
        "message": "the server failed; the request may be sent again",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


def test_errors_never_hold_what_was_sent() -> None:
    secret = "my secret " * 200
    for fields in ({"stop": secret}, {"user": secret}, {"reasoning_effort": secret}, {"tool_choice": secret}):
        answer = chat(engine(), tools=TOOLS, **fields)
        assert answer.status == 400
        assert len(answer.error["message"]) <= 600
        assert secret[:100] not in answer.error["message"]
